//! What a run leaves behind: one object, from which every report is made.

use serde::{Deserialize, Serialize};

use super::{
    scenario::{Family, Slo, Strategy},
    slo::{Course, Window},
};

/// A whole run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Run {
    /// Where it was measured.
    pub environment: Environment,
    /// What was tried, by name.
    pub scenarios: Vec<About>,
    /// In the order in which they ran.
    pub trials: Vec<Trial>,
    /// Trials that the run's own Prometheus has seen at the exporter by the end.
    pub scraped_trials: Option<f64>,
}

/// Where it was measured.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Environment {
    /// Kernel release.
    pub kernel: String,
    /// Whether it is the VM, and how its CPUs are made.
    pub machine: String,
    /// CPUs.
    pub cpus: usize,
    /// Memory in MiB.
    pub memory_mib: u64,
    /// The agent's version and build profile.
    pub agent: String,
    /// `built-in` or `k6`.
    pub driver: String,
    /// Rounds of arithmetic that are a millisecond here: what a request costs.
    pub spins_a_ms: u64,
    /// Seed of the order of trials.
    pub seed: u64,
    /// When it began, RFC 3339.
    pub begun: String,
}

/// A scenario, as far as reports need it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct About {
    /// Its name.
    pub name: String,
    /// One line.
    pub title: String,
    /// What is scarce.
    pub family: Family,
    /// Kinds of its faults.
    pub inject_type: String,
    /// Whether something is wrong at all.
    pub fault: bool,
    /// Whether acting rightly brings the service back.
    pub heals: bool,
    /// Seconds until the fault is ended from outside.
    pub duration_s: f64,
    /// The promise.
    pub slo: Slo,
    /// Expected top hypothesis.
    pub hypothesis: Option<String>,
    /// Expected culprit, as a path.
    pub culprit: Option<String>,
    /// Expected action.
    pub action: Option<String>,
}

/// One scenario under one strategy, once.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Trial {
    /// Which scenario.
    pub scenario: String,
    /// Who answered.
    pub strategy: Strategy,
    /// From 0.
    pub repetition: usize,
    /// Trace of the load's requests.
    pub trace_id: String,
    /// When the fault was injected, Unix seconds.
    pub injected_at: f64,
    /// Why nothing can be said of this trial, if so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub void: Option<String>,
    /// Seconds from the injection until the scenario's alert was delivered.
    pub delivered_s: Option<f64>,
    /// When the fault was ended by us, in seconds since the injection.
    pub ended_s: f64,
    /// The service's own course.
    pub course: Course,
    /// Seconds to recovery; where nothing helped, until we ended the fault and the service was well
    /// again. `None`: the promise was never broken.
    pub mttr_s: Option<f64>,
    /// The promise was broken and kept again while the fault was still there.
    pub healed: bool,
    /// What was done to others than the culprit, and other damage.
    pub harm: Vec<String>,
    /// Processes that were killed on purpose.
    pub killed: usize,
    /// What the agent said and did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<Account>,
    /// Where the time went.
    pub phases: Vec<Phase>,
    /// The service, second by second.
    pub windows: Vec<Window>,
    /// Latencies from injection to the end of the observation, ms: p50, p95, p99.
    pub latency_ms: [f64; 3],
    /// Requests of that time.
    pub requests: usize,
    /// Of these, failed.
    pub failed: usize,
}

/// What the agent said and did, by its own record.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Account {
    /// Episodes that were opened.
    pub episodes: usize,
    /// Top hypothesis of the episode that counts: the first that acted, else the first.
    pub hypothesis: Option<String>,
    /// Its posterior.
    pub posterior: Option<f64>,
    /// The culprit's path.
    pub culprit: Option<String>,
    /// Every action taken: kind and path.
    pub actions: Vec<(String, String)>,
    /// The verification's verdicts.
    pub verdicts: Vec<String>,
    /// Why it did not act, where it did not.
    pub refusals: Vec<String>,
    /// Errors of its own.
    pub failures: Vec<String>,
}

/// A part of the time to recovery, in seconds since the injection.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Phase {
    /// `detect`, `deliver`, `sample`, `diagnose`, `decide`, `act`, `verify`, `resolve`.
    pub name: String,
    /// Begin.
    pub from_s: f64,
    /// End.
    pub until_s: f64,
}

impl Trial {
    /// Whether anybody did anything.
    pub fn acted(&self) -> bool {
        self.killed > 0
            || self
                .agent
                .as_ref()
                .is_some_and(|agent| !agent.actions.is_empty())
    }
}
