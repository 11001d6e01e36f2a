//! Sampled mode: where in the histogram the calls belong that the clock did not time.

use crate::evidence::kernel::{LATENCY_BUCKETS, SyscallCounts};

/// Adds `untimed` calls, each of less than two ticks, to the buckets below two ticks, in proportion to
/// the calls that were timed there; if none was, to the last of these buckets, so that a quantile is
/// never too small. The sum of durations grows by the middles of the buckets.
pub(in crate::evidence) fn spread(counts: &mut SyscallCounts, untimed: u64, tick_ns: u64) {
    if untimed == 0 {
        return;
    }
    let last = bucket_of(2 * tick_ns - 1);
    let timed: u64 = counts.buckets[..=last].iter().sum();
    if timed == 0 {
        counts.buckets[last] += untimed;
        counts.total_ns += untimed * tick_ns;
        return;
    }
    let before = counts.buckets;
    let (mut seen, mut given) = (0, 0);
    for (bucket, timed_here) in before[..=last].iter().enumerate() {
        seen += timed_here;
        // By running sums, so that rounding loses none.
        let upto = u128::from(untimed) * u128::from(seen) / u128::from(timed);
        let more = u64::try_from(upto).unwrap_or(untimed) - given;
        given += more;
        counts.buckets[bucket] += more;
        counts.total_ns += more * ((3 << bucket) >> 1);
    }
}

fn bucket_of(ns: u64) -> usize {
    (ns.max(1).ilog2() as usize).min(LATENCY_BUCKETS - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TICK: u64 = 4_000_000;

    fn counts(buckets: &[(usize, u64)]) -> SyscallCounts {
        let mut counts = SyscallCounts {
            buckets: [0; LATENCY_BUCKETS],
            errors: 0,
            total_ns: 0,
        };
        for (bucket, calls) in buckets {
            counts.buckets[*bucket] = *calls;
        }
        counts
    }

    #[test]
    fn the_untimed_are_spread_as_the_timed_and_none_is_lost() {
        let mut spread_out = counts(&[(10, 3), (12, 1), (30, 9)]);
        spread(&mut spread_out, 61, TICK);
        assert_eq!(spread_out.buckets[10], 3 + 45);
        assert_eq!(spread_out.buckets[12], 1 + 16);
        assert_eq!(spread_out.buckets[30], 9, "long calls are all timed");
        assert_eq!(spread_out.total_ns, 45 * 1536 + 16 * 6144);
    }

    #[test]
    fn without_a_timed_one_the_bound_is_what_is_known() {
        let mut unknown = counts(&[(30, 2)]);
        spread(&mut unknown, 5, TICK);
        assert_eq!(unknown.buckets[22], 5, "below 8 ms");
        assert_eq!(unknown.buckets.iter().sum::<u64>(), 7);
    }
}
