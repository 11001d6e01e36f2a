//! Evidence cut down to what is shown: hours of it are kept while a recording is looked at.

use jiff::Timestamp;
use serde::Serialize;

use crate::incident::{CgroupFacts, CgroupId, Evidence, Reading};

/// Cgroups kept of each moment, those under the most pressure.
const ROWS_MAX: usize = 32;
/// Syscalls likewise, the costliest.
const CALLS_MAX: usize = 8;
/// Errors likewise, the most frequent.
const ERRORS_MAX: usize = 8;

/// What is shown of one moment. Its JSON is `paramedic top --json`: fields may be added, never renamed.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Moment {
    pub(crate) at: Timestamp,
    pub(crate) window_s: f64,
    pub(crate) node: Node,
    /// Those under the most pressure first.
    pub(crate) rows: Vec<Row>,
    /// The costliest first; none while the syscall pair is not attached.
    pub(crate) calls: Vec<Call>,
    /// Errors that tell something, the most frequent first; likewise.
    pub(crate) errors: Vec<Failing>,
    /// Sources that are not complete.
    pub(crate) missing: Vec<String>,
}

/// The node's readings.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(crate) struct Node {
    pub(crate) busy: Option<Reading>,
    /// CPU, memory, I/O.
    pub(crate) pressure: [Option<Reading>; 3],
    pub(crate) available: Option<Reading>,
    pub(crate) disk: Option<Reading>,
    pub(crate) iops: Option<Reading>,
    pub(crate) wait: Option<Reading>,
}

/// One cgroup.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Row {
    pub(crate) path: String,
    pub(crate) cores: Option<Reading>,
    pub(crate) bytes: Option<Reading>,
    pub(crate) io: Option<Reading>,
    pub(crate) pressure: [Option<Reading>; 3],
    /// 99th percentile of its waits for a CPU, seconds.
    pub(crate) wait: Option<Reading>,
}

/// A syscall of a cgroup.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Call {
    /// `name cgroup`.
    pub(crate) name: String,
    /// 99th percentile, seconds.
    pub(crate) p99_s: f64,
}

/// Calls of a cgroup that fail in a way that tells something.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Failing {
    /// `EMFILE`, …
    pub(crate) errno: String,
    /// The syscall.
    pub(crate) call: String,
    pub(crate) path: String,
    pub(crate) per_s: f64,
}

impl Failing {
    /// Those among a cgroup's readings: `errno.NAME.CALL.per_s`.
    fn all_of(facts: &CgroupFacts) -> impl Iterator<Item = Self> {
        facts.readings.iter().filter_map(|(name, reading)| {
            let rest = name.strip_prefix("errno.")?.strip_suffix(".per_s")?;
            let (errno, call) = rest.split_once('.')?;
            Some(Self {
                errno: errno.to_ascii_uppercase(),
                call: call.to_owned(),
                path: facts.path.clone(),
                per_s: reading.value,
            })
        })
    }
}

impl Row {
    fn of(facts: &CgroupFacts) -> Self {
        let get = |name: &str| facts.readings.get(name).copied();
        Self {
            path: facts.path.clone(),
            cores: get("cpu.cores"),
            bytes: get("mem.bytes"),
            io: get("io.bytes_per_s"),
            pressure: ["cpu.psi", "mem.psi", "io.psi"].map(get),
            wait: get("runq.p99_s"),
        }
    }

    /// The worst of its pressures; what it uses decides between equals.
    fn rank(&self) -> (f64, f64) {
        let worst = self.pressure.iter().flatten().map(|reading| reading.value);
        let cores = self.cores.map_or(0.0, |reading| reading.value);
        (worst.fold(0.0, f64::max), cores)
    }
}

impl Moment {
    /// Cuts it down.
    pub(crate) fn of(evidence: &Evidence) -> Self {
        let get = |name: &str| evidence.host.get(name).copied();
        let leaves = evidence.cgroups.iter().filter(|facts| facts.leaf);
        let mut rows: Vec<Row> = leaves.map(Row::of).collect();
        rows.sort_by(|a, b| {
            let ((a_psi, a_cores), (b_psi, b_cores)) = (a.rank(), b.rank());
            b_psi
                .total_cmp(&a_psi)
                .then(b_cores.total_cmp(&a_cores))
                .then_with(|| a.path.cmp(&b.path))
        });
        rows.truncate(ROWS_MAX);
        let calls = evidence.syscalls.iter().take(CALLS_MAX).map(|facts| Call {
            name: format!("{} {}", facts.name, path_of(evidence, facts.cgroup)),
            p99_s: facts.p99_us / 1e6,
        });
        let mut errors: Vec<Failing> = evidence.cgroups.iter().flat_map(Failing::all_of).collect();
        // Stable: equal ones stay in the order of the cgroups.
        errors.sort_by(|a, b| b.per_s.total_cmp(&a.per_s));
        errors.truncate(ERRORS_MAX);
        let missing = evidence.coverage.iter().filter(|source| !source.complete);
        Self {
            at: evidence.taken_at,
            window_s: evidence.window_s,
            node: Node {
                busy: get("cpu.busy"),
                pressure: ["psi.cpu.some", "psi.memory.some", "psi.io.some"].map(get),
                available: get("mem.available"),
                disk: get("disk.util"),
                iops: get("disk.iops"),
                wait: get("runq.p99_s"),
            },
            rows,
            calls: calls.collect(),
            errors,
            missing: missing.map(|source| source.source.clone()).collect(),
        }
    }

    /// A row's wait for a CPU in this moment; `None` for the node.
    pub(crate) fn wait_of(&self, path: Option<&str>) -> Option<f64> {
        let reading = match path {
            None => self.node.wait,
            Some(path) => self.rows.iter().find(|row| row.path == path)?.wait,
        };
        reading.map(|reading| reading.value)
    }

    /// A syscall's duration in this moment.
    pub(crate) fn call_of(&self, name: &str) -> Option<f64> {
        let call = self.calls.iter().find(|call| call.name == name)?;
        Some(call.p99_s)
    }
}

fn path_of(evidence: &Evidence, id: CgroupId) -> &str {
    match evidence.cgroup(id) {
        Some(facts) => &facts.path,
        None if id == CgroupId(0) => "(others)",
        None => "(gone)",
    }
}
