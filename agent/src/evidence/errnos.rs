//! Errors that name their trouble: no descriptor left, no space, nobody who listens.
//!
//! Counted by the syscall pair, by cgroup, syscall and errno. What was not seen gives no reading: a
//! rule that asks for it learns something only when it is there.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashMap},
};

use paramedic_abi::errno;

use super::syscalls;
use crate::incident::{CgroupFacts, CgroupId, Reading};

/// Rows kept of each window: in turn the most of each errno.
const KEPT: usize = 64;

/// What the pair counts one by one, as readings name it. `eagain` is that of fork and clone alone,
/// `etimedout` any but futex's.
pub(super) const NAMES: [(u32, &str); 10] = [
    (errno::EAGAIN, "eagain"),
    (errno::ECONNREFUSED, "econnrefused"),
    (errno::EDQUOT, "edquot"),
    (errno::EIO, "eio"),
    (errno::EMFILE, "emfile"),
    (errno::ENFILE, "enfile"),
    (errno::ENOMEM, "enomem"),
    (errno::ENOSPC, "enospc"),
    (errno::EROFS, "erofs"),
    (errno::ETIMEDOUT, "etimedout"),
];

/// As people write them: `EMFILE`.
pub(crate) fn names() -> impl Iterator<Item = String> {
    NAMES.iter().map(|(_, name)| name.to_ascii_uppercase())
}

/// Says `ENOSPC` when the user's watches are used up, which no filesystem has to do with.
const OF_NO_FILESYSTEM: &str = "inotify_add_watch";

/// Errors by cgroup, number of the syscall and errno.
pub(super) type Errnos = HashMap<(CgroupId, u32, u32), u64>;

/// One triple in one window.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ErrnoDelta {
    cgroup: CgroupId,
    number: u32,
    errno: u32,
    count: u64,
}

/// What was counted between two readings. A count that went back was emptied when the pair was
/// detached: what it shows now was counted since.
pub(super) fn between(earlier: &Errnos, now: &Errnos) -> Box<[ErrnoDelta]> {
    let mut deltas: Vec<ErrnoDelta> = now
        .iter()
        .map(|(key, count)| {
            let before = earlier.get(key).copied().unwrap_or(0);
            let (cgroup, number, errno) = *key;
            ErrnoDelta {
                cgroup,
                number,
                errno,
                count: count.checked_sub(before).unwrap_or(*count),
            }
        })
        .filter(|delta| delta.count > 0)
        .collect();
    deltas.sort_unstable_by_key(|delta| (Reverse(delta.count), *delta));
    if deltas.len() > KEPT {
        // A flood of one kind must not hide the few of another.
        let mut seen: HashMap<u32, usize> = HashMap::new();
        let mut ranked: Vec<(usize, ErrnoDelta)> = deltas
            .into_iter()
            .map(|delta| {
                let rank = seen.entry(delta.errno).or_default();
                *rank += 1;
                (*rank, delta)
            })
            .collect();
        ranked.sort_by_key(|(rank, _)| *rank);
        ranked.truncate(KEPT);
        deltas = ranked.into_iter().map(|(_, delta)| delta).collect();
    }
    deltas.into()
}

/// Sums windows up over the `counted_s` seconds in which the pair counted, into readings of the node
/// and of its cgroups.
pub(super) fn add<'a>(
    deltas: impl Iterator<Item = &'a ErrnoDelta>,
    counted_s: f64,
    reading: impl Fn(f64) -> Reading,
    host: &mut BTreeMap<String, Reading>,
    cgroups: &mut [CgroupFacts],
) {
    if counted_s <= 0.0 {
        return;
    }
    let mut of_host: BTreeMap<String, u64> = BTreeMap::new();
    let mut of_cgroups: HashMap<CgroupId, BTreeMap<String, u64>> = HashMap::new();
    for delta in deltas {
        let Some((_, errno)) = NAMES.iter().find(|(number, _)| *number == delta.errno) else {
            continue;
        };
        let call = syscalls::name(delta.number);
        let sums = of_cgroups.entry(delta.cgroup).or_default();
        *sums
            .entry(format!("errno.{errno}.{call}.per_s"))
            .or_default() += delta.count;
        if !(delta.errno == errno::ENOSPC && call == OF_NO_FILESYSTEM) {
            let name = format!("errno.{errno}.per_s");
            *sums.entry(name.clone()).or_default() += delta.count;
            *of_host.entry(name).or_default() += delta.count;
        }
    }
    let rates = |sums: BTreeMap<String, u64>| {
        let rate = |(name, count)| (name, reading(count as f64 / counted_s));
        sums.into_iter().map(rate).collect::<Vec<_>>()
    };
    host.extend(rates(of_host));
    for facts in cgroups {
        if let Some(sums) = of_cgroups.remove(&facts.id) {
            facts.readings.extend(rates(sums));
        }
    }
}

#[cfg(test)]
mod tests {
    use paramedic_abi::is_telling;

    use super::*;

    const OPENAT: u32 = 257;
    const WRITE: u32 = 1;

    #[test]
    fn every_errno_that_the_probe_counts_has_a_name() {
        let known = |number: &u32| NAMES.iter().any(|(known, _)| known == number);
        let telling = (0..4096).filter(|number| is_telling(*number));
        assert!(telling.clone().all(|number| known(&number)));
        assert_eq!(telling.count(), NAMES.len());
        // What the user's header says.
        for (number, name) in NAMES {
            let code = i32::try_from(number).unwrap();
            let text = std::io::Error::from_raw_os_error(code).to_string();
            let word = match name {
                "eagain" => "temporarily unavailable",
                "econnrefused" => "refused",
                "edquot" => "quota",
                "eio" => "Input/output",
                "emfile" => "Too many open files",
                "enfile" => "in system",
                "enomem" => "memory",
                "enospc" => "No space",
                "erofs" => "Read-only",
                _ => "timed out",
            };
            assert!(text.contains(word), "{name}: {text}");
        }
    }

    #[test]
    fn counters_are_told_by_their_difference_and_emptied_ones_from_zero() {
        let (a, b) = (CgroupId(7), CgroupId(8));
        let earlier = Errnos::from([
            ((a, OPENAT, errno::EMFILE), 5),
            ((a, WRITE, errno::ENOSPC), 9),
            ((b, WRITE, errno::EIO), 3),
        ]);
        let now = Errnos::from([
            ((a, OPENAT, errno::EMFILE), 12),
            ((a, WRITE, errno::ENOSPC), 4),
            ((b, WRITE, errno::EIO), 3),
        ]);
        let told: Vec<_> = between(&earlier, &now)
            .iter()
            .map(|delta| (delta.cgroup, delta.errno, delta.count))
            .collect();
        assert_eq!(told, [(a, errno::EMFILE, 7), (a, errno::ENOSPC, 4)]);
    }

    #[test]
    fn a_flood_of_one_kind_does_not_hide_the_few_of_another() {
        let refused = (1..200).map(|id| ((CgroupId(id), 42, errno::ECONNREFUSED), 1000 + id));
        let mut now: Errnos = refused.collect();
        now.insert((CgroupId(500), OPENAT, errno::EMFILE), 1);
        let deltas = between(&Errnos::new(), &now);
        assert_eq!(deltas.len(), KEPT);
        assert!(deltas.iter().any(|delta| delta.errno == errno::EMFILE));
        assert_eq!(deltas[0].count, 1199);
    }

    #[test]
    fn rates_are_those_of_the_time_in_which_the_pair_counted() {
        let inotify = u32::try_from(libc::SYS_inotify_add_watch).unwrap();
        let now = Errnos::from([
            ((CgroupId(7), OPENAT, errno::EMFILE), 6),
            ((CgroupId(7), WRITE, errno::ENOSPC), 3),
            ((CgroupId(7), inotify, errno::ENOSPC), 30),
            ((CgroupId(9), WRITE, errno::ENOSPC), 9),
        ]);
        let deltas = between(&Errnos::new(), &now);
        let facts = |id| CgroupFacts {
            id: CgroupId(id),
            path: format!("/{id}"),
            leaf: true,
            readings: BTreeMap::new(),
        };
        let (mut host, mut cgroups) = (BTreeMap::new(), [facts(7), facts(8)]);
        add(deltas.iter(), 3.0, Reading::good, &mut host, &mut cgroups);
        let told = |readings: &BTreeMap<String, Reading>| {
            let told = readings
                .iter()
                .map(|(name, r)| format!("{name} {}", r.value));
            told.collect::<Vec<_>>()
        };
        // Of the one that the evidence does not name, too.
        assert_eq!(
            told(&host),
            ["errno.emfile.per_s 2", "errno.enospc.per_s 4"]
        );
        if cfg!(target_arch = "x86_64") {
            assert_eq!(
                told(&cgroups[0].readings),
                [
                    "errno.emfile.openat.per_s 2",
                    "errno.emfile.per_s 2",
                    "errno.enospc.inotify_add_watch.per_s 10",
                    "errno.enospc.per_s 1",
                    "errno.enospc.write.per_s 1",
                ]
            );
        }
        assert!(cgroups[1].readings.is_empty(), "not seen is not zero");
        let mut none = BTreeMap::new();
        add(deltas.iter(), 0.0, Reading::good, &mut none, &mut cgroups);
        assert!(none.is_empty(), "nothing was counted");
    }
}
