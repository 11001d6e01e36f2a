//! The kernel's maps, read.

use std::{
    collections::HashMap as StdHashMap,
    net::{IpAddr, Ipv6Addr},
};

use aya::{
    Ebpf, Pod,
    maps::{HashMap, MapData, MapError, PerCpuArray},
};
use paramedic_abi::{BlockCounters, BlockKey, EdgeCounters, EdgeKey, ProbeStats, ProcessCounters};

use crate::{
    evidence::kernel::{BlockCounts, Device, Edge, EdgeCounts, ProcessCounts},
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
    RawStats(ProbeStats);
    RawBlockKey(BlockKey);
    RawBlock(BlockCounters);
    RawEdgeKey(EdgeKey);
    RawEdge(EdgeCounters);
}

/// The maps that the agent reads, taken out of the object.
pub(super) struct Maps {
    processes: HashMap<MapData, u64, RawProcess>,
    stats: PerCpuArray<MapData, RawStats>,
    block: HashMap<MapData, RawBlockKey, RawBlock>,
    edges: HashMap<MapData, RawEdgeKey, RawEdge>,
}

impl Maps {
    /// Takes them; fails if the object is of another version.
    pub(super) fn take(ebpf: &mut Ebpf) -> Result<Self, String> {
        Ok(Self {
            processes: take(ebpf, "PROCESSES")?,
            stats: take(ebpf, "STATS")?,
            block: take(ebpf, "BLOCK")?,
            edges: take(ebpf, "EDGES")?,
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
                    failed_exits: counted.failed_exits,
                    signals: counted.signals,
                    fatal_signals: counted.fatal_signals,
                    reclaims: counted.reclaims,
                    reclaim_ns: counted.reclaim_ns,
                    tcp_connects: counted.tcp_connects,
                    tcp_accepts: counted.tcp_accepts,
                    tcp_failures: counted.tcp_failures,
                    tcp_retransmits: counted.tcp_retransmits,
                    tcp_resets_sent: counted.tcp_resets_sent,
                    tcp_resets_received: counted.tcp_resets_received,
                };
                (CgroupId(cgroup), counts)
            })
            .collect()
    }

    /// Frees a cgroup's place. That it is gone already is as good.
    pub(super) fn forget(&mut self, cgroup: CgroupId) {
        self.processes.remove(&cgroup.0).unwrap_or_default();
    }

    /// Requests by cgroup and device, likewise.
    pub(super) fn block(&self) -> StdHashMap<(CgroupId, Device), BlockCounts> {
        let counted = self.block.iter().filter_map(Result::ok);
        counted
            .map(|(RawBlockKey(key), RawBlock(counted))| {
                let counts = BlockCounts {
                    buckets: counted.buckets.map(u64::from),
                    total_ns: counted.total_ns,
                    read_bytes: counted.read_bytes,
                    written_bytes: counted.written_bytes,
                    errors: counted.errors,
                };
                ((CgroupId(key.cgroup), Device(key.device)), counts)
            })
            .collect()
    }

    /// Who talks to whom by TCP, likewise.
    pub(super) fn edges(&self) -> StdHashMap<Edge, EdgeCounts> {
        let counted = self.edges.iter().filter_map(Result::ok);
        counted
            .map(|(RawEdgeKey(key), RawEdge(counted))| {
                let counts = EdgeCounts {
                    opened: counted.opened,
                    failed: counted.failed,
                    retransmits: counted.retransmits,
                    resets_sent: counted.resets_sent,
                    resets_received: counted.resets_received,
                };
                (edge_of(key), counts)
            })
            .collect()
    }

    /// Frees the place of a cgroup at a device.
    pub(super) fn forget_block(&mut self, (cgroup, device): (CgroupId, Device)) {
        let key = RawBlockKey(BlockKey {
            cgroup: cgroup.0,
            device: device.0,
            padding: 0,
        });
        self.block.remove(&key).unwrap_or_default();
    }

    /// Frees the place of an edge.
    pub(super) fn forget_edge(&mut self, edge: Edge) {
        self.edges
            .remove(&RawEdgeKey(key_of(edge)))
            .unwrap_or_default();
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

fn edge_of(key: EdgeKey) -> Edge {
    Edge {
        cgroup: CgroupId(key.cgroup),
        peer: Ipv6Addr::from(key.peer).to_canonical(),
        port: u16::try_from(key.port).unwrap_or_default(),
        serves: key.serves != 0,
    }
}

fn key_of(edge: Edge) -> EdgeKey {
    let peer = match edge.peer {
        IpAddr::V4(peer) => peer.to_ipv6_mapped(),
        IpAddr::V6(peer) => peer,
    };
    EdgeKey {
        cgroup: edge.cgroup.0,
        peer: peer.octets(),
        port: edge.port.into(),
        serves: edge.serves.into(),
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

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::{CgroupId, Edge, edge_of, key_of};

    #[test]
    fn an_edge_comes_back_from_its_key() {
        for peer in ["10.1.2.3", "fe80::1", "::1", "0.0.0.0"] {
            let edge = Edge {
                cgroup: CgroupId(7),
                peer: peer.parse::<IpAddr>().unwrap(),
                port: 65_535,
                serves: true,
            };
            assert_eq!(edge_of(key_of(edge)), edge);
        }
    }
}
