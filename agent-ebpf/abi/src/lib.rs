//! Types shared by the probes and the agent: `#[repr(C)]`, explicit padding, no `bool`.
//!
//! The few pure rules that both sides must agree on stand here too, so that they are tested on the
//! host and compiled into the probes.
#![no_std]

mod block;
mod errnos;
mod sched;
mod syscalls;
mod tcp;

pub use block::*;
pub use errnos::*;
pub use sched::*;
pub use syscalls::*;
pub use tcp::*;

/// Buckets of a latency histogram: bucket `i` counts `2^i <= ns < 2^(i+1)`; the last takes the rest
/// (from 9 minutes).
pub const LATENCY_BUCKETS: usize = 40;

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
    /// The scheduler tier.
    pub const SCHED: u32 = 5;
    /// Signals.
    pub const SIGNAL: u32 = 6;
    /// Direct reclaim.
    pub const RECLAIM: u32 = 7;
    /// TCP connections.
    pub const TCP: u32 = 8;
    /// Block I/O.
    pub const BLOCK: u32 = 9;
    /// How many there are.
    pub const COUNT: u32 = 10;
}

/// What happened to the tasks and sockets of one cgroup.
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
    /// Of the ended, those with another status than 0: an exit code, or a signal.
    pub failed_exits: u64,
    /// Signals sent to members, ignored ones too.
    pub signals: u64,
    /// Of these, those that will end their process: nothing handles them.
    pub fatal_signals: u64,
    /// Times that a member had to reclaim memory itself before it got some.
    pub reclaims: u64,
    /// How long these took, ns.
    pub reclaim_ns: u64,
    /// TCP connections begun.
    pub tcp_connects: u64,
    /// TCP connections accepted by the kernel for a listening socket.
    pub tcp_accepts: u64,
    /// TCP connections begun that did not come about.
    pub tcp_failures: u64,
    /// TCP segments sent again.
    pub tcp_retransmits: u64,
    /// TCP resets sent.
    pub tcp_resets_sent: u64,
    /// TCP resets received.
    pub tcp_resets_received: u64,
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
    /// Process: who executed, was born, ended, was chosen or got a signal. 0 = not known.
    pub pid: u32,
    /// Its parent for a fork; the sender of a signal, 0 being the kernel; the port of a TCP service;
    /// else 0.
    pub parent: u32,
    /// Wait status for an exit if known; number of a signal, with [`FATAL`]; one of
    /// [`tcp_event`]; else 0.
    pub exit_code: u32,
    /// Task name, zero-terminated; of a TCP event the peer's address, IPv6 or mapped into it.
    pub comm: [u8; COMM_LEN],
}

/// In [`Event::exit_code`] of a signal: its process will end by it.
pub const FATAL: u32 = 1 << 31;

/// Bucket of a duration in ns: its log2, at most the last bucket. By halves, because the BPF
/// instruction set can't count leading zeros, and what the compiler puts in its place takes 9 ns.
#[inline(always)]
#[allow(
    clippy::inline_always,
    reason = "a call in BPF is a function of its own to the verifier"
)]
pub const fn bucket_of(ns: u64) -> usize {
    let (mut rest, mut log2) = (ns, 0);
    if rest >= 1 << 32 {
        rest >>= 32;
        log2 += 32;
    }
    if rest >= 1 << 16 {
        rest >>= 16;
        log2 += 16;
    }
    if rest >= 1 << 8 {
        rest >>= 8;
        log2 += 8;
    }
    if rest >= 1 << 4 {
        rest >>= 4;
        log2 += 4;
    }
    if rest >= 1 << 2 {
        rest >>= 2;
        log2 += 2;
    }
    if rest >= 1 << 1 {
        log2 += 1;
    }
    if log2 < LATENCY_BUCKETS {
        log2
    } else {
        LATENCY_BUCKETS - 1
    }
}

#[cfg(test)]
mod tests {
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
        for log2 in 1..LATENCY_BUCKETS {
            assert_eq!(bucket_of(1 << log2), log2);
            assert_eq!(bucket_of((1 << log2) - 1), log2 - 1);
        }
    }

    #[test]
    fn the_layout_has_no_hidden_padding() {
        assert_eq!(size_of::<Event>(), 48);
    }
}
