//! The shape of a rule file, as parsed and before any check. Positions are kept where a check may
//! have to point.

use std::time::Duration;

use serde::Deserialize;
use serde_saphyr::Spanned;

use crate::incident::Suggestion;

use super::Trigger;

/// `recovery_within_s` when a rule says nothing.
pub(super) const RECOVERY_WITHIN: Duration = Duration::from_secs(30);

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct File {
    /// The family that the file is about; for people.
    #[serde(rename = "family")]
    pub _family: String,
    pub hypotheses: Spanned<Vec<Hypothesis>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Hypothesis {
    pub id: Spanned<String>,
    pub title: Spanned<String>,
    pub description: Spanned<String>,
    #[serde(default)]
    pub runbook: Option<Spanned<String>>,
    pub prior: Spanned<f64>,
    #[serde(default)]
    pub applies: Applies,
    #[serde(default)]
    pub exclude: Vec<Exclusion>,
    #[serde(default)]
    pub culprit: Option<Selector>,
    pub features: Spanned<Vec<Feature>>,
    #[serde(default)]
    pub series: Vec<Series>,
    #[serde(default)]
    pub recovery: Vec<Test>,
    #[serde(default)]
    pub recovery_within_s: Option<Spanned<f64>>,
    #[serde(default)]
    pub remedies: Vec<Spanned<Suggestion>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Applies {
    pub alerts: Vec<Spanned<String>>,
    pub triggers: Vec<Trigger>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Test {
    pub reading: Spanned<String>,
    #[serde(default)]
    pub at_least: Option<f64>,
    #[serde(default)]
    pub below: Option<f64>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Exclusion {
    pub reading: Spanned<String>,
    #[serde(default)]
    pub at_least: Option<f64>,
    #[serde(default)]
    pub below: Option<f64>,
    pub because: Spanned<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Selector {
    pub by: Spanned<String>,
    pub min_share: Spanned<f64>,
    #[serde(default = "yes")]
    pub required: bool,
}

fn yes() -> bool {
    true
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Feature {
    pub id: Spanned<String>,
    pub reading: Spanned<String>,
    #[serde(default)]
    pub at_least: Option<f64>,
    #[serde(default)]
    pub below: Option<f64>,
    pub given_cause: Spanned<f64>,
    pub otherwise: Spanned<f64>,
    #[serde(default)]
    pub decisive: bool,
    #[serde(default)]
    pub group: Option<Spanned<String>>,
    pub says: Spanned<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Series {
    pub name: Spanned<String>,
    pub promql: Spanned<String>,
}
