//! What is believed, and why.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{CgroupId, Quality, Suggestion};

/// A comparison of one reading, as rules write it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FeatureTest {
    /// Full name: `host.cpu.busy`, `culprit.cpu.share`, `series.load`, `bystanders.psi.cpu`.
    pub reading: String,
    /// True when the value is at least this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at_least: Option<f64>,
    /// True when the value is below this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub below: Option<f64>,
}

impl FeatureTest {
    /// Whether a value passes; both bounds must hold when both are given.
    pub fn holds(&self, value: f64) -> bool {
        self.at_least.is_none_or(|bound| value >= bound)
            && self.below.is_none_or(|bound| value < bound)
    }
}

impl fmt::Display for FeatureTest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reading)?;
        if let Some(bound) = self.at_least {
            write!(f, " >= {bound}")?;
        }
        if let Some(bound) = self.below {
            write!(f, " < {bound}")?;
        }
        Ok(())
    }
}

/// Who did it, as found by the rule's selector.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Culprit {
    /// The cgroup's identity.
    pub cgroup: CgroupId,
    /// Its path below the mount when the evidence was taken.
    pub path: String,
    /// The reading that it was chosen by, and its value.
    pub chosen_by: String,
    /// Value of that reading.
    pub value: f64,
}

/// One feature of one hypothesis, weighed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WeighedFeature {
    /// The feature's id in the rule.
    pub id: String,
    /// What the rule says it means when the test holds, for people.
    #[serde(default)]
    pub says: String,
    /// The comparison.
    pub test: FeatureTest,
    /// Value seen; `None` when the reading was missing.
    pub value: Option<f64>,
    /// Whether the test held; `None` when missing.
    pub held: Option<bool>,
    /// Trust in the reading; `None` when missing.
    pub quality: Option<Quality>,
    /// Weight of evidence in bits: log2 of the likelihood ratio; 0 when missing.
    pub bits: f64,
    /// Whether the rule calls it decisive.
    pub decisive: bool,
}

/// Where a probability lies.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    /// 0 to 1.
    pub low: f64,
    /// Not less than `low`, 1 at most.
    pub high: f64,
}

/// One candidate cause.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Hypothesis {
    /// Id in the rules, e.g. `cpu-hog`.
    pub id: String,
    /// One line for people.
    pub title: String,
    /// Probability after all evidence, capped by quality; 0 to 1.
    pub posterior: f64,
    /// Where it lies with 90 %, as far as likelihoods and priors are known; none in records of old.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interval: Option<Interval>,
    /// Probability before the evidence, normalised among the candidates.
    pub prior: f64,
    /// Who, when the rule names a culprit and one stands out.
    pub culprit: Option<Culprit>,
    /// Every feature with its weight, strongest first.
    pub features: Vec<WeighedFeature>,
    /// Notes for people: caps applied, culprit not clear, …
    #[serde(default)]
    pub notes: Vec<String>,
    /// What recovery looks like: all must hold.
    #[serde(default)]
    pub recovery: Vec<FeatureTest>,
    /// Remedies that the rule suggests, in order of preference.
    #[serde(default)]
    pub remedies: Vec<Suggestion>,
}

/// Whether the diagnosis may be acted upon.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "verdict", content = "why")]
pub enum Verdict {
    /// The top hypothesis is over the bar and its decisive evidence is whole.
    Conclusive,
    /// Report only; says why.
    Inconclusive(String),
}

/// The ranked answer for one episode.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Diagnosis {
    /// At most three, most probable first.
    pub top: Vec<Hypothesis>,
    /// Posterior of "none of the causes that the rules know".
    pub unknown: f64,
    /// Hypotheses that rules excluded, with the reason: `(id, because)`.
    pub excluded: Vec<(String, String)>,
    /// Whether it may be acted upon.
    pub verdict: Verdict,
    /// Wall-clock time that ranking took, in microseconds.
    pub took_us: u64,
}

/// A shadow's answer: to look at, never to act upon.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Shadow {
    /// Its first, with posterior; `None` = none of the known causes is likelier.
    pub first: Option<(String, f64)>,
    /// Path of the culprit of its first.
    pub culprit: Option<String>,
    /// Whether it would have been sure enough.
    pub conclusive: bool,
    /// Microseconds.
    pub took_us: u64,
}

/// Both answers to one episode, for the record.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DualResult {
    /// `NAME/VERSION` of the strategy that decides.
    pub a: String,
    /// What it said.
    pub a_said: Shadow,
    /// `NAME/VERSION` of the one that shadows.
    pub b: String,
    /// What it said; `None` when it was not done in time or failed.
    pub b_said: Option<Shadow>,
    /// Whether both name the same cause and the same culprit; `None` without an answer of B.
    pub consensus: Option<bool>,
}
