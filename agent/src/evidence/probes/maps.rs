//! The kernel's maps, read.

use std::collections::HashMap as StdHashMap;

use aya::{
    Ebpf, Pod,
    maps::{Array, HashMap, MapData, MapError, PerCpuArray},
};
use paramedic_abi::{ProbeStats, ProcessCounters, SyscallCounters, SyscallKey};

use crate::{
    evidence::kernel::{ProcessCounts, SyscallCounts},
    incident::CgroupId,
};

/// The shared types belong to a crate that knows nothing of aya, hence these.
macro_rules! plain {
    ($($wrapper:ident($inner:ty);)*) => {
        $(
            #[derive(Clone, Copy)]
            #[repr(transparent)]
            struct $wrapper($inner);
            // SAFETY: `#[repr(C)]` structs of integers without hidden padding (tested in the abi
            // crate): any bytes are a value, and every byte is defined.
            unsafe impl Pod for $wrapper {}
        )*
    };
}

plain! {
    RawProcess(ProcessCounters);
    RawKey(SyscallKey);
    RawSyscall(SyscallCounters);
    RawStats(ProbeStats);
}

/// The maps that the agent reads, taken out of the object.
pub(super) struct Maps {
    processes: HashMap<MapData, u64, RawProcess>,
    syscalls: HashMap<MapData, RawKey, RawSyscall>,
    stats: PerCpuArray<MapData, RawStats>,
    epoch: Array<MapData, u64>,
}

impl Maps {
    /// Takes them; fails if the object is of another version.
    pub(super) fn take(ebpf: &mut Ebpf) -> Result<Self, String> {
        Ok(Self {
            processes: take(ebpf, "PROCESSES")?,
            syscalls: take(ebpf, "SYSCALLS")?,
            stats: take(ebpf, "STATS")?,
            epoch: take(ebpf, "EPOCH")?,
        })
    }

    /// Process events by cgroup. An entry that is removed while reading is left out.
    pub(super) fn processes(&self) -> StdHashMap<CgroupId, ProcessCounts> {
        self.processes
            .iter()
            .filter_map(Result::ok)
            .map(|(cgroup, RawProcess(counted))| {
                let counts = ProcessCounts {
                    execs: counted.execs,
                    forks: counted.forks,
                    exits: counted.exits,
                    oom_kills: counted.oom_kills,
                };
                (CgroupId(cgroup), counts)
            })
            .collect()
    }

    /// Frees a cgroup's place. That it is gone already is as good.
    pub(super) fn forget(&mut self, cgroup: CgroupId) {
        self.processes.remove(&cgroup.0).unwrap_or_default();
    }

    /// Histograms by cgroup and syscall.
    pub(super) fn syscalls(&self) -> StdHashMap<(CgroupId, u32), SyscallCounts> {
        self.syscalls
            .iter()
            .filter_map(Result::ok)
            .map(|(RawKey(key), RawSyscall(counted))| {
                let counts = SyscallCounts {
                    buckets: counted.buckets,
                    errors: counted.errors,
                    total_ns: counted.total_ns,
                };
                ((CgroupId(key.cgroup), key.nr), counts)
            })
            .collect()
    }

    /// Empties the histograms.
    pub(super) fn clear_syscalls(&mut self) {
        let keys: Vec<RawKey> = self.syscalls.keys().filter_map(Result::ok).collect();
        for key in keys {
            self.syscalls.remove(&key).unwrap_or_default();
        }
    }

    /// Calls begun before now are ignored from here on.
    pub(super) fn begin_epoch(&mut self) -> Result<(), MapError> {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        let ns = u64::try_from(now.tv_sec).unwrap_or(0) * 1_000_000_000
            + u64::try_from(now.tv_nsec).unwrap_or(0);
        self.epoch.set(0, ns, 0)
    }

    /// How a probe fares, over all CPUs.
    pub(super) fn stats(&self, probe: u32) -> ProbeStats {
        let mut sum = ProbeStats::default();
        if let Ok(values) = self.stats.get(&probe, 0) {
            for RawStats(one) in values.iter() {
                sum.events += one.events;
                sum.ring_drops += one.ring_drops;
                sum.map_drops += one.map_drops;
                sum.collisions += one.collisions;
            }
        }
        sum
    }
}

fn take<M>(ebpf: &mut Ebpf, name: &str) -> Result<M, String>
where
    M: TryFrom<aya::maps::Map, Error = MapError>,
{
    let map = ebpf
        .take_map(name)
        .ok_or_else(|| format!("the object has no map {name}: run `cargo xtask build`"))?;
    M::try_from(map).map_err(|error| format!("map {name} is not what the agent expects: {error}"))
}
