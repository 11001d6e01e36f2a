//! System calls over a window: which cost most, how long they took.

mod names;
pub(super) mod untimed;

use std::collections::HashMap;

pub(super) use names::name;

use super::kernel::{LATENCY_BUCKETS, SyscallCounts, quantile_bucket};
use crate::incident::{CgroupId, SyscallFacts};

/// Pairs kept of each window, the costliest first.
const KEPT: usize = 32;

/// Calls of one syscall by one cgroup in one window.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SyscallDelta {
    cgroup: CgroupId,
    number: u32,
    buckets: [u32; LATENCY_BUCKETS],
    errors: u64,
    total_ns: u64,
}

type Pairs = HashMap<(CgroupId, u32), SyscallCounts>;

/// The costliest pairs of the time between two readings. Counters that went back were emptied when
/// the pair was detached: what they show now was counted since.
pub(super) fn between(earlier: &Pairs, now: &Pairs) -> Box<[SyscallDelta]> {
    let mut deltas: Vec<SyscallDelta> = now
        .iter()
        .filter_map(|(&(cgroup, number), counts)| {
            let since = earlier
                .get(&(cgroup, number))
                .and_then(|earlier| difference(earlier, counts))
                .unwrap_or(*counts);
            (since.buckets.iter().any(|calls| *calls > 0)).then(|| SyscallDelta {
                cgroup,
                number,
                buckets: since
                    .buckets
                    .map(|calls| u32::try_from(calls).unwrap_or(u32::MAX)),
                errors: since.errors,
                total_ns: since.total_ns,
            })
        })
        .collect();
    deltas.sort_unstable_by_key(|delta| {
        (
            std::cmp::Reverse(delta.total_ns),
            delta.cgroup,
            delta.number,
        )
    });
    deltas.truncate(KEPT);
    deltas.into()
}

fn difference(earlier: &SyscallCounts, now: &SyscallCounts) -> Option<SyscallCounts> {
    let mut buckets = [0; LATENCY_BUCKETS];
    for (bucket, (now, earlier)) in buckets
        .iter_mut()
        .zip(now.buckets.iter().zip(&earlier.buckets))
    {
        *bucket = now.checked_sub(*earlier)?;
    }
    Some(SyscallCounts {
        buckets,
        errors: now.errors.checked_sub(earlier.errors)?,
        total_ns: now.total_ns.checked_sub(earlier.total_ns)?,
    })
}

/// Sums windows up: the costliest `most` pairs.
pub(super) fn facts<'a>(
    deltas: impl Iterator<Item = &'a SyscallDelta>,
    most: usize,
) -> Vec<SyscallFacts> {
    let mut pairs: HashMap<(CgroupId, u32), SyscallCounts> = HashMap::new();
    for delta in deltas {
        let sum = pairs
            .entry((delta.cgroup, delta.number))
            .or_insert(SyscallCounts {
                buckets: [0; LATENCY_BUCKETS],
                errors: 0,
                total_ns: 0,
            });
        for (sum, calls) in sum.buckets.iter_mut().zip(delta.buckets) {
            *sum += u64::from(calls);
        }
        sum.errors += delta.errors;
        sum.total_ns += delta.total_ns;
    }
    let mut pairs: Vec<_> = pairs.into_iter().collect();
    pairs.sort_unstable_by_key(|(pair, sum)| (std::cmp::Reverse(sum.total_ns), *pair));
    pairs
        .into_iter()
        .take(most)
        .map(|((cgroup, number), sum)| SyscallFacts {
            cgroup,
            name: name(number),
            calls: sum.buckets.iter().sum(),
            errors: sum.errors,
            p50_us: quantile_us(&sum.buckets, 1, 2),
            p99_us: quantile_us(&sum.buckets, 99, 100),
            total_s: sum.total_ns as f64 / 1e9,
        })
        .collect()
}

/// Upper bound in microseconds of the bucket in which the quantile `part / of` lies.
fn quantile_us(buckets: &[u64; LATENCY_BUCKETS], part: u64, of: u64) -> f64 {
    let bucket = quantile_bucket(buckets.iter().copied(), part, of);
    bucket.map_or(0.0, |bucket| (1u64 << (bucket + 1)) as f64 / 1000.0)
}

#[cfg(test)]
mod tests {
    use super::{CgroupId, LATENCY_BUCKETS, Pairs, SyscallCounts, between, facts, quantile_us};

    fn counts(calls: &[(usize, u64)], errors: u64, total_ns: u64) -> SyscallCounts {
        let mut buckets = [0; LATENCY_BUCKETS];
        for (bucket, count) in calls {
            buckets[*bucket] = *count;
        }
        SyscallCounts {
            buckets,
            errors,
            total_ns,
        }
    }

    #[test]
    fn quantiles_are_upper_bounds_of_buckets() {
        let mixed = counts(&[(10, 98), (20, 2)], 0, 0).buckets;
        let near = |value: f64, expected: f64| (value - expected).abs() < 1e-9;
        assert!(near(quantile_us(&mixed, 1, 2), 2.048));
        assert!(near(quantile_us(&mixed, 99, 100), 2_097.152));
        assert!(near(quantile_us(&[0; LATENCY_BUCKETS], 1, 2), 0.0));
        let longest = counts(&[(LATENCY_BUCKETS - 1, 1)], 0, 0).buckets;
        assert!(quantile_us(&longest, 1, 2) > 1e9);
    }

    #[test]
    fn the_costliest_first_and_only_what_was_called() {
        let (a, b) = (CgroupId(7), CgroupId(8));
        let earlier = Pairs::from([((a, 0), counts(&[(10, 5)], 1, 5000))]);
        let now = Pairs::from([
            ((a, 0), counts(&[(10, 9)], 3, 9000)),
            ((b, 1), counts(&[(12, 2)], 0, 9_000_000)),
            ((b, 3), counts(&[], 0, 0)),
        ]);
        let deltas = between(&earlier, &now);
        let facts = facts(deltas.iter().chain(deltas.iter()), 10);
        let told: Vec<_> = facts
            .iter()
            .map(|f| (f.cgroup, f.name.as_str(), f.calls, f.errors))
            .collect();
        assert_eq!(told, [(b, "write", 4, 0), (a, "read", 8, 4)]);
        assert!((facts[1].total_s - 8e-6).abs() < 1e-12);
    }

    #[test]
    fn counters_emptied_by_a_detachment_count_from_zero() {
        let pair = (CgroupId(7), 0);
        let earlier = Pairs::from([(pair, counts(&[(10, 50)], 0, 50_000))]);
        let now = Pairs::from([(pair, counts(&[(10, 3)], 0, 3000))]);
        assert_eq!(facts(between(&earlier, &now).iter(), 1)[0].calls, 3);
    }
}
