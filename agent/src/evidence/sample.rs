//! All cumulative counters of this host at one moment.

use std::{
    collections::HashMap,
    fmt,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use tracing::debug;

use super::{
    EvidenceConfig, EvidenceError,
    cgroup::{Bounds, Cgroups, Walk, Walker},
    counters::{Count, Counter, Gauge, HostCounter},
    files::Files,
    filesystems::{self, Fullest},
    host::{self, Hardware, HostSample},
    kernel::{KernelCounts, KernelProbes, ProbeState, ProbeStatus},
    mounts::Mounts,
    node::{self, NodeSample},
    process::{self, Members, Newcomers, Processes},
    scan::{For, Looker, Looks},
    sched,
};
use crate::incident::CgroupId;

/// Mounts, disks and (where a controller is missing) all processes are looked at this often.
const SLOW: Duration = Duration::from_secs(10);
/// Looking at all processes rests at least this many times as long as it worked.
const MEMBERS_REST: u32 = 500;
/// How full filesystems are may be this old.
const FULLEST: Duration = Duration::from_secs(1);

/// What the probes said.
#[derive(Clone, Debug, Default)]
pub(super) struct KernelSample {
    pub counts: KernelCounts,
    pub statuses: Vec<ProbeStatus>,
    /// Process events lost so far.
    pub lost: u64,
    /// Time that tasks have waited for a CPU, ns; asked where the scheduler tier does not count.
    pub run_delay_ns: Option<u64>,
}

impl KernelSample {
    /// What a probe has lost so far.
    pub(super) fn drops(&self, name: &str) -> u64 {
        let probe = self.statuses.iter().find(|probe| probe.name == name);
        probe.map_or(0, |probe| probe.drops)
    }

    pub(super) fn counting(&self, name: &str) -> bool {
        self.statuses
            .iter()
            .any(|probe| probe.name == name && probe.state == ProbeState::Attached)
    }
}

/// This host at one moment.
#[derive(Clone, Debug)]
pub(super) struct Sample {
    pub at: Instant,
    pub wall: Timestamp,
    /// CPU time that taking it took.
    pub took: Duration,
    pub host: HostSample,
    pub node: NodeSample,
    pub looks: Looks,
    pub has_cgroups: bool,
    pub cgroups: Cgroups,
    pub walk: Walk,
    pub fullest: Fullest,
    /// Local filesystems beyond the limit.
    pub filesystems_left_out: usize,
    pub kernel: KernelSample,
    /// Where the fork probe does not count.
    pub newcomers: Newcomers,
}

/// Takes samples; keeps what they share.
#[derive(Debug)]
pub(super) struct Sampler {
    config: EvidenceConfig,
    probes: Arc<dyn KernelProbes>,
    walker: Walker,
    processes: Processes,
    hardware: Hardware,
    node: node::Reader,
    looker: Looker,
    files: Files,
    mounts: Mounts,
    slow_at: Option<Instant>,
    fullest: Fullest,
    fullest_at: Option<Instant>,
    members: HashMap<String, Members>,
    members_due: Option<Instant>,
}

impl Sampler {
    pub(super) fn new(config: EvidenceConfig, probes: Arc<dyn KernelProbes>) -> Self {
        Self {
            config,
            probes,
            walker: Walker::default(),
            processes: Processes::default(),
            hardware: Hardware::default(),
            node: node::Reader::default(),
            looker: Looker::default(),
            files: Files::default(),
            mounts: Mounts::default(),
            slow_at: None,
            fullest: Fullest::default(),
            fullest_at: None,
            members: HashMap::new(),
            members_due: None,
        }
    }

    /// Takes a sample. `earlier` is the last one, if any.
    pub(super) fn sample(
        &mut self,
        earlier: Option<&Sample>,
        wanted: For,
    ) -> Result<Sample, EvidenceError> {
        let mut parts = Parts::default();
        self.refresh_slow(Instant::now());
        parts.end("mounts");
        let mut host = host::read(&mut self.files, &self.hardware)?;
        // The host's counters were read now; that is the moment which rates refer to.
        let at = Instant::now();
        parts.end("host");
        let mut node = self.node.read(&mut self.files, &mut host.counters, at);
        parts.end("node");
        let wall = Timestamp::now();
        let kernel = self.kernel();
        add_from_probes(&mut host, &kernel);
        parts.end("probes");
        let looks = self
            .looker
            .look(at, wanted, self.config.processes_max, cpu_time)
            .clone();
        node.levels.extend(looks.zombies());
        node.sources.extend(looks.source());
        parts.end("processes");
        if let Some(count) = self.mounts.gone_readonly(self.node.stopped()) {
            node.levels.push(("fs.readonly", count as f64, true));
        }
        let (mut cgroups, found) = self.cgroups(earlier);
        add_kernel_counts(&mut cgroups, &kernel);
        parts.end("cgroups");
        if !cgroups.is_empty() {
            self.add_members(&mut cgroups, found, at);
        }
        let newcomers = if kernel.counting("fork") {
            self.processes.forget();
            Newcomers::default()
        } else {
            self.processes.newcomers(self.config.processes_max)
        };
        parts.end("members");
        if is_due(self.fullest_at, at, FULLEST) {
            self.fullest = filesystems::fullest(&self.mounts.local);
            self.fullest_at = Some(at);
        }
        parts.end("filesystems");
        debug!(%parts, "sampled");
        Ok(Sample {
            at,
            wall,
            took: parts.all(),
            host,
            node,
            looks,
            has_cgroups: self.mounts.cgroup2.is_some(),
            cgroups,
            walk: found,
            fullest: self.fullest,
            filesystems_left_out: self.mounts.left_out,
            kernel,
            newcomers,
        })
    }

    /// The last sample ends a window that is kept: what is counted per window begins anew.
    pub(super) fn close_window(&mut self) {
        self.processes.close_window();
    }

    fn refresh_slow(&mut self, now: Instant) {
        if !is_due(self.slow_at, now, SLOW) {
            return;
        }
        self.hardware = Hardware::read();
        if let Some(mounts) = Mounts::read(&self.mounts) {
            self.mounts = mounts;
        }
        self.slow_at = Some(now);
    }

    fn kernel(&self) -> KernelSample {
        let (statuses, counts) = self.probes.sample();
        let dropped: u64 = statuses
            .iter()
            .filter(|probe| matches!(probe.name, "exec" | "fork" | "exit" | "oom"))
            .map(|probe| probe.drops)
            .sum();
        KernelSample {
            lost: dropped.saturating_add(counts.unattributed),
            run_delay_ns: if self.probes.counting("sched") {
                None
            } else {
                sched::run_delay_ns()
            },
            counts,
            statuses,
        }
    }

    fn cgroups(&mut self, earlier: Option<&Sample>) -> (Cgroups, Walk) {
        let Some(mount) = self.mounts.cgroup2.as_deref().map(PathBuf::from) else {
            return (Cgroups::new(), Walk::default());
        };
        let none = Cgroups::new();
        let earlier = earlier.map_or(&none, |sample| &sample.cgroups);
        let bounds = Bounds {
            cgroups: self.config.cgroups_max,
            depth: self.config.cgroup_depth_max,
        };
        self.walker.walk(&mount, earlier, bounds)
    }

    /// Where no cgroup has the memory or the pids controller, processes stand in.
    fn add_members(&mut self, cgroups: &mut Cgroups, walk: Walk, now: Instant) {
        if walk.memory && walk.pids {
            self.members = HashMap::new();
            self.members_due = None;
            return;
        }
        if self.members_due.is_none_or(|due| now >= due) {
            let begun = cpu_time();
            self.members = process::members(self.config.processes_max);
            let took = cpu_time().saturating_sub(begun);
            self.members_due = now.checked_add((took * MEMBERS_REST).max(SLOW));
        }
        for sample in cgroups.values_mut() {
            let members = self.members.get(&*sample.path).copied().unwrap_or_default();
            if !walk.memory {
                sample.by_processes.memory = true;
                sample.gauges[Gauge::Memory as usize] = Count::new(members.resident);
                sample.gauges[Gauge::Own as usize] = Count::new(members.anonymous);
                sample.gauges[Gauge::Anon as usize] = Count::new(members.anonymous);
            }
            if !walk.pids {
                sample.by_processes.pids = true;
                sample.gauges[Gauge::Pids as usize] = Count::new(members.tasks);
            }
        }
    }
}

/// Where the CPU time of a sample goes: `RUST_LOG=paramedic::evidence::sample=debug` tells.
#[derive(Debug)]
struct Parts {
    begun: Duration,
    last: Duration,
    took: Vec<(&'static str, Duration)>,
}

impl Default for Parts {
    fn default() -> Self {
        let now = cpu_time();
        Self {
            begun: now,
            last: now,
            took: Vec::with_capacity(8),
        }
    }
}

impl Parts {
    /// The part since the last one's end was this.
    fn end(&mut self, name: &'static str) {
        let now = cpu_time();
        self.took.push((name, now.saturating_sub(self.last)));
        self.last = now;
    }

    fn all(&self) -> Duration {
        self.last.saturating_sub(self.begun)
    }
}

impl fmt::Display for Parts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} us:", self.all().as_micros())?;
        for (name, took) in &self.took {
            write!(f, " {name} {}", took.as_micros())?;
        }
        Ok(())
    }
}

/// CPU time of this thread. Waiting for a CPU costs nobody anything, and on a host that is busy the
/// recorder must not become slower for it.
fn cpu_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::try_from(time).unwrap_or_default()
}

fn is_due(last: Option<Instant>, now: Instant, every: Duration) -> bool {
    last.is_none_or(|last| now.saturating_duration_since(last) >= every)
}

/// What of the node only probes tell.
fn add_from_probes(host: &mut HostSample, kernel: &KernelSample) {
    if kernel.counting("tcp") {
        let processes = kernel.counts.processes.values();
        let resets = processes.map(|counts| counts.tcp_resets_received).sum();
        host.counters[HostCounter::TcpResetsReceived as usize] = Count::new(resets);
    }
    if kernel.counting("block") {
        let errors = kernel.counts.block.values().map(|counts| counts.errors);
        host.counters[HostCounter::DiskErrors as usize] = Count::new(errors.sum());
    }
}

/// Where a probe counts, a cgroup that it does not know has none of its events.
fn add_kernel_counts(cgroups: &mut Cgroups, kernel: &KernelSample) {
    let [fork, exec, exit, oom, syscalls] =
        ["fork", "exec", "exit", "oom", "syscalls"].map(|name| kernel.counting(name));
    let mut errors: HashMap<CgroupId, u64> = HashMap::new();
    for ((id, _), counts) in &kernel.counts.syscalls {
        *errors.entry(*id).or_default() += counts.errors;
    }
    for (id, sample) in cgroups {
        let counts = kernel.counts.processes.get(id).copied().unwrap_or_default();
        let mut set = |when: bool, column: Counter, count: u64| {
            if when {
                sample.counters[column as usize] = Count::new(count);
            }
        };
        set(fork, Counter::Forks, counts.forks);
        set(exec, Counter::Execs, counts.execs);
        set(exit, Counter::Exits, counts.exits);
        let total = errors.get(id).copied().unwrap_or(0);
        set(syscalls, Counter::SyscallErrors, total);
        // `memory.events` is the kernel's own book and there from the cgroup's beginning.
        let no_book = sample.counters[Counter::OomKills as usize] == Count::ABSENT;
        let sample_oom = &mut sample.counters[Counter::OomKills as usize];
        if oom && no_book {
            *sample_oom = Count::new(counts.oom_kills);
        }
    }
}
