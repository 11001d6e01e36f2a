//! What the recorder expects of the kernel probes; what they gave, counted.
//!
//! The trait is the border to the kernel: the probes implement it, and so does [`NoKernel`] for a
//! host where none can be loaded. Counters only ever count up; the recorder takes differences.

use std::{collections::HashMap, fmt};

use serde::Serialize;

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
    /// `exec`, `fork`, `exit`, `oom`, `syscalls`.
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

/// Process events of one cgroup since the probes were attached.
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

/// Everything that the probes counted so far.
#[derive(Clone, Debug, Default)]
pub struct KernelCounts {
    /// By cgroup.
    pub processes: HashMap<CgroupId, ProcessCounts>,
    /// By cgroup and syscall number of this architecture; empty while the pair is not attached.
    pub syscalls: HashMap<(CgroupId, u32), SyscallCounts>,
    /// Occurrences that no cgroup was charged with.
    pub unattributed: u64,
}

/// The kernel probes, seen from the recorder.
pub trait KernelProbes: Send + Sync + fmt::Debug {
    /// Reads all counters.
    fn counts(&self) -> KernelCounts;
    /// How each probe fares now.
    fn statuses(&self) -> Vec<ProbeStatus>;
    /// Attaches (`true`) or detaches the syscall pair; says whether it is attached afterwards.
    fn watch_syscalls(&self, on: bool) -> bool;
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
    fn watch_syscalls(&self, _on: bool) -> bool {
        false
    }
}
