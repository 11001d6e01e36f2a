//! Strategy B: a decision list. It trusts no likelihood and no prior.
//!
//! A cause is named when all of its decisive tests hold; among several, the one of which the largest
//! share of tests holds, then the one with more tests. It shares only the rules' tests with Bayes, so
//! where the two disagree one of the rules' numbers is worth a look.

use crate::incident::{Alert, Culprit, Diagnosis, Evidence, Hypothesis, Source, Verdict};

use super::{DiagnosisConfig, RuleSet, Strategy};
use crate::diagnosis::{features::Readings, rules::Rule};

/// Votes that a cause must have beside its decisive tests, as a share of what is known.
const SHARE_MIN: f64 = 0.6;

/// The decision list.
#[derive(Clone, Copy, Debug, Default)]
pub struct Votes;

struct Vote<'a> {
    rule: &'a Rule,
    culprit: Option<Culprit>,
    /// Share of the known tests that hold.
    share: f64,
    known: usize,
}

impl Strategy for Votes {
    fn name(&self) -> &'static str {
        "votes"
    }

    fn version(&self) -> u32 {
        1
    }

    fn rank(
        &self,
        rules: &RuleSet,
        alert: &Alert,
        source: &Source,
        evidence: &Evidence,
        config: &DiagnosisConfig,
    ) -> Diagnosis {
        let mut readings = Readings::new(evidence);
        let applying = rules
            .rules()
            .iter()
            .filter(|rule| rule.applies.to(alert, source));
        let mut votes: Vec<Vote<'_>> = applying
            .filter_map(|rule| vote(rule, &mut readings))
            .collect();
        votes.sort_by(|a, b| {
            b.share
                .total_cmp(&a.share)
                .then_with(|| b.known.cmp(&a.known))
                .then_with(|| a.rule.id.cmp(&b.rule.id))
        });
        votes.truncate(3);
        // Not probabilities, but on their scale: a unanimous cause alone is as sure as one can be.
        let all: f64 = votes.iter().map(|vote| vote.share).sum::<f64>() + 0.2;
        let top: Vec<Hypothesis> = votes
            .into_iter()
            .map(|vote| hypothesis(vote, all))
            .collect();
        let sure = top
            .first()
            .is_some_and(|top| top.posterior >= config.act_threshold);
        Diagnosis {
            unknown: 1.0 - top.iter().map(|top| top.posterior).sum::<f64>(),
            verdict: if sure {
                Verdict::Conclusive
            } else {
                Verdict::Inconclusive("the votes are split, or nobody votes".to_owned())
            },
            top,
            excluded: Vec::new(),
            took_us: 0,
        }
    }
}

/// `None` when a decisive test fails or is not known, when the rule is excluded, or when its culprit
/// is needed and nobody stands out.
fn vote<'a>(rule: &'a Rule, readings: &mut Readings<'a>) -> Option<Vote<'a>> {
    let leader = rule.culprit.as_ref().and_then(|selector| {
        let leader = readings.leader(&selector.by)?;
        (leader.share >= selector.min_share).then_some(leader)
    });
    if leader.is_none()
        && rule
            .culprit
            .as_ref()
            .is_some_and(|selector| selector.required)
    {
        return None;
    }
    let id = leader.map(|leader| leader.facts.id);
    let mut holds = |test: &'a crate::incident::FeatureTest| {
        let reading = readings.get(id, &test.reading)?;
        Some(test.holds(reading.value))
    };
    if rule
        .exclude
        .iter()
        .any(|exclusion| holds(&exclusion.test) == Some(true))
    {
        return None;
    }
    let (mut held, mut known) = (0_u32, 0_u32);
    for feature in &rule.features {
        // A test that the cause makes less likely speaks for it by failing.
        let speaks = |held: bool| held == (feature.given_cause > feature.otherwise);
        let spoke = holds(&feature.test).map(speaks);
        if feature.decisive && spoke != Some(true) {
            return None;
        }
        known += u32::from(spoke.is_some());
        held += u32::from(spoke == Some(true));
    }
    let share = f64::from(held) / f64::from(known.max(1));
    (share >= SHARE_MIN).then(|| Vote {
        rule,
        culprit: leader
            .zip(rule.culprit.as_ref())
            .map(|(leader, selector)| Culprit {
                cgroup: leader.facts.id,
                path: leader.facts.path.clone(),
                chosen_by: selector.by.clone(),
                value: leader.reading.value,
            }),
        share,
        known: known as usize,
    })
}

fn hypothesis(vote: Vote<'_>, all: f64) -> Hypothesis {
    Hypothesis {
        id: vote.rule.id.clone(),
        title: vote.rule.title.clone(),
        posterior: vote.share / all,
        interval: None,
        prior: vote.rule.prior,
        culprit: vote.culprit,
        features: Vec::new(),
        notes: Vec::new(),
        recovery: Vec::new(),
        remedies: Vec::new(),
    }
}
