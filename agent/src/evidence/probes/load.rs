//! Loading and attaching, each probe alone: what fails is kept as that probe's reason.

use aya::{
    Ebpf, EbpfLoader,
    maps::RingBuf,
    programs::{ProgramError, RawTracePoint, raw_trace_point::RawTracePointLinkId},
};
use aya_log::EbpfLogger;
use paramedic_abi::probe;

use super::{
    ProbesConfig,
    config::ProbeName,
    cost::{Measured, Measuring},
    drain::{Drain, ToTracing},
    layout::Layout,
    maps::Maps,
    pair::Pair,
    scheduler::{self, Scheduler},
    why,
};
use crate::evidence::kernel::{ProbeState, SyscallPlan};

/// What a probe is made of.
#[derive(Debug)]
pub(super) struct Spec {
    pub(super) name: ProbeName,
    /// As `paramedic probes` shows it.
    pub(super) label: &'static str,
    /// `(program, tracepoint)`, in the order of attaching.
    pub(super) programs: &'static [(&'static str, &'static str)],
    /// Index in the kernel's table of statistics.
    pub(super) index: u32,
    /// What stands in for it.
    pub(super) fallback: &'static str,
}

impl Spec {
    /// Whether it counts elsewhere than in the table of cgroups, so that what it could not attribute
    /// says nothing of the others.
    pub(super) fn has_own_table(&self) -> bool {
        use ProbeName::{Block, Reclaim, Sched, Syscalls, Tcp};
        matches!(self.name, Syscalls | Sched | Tcp | Block | Reclaim)
    }

    /// The type of its programs.
    pub(super) fn kind(&self) -> &'static str {
        match self.name {
            ProbeName::Sched => "tp_btf",
            _ => "raw_tracepoint",
        }
    }
}

/// All probes, in the order in which they are shown.
pub(super) const SPECS: [Spec; 10] = [
    Spec {
        name: ProbeName::Exec,
        label: "exec",
        programs: &[("exec", "sched_process_exec")],
        index: probe::EXEC,
        fallback: "nothing: rates of exec are left out",
    },
    Spec {
        name: ProbeName::Fork,
        label: "fork",
        programs: &[("fork", "task_newtask")],
        index: probe::FORK,
        fallback: "/proc/stat (whole host) and pids.current",
    },
    Spec {
        name: ProbeName::Exit,
        label: "exit",
        programs: &[("exit", "sched_process_exit")],
        index: probe::EXIT,
        fallback: "pids.current",
    },
    Spec {
        name: ProbeName::Oom,
        label: "oom",
        programs: &[("oom", "mark_victim")],
        index: probe::OOM,
        fallback: "memory.events and /proc/vmstat",
    },
    Spec {
        name: ProbeName::Syscalls,
        label: "syscalls",
        // The exit first: then no call that is noted at its enter is missed at its exit.
        programs: &[("syscall_exit", "sys_exit"), ("syscall_enter", "sys_enter")],
        index: probe::SYSCALLS,
        fallback: "nothing: latencies of syscalls are left out",
    },
    Spec {
        name: ProbeName::Sched,
        label: "sched",
        programs: &scheduler::PROGRAMS,
        index: probe::SCHED,
        fallback: "/proc/schedstat (whole host, no quantiles) and cpu.pressure",
    },
    Spec {
        name: ProbeName::Signal,
        label: "signal",
        programs: &[("signal", "signal_generate")],
        index: probe::SIGNAL,
        fallback: "nothing: who sends signals to whom is left out",
    },
    Spec {
        name: ProbeName::Reclaim,
        label: "reclaim",
        // The ends first: then no stall that is noted at its begin is missed at its end.
        programs: &[
            ("reclaim_end", "mm_vmscan_direct_reclaim_end"),
            ("reclaim_begin", "mm_vmscan_direct_reclaim_begin"),
            ("memcg_reclaim_end", "mm_vmscan_memcg_reclaim_end"),
            ("memcg_reclaim_begin", "mm_vmscan_memcg_reclaim_begin"),
        ],
        index: probe::RECLAIM,
        fallback: "/proc/vmstat (whole host) and memory.pressure",
    },
    Spec {
        name: ProbeName::Tcp,
        label: "tcp",
        programs: &[
            ("tcp_state", "inet_sock_set_state"),
            ("tcp_retransmit", "tcp_retransmit_skb"),
            ("tcp_reset_sent", "tcp_send_reset"),
            ("tcp_reset_received", "tcp_receive_reset"),
        ],
        index: probe::TCP,
        fallback: "/proc/net/snmp and netstat (whole host, no peers)",
    },
    Spec {
        name: ProbeName::Block,
        label: "block",
        programs: &[
            ("block_complete", "block_rq_complete"),
            ("block_issue", "block_rq_issue"),
        ],
        index: probe::BLOCK,
        fallback: "/proc/diskstats (mean latency of each disk) and io.stat",
    },
];

/// A probe's fate.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) spec: &'static Spec,
    pub(super) state: ProbeState,
    pub(super) why: Option<String>,
}

impl Slot {
    pub(super) fn fall_back(&mut self, why: String) {
        tracing::warn!(probe = self.spec.label, why, "a kernel probe falls back");
        self.state = ProbeState::Fallback;
        self.why = Some(why);
    }
}

/// What is in the kernel.
pub(super) struct Kernel {
    ebpf: Ebpf,
    pub(super) maps: Maps,
    pub(super) pair: Pair,
    pub(super) scheduler: Scheduler,
    pub(super) drain: Option<Drain>,
    /// Whether the syscall pair is loaded, so that attaching can be tried.
    pub(super) pair_loaded: bool,
    /// Links of the syscall pair while it is attached.
    watching: Vec<(&'static str, RawTracePointLinkId)>,
}

impl Kernel {
    /// Loads the object and every program that is wanted; attaches all but the syscall pair.
    /// `None` if nothing at all could be loaded: every wanted slot then has the reason.
    pub(super) fn start(
        config: &ProbesConfig,
        object: &[u8],
        layout: &Layout,
        slots: &mut [Slot],
    ) -> Option<Self> {
        let wanted = slots.iter().any(|slot| slot.state != ProbeState::Off);
        if !wanted {
            return None;
        }
        let loaded = load_object(config, object, layout).and_then(|mut ebpf| {
            let maps = Maps::take(&mut ebpf)?;
            let pair = Pair::take(&mut ebpf)?;
            let scheduler = Scheduler::take(&mut ebpf)?;
            Ok((ebpf, maps, pair, scheduler))
        });
        let (mut ebpf, maps, pair, scheduler) = match loaded {
            Ok(loaded) => loaded,
            Err(why) => {
                for slot in slots
                    .iter_mut()
                    .filter(|slot| slot.state != ProbeState::Off)
                {
                    slot.fall_back(why.clone());
                }
                return None;
            }
        };
        let drain = start_drain(&mut ebpf, config)
            .inspect_err(|why| tracing::warn!(why, "events of the probes are not read"))
            .ok();
        let mut kernel = Self {
            ebpf,
            maps,
            pair,
            scheduler,
            drain,
            pair_loaded: false,
            watching: Vec::new(),
        };
        for slot in slots
            .iter_mut()
            .filter(|slot| slot.state != ProbeState::Off)
        {
            if let Some(why) = layout.unreadable(slot.spec.name) {
                slot.fall_back(why.to_owned());
                continue;
            }
            match kernel.load_and_attach(slot.spec, layout) {
                Ok(state) => slot.state = state,
                Err(why) => slot.fall_back(why),
            }
        }
        Some(kernel)
    }

    fn load_and_attach(&mut self, spec: &Spec, layout: &Layout) -> Result<ProbeState, String> {
        if spec.name == ProbeName::Sched {
            self.scheduler.start(&mut self.ebpf, &layout.tracepoints)?;
            return Ok(ProbeState::Attached);
        }
        for (program, _) in spec.programs {
            self.program(program)?
                .load()
                .map_err(|error| why::of_program("load it", &error))?;
        }
        if spec.name == ProbeName::Syscalls {
            self.pair_loaded = true;
            return Ok(ProbeState::Standby);
        }
        let attached = self.attach_all(spec);
        if attached.is_err() {
            // Half a probe counts nonsense: what is attached of it goes.
            for (program, _) in spec.programs {
                if let Err(why) = self
                    .program(program)
                    .and_then(|program| program.unload().map_err(|error| error.to_string()))
                {
                    tracing::warn!(program, why, "cannot unload");
                }
            }
        }
        attached.map(|()| ProbeState::Attached)
    }

    fn attach_all(&mut self, spec: &Spec) -> Result<(), String> {
        for (program, tracepoint) in spec.programs {
            self.program(program)?
                .attach(tracepoint)
                .map_err(|error| why::of_program(&format!("attach to {tracepoint}"), &error))?;
        }
        Ok(())
    }

    /// Puts a plan for the syscall pair in force; attaches it, with empty histograms, if it is not.
    pub(super) fn watch(&mut self, spec: &Spec, plan: &SyscallPlan) -> Result<(), String> {
        self.pair.switch(plan)?;
        if !self.watching.is_empty() {
            return Ok(());
        }
        for (program, tracepoint) in spec.programs {
            let attached = self.program(program).and_then(|program| {
                program
                    .attach(tracepoint)
                    .map_err(|error| why::of_program(&format!("attach to {tracepoint}"), &error))
            });
            match attached {
                Ok(link) => self.watching.push((program, link)),
                Err(why) => {
                    self.unwatch();
                    return Err(why);
                }
            }
        }
        Ok(())
    }

    /// Detaches the syscall pair, the enter first, and forgets what it counted.
    pub(super) fn unwatch(&mut self) {
        while let Some((name, link)) = self.watching.pop() {
            let detached = self
                .program(name)
                .and_then(|program| program.detach(link).map_err(|error| error.to_string()));
            if let Err(why) = detached {
                tracing::warn!(program = name, why, "cannot detach");
            }
        }
        if let Err(why) = self.pair.off() {
            tracing::warn!(why, "the syscall pair's counts stay");
        }
        self.pair.unmap();
    }

    /// Begins to measure what the programs cost.
    pub(super) fn measure(&self) -> Option<Measuring> {
        Measuring::begin(&self.ebpf)
    }

    /// What they cost since.
    pub(super) fn measured(&self, measuring: Measuring) -> Measured {
        measuring.end(&self.ebpf)
    }

    /// Detaches the scheduler tier; its counts stay.
    pub(super) fn pause_scheduler(&mut self) {
        self.scheduler.detach(&mut self.ebpf);
    }

    /// Attaches it again.
    pub(super) fn resume_scheduler(&mut self) -> Result<(), String> {
        self.scheduler.attach(&mut self.ebpf)
    }

    fn program(&mut self, name: &str) -> Result<&mut RawTracePoint, String> {
        let program = self
            .ebpf
            .program_mut(name)
            .ok_or_else(|| format!("the object has no program {name}: run `cargo xtask build`"))?;
        program
            .try_into()
            .map_err(|error: ProgramError| format!("program {name}: {error}"))
    }
}

fn load_object(config: &ProbesConfig, object: &[u8], layout: &Layout) -> Result<Ebpf, String> {
    if object.is_empty() {
        return Err("this binary was built without probes: run `cargo xtask build`".to_owned());
    }
    let watches = !config.off.contains(&ProbeName::Syscalls);
    let mut loader = EbpfLoader::new();
    // Nothing in the object is relocated by the kernel's types: offsets come as globals.
    loader.btf(None);
    loader
        .map_max_entries("PROCESSES", config.cgroups_max)
        .map_max_entries("EVENTS", config.ring_bytes);
    if !watches {
        loader.map_max_entries("SYSCALLS", 1);
    }
    let wake_bytes = u64::from(config.wake_bytes);
    loader.override_global("WAKE_BYTES", &wake_bytes, true);
    for (name, value) in &layout.globals {
        loader.override_global(name, value, true);
    }
    loader.load(object).map_err(|error| why::of_object(&error))
}

fn start_drain(ebpf: &mut Ebpf, config: &ProbesConfig) -> Result<Drain, String> {
    let map = ebpf
        .take_map("EVENTS")
        .ok_or("the object has no map EVENTS")?;
    let events = RingBuf::try_from(map).map_err(|error| error.to_string())?;
    let logs = EbpfLogger::init_with_logger(ebpf, ToTracing)
        .inspect_err(|error| tracing::warn!(%error, "the probes' log lines are not read"))
        .ok();
    Drain::start(events, logs, config).map_err(|error| error.to_string())
}
