//! What is tried: scenario files, typed and checked before anything is started.

mod checks;

use std::{
    fmt, fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};
use serde_saphyr::Spanned;

/// A file larger than this is none of ours.
const FILE_BYTES_MAX: u64 = 64 << 10;
/// Files of one folder.
const FILES_MAX: usize = 200;

/// One scenario, as its file has it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// The file's name too.
    pub name: Spanned<String>,
    /// One line for people.
    pub title: String,
    /// What is scarce.
    pub family: Family,
    /// Part of `--quick`.
    #[serde(default)]
    pub quick: bool,
    /// What goes wrong. Empty: nothing does.
    #[serde(default)]
    pub faults: Vec<Fault>,
    /// Seconds from injection until the fault is ended from outside.
    pub duration_s: Spanned<f64>,
    /// The alert that tells of it; one of `alerts.yaml`.
    pub alert: Option<Spanned<String>>,
    /// The innocent service and what it promises.
    #[serde(default)]
    pub workload: Workload,
    /// When the service counts as recovered.
    #[serde(default)]
    pub recovery: Recovery,
    /// What the agent should find and do.
    pub expect: Expect,
    /// Which are compared. All by default.
    #[serde(default = "Strategy::all")]
    pub strategies: Vec<Strategy>,
}

/// What a scenario is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Family {
    /// CPU time.
    Cpu,
    /// Memory.
    Memory,
    /// Processes.
    Process,
    /// Block devices.
    Disk,
    /// Two at once.
    Compound,
    /// Nothing is wrong.
    FalseAlarm,
}

/// One thing that goes wrong.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fault {
    /// Which.
    pub kind: FaultKind,
    /// How much; see [`FaultKind`] for the unit.
    pub intensity: Spanned<f64>,
    /// Seconds after the injection time at which it begins.
    #[serde(default)]
    pub at_s: f64,
    /// Its cgroup below the run's slice.
    #[serde(default = "batch_job")]
    pub cgroup: Spanned<String>,
    /// `cpu.weight` of its cgroup, 1 to 10,000; the kernel's 100 when left out.
    pub cpu_weight: Option<Spanned<u32>>,
}

fn batch_job() -> Spanned<String> {
    let nowhere = serde_saphyr::Location::UNKNOWN;
    Spanned::new("batch-job".to_owned(), nowhere, nowhere)
}

/// What can go wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FaultKind {
    /// Busy loops; intensity = how many a CPU.
    Cpu,
    /// Processes that fill memory and work on it; intensity = share of the available memory taken.
    Memory,
    /// `vfork` in a loop; intensity = loops a CPU.
    Forks,
    /// Files written and synced; intensity = writers.
    Io,
    /// One process that grows without end; intensity = MiB a second.
    Leak,
    /// Nothing but the alert, told to Alertmanager; intensity is not used.
    AlertOnly,
}

impl FaultKind {
    /// As scenario files and metric labels have it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Memory => "memory",
            Self::Forks => "forks",
            Self::Io => "io",
            Self::Leak => "leak",
            Self::AlertOnly => "alert-only",
        }
    }
}

/// The innocent service: fixed costs a request, a fixed rate of arrival, and its promise.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Workload {
    /// Requests a second, whether or not earlier ones have been answered.
    pub rate_per_s: Spanned<f64>,
    /// CPU time of a request on a calm CPU, in ms.
    pub cpu_ms: Spanned<f64>,
    /// Memory allocated and touched by a request, in KiB.
    pub memory_kib: Spanned<u32>,
    /// Bytes that a request appends and syncs, in KiB; 0 = none.
    pub write_kib: Spanned<u32>,
    /// The promise.
    pub slo: Slo,
}

impl Default for Workload {
    fn default() -> Self {
        Self {
            rate_per_s: unplaced(20.0),
            cpu_ms: unplaced(5.0),
            memory_kib: unplaced(256),
            write_kib: unplaced(4),
            slo: Slo::default(),
        }
    }
}

fn unplaced<T>(value: T) -> Spanned<T> {
    let nowhere = serde_saphyr::Location::UNKNOWN;
    Spanned::new(value, nowhere, nowhere)
}

/// A service level objective over one second of requests.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Slo {
    /// Of the second's requests this share …
    pub quantile: f64,
    /// … is answered within so many ms.
    pub latency_ms: f64,
    /// At most this share fails.
    pub errors: f64,
}

impl Default for Slo {
    fn default() -> Self {
        Self {
            quantile: 0.5,
            latency_ms: 1000.0,
            errors: 0.2,
        }
    }
}

/// When the service counts as recovered.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Recovery {
    /// Seconds for which the objective must be met again without a break.
    pub hold_s: f64,
}

impl Default for Recovery {
    fn default() -> Self {
        Self { hold_s: 4.0 }
    }
}

/// What the agent should find and do.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Expect {
    /// The top hypothesis; none where anything or nothing may be on top.
    pub hypothesis: Option<Spanned<String>>,
    /// The guilty cgroup, as in `faults`.
    pub culprit: Option<Spanned<String>>,
    /// The action; none = it must leave everything alone.
    pub action: Option<Spanned<String>>,
    /// Whether an agent that acts rightly brings the service back. False where the agent has no
    /// remedy for it yet.
    #[serde(default = "yes")]
    pub heals: bool,
}

fn yes() -> bool {
    true
}

/// Who answers the alert.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, clap::ValueEnum,
)]
#[serde(rename_all = "kebab-case")]
pub enum Strategy {
    /// Nobody: the fault runs its course.
    None,
    /// A webhook that runs a fixed script.
    Script,
    /// The agent, woken by the alert.
    ParamedicAlert,
    /// The agent, woken by the kernel's own pressure triggers; no alert reaches it.
    ParamedicLocal,
    /// The agent, woken by the alert, without kernel probes.
    ParamedicNokernel,
}

impl Strategy {
    /// Every one, in the order of reports.
    pub const ALL: [Self; 5] = [
        Self::None,
        Self::Script,
        Self::ParamedicAlert,
        Self::ParamedicLocal,
        Self::ParamedicNokernel,
    ];

    fn all() -> Vec<Self> {
        Self::ALL.to_vec()
    }

    /// As scenario files and metric labels have it.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Script => "script",
            Self::ParamedicAlert => "paramedic-alert",
            Self::ParamedicLocal => "paramedic-local",
            Self::ParamedicNokernel => "paramedic-nokernel",
        }
    }

    /// Whether the agent runs.
    pub fn is_agent(self) -> bool {
        !matches!(self, Self::None | Self::Script)
    }
}

impl fmt::Display for Strategy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Scenario {
    /// Whether something is really wrong.
    pub fn is_fault(&self) -> bool {
        self.family != Family::FalseAlarm
    }

    /// The kinds of its faults, for a label.
    pub fn inject_type(&self) -> String {
        let kinds: Vec<&str> = self.faults.iter().map(|fault| fault.kind.name()).collect();
        if kinds.is_empty() {
            "nothing".to_owned()
        } else {
            kinds.join("+")
        }
    }

    /// Parses and checks one file's text; `path` is for messages. Every finding is
    /// `file:line:column: what is wrong`.
    pub fn parse(text: &str, path: &Path) -> anyhow::Result<Self> {
        let scenario: Self = serde_saphyr::from_str(text).map_err(|error| syntax(path, &error))?;
        let findings = checks::findings(&scenario, path);
        if findings.is_empty() {
            Ok(scenario)
        } else {
            bail!("{}", findings.join("\n"))
        }
    }
}

/// An alert that the run's Prometheus evaluates.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Alert {
    /// Its name.
    pub alert: String,
    /// PromQL.
    pub expr: String,
}

/// Everything of a folder.
#[derive(Clone, Debug)]
pub struct Catalogue {
    /// By name.
    pub scenarios: Vec<Scenario>,
    /// All of them are loaded in every run, as on a real node.
    pub alerts: Vec<Alert>,
}

impl Catalogue {
    /// The folder that is shipped.
    pub fn shipped() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios")
    }

    /// Reads `*.yaml` of a folder; `alerts.yaml` holds the alerts. All findings are told at once.
    pub fn load(folder: &Path) -> anyhow::Result<Self> {
        let mut files: Vec<PathBuf> = fs::read_dir(folder)
            .with_context(|| format!("cannot read {}", folder.display()))?
            .flatten()
            .map(|entry| entry.path())
            .filter(|path| {
                path.extension()
                    .is_some_and(|extension| extension == "yaml")
            })
            .collect();
        files.sort();
        anyhow::ensure!(
            files.len() <= FILES_MAX,
            "{} holds {} files, {FILES_MAX} at most",
            folder.display(),
            files.len()
        );
        let (mut scenarios, mut alerts, mut findings) = (Vec::new(), Vec::new(), Vec::new());
        for file in &files {
            let text = read(file)?;
            if file.file_name().is_some_and(|name| name == "alerts.yaml") {
                match serde_saphyr::from_str::<Vec<Alert>>(&text) {
                    Ok(found) => alerts = found,
                    Err(error) => findings.push(syntax(file, &error).to_string()),
                }
                continue;
            }
            match Scenario::parse(&text, file) {
                Ok(scenario) => scenarios.push(scenario),
                Err(error) => findings.push(error.to_string()),
            }
        }
        let catalogue = Self { scenarios, alerts };
        findings.extend(checks::alerts(&catalogue, folder));
        if findings.is_empty() {
            Ok(catalogue)
        } else {
            bail!("{}", findings.join("\n"))
        }
    }
}

fn read(file: &Path) -> anyhow::Result<String> {
    let size = fs::metadata(file)
        .with_context(|| format!("cannot look at {}", file.display()))?
        .len();
    anyhow::ensure!(
        size <= FILE_BYTES_MAX,
        "{}: {size} bytes, {FILE_BYTES_MAX} at most",
        file.display()
    );
    fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))
}

fn syntax(path: &Path, error: &serde_saphyr::Error) -> anyhow::Error {
    let (line, column) = error
        .location()
        .map_or((1, 1), |at| (at.line(), at.column()));
    let said = error.without_snippet().to_string();
    // The position stands in front already.
    let message = said.replace(&format!(" at line {line}, column {column}"), "");
    anyhow::anyhow!("{}:{line}:{column}: {message}", path.display())
}

#[cfg(test)]
mod tests;
