//! What verified outcomes teach: priors that follow what really happens on this node.
//!
//! Only a cause that was proven counts: a remedy for it healed, or a person said so. An outcome that
//! was not verified teaches nothing. Counts of the last hour count fully, older ones fade with a
//! half-life of 30 days; a Dirichlet prior (Laplace smoothing towards the rules' own priors) keeps few
//! outcomes from meaning much, and no prior leaves a factor of four around its rule's. Every lesson
//! has a version; going back to a version is itself one, so that nothing is ever lost.

mod store;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

pub use store::{HistoryError, Store};

use super::{DiagnosisConfig, RuleSet};

/// Seconds for which a lesson counts fully.
const FRESH_S: f64 = 3600.0;
/// Seconds in which an older lesson loses half of its weight.
const HALF_LIFE_S: f64 = 30.0 * 86_400.0;
/// Weight of a fresh lesson next to one that has begun to fade.
const FRESH_WEIGHT: f64 = 2.0;
/// How many lessons the rules' own priors are worth together; and, for how sure a posterior is of itself,
/// each of their likelihoods.
pub(super) const STRENGTH: f64 = 60.0;
/// A learned prior lies within this factor of the declared one, up and down.
const FACTOR_MAX: f64 = 4.0;
/// Lessons kept; older ones have faded to nothing long before.
pub const LESSONS_MAX: usize = 10_000;

/// What was learned.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "event")]
pub enum Event {
    /// A cause was proven.
    Learned {
        /// Hypothesis, or `None`: it was none of the known causes.
        cause: Option<String>,
        /// `healed`, `feedback`.
        by: String,
        /// Which incident; one teaches once, a later word replaces an earlier one.
        episode: String,
    },
    /// Everything after a version is set aside.
    Reverted {
        /// The version whose state holds again.
        to: u64,
    },
}

/// One line of the history.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lesson {
    /// From 1, without gaps.
    pub version: u64,
    /// When.
    pub at: Timestamp,
    /// What.
    #[serde(flatten)]
    pub event: Event,
}

/// All lessons of this node, oldest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct History {
    lessons: Vec<Lesson>,
}

/// A prior beside what its rule declares.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LearnedPrior {
    /// Hypothesis.
    pub id: String,
    /// As the rule declares it.
    pub declared: f64,
    /// As it is used.
    pub prior: f64,
    /// Faded number of proven outcomes.
    pub outcomes: f64,
}

impl History {
    /// From lines as they were written.
    pub fn new(lessons: Vec<Lesson>) -> Self {
        Self { lessons }
    }

    /// All lines.
    pub fn lessons(&self) -> &[Lesson] {
        &self.lessons
    }

    /// The newest version; 0 = nothing yet.
    pub fn version(&self) -> u64 {
        self.lessons.last().map_or(0, |lesson| lesson.version)
    }

    /// The line that would record an event.
    pub fn next(&self, at: Timestamp, event: Event) -> Lesson {
        Lesson {
            version: self.version() + 1,
            at,
            event,
        }
    }

    /// Adds a line.
    pub fn push(&mut self, lesson: Lesson) {
        self.lessons.push(lesson);
        let over = self.lessons.len().saturating_sub(LESSONS_MAX);
        self.lessons.drain(..over);
    }

    /// The lessons that hold: those that no later revert set aside.
    fn in_force(&self) -> Vec<&Lesson> {
        let mut holding: Vec<&Lesson> = Vec::new();
        for lesson in &self.lessons {
            if let Event::Reverted { to } = lesson.event {
                holding = self.holding_at(to);
            } else {
                holding.push(lesson);
            }
        }
        // A later word about an incident replaces an earlier one.
        let mut last: BTreeMap<&str, u64> = BTreeMap::new();
        for lesson in &holding {
            if let Event::Learned { episode, .. } = &lesson.event {
                last.insert(episode, lesson.version);
            }
        }
        holding.retain(|lesson| match &lesson.event {
            Event::Learned { episode, .. } => last.get(episode.as_str()) == Some(&lesson.version),
            Event::Reverted { .. } => false,
        });
        holding
    }

    /// What held when a version was the newest.
    fn holding_at(&self, version: u64) -> Vec<&Lesson> {
        let mut holding: Vec<&Lesson> = Vec::new();
        for lesson in self
            .lessons
            .iter()
            .filter(|lesson| lesson.version <= version)
        {
            match lesson.event {
                Event::Reverted { to } => holding.retain(|lesson| lesson.version <= to),
                Event::Learned { .. } => holding.push(lesson),
            }
        }
        holding
    }

    /// Faded number of outcomes of each cause; `None` = of none of the known ones.
    fn outcomes(&self, now: Timestamp) -> BTreeMap<Option<&str>, f64> {
        let mut counts = BTreeMap::new();
        for lesson in self.in_force() {
            if let Event::Learned { cause, .. } = &lesson.event {
                let age = now.duration_since(lesson.at).as_secs_f64().max(0.0);
                *counts.entry(cause.as_deref()).or_default() += weight(age);
            }
        }
        counts
    }

    /// The priors of a set as this history moves them.
    pub fn priors(
        &self,
        rules: &RuleSet,
        config: &DiagnosisConfig,
        now: Timestamp,
    ) -> Vec<LearnedPrior> {
        let outcomes = self.outcomes(now);
        let declared: f64 = rules.rules().iter().map(|rule| rule.declared_prior).sum();
        let scale = declared + config.unknown_prior;
        // Outcomes of causes that no rule knows any more count as "none of these".
        let all: f64 = outcomes.values().sum();
        rules
            .rules()
            .iter()
            .map(|rule| {
                let seen = outcomes
                    .get(&Some(rule.id.as_str()))
                    .copied()
                    .unwrap_or(0.0);
                let expected = rule.declared_prior / scale;
                let smoothed = (seen + STRENGTH * expected) / (all + STRENGTH);
                let factor = (smoothed / expected).clamp(1.0 / FACTOR_MAX, FACTOR_MAX);
                LearnedPrior {
                    id: rule.id.clone(),
                    declared: rule.declared_prior,
                    prior: (rule.declared_prior * factor).min(0.99),
                    outcomes: seen,
                }
            })
            .collect()
    }

    /// The set with learned priors. Adjusting twice changes nothing more.
    #[must_use]
    pub fn adjust(&self, rules: &RuleSet, config: &DiagnosisConfig, now: Timestamp) -> RuleSet {
        rules.with_priors(
            self.priors(rules, config, now)
                .into_iter()
                .map(|prior| prior.prior),
        )
    }
}

fn weight(age_s: f64) -> f64 {
    if age_s <= FRESH_S {
        FRESH_WEIGHT
    } else {
        0.5_f64.powf((age_s - FRESH_S) / HALF_LIFE_S)
    }
}
