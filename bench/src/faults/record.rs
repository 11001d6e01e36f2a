//! What a trial leaves: one line of JSON, written as soon as it is known.

use std::{collections::BTreeMap, fs, path::Path};

use anyhow::{Context, ensure};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{catalogue::Figures, work::Habits};

/// In place of a hypothesis in trials without a fault.
pub const NOTHING: &str = "nothing";
/// What the agent answers when none of its causes is likely.
pub const UNKNOWN: &str = "unknown";

/// One trial.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Trial {
    /// The cause that was provoked, or [`NOTHING`].
    pub truth: String,
    /// Other names of the same thing.
    #[serde(default)]
    pub accept: Vec<String>,
    /// From 0.
    pub round: usize,
    /// Of the run.
    pub seed: u64,
    /// Kernel release.
    pub kernel: String,
    /// What was drawn for the fault.
    pub figures: Figures,
    /// And for the neighbour.
    pub neighbour: Habits,
    /// Path of the cgroup that is to be named, if one is.
    pub culprit: Option<String>,
    /// Why nothing can be said of this trial, if so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub void: Option<String>,
    /// The fault as it was seen from outside.
    pub held: String,
    /// Of the agent that sees everything.
    pub sighted: Option<Answer>,
    /// Of the agent that is kept from what decides.
    pub blind: Option<Answer>,
    /// Why there is no blind agent's answer, where one was wanted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blind_void: Option<String>,
    /// What could not be taken back.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub left: Vec<String>,
    /// Seconds.
    pub took_s: f64,
}

/// What an agent said.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    /// At most three, most probable first.
    pub top: Vec<Named>,
    /// Posterior of "none of the known causes".
    pub unknown: f64,
    /// Whether it may be acted upon.
    pub conclusive: bool,
    /// Why not.
    pub why: String,
}

/// One of the three.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Named {
    /// Hypothesis.
    pub id: String,
    /// 0 to 1.
    pub posterior: f64,
    /// Path of the culprit.
    pub culprit: Option<String>,
    /// Reading, value and bits of each feature.
    pub features: Vec<(String, Option<f64>, f64)>,
}

impl Answer {
    /// Of a diagnosis as the agent's record has it.
    pub fn of(diagnosis: &Value) -> anyhow::Result<Self> {
        let top = diagnosis["top"]
            .as_array()
            .context("a diagnosis without a ranking")?;
        let verdict = &diagnosis["verdict"];
        Ok(Self {
            top: top.iter().map(Named::of).collect::<anyhow::Result<_>>()?,
            unknown: diagnosis["unknown"]
                .as_f64()
                .context("no posterior of unknown")?,
            conclusive: verdict["verdict"] == "conclusive",
            why: verdict["why"].as_str().unwrap_or_default().to_owned(),
        })
    }

    /// What it answers, and how sure it is: the first of the ranking, or that it does not know.
    pub fn first(&self) -> (&str, f64) {
        match self.top.first() {
            Some(named) if named.posterior > self.unknown => (&named.id, named.posterior),
            _ => (UNKNOWN, self.unknown),
        }
    }
}

impl Named {
    fn of(hypothesis: &Value) -> anyhow::Result<Self> {
        let features = hypothesis["features"].as_array();
        Ok(Self {
            id: hypothesis["id"]
                .as_str()
                .context("a hypothesis without an id")?
                .to_owned(),
            posterior: hypothesis["posterior"].as_f64().context("no posterior")?,
            culprit: hypothesis["culprit"]["path"].as_str().map(str::to_owned),
            features: features
                .into_iter()
                .flatten()
                .map(|feature| {
                    let reading = feature["test"]["reading"].as_str().unwrap_or_default();
                    let bits = feature["bits"].as_f64().unwrap_or(0.0);
                    (reading.to_owned(), feature["value"].as_f64(), bits)
                })
                .collect(),
        })
    }
}

impl Trial {
    /// Whether this name of a cause is right.
    pub fn accepts(&self, hypothesis: &str) -> bool {
        self.truth == hypothesis
            || self.accept.iter().any(|other| other == hypothesis)
            || (self.truth == NOTHING && hypothesis == UNKNOWN)
    }

    /// Which trial it is: one that is there already is not made again.
    pub fn key(&self) -> (String, usize, u64) {
        (self.truth.clone(), self.round, self.seed)
    }
}

/// Reads a record, one trial a line. A last line that was cut off is left out; of two of the same trial
/// the later one counts.
pub fn read(file: &Path) -> anyhow::Result<Vec<Trial>> {
    let text =
        fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    let mut trials = BTreeMap::new();
    let count = text.lines().count();
    for (nth, line) in text.lines().enumerate() {
        match serde_json::from_str::<Trial>(line) {
            Ok(trial) => drop(trials.insert(trial.key(), trial)),
            Err(error) => ensure!(nth + 1 == count, "{}:{}: {error}", file.display(), nth + 1),
        }
    }
    Ok(trials.into_values().collect())
}
