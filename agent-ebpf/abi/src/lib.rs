//! Types shared by the probes and the agent: `#[repr(C)]`, explicit padding, no `bool`.
//!
//! The few pure rules that both sides must agree on stand here too, so that they are tested on the
//! host and compiled into the probes.
#![no_std]

/// Buckets of a latency histogram: bucket `i` counts `2^i <= ns < 2^(i+1)`; the last takes the rest
/// (from 9 minutes).
pub const LATENCY_BUCKETS: usize = 40;

/// Entries of the table of calls in flight; a power of two.
pub const STARTS: u32 = 1 << 16;

/// Length of a task's name in the kernel, with its final zero.
pub const COMM_LEN: usize = 16;

/// Index of each probe in the table of [`ProbeStats`].
pub mod probe {
    /// Programs executed.
    pub const EXEC: u32 = 0;
    /// Processes created.
    pub const FORK: u32 = 1;
    /// Processes ended.
    pub const EXIT: u32 = 2;
    /// Out-of-memory victims.
    pub const OOM: u32 = 3;
    /// The syscall pair.
    pub const SYSCALLS: u32 = 4;
    /// How many there are.
    pub const COUNT: u32 = 5;
}

/// Process events of one cgroup.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProcessCounters {
    /// Programs executed.
    pub execs: u64,
    /// Processes created by members.
    pub forks: u64,
    /// Processes ended.
    pub exits: u64,
    /// Out-of-memory victims.
    pub oom_kills: u64,
}

/// Key of the histograms.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct SyscallKey {
    /// Cgroup id of the caller.
    pub cgroup: u64,
    /// Syscall number of this architecture.
    pub nr: u32,
    /// Zero: the kernel compares keys byte by byte.
    pub padding: u32,
}

/// Calls of one syscall by one cgroup.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SyscallCounters {
    /// By log2 of the duration in ns.
    pub buckets: [u64; LATENCY_BUCKETS],
    /// Calls that returned an error.
    pub errors: u64,
    /// Sum of the durations, ns.
    pub total_ns: u64,
}

impl SyscallCounters {
    /// Nothing seen yet.
    pub const ZERO: Self = Self {
        buckets: [0; LATENCY_BUCKETS],
        errors: 0,
        total_ns: 0,
    };
}

/// A call in flight.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Start {
    /// Monotonic time of its enter, ns.
    pub started_ns: u64,
    /// Thread; 0 = free.
    pub tid: u32,
    /// Syscall number, kept from the enter: the exit need not read registers.
    pub nr: u32,
}

/// How one probe fares, counted in the kernel, an entry a CPU.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProbeStats {
    /// Occurrences seen. Not kept by the syscall pair, whose histograms tell.
    pub events: u64,
    /// Events that the ring had no room for; their counters are right all the same.
    pub ring_drops: u64,
    /// Occurrences that no cgroup could be charged with because the map was full.
    pub map_drops: u64,
    /// Calls whose place in the table of calls in flight was taken over by another thread.
    pub collisions: u64,
}

/// What happened, in [`Event::kind`]; the numbers are those of [`probe`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Event {
    /// Cgroup charged.
    pub cgroup: u64,
    /// Monotonic time, ns.
    pub at_ns: u64,
    /// One of [`probe`].
    pub kind: u32,
    /// Process: who executed, was born, ended or was chosen. 0 = not known.
    pub pid: u32,
    /// Its parent for a fork, else 0.
    pub parent: u32,
    /// Wait status for an exit if known, else 0.
    pub exit_code: u32,
    /// Task name, zero-terminated.
    pub comm: [u8; COMM_LEN],
}

/// Place of a thread in the table of calls in flight: Fibonacci hashing, which spreads runs of
/// neighbouring ids perfectly.
#[inline]
pub const fn slot_of(tid: u32) -> u32 {
    tid.wrapping_mul(0x9E37_79B1) >> (32 - STARTS.trailing_zeros())
}

/// Bucket of a duration in ns.
#[inline]
pub const fn bucket_of(ns: u64) -> usize {
    let log2 = 63 - (ns | 1).leading_zeros() as usize;
    if log2 < LATENCY_BUCKETS {
        log2
    } else {
        LATENCY_BUCKETS - 1
    }
}

/// Whether a syscall's raw return value is an error that its caller sees. -512 to -516 ask the
/// kernel to start the call again and never reach the program as they are.
#[inline]
pub const fn is_error(returned: i64) -> bool {
    returned < 0 && returned >= -4095 && !(returned <= -512 && returned >= -516)
}

#[cfg(test)]
mod tests {
    extern crate std;

    use super::*;

    #[test]
    fn buckets_are_powers_of_two_and_the_last_takes_the_rest() {
        assert_eq!(bucket_of(0), 0);
        assert_eq!(bucket_of(1), 0);
        assert_eq!(bucket_of(2), 1);
        assert_eq!(bucket_of(3), 1);
        assert_eq!(bucket_of(1 << 20), 20);
        assert_eq!(bucket_of((1 << 21) - 1), 20);
        assert_eq!(bucket_of(1 << 39), 39);
        assert_eq!(bucket_of(u64::MAX), 39);
    }

    #[test]
    fn neighbouring_threads_have_places_of_their_own() {
        let mut taken = std::vec![false; STARTS as usize];
        for tid in 4_000_000..4_000_000 + 32_768 {
            let slot = slot_of(tid) as usize;
            assert!(!taken[slot], "thread {tid} shares place {slot}");
            taken[slot] = true;
        }
    }

    #[test]
    fn every_place_is_inside_the_table() {
        for tid in [0, 1, u32::MAX, 0x8000_0000] {
            assert!(slot_of(tid) < STARTS);
        }
    }

    #[test]
    fn a_restart_is_no_error_and_an_address_is_none() {
        assert!(is_error(-1));
        assert!(is_error(-4095));
        assert!(!is_error(-4096));
        assert!(!is_error(0));
        assert!(!is_error(7));
        assert!(is_error(-511));
        assert!(!is_error(-512));
        assert!(!is_error(-516));
        assert!(is_error(-517));
    }

    #[test]
    fn the_layout_has_no_hidden_padding() {
        assert_eq!(size_of::<SyscallKey>(), 16);
        assert_eq!(size_of::<Start>(), 16);
        assert_eq!(size_of::<Event>(), 48);
        assert_eq!(size_of::<SyscallCounters>(), (LATENCY_BUCKETS + 2) * 8);
    }
}
