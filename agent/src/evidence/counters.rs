//! A count that may be absent, and arrays of them by name.
//!
//! The recorder keeps tens of thousands of rows of these for minutes, so absence is one value of the
//! eight bytes and not eight more.

/// A cumulative count, or none. `u64::MAX` stands for none; no counter gets there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Count(u64);

impl Count {
    /// Not known. Never to be taken for zero.
    pub(super) const ABSENT: Self = Self(u64::MAX);
    /// Known to be zero.
    pub(super) const ZERO: Self = Self(0);

    pub(super) fn new(value: u64) -> Self {
        Self(value.min(u64::MAX - 1))
    }

    pub(super) fn get(self) -> Option<u64> {
        (self != Self::ABSENT).then_some(self.0)
    }

    /// What was counted since `earlier`. Absent when either is, and when the counter went back: it
    /// was reset in between, and nobody knows how far it had come.
    pub(super) fn since(self, earlier: Self) -> Self {
        match (self.get(), earlier.get()) {
            (Some(now), Some(then)) => now.checked_sub(then).map_or(Self::ABSENT, Self::new),
            _ => Self::ABSENT,
        }
    }
}

impl From<Option<u64>> for Count {
    fn from(value: Option<u64>) -> Self {
        value.map_or(Self::ABSENT, Self::new)
    }
}

/// Declares names of the columns of an array of [`Count`].
macro_rules! columns {
    ($(#[$doc:meta])* $name:ident { $($(#[$field_doc:meta])* $field:ident),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(super) enum $name { $($(#[$field_doc])* $field),+ }
        impl $name {
            /// All columns.
            pub(super) const ALL: &'static [Self] = &[$(Self::$field),+];
            /// How many.
            pub(super) const N: usize = Self::ALL.len();
        }
    };
}

columns! {
    /// Cumulative counters of the node.
    HostCounter {
        /// Jiffies of all CPUs.
        CpuTotal,
        /// Jiffies that did work: user, nice, system, irq, softirq.
        CpuBusy,
        CpuIowait,
        CpuSteal,
        /// Microseconds, as all pressures.
        PsiCpuSome,
        PsiCpuFull,
        PsiMemorySome,
        PsiMemoryFull,
        PsiIoSome,
        PsiIoFull,
        /// Pages scanned by allocating tasks themselves.
        ScanDirect,
        MajorFaults,
        OomKills,
        /// Processes and threads created.
        Forks,
        /// Jiffies in interrupts and in what they left for later.
        CpuIrq,
        CpuSoftirq,
        PsiIrqFull,
        /// Pages.
        SwapIn,
        SwapOut,
        /// Pages read again soon after they were dropped.
        Refaults,
        /// Times that a task had to reclaim memory itself.
        AllocationStalls,
        IpNoRoutes,
        TcpConnects,
        TcpAccepts,
        TcpConnectFailures,
        TcpResetsSent,
        TcpResetsReceived,
        TcpSegmentsOut,
        TcpRetransmits,
        TcpTimeouts,
        TcpBacklogDrops,
        TcpAbortsOnMemory,
        TcpMemoryPressures,
        ListenDrops,
        ListenOverflows,
        UdpBufferErrors,
        NetDrops,
        NetErrors,
        /// Records of the kernel's log.
        KernelErrors,
        /// Requests that failed.
        DiskErrors,
    }
}

columns! {
    /// Cumulative counters of a cgroup.
    Counter {
        /// CPU time in microseconds.
        CpuUs,
        /// Periods of its CPU quota, and those in which it was stopped.
        Periods,
        Throttled,
        /// Microseconds in which some task waited.
        PsiCpu,
        PsiMemory,
        PsiIo,
        /// Bytes read and written at block devices.
        IoBytes,
        OomKills,
        Forks,
        Execs,
        Exits,
        SyscallErrors,
    }
}

columns! {
    /// Levels of a cgroup, which go up and down.
    Gauge {
        /// Bytes charged, page cache included.
        Memory,
        /// Bytes that reclaim can't simply drop: `Memory` without file pages.
        Own,
        /// Bytes of anonymous memory.
        Anon,
        /// Tasks.
        Pids,
    }
}

pub(super) type HostCounters = [Count; HostCounter::N];
pub(super) type Counters = [Count; Counter::N];
pub(super) type Gauges = [Count; Gauge::N];

/// Column by column, what was counted since `earlier`.
pub(super) fn since<const N: usize>(now: &[Count; N], earlier: &[Count; N]) -> [Count; N] {
    std::array::from_fn(|column| now[column].since(earlier[column]))
}

/// A running sum of one row per window, which knows its gaps.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sums<const N: usize> {
    totals: [u64; N],
    seen: u64,
    gaps: u64,
}

impl<const N: usize> Default for Sums<N> {
    fn default() -> Self {
        Self {
            totals: [0; N],
            seen: 0,
            gaps: 0,
        }
    }
}

impl<const N: usize> Sums<N> {
    pub(super) fn add(&mut self, row: &[Count; N]) {
        for (column, count) in row.iter().enumerate() {
            match count.get() {
                Some(count) => {
                    self.totals[column] = self.totals[column].saturating_add(count);
                    self.seen |= 1 << column;
                }
                None => self.gaps |= 1 << column,
            }
        }
    }

    /// Adds what the row has; what it lacks is no gap.
    pub(super) fn add_known(&mut self, row: &[Count; N]) {
        let gaps = self.gaps;
        self.add(row);
        self.gaps = gaps;
    }

    /// The sum, if any window had one.
    pub(super) fn get(&self, column: usize) -> Option<u64> {
        (self.seen & (1 << column) != 0).then(|| self.totals[column])
    }

    /// Whether a window lacked it.
    pub(super) fn has_gap(&self, column: usize) -> bool {
        self.gaps & (1 << column) != 0
    }

    /// The sums as a row, for ranking.
    pub(super) fn row(&self) -> [Count; N] {
        std::array::from_fn(|column| self.get(column).into())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{Count, Sums};

    #[test]
    fn a_counter_that_went_back_says_nothing() {
        assert_eq!(Count::new(5).since(Count::new(9)), Count::ABSENT);
        assert_eq!(Count::new(9).since(Count::ABSENT), Count::ABSENT);
        assert_eq!(Count::ABSENT.since(Count::new(9)), Count::ABSENT);
        assert_eq!(Count::new(9).since(Count::new(9)), Count::ZERO);
    }

    proptest! {
        /// However a rising counter is cut into windows, the windows sum up to its rise.
        #[test]
        fn windows_sum_up_to_the_whole(steps in prop::collection::vec(0u64..1 << 40, 1..50)) {
            let mut sums = Sums::<1>::default();
            let mut at = 7u64;
            for step in &steps {
                let before = Count::new(at);
                at += step;
                sums.add(&[Count::new(at).since(before)]);
            }
            prop_assert_eq!(sums.get(0), Some(at - 7));
            prop_assert!(!sums.has_gap(0));
        }

        /// A reset loses its own window only, and is remembered as a gap.
        #[test]
        fn a_reset_costs_one_window(before in 1u64..1 << 40, after in prop::collection::vec(0u64..1000, 1..20)) {
            let mut sums = Sums::<1>::default();
            sums.add(&[Count::ZERO.since(Count::new(before))]);
            for step in &after {
                sums.add(&[Count::new(*step)]);
            }
            prop_assert_eq!(sums.get(0), Some(after.iter().sum::<u64>()));
            prop_assert!(sums.has_gap(0));
        }
    }
}
