//! The kernel's maps, read.

use std::collections::HashMap as StdHashMap;

use aya::{
    Ebpf, Pod,
    maps::{HashMap, MapData, MapError, PerCpuArray},
};
use paramedic_abi::{ProbeStats, ProcessCounters};

use crate::{evidence::kernel::ProcessCounts, incident::CgroupId};

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
    RawStats(ProbeStats);
}

/// The maps that the agent reads, taken out of the object.
pub(super) struct Maps {
    processes: HashMap<MapData, u64, RawProcess>,
    stats: PerCpuArray<MapData, RawStats>,
}

impl Maps {
    /// Takes them; fails if the object is of another version.
    pub(super) fn take(ebpf: &mut Ebpf) -> Result<Self, String> {
        Ok(Self {
            processes: take(ebpf, "PROCESSES")?,
            stats: take(ebpf, "STATS")?,
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

/// A map of the object by its name.
pub(super) fn take<M>(ebpf: &mut Ebpf, name: &str) -> Result<M, String>
where
    M: TryFrom<aya::maps::Map, Error = MapError>,
{
    let map = ebpf
        .take_map(name)
        .ok_or_else(|| format!("the object has no map {name}: run `cargo xtask build`"))?;
    M::try_from(map).map_err(|error| format!("map {name} is not what the agent expects: {error}"))
}
