//! Stage: diagnosis. Rules prune, naive Bayes ranks, and the answer says what it rests on.
//!
//! Pure: no clock, no I/O but [`RuleSet::load`], which reads rule files, [`causal::folder`] and
//! [`history::Store`]. The same code ranks live
//! evidence, recordings and the cases of `paramedic test rules`.
//!
//! - [`rules`]: what a rule file may say, checked with file, line and column;
//! - [`features`]: readings by name, derived ones included;
//! - `culprit`: which cgroup stands out;
//! - `bayes`: weights of evidence, posteriors, caps and the verdict;
//! - `doubt`: the interval of a posterior;
//! - `turning`: what would change the verdict;
//! - [`causal`]: another strategy, for entities of a system: series, a call graph and one alert;
//! - [`history`]: what verified outcomes teach the priors;
//! - [`gateway`]: A decides, B shadows;
//! - [`cases`]: evidence in, ranking out, for testing rules;
//! - [`explain`]: the same for people.

mod answers;
mod bayes;
pub mod cases;
pub mod causal;
mod culprit;
mod doubt;
mod explain;
pub mod features;
pub mod gateway;
pub mod history;
pub mod rules;
mod turning;

#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};

pub use bayes::diagnose;
pub use explain::explain;
pub use rules::{Finding, RuleSet};

/// Bars and weights of the ranking.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DiagnosisConfig {
    /// Posterior from which a diagnosis may be acted upon. 0.5 to 0.99.
    pub act_threshold: f64,
    /// Prior weight of "none of the causes that the rules know", on the scale of the rules' own
    /// priors. Above 0, at most 10.
    pub unknown_prior: f64,
    /// Share of its weight of evidence that a partial reading keeps. 0 to 1.
    pub partial_weight: f64,
    /// Highest posterior of a hypothesis that rests on a partial reading. 0.5 to 1.
    pub partial_cap: f64,
    /// Highest posterior of a hypothesis of which a decisive reading is missing, or partial where that may not
    /// be: nobody looked well at what would tell it from others. 0.5 to 1; below `act_threshold`, as shipped.
    pub missing_cap: f64,
    /// Highest posterior of all: naive Bayes takes features for independent and is too sure of
    /// itself; no rule is right more often than this. 0.5 to 1.
    pub posterior_cap: f64,
    /// Whether a decisive reading may be partial (its weight lowered, the posterior capped). When
    /// false, as shipped, a partial decisive reading makes the diagnosis inconclusive.
    pub decisive_may_be_partial: bool,
    /// Milliseconds that the shadow strategy may take; its answer is recorded, never acted upon.
    /// 0 = no shadow; at most 5,000.
    pub shadow_deadline_ms: u64,
}

impl Default for DiagnosisConfig {
    fn default() -> Self {
        Self {
            act_threshold: 0.8,
            unknown_prior: 0.3,
            partial_weight: 0.5,
            partial_cap: 0.9,
            missing_cap: 0.75,
            posterior_cap: 0.99,
            decisive_may_be_partial: false,
            shadow_deadline_ms: 200,
        }
    }
}

impl DiagnosisConfig {
    /// What is out of bounds, one sentence a field; empty when all is well.
    pub fn problems(&self) -> Vec<String> {
        let bounds = [
            ("act_threshold", self.act_threshold, 0.5, 0.99),
            ("unknown_prior", self.unknown_prior, f64::MIN_POSITIVE, 10.0),
            ("partial_weight", self.partial_weight, 0.0, 1.0),
            ("partial_cap", self.partial_cap, 0.5, 1.0),
            ("missing_cap", self.missing_cap, 0.5, 1.0),
            ("posterior_cap", self.posterior_cap, 0.5, 1.0),
        ];
        let slow = self.shadow_deadline_ms > 5000;
        let deadline = self.shadow_deadline_ms;
        let too_slow = slow
            .then(|| format!("diagnosis.shadow_deadline_ms is {deadline}, not within 0 to 5000"));
        bounds
            .iter()
            .filter(|(_, value, low, high)| !(low..=high).contains(&value))
            .map(|(name, value, low, high)| {
                format!("diagnosis.{name} is {value}, not within {low} to {high}")
            })
            .chain(too_slow)
            .collect()
    }
}
