//! The kernel probes: loaded, attached, read, and each with a fallback.
//!
//! Starting never fails. A probe that the kernel refuses falls back alone and keeps the reason;
//! `paramedic probes` shows it, and evidence says what stood in. Everything is detached on drop.

mod account;
mod btf;
mod budget;
mod config;
mod cost;
mod drain;
mod idle;
mod layout;
mod load;
mod mapped;
mod maps;
mod pair;
mod places;
mod scheduler;
mod why;

use std::{
    collections::HashMap,
    fmt,
    path::Path,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use account::Account;
pub use config::{ProbeName, ProbesConfig};
pub use drain::{ProcessEvent, TcpEvent, Told};
use idle::Idle;
use layout::Layout;
use load::{Kernel, SPECS, Slot};

use super::kernel::{
    BlockCounts, Device, Edge, EdgeCounts, KernelCounts, KernelProbes, ProbeCost, ProbeState,
    ProbeStatus, ProcessCounts, SyscallCounts, SyscallMode, SyscallPlan,
};
use crate::incident::CgroupId;

/// The object that this binary carries; empty if it was built without a BPF toolchain.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/paramedic-probes.o"));

/// Pairs of cgroup and device that the kernel's table has room for.
const BLOCK_PLACES: usize = 4_096;
/// Likewise, edges.
const EDGE_PLACES: usize = 8_192;
/// Idle edges are looked for this often while nobody asks for edges.
const EDGES: Duration = Duration::from_secs(10);

/// The probes of this process. Needs no asynchronous runtime; one thread drains the ring.
pub struct Probes {
    inner: Mutex<Inner>,
}

struct Inner {
    slots: Vec<Slot>,
    kernel: Option<Kernel>,
    idle: Idle<CgroupId, ProcessCounts>,
    idle_block: Idle<(CgroupId, Device), BlockCounts>,
    idle_edges: Idle<Edge, EdgeCounts>,
    edges_at: Option<Instant>,
    /// Since when the syscall pair counts, while it is attached.
    watched_since: Option<Instant>,
    places: usize,
    idle_after: Duration,
    account: Account,
}

impl Probes {
    /// Loads what this binary carries and attaches all but the syscall pair, which waits.
    pub fn start(config: &ProbesConfig) -> Self {
        Self::start_from(config, OBJECT, Path::new(layout::KERNEL_BTF))
    }

    /// As [`Self::start`] from another object, and with another file for the kernel's types.
    pub fn start_from(config: &ProbesConfig, object: &[u8], kernel_btf: &Path) -> Self {
        let mut slots: Vec<Slot> = SPECS
            .iter()
            .map(|spec| Slot {
                spec,
                state: if config.enabled && !config.off.contains(&spec.name) {
                    // Until it is loaded it does not count.
                    ProbeState::Fallback
                } else {
                    ProbeState::Off
                },
                why: None,
            })
            .collect();
        let layout = if config.enabled {
            Layout::of_kernel(kernel_btf)
        } else {
            Layout::default()
        };
        let kernel = Kernel::start(config, object, &layout, &mut slots);
        Self {
            inner: Mutex::new(Inner {
                slots,
                kernel,
                idle: Idle::default(),
                idle_block: Idle::default(),
                idle_edges: Idle::default(),
                edges_at: None,
                watched_since: None,
                places: config.cgroups_max as usize,
                idle_after: Duration::from_secs(config.idle_s),
                account: Account::new(config),
            }),
        }
    }

    /// The object that this binary carries; empty if it was built without.
    pub fn object() -> &'static [u8] {
        OBJECT
    }

    /// Names of the kernel's tracepoints that the probes attach to.
    pub fn tracepoints() -> impl Iterator<Item = &'static str> {
        load::SPECS
            .iter()
            .flat_map(|spec| spec.programs.iter().map(|(_, tracepoint)| *tracepoint))
    }

    /// The last process events, oldest first; at most `recent_max`.
    pub fn recent(&self) -> Vec<ProcessEvent> {
        let inner = self.inner();
        let drain = inner
            .kernel
            .as_ref()
            .and_then(|kernel| kernel.drain.as_ref());
        drain.map(drain::Drain::recent).unwrap_or_default()
    }

    /// Process events read from the ring so far; with the drops of the statuses these are all.
    pub fn events_read(&self) -> u64 {
        let inner = self.inner();
        let drain = inner
            .kernel
            .as_ref()
            .and_then(|kernel| kernel.drain.as_ref());
        drain.map(drain::Drain::read).unwrap_or_default()
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        // A panic elsewhere leaves counters that are still right.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Probes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Probes")
            .field("slots", &self.inner().slots)
            .finish_non_exhaustive()
    }
}

impl Inner {
    /// Reads the maps. `edges`: those too, which may be thousands.
    fn read(&mut self, with_edges: bool) -> KernelCounts {
        let now = Instant::now();
        if let Some(kernel) = &mut self.kernel {
            self.account.keep(kernel, &mut self.slots, now);
        }
        let Some(kernel) = &mut self.kernel else {
            return KernelCounts::default();
        };
        let processes = kernel.maps.processes();
        let idle_after = self.idle_after;
        for cgroup in self.idle.observe(&processes, now, self.places, idle_after) {
            kernel.maps.forget(cgroup);
        }
        let block = kernel.maps.block();
        for place in self
            .idle_block
            .observe(&block, now, BLOCK_PLACES, idle_after)
        {
            kernel.maps.forget_block(place);
        }
        let tidy_edges = self
            .edges_at
            .is_none_or(|at| now.duration_since(at) >= EDGES);
        let mut edges = HashMap::new();
        if with_edges || tidy_edges {
            edges = kernel.maps.edges();
            for edge in self
                .idle_edges
                .observe(&edges, now, EDGE_PLACES, idle_after)
            {
                kernel.maps.forget_edge(edge);
            }
            self.edges_at = Some(now);
        }
        if !with_edges {
            edges.clear();
        }
        let (sched, blocked) = kernel.scheduler.counts();
        KernelCounts {
            processes,
            sched,
            blocked,
            block,
            edges,
            syscalls: kernel.pair.counts(),
            syscalls_since: self.watched_since,
            errnos: kernel.pair.errnos(),
            unattributed: SPECS
                .iter()
                .filter(|spec| !spec.has_own_table())
                .map(|spec| kernel.maps.stats(spec.index).map_drops)
                .sum(),
        }
    }

    /// How each fares; `calls` and `waits` are what the syscall pair and the scheduler tier have counted.
    fn statuses(&self, calls: u64, waits: u64) -> Vec<ProbeStatus> {
        let status = |slot: &Slot| {
            let stats = self
                .kernel
                .as_ref()
                .map(|kernel| kernel.maps.stats(slot.spec.index))
                .unwrap_or_default();
            let points: Vec<&str> = slot.spec.programs.iter().map(|(_, point)| *point).collect();
            ProbeStatus {
                name: slot.spec.label,
                state: slot.state,
                kind: format!("{} {}", slot.spec.kind(), points.join(" + ")),
                fallback: slot.spec.fallback,
                why: slot.why.clone(),
                events: match slot.spec.name {
                    ProbeName::Syscalls if slot.state == ProbeState::Attached => calls,
                    ProbeName::Sched => waits,
                    _ => stats.events,
                },
                drops: stats.ring_drops + stats.map_drops + stats.collisions,
            }
        };
        self.slots.iter().map(status).collect()
    }
}

fn calls(counted: &HashMap<(CgroupId, u32), SyscallCounts>) -> u64 {
    counted.values().flat_map(|counts| counts.buckets).sum()
}

impl KernelProbes for Probes {
    fn counts(&self) -> KernelCounts {
        self.inner().read(true)
    }

    fn statuses(&self) -> Vec<ProbeStatus> {
        let inner = self.inner();
        let kernel = inner.kernel.as_ref();
        inner.statuses(
            kernel.map_or(0, |kernel| calls(&kernel.pair.counts())),
            kernel.map_or(0, |kernel| kernel.scheduler.events()),
        )
    }

    fn sample(&self) -> (Vec<ProbeStatus>, KernelCounts) {
        let mut inner = self.inner();
        let counts = inner.read(false);
        let waits = counts.sched.values().flat_map(|waits| waits.buckets).sum();
        (inner.statuses(calls(&counts.syscalls), waits), counts)
    }

    fn watch(&self, plan: &SyscallPlan) -> bool {
        let mut inner = self.inner();
        let Inner {
            slots,
            kernel: Some(kernel),
            account,
            watched_since,
            ..
        } = &mut *inner
        else {
            return false;
        };
        if account.is_shed(ProbeName::Syscalls) {
            return false;
        }
        let Some(slot) = slots
            .iter_mut()
            .find(|slot| slot.spec.name == ProbeName::Syscalls)
        else {
            return false;
        };
        match (slot.state, plan.mode) {
            (ProbeState::Attached, SyscallMode::Off) => {
                kernel.unwatch();
                slot.state = ProbeState::Standby;
            }
            (_, SyscallMode::Off) => {}
            // What failed on the last alert may work on this one.
            (ProbeState::Standby | ProbeState::Fallback | ProbeState::Attached, _)
                if kernel.pair_loaded =>
            {
                match kernel.watch(slot.spec, plan) {
                    Ok(()) => {
                        slot.state = ProbeState::Attached;
                        slot.why = None;
                    }
                    Err(why) => {
                        kernel.unwatch();
                        slot.fall_back(why);
                    }
                }
            }
            _ => {}
        }
        let attached = slot.state == ProbeState::Attached;
        // A switch begins the counts anew.
        *watched_since = attached.then(Instant::now);
        attached
    }

    fn costs(&self) -> Vec<ProbeCost> {
        let mut inner = self.inner();
        let Inner {
            kernel: Some(kernel),
            account,
            ..
        } = &mut *inner
        else {
            return Vec::new();
        };
        account.costs(kernel)
    }

    fn counting(&self, name: &str) -> bool {
        // Without reading a map: this is asked for every cgroup.
        self.inner()
            .slots
            .iter()
            .any(|slot| slot.spec.label == name && slot.state == ProbeState::Attached)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whys(probes: &Probes) -> Vec<String> {
        let statuses = probes.statuses();
        statuses
            .into_iter()
            .filter_map(|status| status.why)
            .collect()
    }

    #[test]
    fn a_binary_without_probes_says_how_to_build_one() {
        let probes =
            Probes::start_from(&ProbesConfig::default(), &[], Path::new(layout::KERNEL_BTF));
        assert_eq!(
            whys(&probes),
            vec!["this binary was built without probes: run `cargo xtask build`"; SPECS.len()]
        );
        assert!(!probes.watch_syscalls(true));
        assert!(probes.counts().processes.is_empty());
        assert!(!probes.counting("exec"));
    }

    #[test]
    fn an_object_that_is_none_falls_back_with_the_reason() {
        let probes = Probes::start_from(
            &ProbesConfig::default(),
            b"\x7fELF and nothing more",
            Path::new(layout::KERNEL_BTF),
        );
        let whys = whys(&probes);
        assert_eq!(whys.len(), SPECS.len());
        assert!(whys[0].contains("error parsing"), "{}", whys[0]);
    }

    #[test]
    fn what_is_switched_off_is_off_and_has_no_reason() {
        let config = ProbesConfig {
            enabled: false,
            ..ProbesConfig::default()
        };
        let probes = Probes::start(&config);
        let statuses = probes.statuses();
        assert!(
            statuses
                .iter()
                .all(|status| status.state == ProbeState::Off)
        );
        assert!(statuses.iter().all(|status| status.why.is_none()));
    }
}
