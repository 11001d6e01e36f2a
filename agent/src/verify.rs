//! Stage: verify. Did it help? Pure: evidence before and after in, verdict out; the clock is passed.
//!
//! A rule's recovery tests must all hold in several polls in a row: one quiet moment is not a cure.
//! Clearly worse, several polls in a row, ends it early. What cannot be judged is `Unknown`, and
//! everything but `Healed` is undone.

mod worse;

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::incident::{CgroupId, Evidence, FeatureTest, OutcomeKind};

/// How long and how often recovery is looked for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct VerifyConfig {
    /// Milliseconds between two looks. 50 to 10,000; default 500.
    pub poll_ms: u64,
    /// Milliseconds of evidence in one look, at most since the action. 100 to 60,000; default 2,000.
    pub window_ms: u64,
    /// Looks in a row in which all tests must hold. 1 to 100; default 3.
    pub healed_polls: u32,
    /// Looks in a row that must be clearly worse than before. 1 to 100; default 6: right after a
    /// limit is set, its own reclaim or throttling shows.
    pub worse_polls: u32,
    /// Seconds after which it did not help, unless the rule says otherwise. 1 to 3,600; default 30.
    pub timeout_s: u64,
}

impl Default for VerifyConfig {
    fn default() -> Self {
        Self {
            poll_ms: 500,
            window_ms: 2_000,
            healed_polls: 3,
            worse_polls: 6,
            timeout_s: 30,
        }
    }
}

impl VerifyConfig {
    /// What is out of bounds, one sentence a field; empty when all is well.
    pub fn problems(&self) -> Vec<String> {
        let bounds = [
            ("poll_ms", self.poll_ms, 50, 10_000),
            ("window_ms", self.window_ms, 100, 60_000),
            ("healed_polls", self.healed_polls.into(), 1, 100),
            ("worse_polls", self.worse_polls.into(), 1, 100),
            ("timeout_s", self.timeout_s, 1, 3_600),
        ];
        bounds
            .iter()
            .filter(|(_, value, low, high)| !(low..=high).contains(&value))
            .map(|(name, value, low, high)| {
                format!("verify.{name}: {value} is not within {low} to {high}")
            })
            .collect()
    }
}

/// One look, judged.
#[derive(Clone, Debug, PartialEq)]
pub struct Judgement {
    /// Each recovery test with its value before and after; `None` when it was not had.
    pub checks: Vec<(FeatureTest, Option<f64>, Option<f64>)>,
    /// All hold now. False when there are none.
    pub healed: bool,
    /// Readings needed for that are missing now, or there are no tests.
    pub unclear: bool,
    /// Something is clearly worse than before, and nothing better.
    pub worse: bool,
}

/// Compares the recovery tests' readings before and now.
///
/// Evidence lists the cgroups that matter by any measure. A culprit that was listed before and isn't
/// any more has ended or matters by none: its `below` tests hold, with no value.
pub fn judge(
    recovery: &[FeatureTest],
    before: &Evidence,
    after: &Evidence,
    culprit: Option<CgroupId>,
    lookup: impl Fn(&Evidence, &str) -> Option<f64>,
) -> Judgement {
    let culprit_left = culprit.is_some_and(|id| {
        !after.cgroups.is_empty() && before.cgroup(id).is_some() && after.cgroup(id).is_none()
    });
    let mut judgement = Judgement {
        checks: Vec::with_capacity(recovery.len()),
        healed: !recovery.is_empty(),
        unclear: recovery.is_empty(),
        worse: false,
    };
    let mut better = false;
    for test in recovery {
        let was = lookup(before, &test.reading);
        let is = lookup(after, &test.reading);
        match is {
            Some(is) => judgement.healed &= test.holds(is),
            None if culprit_left && quiet(test) => {}
            None => {
                judgement.healed = false;
                judgement.unclear = true;
            }
        }
        if let (Some(was), Some(is)) = (was, is) {
            judgement.worse |= worse::clearly(test, was, is);
            better |= worse::gap(test, is) < worse::gap(test, was);
        }
        judgement.checks.push((test.clone(), was, is));
    }
    judgement.worse &= !better;
    judgement
}

/// Whether a test asks for little of the culprit.
fn quiet(test: &FeatureTest) -> bool {
    test.reading.starts_with("culprit.") && test.below.is_some() && test.at_least.is_none()
}

/// Decides over several looks.
#[derive(Clone, Debug)]
pub struct Verifier {
    begun: Instant,
    within: Duration,
    healed_polls: u32,
    worse_polls: u32,
    healed_in_a_row: u32,
    worse_in_a_row: u32,
}

impl Verifier {
    /// For an effect that came into force at `begun`.
    pub fn new(config: &VerifyConfig, begun: Instant) -> Self {
        Self {
            begun,
            within: Duration::from_secs(config.timeout_s),
            healed_polls: config.healed_polls,
            worse_polls: config.worse_polls,
            healed_in_a_row: 0,
            worse_in_a_row: 0,
        }
    }

    /// With the rule's own `recovery_within_s`.
    #[must_use]
    pub fn within(mut self, within: Duration) -> Self {
        self.within = within;
        self
    }

    /// When it gives up.
    pub fn deadline(&self) -> Instant {
        self.begun + self.within
    }

    /// Takes one look; `Some` when it is decided.
    pub fn observe(&mut self, now: Instant, look: &Judgement) -> Option<OutcomeKind> {
        if look.checks.is_empty() {
            return Some(OutcomeKind::Unknown);
        }
        count(&mut self.healed_in_a_row, look.healed);
        count(&mut self.worse_in_a_row, look.worse);
        if self.healed_in_a_row >= self.healed_polls {
            return Some(OutcomeKind::Healed);
        }
        if self.worse_in_a_row >= self.worse_polls {
            return Some(OutcomeKind::Worse);
        }
        if now < self.deadline() {
            return None;
        }
        Some(if look.unclear {
            OutcomeKind::Unknown
        } else {
            OutcomeKind::NoEffect
        })
    }
}

fn count(in_a_row: &mut u32, again: bool) {
    *in_a_row = if again { in_a_row.saturating_add(1) } else { 0 };
}

#[cfg(test)]
mod tests;
