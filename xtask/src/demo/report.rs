//! What a run leaves for machines.

use serde::{Deserialize, Serialize};

use super::neighbour::Latencies;

/// The object that `--json` prints. Times are seconds since the fault unless their names say
/// otherwise.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// The fault.
    pub scenario: String,
    /// Kernel release that it ran on.
    pub kernel: String,
    /// Prometheus' first firing evaluation.
    pub alert_s: f64,
    /// The webhook's alert was durable and Alertmanager had its 200.
    pub accepted_s: f64,
    /// From acceptance to the diagnosis, in milliseconds.
    pub diagnosis_ms: u64,
    /// Ranked causes.
    pub top: Vec<Ranked>,
    /// Action taken.
    pub action: Option<String>,
    /// Cgroup that it was taken on.
    pub target: Option<String>,
    /// Whether recovery was seen.
    pub verified: bool,
    /// To the verified recovery.
    pub mttr_s: Option<f64>,
    /// To Alertmanager's word that the alert is over.
    pub resolved_s: Option<f64>,
    /// The incident's id.
    pub incident: String,
    /// The innocent neighbour's latencies, in milliseconds.
    #[serde(rename = "neighbour_ms")]
    pub neighbour: Option<Latencies>,
    /// File of the incident's record.
    #[serde(default)]
    pub record: String,
}

/// One cause.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Ranked {
    /// Its id in the rules.
    pub hypothesis: String,
    /// Its probability.
    pub posterior: f64,
    /// Who, if somebody stands out.
    pub culprit: Option<String>,
}
