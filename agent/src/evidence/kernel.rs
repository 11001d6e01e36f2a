//! What the recorder expects of the kernel probes; what they gave, counted.
//!
//! The trait is the border to the kernel: the probes implement it, and so does [`NoKernel`] for a
//! host where none can be loaded. Counters only ever count up; the recorder takes differences.

use std::{collections::HashMap, fmt, net::IpAddr, time::Instant};

use serde::{Deserialize, Serialize};

use crate::incident::CgroupId;

/// How a probe fares.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ProbeState {
    /// Attached and counting.
    Attached,
    /// Loaded and verified, attached on an alert only.
    Standby,
    /// Could not be loaded or attached: something else answers in its place.
    Fallback,
    /// Switched off by configuration.
    Off,
}

/// One line of `paramedic probes`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ProbeStatus {
    /// `exec`, `fork`, `exit`, `oom`, `syscalls`, `sched`, `signal`, `reclaim`, `tcp`, `block`.
    pub name: &'static str,
    /// How it fares.
    pub state: ProbeState,
    /// BPF program type and attach point, e.g. `raw_tracepoint task_newtask`.
    pub kind: String,
    /// What stands in for it when it falls back.
    pub fallback: &'static str,
    /// Why it is not attached: the missing capability, the verifier's last lines, …
    pub why: Option<String>,
    /// Events or calls seen.
    pub events: u64,
    /// Events lost because the ring was full, or not attributed because a map was full.
    pub drops: u64,
}

/// What happened to the tasks and sockets of one cgroup since the probes were attached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProcessCounts {
    /// Programs executed.
    pub execs: u64,
    /// Processes (not threads) created.
    pub forks: u64,
    /// Processes ended.
    pub exits: u64,
    /// Out-of-memory victims.
    pub oom_kills: u64,
    /// Of the ended, those with an exit code other than 0 or by a signal.
    pub failed_exits: u64,
    /// Signals sent to members.
    pub signals: u64,
    /// Of these, those that end their process because nothing handles them.
    pub fatal_signals: u64,
    /// Times that a member had to reclaim memory itself.
    pub reclaims: u64,
    /// How long these took, ns.
    pub reclaim_ns: u64,
    /// TCP connections begun.
    pub tcp_connects: u64,
    /// TCP connections accepted.
    pub tcp_accepts: u64,
    /// TCP connections begun that did not come about.
    pub tcp_failures: u64,
    /// TCP segments sent again.
    pub tcp_retransmits: u64,
    /// TCP resets sent. Those of no socket's are counted for cgroup 0.
    pub tcp_resets_sent: u64,
    /// TCP resets received.
    pub tcp_resets_received: u64,
}

/// A block device: major from bit 20 on, minor below.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Device(pub u32);

impl Device {
    /// Its number.
    pub const fn new(major: u32, minor: u32) -> Self {
        Self(paramedic_abi::device_of(major, minor))
    }
}

/// Requests of one cgroup that one device completed since the probe was attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockCounts {
    /// By log2 of the time from issue to completion, ns.
    pub buckets: [u64; LATENCY_BUCKETS],
    /// Sum of these times, ns.
    pub total_ns: u64,
    /// Bytes read.
    pub read_bytes: u64,
    /// Bytes written.
    pub written_bytes: u64,
    /// Failures.
    pub errors: u64,
}

/// A service that a cgroup uses by TCP, or a client of one that it offers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Edge {
    /// Whose socket; 0 = not known.
    pub cgroup: CgroupId,
    /// The other end.
    pub peer: IpAddr,
    /// Port of the service: the peer's, or ours where we serve.
    pub port: u16,
    /// The peer is the client.
    pub serves: bool,
}

/// What happened on an [`Edge`] since the probe was attached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EdgeCounts {
    /// Connections that came about.
    pub opened: u64,
    /// Connections that we began and that did not come about.
    pub failed: u64,
    /// Segments that we sent again.
    pub retransmits: u64,
    /// Resets that we sent.
    pub resets_sent: u64,
    /// Resets that we received.
    pub resets_received: u64,
}

/// Buckets of a latency histogram: bucket `i` counts `2^i <= ns < 2^(i+1)`.
pub const LATENCY_BUCKETS: usize = 40;

/// Calls of one syscall by one cgroup since the pair was attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SyscallCounts {
    /// By log2 of the duration in ns.
    pub buckets: [u64; LATENCY_BUCKETS],
    /// Calls that returned an error.
    pub errors: u64,
    /// Sum of the durations, ns.
    pub total_ns: u64,
}

/// Waits of the tasks of one cgroup since the scheduler tier was attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SchedCounts {
    /// Waits for a CPU by log2 of their length in ns.
    pub buckets: [u64; LATENCY_BUCKETS],
    /// Sum of these waits, ns.
    pub runq_ns: u64,
    /// Time blocked uninterruptibly, ns, counted when the task runs again: mostly a disk, or a lock of the kernel's.
    pub uninterruptible_ns: u64,
}

/// Where a task was blocked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum BlockedIn {
    /// In a syscall of this number.
    Call(u32),
    /// A page fault, a kernel thread's own wait.
    Elsewhere,
}

/// Whose calls the syscall pair counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SyscallMode {
    /// Nobody's: detached, and free.
    #[default]
    Off,
    /// Those of the chosen cgroups; everybody else pays a fraction and is not counted.
    Watch,
    /// Everybody's: the chosen cgroups apart, all others together as [`OTHERS`].
    All,
}

/// What the syscall pair counts for calls of cgroups that were not chosen. No cgroup has this id.
pub const OTHERS: CgroupId = CgroupId(0);

/// Cgroups that the syscall pair counts apart at most.
pub const WATCHED_MAX: usize = paramedic_abi::WATCHED_MAX;

/// What the syscall pair is to do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SyscallPlan {
    /// Whose calls.
    pub mode: SyscallMode,
    /// Cgroups that are counted apart; those beyond 64 are counted with the others.
    pub cgroups: Vec<CgroupId>,
    /// Take the time of one call in 16 by the clock and of the others by the kernel's ticks: a third
    /// cheaper. Numbers of calls and of errors stay exact, and so do durations of two ticks and more;
    /// the distribution of shorter ones is that of the timed ones.
    pub sampled: bool,
}

impl SyscallPlan {
    /// Everybody's calls, of these cgroups apart.
    pub fn all(cgroups: impl IntoIterator<Item = CgroupId>) -> Self {
        Self {
            mode: SyscallMode::All,
            cgroups: cgroups.into_iter().collect(),
            sampled: false,
        }
    }

    /// The calls of these cgroups.
    pub fn only(cgroups: impl IntoIterator<Item = CgroupId>) -> Self {
        Self {
            mode: SyscallMode::Watch,
            ..Self::all(cgroups)
        }
    }
}

/// Everything that the probes counted so far.
#[derive(Clone, Debug, Default)]
pub struct KernelCounts {
    /// By cgroup.
    pub processes: HashMap<CgroupId, ProcessCounts>,
    /// By cgroup and syscall number of this architecture; empty while the pair is not attached.
    pub syscalls: HashMap<(CgroupId, u32), SyscallCounts>,
    /// Since when the pair counts, while it is attached.
    pub syscalls_since: Option<Instant>,
    /// Errors that tell something, by cgroup, number of the syscall and errno; empty while the pair is
    /// not attached. Of everybody's calls, each cgroup's apart; `EAGAIN` of fork and clone only,
    /// `ETIMEDOUT` not of futex.
    pub errnos: HashMap<(CgroupId, u32, u32), u64>,
    /// Waits by cgroup; empty while the scheduler tier is not attached.
    pub sched: HashMap<CgroupId, SchedCounts>,
    /// Time blocked in ns, by cgroup and syscall.
    pub blocked: HashMap<(CgroupId, BlockedIn), u64>,
    /// Requests by cgroup and device; cgroup 0 has those of none, such as flushes.
    pub block: HashMap<(CgroupId, Device), BlockCounts>,
    /// Who talks to whom.
    pub edges: HashMap<Edge, EdgeCounts>,
    /// Occurrences that no cgroup was charged with, of processes and signals; those of the other probes
    /// are among their drops.
    pub unattributed: u64,
}

/// What a probe costs, as the kernel measured it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ProbeCost {
    /// As in [`ProbeStatus`].
    pub name: &'static str,
    /// Time of one run of one of its programs, ns; measuring it is part of it.
    pub ns_per_run: f64,
    /// Part of one CPU, 0 to the number of CPUs.
    pub cpu_share: f64,
}

/// The bucket in which the quantile `part / of` of a histogram lies; `None` if it has counted nothing.
pub(super) fn quantile_bucket(
    counts: impl Iterator<Item = u64> + Clone,
    part: u64,
    of: u64,
) -> Option<usize> {
    let all: u64 = counts.clone().sum();
    let rank = all.saturating_mul(part).div_ceil(of).max(1);
    let mut below = 0;
    for (bucket, count) in counts.enumerate() {
        below += count;
        if below >= rank {
            return Some(bucket);
        }
    }
    None
}

/// The kernel probes, seen from the recorder.
pub trait KernelProbes: Send + Sync + fmt::Debug {
    /// Reads all counters.
    fn counts(&self) -> KernelCounts;
    /// How each probe fares now.
    fn statuses(&self) -> Vec<ProbeStatus>;
    /// Both, as the recorder asks every second: nothing is read twice, and [`KernelCounts::edges`], which
    /// no window keeps, may be left empty.
    fn sample(&self) -> (Vec<ProbeStatus>, KernelCounts) {
        (self.statuses(), self.counts())
    }
    /// Attaches the syscall pair, switches it while it is attached, or detaches it; says whether it is
    /// attached afterwards. A switch to other cgroups begins its counts anew; calls that are in flight
    /// at that moment, or were when it was attached, are not seen.
    fn watch(&self, plan: &SyscallPlan) -> bool;
    /// As [`Self::watch`], everybody's calls in one row or none.
    fn watch_syscalls(&self, on: bool) -> bool {
        self.watch(&if on {
            SyscallPlan::all([])
        } else {
            SyscallPlan::default()
        })
    }
    /// What each probe that ran cost when it was last measured.
    fn costs(&self) -> Vec<ProbeCost> {
        Vec::new()
    }
    /// Whether `name` counts at present.
    fn counting(&self, name: &str) -> bool {
        self.statuses()
            .iter()
            .any(|probe| probe.name == name && probe.state == ProbeState::Attached)
    }
}

/// No probes at all.
#[derive(Debug)]
pub struct NoKernel;

impl KernelProbes for NoKernel {
    fn counts(&self) -> KernelCounts {
        KernelCounts::default()
    }
    fn statuses(&self) -> Vec<ProbeStatus> {
        Vec::new()
    }
    fn watch(&self, _plan: &SyscallPlan) -> bool {
        false
    }
}
