//! What the probes count in. Every map is bounded; the agent sets the sizes before loading.

use aya_ebpf::{
    macros::map,
    maps::{Array, HashMap, PerCpuArray, RingBuf},
};
use paramedic_abi::{
    ProbeStats, ProcessCounters, STARTS as STARTS_LEN, Start, SyscallCounters, SyscallKey, probe,
};

/// Process events by cgroup id.
#[map]
pub static PROCESSES: HashMap<u64, ProcessCounters> = HashMap::with_max_entries(16_384, 0);

/// Histograms. Shared by the CPUs and counted atomically: an entry a CPU would cost 336 bytes times
/// keys times CPUs.
#[map]
pub static SYSCALLS: HashMap<SyscallKey, SyscallCounters> = HashMap::with_max_entries(8_192, 0);

/// Calls in flight, by hash of the thread id: one array access instead of a hash map's locks.
#[map]
pub static IN_FLIGHT: Array<Start> = Array::with_max_entries(STARTS_LEN, 0);

/// One entry: when the syscall pair was attached, monotonic ns. Calls begun before are ignored.
#[map]
pub static EPOCH: Array<u64> = Array::with_max_entries(1, 0);

/// How each probe fares.
#[map]
pub static STATS: PerCpuArray<ProbeStats> = PerCpuArray::with_max_entries(probe::COUNT, 0);

/// Events for the agent.
#[map]
pub static EVENTS: RingBuf = RingBuf::with_byte_size(1 << 20, 0);
