//! The level that a rule's action has earned by its verified outcomes. Pure.
//!
//! With promotion on, an action begins at `approve`: people decide. Enough verified successes let it act
//! alone; an action that did not help, or made it worse, goes back to people at once. What is counted is
//! read from the journal, so that a restart changes nothing.

use std::collections::{BTreeMap, VecDeque};

use serde::{Deserialize, Serialize};

use crate::incident::{ActionKind, Level, OutcomeKind};

/// Standard normal quantile of a two-sided 95 % interval.
const Z: f64 = 1.96;
/// Outcomes that count, the newest: what a rule did years ago says little.
const OUTCOMES_MAX: usize = 200;
/// Rules and actions remembered; far more than there can be.
const STANDINGS_MAX: usize = 4096;

/// `remedy.promotion`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PromotionConfig {
    /// Whether levels have to be earned. Default false: `remedy.level` and the rules' own levels say all.
    /// An earned level lowers those two, and never raises them.
    pub enabled: bool,
    /// Judged actions before one may act alone. 1 to 200; default 20.
    pub episodes_min: u64,
    /// What the lower end of the 95 % interval of its success must reach. 0.5 to 0.99; default 0.8: that
    /// takes 20 successes of 20, or 24 of 25.
    pub success_min: f64,
    /// Successes in a row that are wanted again after one that did not help. 1 to 200; default 5.
    pub successes_after_failure: u64,
    /// Levels set by hand, by the rule's id: outcomes change nothing there. At most 256.
    pub levels: BTreeMap<String, Level>,
}

impl Default for PromotionConfig {
    fn default() -> Self {
        Self {
            enabled: false,
            episodes_min: 20,
            success_min: 0.8,
            successes_after_failure: 5,
            levels: BTreeMap::new(),
        }
    }
}

impl PromotionConfig {
    /// What is out of bounds, one sentence a field.
    pub fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        for (name, value) in [
            ("episodes_min", self.episodes_min),
            ("successes_after_failure", self.successes_after_failure),
        ] {
            if !(1..=200).contains(&value) {
                problems.push(format!(
                    "remedy.promotion.{name}: {value} is not within 1 to 200"
                ));
            }
        }
        if !(0.5..=0.99).contains(&self.success_min) {
            problems.push(format!(
                "remedy.promotion.success_min: {} is not within 0.5 to 0.99",
                self.success_min
            ));
        }
        if self.levels.len() > 256 {
            problems.push(format!(
                "remedy.promotion.levels: {} entries are more than 256",
                self.levels.len()
            ));
        }
        problems
    }
}

/// Lower end of Wilson's score interval of a proportion, 0 to 1: E. B. Wilson, "Probable inference, the law
/// of succession, and statistical inference", Journal of the American Statistical Association 22 (1927),
/// 209-212. Unlike the plain proportion it is low where little was seen; 0 of nothing is 0.
pub fn wilson_lower(successes: u64, trials: u64) -> f64 {
    if trials == 0 {
        return 0.0;
    }
    let n = trials as f64;
    let p = successes.min(trials) as f64 / n;
    let z2 = Z * Z;
    let spread = Z * (p * (1.0 - p) / n + z2 / (4.0 * n * n)).sqrt();
    ((p + z2 / (2.0 * n) - spread) / (1.0 + z2 / n)).max(0.0)
}

/// What one rule's action has shown.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// Oldest first; what was before one that made it worse does not count any more.
    outcomes: VecDeque<OutcomeKind>,
}

impl Standing {
    fn add(&mut self, outcome: OutcomeKind) {
        if outcome == OutcomeKind::Worse {
            self.outcomes.clear();
        }
        if self.outcomes.len() >= OUTCOMES_MAX {
            self.outcomes.pop_front();
        }
        self.outcomes.push_back(outcome);
    }

    /// Verified successes that count.
    pub fn successes(&self) -> u64 {
        let healed = |outcome: &&OutcomeKind| **outcome == OutcomeKind::Healed;
        self.outcomes.iter().filter(healed).count() as u64
    }

    /// Judged actions that count.
    pub fn trials(&self) -> u64 {
        self.outcomes.len() as u64
    }

    /// Successes since the last one that did not help; `None` if there is none such.
    fn successes_since_failure(&self) -> Option<u64> {
        let failed =
            |outcome: &OutcomeKind| matches!(outcome, OutcomeKind::NoEffect | OutcomeKind::Worse);
        let at = self.outcomes.iter().rposition(failed)?;
        let later = self.outcomes.iter().skip(at + 1);
        Some(later.filter(|o| **o == OutcomeKind::Healed).count() as u64)
    }

    /// Lower end of the interval of its success, 0 to 1.
    pub fn lower_bound(&self) -> f64 {
        wilson_lower(self.successes(), self.trials())
    }

    /// The level that it has earned: `act` or `approve`.
    pub fn earned(&self, config: &PromotionConfig) -> Level {
        let settled = self
            .successes_since_failure()
            .is_none_or(|since| since >= config.successes_after_failure);
        let proven =
            self.trials() >= config.episodes_min && self.lower_bound() >= config.success_min;
        if settled && proven {
            Level::Act
        } else {
            Level::Approve
        }
    }
}

/// One rule's action for people and machines.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Earned {
    /// Id of the rule.
    pub rule: String,
    /// Name of the action.
    pub action: String,
    /// Verified successes that count.
    pub healed: u64,
    /// Judged actions that count.
    pub judged: u64,
    /// Lower end of the 95 % interval of its success, 0 to 1.
    pub lower_bound: f64,
    /// The most that it may do, with promotion on; set by hand where the configuration says so.
    pub level: Level,
}

/// All rules' actions that were ever judged.
#[derive(Clone, Debug, Default)]
pub struct Standings {
    of: BTreeMap<(String, String), Standing>,
}

impl Standings {
    /// One more outcome; in the order in which they came.
    pub fn add(&mut self, rule: &str, kind: ActionKind, outcome: OutcomeKind) {
        let key = (rule.to_owned(), kind.to_string());
        if self.of.len() < STANDINGS_MAX || self.of.contains_key(&key) {
            self.of.entry(key).or_default().add(outcome);
        }
    }

    /// The most that one may do.
    pub fn level(&self, config: &PromotionConfig, rule: &str, kind: ActionKind) -> Level {
        if let Some(level) = config.levels.get(rule) {
            return *level;
        }
        if !config.enabled {
            return Level::Act;
        }
        let key = (rule.to_owned(), kind.to_string());
        let standing = self.of.get(&key);
        standing.map_or(Level::Approve, |standing| standing.earned(config))
    }

    /// What each has earned, as if promotion were on.
    pub fn earned(&self, config: &PromotionConfig) -> Vec<Earned> {
        let one = |(rule, action, standing): (&str, &str, &Standing)| Earned {
            rule: rule.to_owned(),
            action: action.to_owned(),
            healed: standing.successes(),
            judged: standing.trials(),
            lower_bound: standing.lower_bound(),
            level: config
                .levels
                .get(rule)
                .copied()
                .unwrap_or_else(|| standing.earned(config)),
        };
        self.iter().map(one).collect()
    }

    /// By rule and action.
    fn iter(&self) -> impl Iterator<Item = (&str, &str, &Standing)> {
        self.of
            .iter()
            .map(|((rule, action), standing)| (rule.as_str(), action.as_str(), standing))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIND: ActionKind = ActionKind::ThrottleCpu;

    fn on() -> PromotionConfig {
        PromotionConfig {
            enabled: true,
            ..PromotionConfig::default()
        }
    }

    fn after(outcomes: &[(OutcomeKind, usize)]) -> Standings {
        let mut standings = Standings::default();
        for (outcome, times) in outcomes {
            for _ in 0..*times {
                standings.add("cpu-hog", KIND, *outcome);
            }
        }
        standings
    }

    #[test]
    fn the_bound_is_wilsons() {
        // Newcombe, Statistics in Medicine 17 (1998), 857-872, table I: method 3.
        for (r, n, lower) in [
            (81, 263, 0.2553),
            (15, 148, 0.0624),
            (0, 20, 0.0),
            (1, 29, 0.0061),
        ] {
            let found = wilson_lower(r, n);
            assert!((found - lower).abs() < 5e-5, "{r} of {n}: {found}");
        }
        assert!(wilson_lower(0, 0) == 0.0 && wilson_lower(20, 20) > 0.83);
        assert!(wilson_lower(24, 25) > 0.8 && wilson_lower(23, 24) < 0.8);
    }

    #[test]
    fn an_action_acts_alone_only_after_enough_successes() {
        use OutcomeKind::{Healed, Unknown};
        let level = |outcomes: &[_]| after(outcomes).level(&on(), "cpu-hog", KIND);
        assert_eq!(level(&[]), Level::Approve);
        assert_eq!(level(&[(Healed, 19)]), Level::Approve);
        assert_eq!(level(&[(Healed, 20)]), Level::Act);
        // What could not be judged is no proof.
        assert_eq!(level(&[(Healed, 20), (Unknown, 5)]), Level::Approve);
        // Another action of the same rule, or the same action of another rule, has to earn its own.
        let earned = after(&[(Healed, 30)]);
        assert_eq!(
            earned.level(&on(), "cpu-hog", ActionKind::CapPids),
            Level::Approve
        );
        assert_eq!(earned.level(&on(), "leak", KIND), Level::Approve);
    }

    #[test]
    fn one_that_did_not_help_goes_back_to_people_at_once() {
        use OutcomeKind::{Healed, NoEffect, Worse};
        let level = |outcomes: &[_]| after(outcomes).level(&on(), "cpu-hog", KIND);
        assert_eq!(level(&[(Healed, 100)]), Level::Act);
        assert_eq!(level(&[(Healed, 100), (NoEffect, 1)]), Level::Approve);
        assert_eq!(
            level(&[(Healed, 100), (NoEffect, 1), (Healed, 4)]),
            Level::Approve
        );
        assert_eq!(
            level(&[(Healed, 100), (NoEffect, 1), (Healed, 5)]),
            Level::Act
        );
        // One that made it worse starts from nothing.
        assert_eq!(
            level(&[(Healed, 100), (Worse, 1), (Healed, 23)]),
            Level::Approve
        );
        assert_eq!(
            level(&[(Healed, 100), (Worse, 1), (Healed, 24)]),
            Level::Act
        );
    }

    #[test]
    fn configuration_comes_first_and_off_means_off() {
        let failed = after(&[(OutcomeKind::Worse, 3)]);
        let off = PromotionConfig::default();
        assert_eq!(failed.level(&off, "cpu-hog", KIND), Level::Act);
        let by_hand = PromotionConfig {
            levels: [("cpu-hog".to_owned(), Level::Advise)].into(),
            ..on()
        };
        let earned = after(&[(OutcomeKind::Healed, 100)]);
        assert_eq!(earned.level(&by_hand, "cpu-hog", KIND), Level::Advise);
    }

    #[test]
    fn old_outcomes_are_forgotten_and_bad_bounds_are_told() {
        let long = after(&[(OutcomeKind::Healed, 1000)]);
        assert_eq!(long.iter().next().unwrap().2.trials(), OUTCOMES_MAX as u64);
        let bad = PromotionConfig {
            episodes_min: 0,
            success_min: f64::NAN,
            successes_after_failure: 1000,
            ..on()
        };
        assert_eq!(bad.problems().len(), 3);
    }
}
