//! The watch table: a place for each watched cgroup, so that the kernel finds its row by one
//! multiplication and one comparison. Pure.

use paramedic_abi::{PLACES, WATCHED_MAX, Watch, place_of};

use crate::incident::CgroupId;

/// Multipliers tried for one set of cgroups. For 64 cgroups one in 6,000 has no collision, for 32 one
/// in 9: this many fail once in 10^7 times, and then one cgroup fewer is watched.
const TRIES: u64 = 100_000;

/// Fills in the multiplier, the places and the rows for the first cgroups of the list; returns those
/// that are watched, by row.
pub(super) fn assign(watch: &mut Watch, cgroups: &[CgroupId]) -> Vec<CgroupId> {
    let mut wanted: Vec<CgroupId> = Vec::new();
    for cgroup in cgroups {
        if wanted.len() < WATCHED_MAX && cgroup.0 != 0 && !wanted.contains(cgroup) {
            wanted.push(*cgroup);
        }
    }
    loop {
        if let Some(multiplier) = (0..TRIES).map(multiplier).find(|m| is_free(*m, &wanted)) {
            watch.multiplier = multiplier;
            break;
        }
        wanted.pop();
    }
    watch.cgroups = [0; PLACES];
    watch.rows = [0; PLACES];
    for (row, cgroup) in wanted.iter().enumerate() {
        let place = place_of(cgroup.0, watch.multiplier) as usize;
        watch.cgroups[place] = cgroup.0;
        // Below 64.
        watch.rows[place] = u8::try_from(row).unwrap_or_default();
    }
    wanted
}

fn is_free(multiplier: u64, cgroups: &[CgroupId]) -> bool {
    let mut taken = [0_u64; PLACES / 64];
    cgroups.iter().all(|cgroup| {
        let place = place_of(cgroup.0, multiplier) as usize;
        let bit = 1 << (place % 64);
        let free = taken[place / 64] & bit == 0;
        taken[place / 64] |= bit;
        free
    })
}

/// The n-th of a fixed row of odd numbers (SplitMix64).
fn multiplier(n: u64) -> u64 {
    let mut z = (n + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    (z ^ (z >> 31)) | 1
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn nobody_is_watched_and_nothing_is_found() {
        let mut watch = Watch::OFF;
        assert!(assign(&mut watch, &[]).is_empty());
        assert_eq!(watch.cgroups, [0; PLACES]);
    }

    #[test]
    fn those_beyond_the_table_are_left_out_and_nobody_is_watched_twice() {
        let mut watch = Watch::OFF;
        let mut many: Vec<CgroupId> = (1..=80).map(CgroupId).collect();
        many.insert(1, CgroupId(1));
        many.insert(0, CgroupId(0));
        let watched = assign(&mut watch, &many);
        assert_eq!(watched, (1..=64).map(CgroupId).collect::<Vec<_>>());
    }

    proptest! {
        /// Whatever the ids, each watched cgroup finds itself and its own row.
        #[test]
        fn each_finds_its_row(ids in prop::collection::hash_set(1_u64.., 1..=WATCHED_MAX)) {
            let cgroups: Vec<CgroupId> = ids.into_iter().map(CgroupId).collect();
            let mut watch = Watch::OFF;
            let watched = assign(&mut watch, &cgroups);
            prop_assert_eq!(&watched, &cgroups);
            for (row, cgroup) in watched.iter().enumerate() {
                let place = place_of(cgroup.0, watch.multiplier) as usize;
                prop_assert_eq!(watch.cgroups[place], cgroup.0);
                prop_assert_eq!(usize::from(watch.rows[place]), row);
            }
        }
    }
}
