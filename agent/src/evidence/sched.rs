//! Waits of tasks over a window: for a CPU, in the kernel, for a lock of the program's.
//!
//! From the scheduler tier where it is attached; else the node's own sum from `/proc/schedstat` stands
//! in, partial and without quantiles.

use std::{
    collections::{BTreeMap, HashMap},
    fs,
};

use super::kernel::{BlockedIn, KernelCounts, LATENCY_BUCKETS, SchedCounts, quantile_bucket};
use crate::incident::{CgroupFacts, CgroupId, Reading};

/// Cgroups kept of each window: those that waited longest.
const KEPT: usize = 64;
/// The recorder's buckets: the first takes all below 2 us, the last all from 8.6 s.
const BUCKETS: usize = 24;
/// log2 of the ns in the first bucket.
const FIRST: usize = 10;

/// Waits of one cgroup, or of all, in one window.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Waits {
    buckets: [u32; BUCKETS],
    runq_ns: u64,
    uninterruptible_ns: u64,
    futex_ns: u64,
}

/// What changed between two samples; `None` when the tier did not count throughout.
#[derive(Clone, Debug, Default)]
pub(super) struct SchedWindow {
    /// The longest waiting cgroups.
    pub(super) cgroups: Box<[(CgroupId, Waits)]>,
    /// All, kept or not.
    pub(super) node: Option<Waits>,
    /// Where the tier does not count: time that tasks waited for a CPU, ns.
    pub(super) run_delay_ns: Option<u64>,
}

impl SchedWindow {
    /// The difference of two readings.
    pub(super) fn between(earlier: &KernelCounts, now: &KernelCounts) -> Self {
        let futex = u32::try_from(libc::SYS_futex).unwrap_or(u32::MAX);
        let futex_ns = |counts: &KernelCounts, cgroup: &CgroupId| {
            let key = (*cgroup, BlockedIn::Call(futex));
            counts.blocked.get(&key).copied().unwrap_or(0)
        };
        let mut node = Waits::default();
        let mut cgroups: Vec<(CgroupId, Waits)> = Vec::new();
        for (cgroup, counts) in &now.sched {
            let earlier_futex = futex_ns(earlier, cgroup);
            let mut waits = Waits::since(earlier.sched.get(cgroup), counts);
            let futex_now = futex_ns(now, cgroup);
            waits.futex_ns = futex_now.checked_sub(earlier_futex).unwrap_or(futex_now);
            node.add(&waits);
            if waits != Waits::default() {
                cgroups.push((*cgroup, waits));
            }
        }
        cgroups.sort_unstable_by_key(|(cgroup, waits)| {
            let most = waits
                .runq_ns
                .max(waits.uninterruptible_ns)
                .max(waits.futex_ns);
            (std::cmp::Reverse(most), *cgroup)
        });
        cgroups.truncate(KEPT);
        Self {
            cgroups: cgroups.into(),
            node: Some(node),
            run_delay_ns: None,
        }
    }

    /// Bytes beyond its own.
    pub(super) fn bytes(&self) -> usize {
        size_of_val(&*self.cgroups)
    }
}

impl Waits {
    /// Counters that went back were given to another cgroup and back: what they show was counted
    /// since.
    fn since(earlier: Option<&SchedCounts>, now: &SchedCounts) -> Self {
        let earlier = earlier.filter(|earlier| {
            earlier.runq_ns <= now.runq_ns && earlier.uninterruptible_ns <= now.uninterruptible_ns
        });
        let mut waits = Self {
            runq_ns: now.runq_ns - earlier.map_or(0, |earlier| earlier.runq_ns),
            uninterruptible_ns: now.uninterruptible_ns
                - earlier.map_or(0, |earlier| earlier.uninterruptible_ns),
            ..Self::default()
        };
        for bucket in 0..LATENCY_BUCKETS {
            let before = earlier.map_or(0, |earlier| earlier.buckets[bucket]);
            let count = now.buckets[bucket].saturating_sub(before);
            let place = bucket.saturating_sub(FIRST).min(BUCKETS - 1);
            waits.buckets[place] =
                waits.buckets[place].saturating_add(u32::try_from(count).unwrap_or(u32::MAX));
        }
        waits
    }

    fn add(&mut self, other: &Self) {
        for (sum, count) in self.buckets.iter_mut().zip(other.buckets) {
            *sum = sum.saturating_add(count);
        }
        self.runq_ns += other.runq_ns;
        self.uninterruptible_ns += other.uninterruptible_ns;
        self.futex_ns += other.futex_ns;
    }

    /// Upper bound in s of the bucket in which the 99th percentile of waits for a CPU lies.
    fn p99_s(&self) -> Option<f64> {
        let counts = self.buckets.iter().map(|count| u64::from(*count));
        let place = quantile_bucket(counts, 99, 100)?;
        Some((1_u64 << (place + FIRST + 1)) as f64 / 1e9)
    }

    fn put(&self, span_s: f64, mut put: impl FnMut(&str, f64)) {
        if let Some(p99_s) = self.p99_s() {
            put("runq.p99_s", p99_s);
        }
        let mean = |ns: u64| ns as f64 / 1e9 / span_s;
        put("runq.waiting", mean(self.runq_ns));
        put("blocked.uninterruptible", mean(self.uninterruptible_ns));
        put("blocked.futex", mean(self.futex_ns));
    }
}

/// Sums windows up and adds the readings to the node's and the cgroups'. `reading` makes one of a value
/// and whether it is complete.
pub(super) fn add<'a>(
    windows: impl Iterator<Item = &'a SchedWindow>,
    span_s: f64,
    reading: impl Fn(f64, bool) -> Reading,
    host: &mut BTreeMap<String, Reading>,
    cgroups: &mut [CgroupFacts],
) {
    let (mut node, mut sums) = (Waits::default(), HashMap::<CgroupId, Waits>::new());
    let (mut counted, mut missed, mut delay_ns) = (0, 0, None);
    for window in windows {
        match &window.node {
            Some(waits) => {
                counted += 1;
                node.add(waits);
            }
            None => missed += 1,
        }
        if let Some(ns) = window.run_delay_ns {
            delay_ns = Some(delay_ns.unwrap_or(0) + ns);
        }
        for (cgroup, waits) in &window.cgroups {
            sums.entry(*cgroup).or_default().add(waits);
        }
    }
    if span_s <= 0.0 {
        return;
    }
    if counted == 0 {
        if let Some(ns) = delay_ns {
            let waiting = ns as f64 / 1e9 / span_s;
            host.insert("runq.waiting".to_owned(), reading(waiting, false));
        }
        return;
    }
    let good = missed == 0;
    node.put(span_s, |name, value| {
        host.insert(name.to_owned(), reading(value, good));
    });
    for facts in cgroups {
        if let Some(waits) = sums.get(&facts.id) {
            waits.put(span_s, |name, value| {
                facts.readings.insert(name.to_owned(), reading(value, good));
            });
        }
    }
}

/// Time that tasks have waited for a CPU so far, over all CPUs, ns.
pub(super) fn run_delay_ns() -> Option<u64> {
    parse_run_delay(&fs::read_to_string("/proc/schedstat").ok()?)
}

/// The eighth field of each `cpuN` line (kernel's `Documentation/scheduler/sched-stats.rst`).
fn parse_run_delay(text: &str) -> Option<u64> {
    let delays = text
        .lines()
        .filter(|line| line.starts_with("cpu"))
        .filter_map(|line| line.split_ascii_whitespace().nth(8)?.parse::<u64>().ok());
    delays.fold(None, |sum, delay| Some(sum.unwrap_or(0) + delay))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(buckets: &[(usize, u64)], runq_ns: u64) -> SchedCounts {
        let mut counts = SchedCounts {
            buckets: [0; LATENCY_BUCKETS],
            runq_ns,
            uninterruptible_ns: 0,
        };
        for (bucket, count) in buckets {
            counts.buckets[*bucket] = *count;
        }
        counts
    }

    fn kernel(cgroup: u64, counts: &SchedCounts) -> KernelCounts {
        KernelCounts {
            sched: HashMap::from([(CgroupId(cgroup), *counts)]),
            ..KernelCounts::default()
        }
    }

    fn facts(id: u64) -> CgroupFacts {
        CgroupFacts {
            id: CgroupId(id),
            path: "/a".to_owned(),
            leaf: true,
            readings: BTreeMap::new(),
        }
    }

    #[test]
    fn waits_become_readings_of_the_node_and_of_their_cgroup() {
        let earlier = kernel(7, &counts(&[(12, 5)], 1000));
        let mut now = kernel(7, &counts(&[(12, 103), (24, 2)], 500_001_000));
        let futex = u32::try_from(libc::SYS_futex).unwrap();
        now.blocked
            .insert((CgroupId(7), BlockedIn::Call(futex)), 3_000_000_000);
        let window = SchedWindow::between(&earlier, &now);
        let (mut host, mut cgroups) = (BTreeMap::new(), [facts(7), facts(8)]);
        let reading = |value, good| {
            if good {
                Reading::good(value)
            } else {
                Reading::partial(value)
            }
        };
        add([&window].into_iter(), 2.0, reading, &mut host, &mut cgroups);
        let of = |name: &str| cgroups[0].readings[name];
        // 98 short waits and 2 of 16 to 33 ms: the 99th of 100 is a long one.
        assert_eq!(of("runq.p99_s"), Reading::good(0.033_554_432));
        assert_eq!(of("runq.waiting"), Reading::good(0.25));
        assert_eq!(of("blocked.futex"), Reading::good(1.5));
        assert_eq!(host["runq.p99_s"], of("runq.p99_s"));
        assert!(cgroups[1].readings.is_empty(), "nothing is known of it");
        // A window without the tier makes the others partial.
        let windows = [window, SchedWindow::default()];
        add(windows.iter(), 4.0, reading, &mut host, &mut cgroups);
        assert_eq!(host["runq.waiting"], Reading::partial(0.125));
    }

    #[test]
    fn a_row_that_was_given_away_counts_from_zero() {
        let earlier = kernel(7, &counts(&[(12, 50)], 9000));
        let now = kernel(7, &counts(&[(12, 3)], 600));
        let window = SchedWindow::between(&earlier, &now);
        assert_eq!(window.cgroups[0].1.runq_ns, 600);
        assert_eq!(window.cgroups[0].1.buckets[2], 3);
    }

    #[test]
    fn the_nodes_own_sum_stands_in_and_is_partial() {
        let text = "version 16\ntimestamp 4\ncpu0 0 0 0 0 0 0 11 40 7\ndomain0 3 1 2\ncpu1 0 0 0 0 0 0 1 2 7\n";
        assert_eq!(parse_run_delay(text), Some(42));
        assert_eq!(parse_run_delay("version 16\n"), None);
        let window = SchedWindow {
            run_delay_ns: Some(500_000_000),
            ..SchedWindow::default()
        };
        let mut host = BTreeMap::new();
        let reading = |value, _| Reading::partial(value);
        add([&window].into_iter(), 1.0, reading, &mut host, &mut []);
        assert_eq!(host["runq.waiting"], Reading::partial(0.5));
        assert_eq!(host.len(), 1);
    }
}
