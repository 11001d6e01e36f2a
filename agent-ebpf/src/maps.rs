//! What the probes count in. Every map is bounded; the agent sets the sizes before loading.

use aya_ebpf::{
    macros::map,
    maps::{HashMap, PerCpuArray, RingBuf},
};
use paramedic_abi::{ProbeStats, ProcessCounters, probe};

/// Process events by cgroup id.
#[map]
pub static PROCESSES: HashMap<u64, ProcessCounters> = HashMap::with_max_entries(16_384, 0);

/// How each probe fares.
#[map]
pub static STATS: PerCpuArray<ProbeStats> = PerCpuArray::with_max_entries(probe::COUNT, 0);

/// Events for the agent.
#[map]
pub static EVENTS: RingBuf = RingBuf::with_byte_size(1 << 20, 0);
