//! What was seen: one immutable record of a window of time, with its own quality.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// A cgroup v2 id: the inode of its directory, what `bpf_get_current_cgroup_id` returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct CgroupId(pub u64);

/// How far one reading can be trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Quality {
    /// From a fallback, or with events lost, or over an incomplete window.
    Partial,
    /// Complete.
    Good,
}

/// One number with its quality. A reading that could not be had is absent, never zero.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Reading {
    /// In the unit that the reading's name implies (ratios 0 to 1, seconds, bytes, per second).
    pub value: f64,
    /// Trust.
    pub quality: Quality,
}

impl Reading {
    /// A complete reading.
    pub fn good(value: f64) -> Self {
        Self {
            value,
            quality: Quality::Good,
        }
    }
    /// A reading from a fallback or an incomplete window.
    pub fn partial(value: f64) -> Self {
        Self {
            value,
            quality: Quality::Partial,
        }
    }
}

/// What is known of one cgroup over the window.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CgroupFacts {
    /// Identity; survives a rename, caught when reused.
    pub id: CgroupId,
    /// Path below the cgroup mount, with its leading slash.
    pub path: String,
    /// Whether it has no child cgroups (only leaves hold processes).
    pub leaf: bool,
    /// Readings by name without the `culprit.` prefix, e.g. `cpu.cores`.
    pub readings: BTreeMap<String, Reading>,
}

/// Calls of one syscall by one cgroup over the window.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SyscallFacts {
    /// The caller's cgroup; id 0 stands for all that were not counted apart.
    pub cgroup: CgroupId,
    /// Name on this architecture, or `syscall_N`.
    pub name: String,
    /// Calls that ended in the window.
    pub calls: u64,
    /// Of these, calls that returned an error.
    pub errors: u64,
    /// Median duration in microseconds: the upper bound of its power-of-two bucket.
    pub p50_us: f64,
    /// 99th percentile, likewise.
    pub p99_us: f64,
    /// Sum of the durations in seconds.
    pub total_s: f64,
}

/// Whether a source of evidence was there, and what stood in for it if not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Coverage {
    /// `probe:exec`, `psi`, `prometheus`, …
    pub source: String,
    /// Fully there.
    pub complete: bool,
    /// What was missing and what was used instead; empty when complete.
    pub note: String,
}

/// A Prometheus query that a hypothesis wants.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SeriesQuery {
    /// Name under which features read it: `series.NAME`.
    pub name: String,
    /// PromQL; `{{label}}` stands for that label of the alert, quoted when it is filled in.
    pub promql_template: String,
}

/// A gap in a series: what was asked for and not had.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SeriesGap {
    /// Name in the rule.
    pub name: String,
    /// Why, in words for people.
    pub why: String,
}

/// One Prometheus series on the episode's grid.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Series {
    /// Name that the rule gave the query.
    pub name: String,
    /// The series' labels.
    pub labels: BTreeMap<String, String>,
    /// First grid point, Unix seconds.
    pub start_s: i64,
    /// Distance of grid points in seconds.
    pub step_s: u32,
    /// One value a grid point; `None` is an explicit gap.
    pub values: Vec<Option<f64>>,
    /// What it did; `None` where there is too little of it before the alert.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stats: Option<SeriesStats>,
}

/// What a series did, in robust statistics.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct SeriesStats {
    /// Median before the alert.
    pub median: f64,
    /// Median absolute deviation from it before the alert.
    pub mad: f64,
    /// Last value as a multiple of 1.4826 MAD away from the median, within -1000 and 1000.
    pub robust_z: f64,
    /// Grid point at which its level changed, if it did.
    pub changed_at: Option<usize>,
}

/// Everything that a diagnosis may look at. Immutable once taken.
///
/// Names of readings. `host.`: `cpu.busy`, `cpu.iowait`, `cpu.steal` (0..1 of all CPUs),
/// `cpu.count`, `load.runnable_per_cpu`, `psi.{cpu,memory,io}.{some,full}` (share of the window,
/// 0..1), `mem.available` (0..1), `mem.total_bytes`, `mem.reclaim_per_s` (pages scanned directly),
/// `mem.major_faults_per_s`, `mem.oom_kills`, `swap.used`, `disk.util` (busiest device, 0..1),
/// `disk.await_s`, `fs.used` (fullest local filesystem, 0..1), `fs.inodes_used`, `forks_per_s`,
/// `execs_per_s`, `procs`. Per cgroup: `cpu.cores` (CPUs used), `cpu.share` (of all CPUs, 0..1),
/// `cpu.throttled` (0..1), `cpu.psi`, `mem.bytes`, `mem.share` (of the node's memory),
/// `mem.growth_bytes_per_s`, `mem.anon_share`, `mem.oom_kills`, `mem.psi`, `io.bytes_per_s`,
/// `io.share` (of all I/O), `io.psi`, `pids`, `pids.growth_per_s`, `forks_per_s`, `forks.share`,
/// `execs_per_s`, `exits_per_s`, `syscall.errors_per_s`, `mem.stalled` (seconds that its tasks reclaim
/// memory themselves, a second). Of both, while the syscall pair counts: `errno.{emfile,enospc,…}.per_s`,
/// and of a cgroup `errno.NAME.CALL.per_s`. All names stand in `diagnosis/features.rs`. Of both: `runq.p99_s` (99th percentile of
/// waits for a CPU), `runq.waiting`, `blocked.uninterruptible`, `blocked.futex` (tasks that wait for a
/// CPU, in the kernel, for a lock, on average). A rule sees the selected culprit's as
/// `culprit.…`, the worst of all other leaves' pressures as `bystanders.psi.{cpu,memory,io}`, and
/// the last value of a series as `series.NAME`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Evidence {
    /// End of the window.
    pub taken_at: Timestamp,
    /// Length of the window in seconds.
    pub window_s: f64,
    /// Readings of the whole node, by name without `host.`.
    pub host: BTreeMap<String, Reading>,
    /// The cgroups that matter most by any measure; bounded by configuration.
    pub cgroups: Vec<CgroupFacts>,
    /// Seconds of the window in which the syscall pair counted; 0 in records that did not tell.
    #[serde(default)]
    pub syscalls_s: f64,
    /// The syscalls that cost most, most first; bounded. Empty while the pair is not attached.
    #[serde(default)]
    pub syscalls: Vec<SyscallFacts>,
    /// Prometheus series, aligned.
    #[serde(default)]
    pub series: Vec<Series>,
    /// What Prometheus could not give.
    #[serde(default)]
    pub series_gaps: Vec<SeriesGap>,
    /// Sources and how complete they were.
    pub coverage: Vec<Coverage>,
}

impl Evidence {
    /// Of no window: nothing was seen.
    pub fn nothing(taken_at: Timestamp) -> Self {
        Self {
            taken_at,
            window_s: 0.0,
            host: BTreeMap::new(),
            cgroups: Vec::new(),
            syscalls_s: 0.0,
            syscalls: Vec::new(),
            series: Vec::new(),
            series_gaps: Vec::new(),
            coverage: Vec::new(),
        }
    }

    /// The facts of one cgroup.
    pub fn cgroup(&self, id: CgroupId) -> Option<&CgroupFacts> {
        self.cgroups.iter().find(|facts| facts.id == id)
    }
}
