//! Naive Bayes in log space.
//!
//! Each hypothesis is weighed against "none of the known causes": `ln prior + Σ w · ln(P(test |
//! cause) / P(test | otherwise))`, where `w` is 1 for a complete reading, less for a partial one and
//! 0 for a missing one: missing is not absent. A softmax over all candidates and `none` gives
//! posteriors that sum to 1. Features of one group count once (strongest for, strongest against), as
//! they are one symptom. Then caps: what they take away goes to `none`.
//!
//! Of the reported three it is said how sure their posteriors are of themselves (`doubt`), and of the first
//! what would change the verdict (`turning`).
//!
//! Ranking works on numbers alone and allocates nothing per feature; words are made for the three that
//! are reported.

use std::f64::consts::LN_2;

use crate::incident::{
    Alert, CgroupId, Culprit, Diagnosis, Evidence, Hypothesis, Quality, Reading, Source, Verdict,
    WeighedFeature,
};

use super::{
    DiagnosisConfig, RuleSet,
    answers::Answers,
    culprit::Leader,
    doubt,
    features::Readings,
    rules::{FEATURES_MAX, Feature, Rule, Selector, table::Weight},
    turning,
};

/// How many hypotheses are reported.
const TOP: usize = 3;
/// What is left of the prior of a hypothesis of which no decisive reading is known: nobody looked, so
/// most of its share belongs to "none of the known causes". More than a failed decisive test leaves.
pub(super) const UNSEEN: f64 = 0.12;

/// Ranks the causes of one alert. Deterministic; `took_us` is left 0 for the caller, who has the
/// clock.
pub fn diagnose(
    rules: &RuleSet,
    alert: &Alert,
    source: &Source,
    evidence: &Evidence,
    config: &DiagnosisConfig,
) -> Diagnosis {
    let mut readings = Readings::new(evidence);
    let mut excluded = Vec::new();
    let mut candidates: Vec<Candidate<'_>> = Vec::with_capacity(rules.rules().len());
    let mut answers = Answers::new(rules.table());
    for (at, rule) in rules.rules().iter().enumerate() {
        if !rule.applies.to(alert, source) {
            continue;
        }
        let culprit = Chosen::of(rule, &mut readings);
        if let Some(because) = exclusion(rule, culprit.id(), &mut readings) {
            excluded.push((rule.id.clone(), because));
            continue;
        }
        let reading = answers.about(culprit.id(), &mut readings);
        let weights = rules.table().weights(at);
        candidates.push(Candidate::weigh(rule, culprit, weights, reading, config));
    }
    let unknown = softmax(&mut candidates, config.unknown_prior);
    // Equal posteriors: by id, so that the same evidence has the same answer everywhere.
    candidates.sort_unstable_by(|a, b| {
        b.posterior
            .total_cmp(&a.posterior)
            .then_with(|| a.rule.id.cmp(&b.rule.id))
    });
    let shares = Shares {
        unknown,
        rest: unknown + candidates.iter().skip(1).map(|c| c.posterior).sum::<f64>(),
    };
    let taken: f64 = candidates
        .iter_mut()
        .map(|candidate| candidate.cap(config))
        .sum();
    let unknown = (unknown + taken).min(1.0);
    // Words and doubts only for those that are reported.
    candidates.truncate(TOP);
    let (mut top, mut doubts, mut caps) = (Vec::with_capacity(TOP), [0.0; TOP], [0.0; TOP]);
    for (at, candidate) in candidates.iter().enumerate() {
        let (hypothesis, doubt) = candidate.report(&mut readings, config);
        top.push(hypothesis);
        doubts[at] = doubt;
        caps[at] = candidate.support.cap(config).0;
    }
    doubt::set_intervals(&mut top, &doubts, &caps);
    let verdict = verdict(&candidates, &top, unknown, config);
    if let (Some(first), Some(told)) = (candidates.first(), top.first_mut()) {
        let conclusive = verdict == Verdict::Conclusive;
        let turning = first.turning(conclusive, shares, &mut readings, config);
        told.notes.extend(turning);
    }
    Diagnosis {
        top,
        unknown,
        excluded,
        verdict,
        took_us: 0,
    }
}

/// Why evidence rules a hypothesis out. Only complete readings may: an incomplete window proves no
/// absence.
fn exclusion<'a>(
    rule: &'a Rule,
    culprit: Option<CgroupId>,
    readings: &mut Readings<'a>,
) -> Option<String> {
    rule.exclude.iter().find_map(|exclusion| {
        let reading = readings.get(culprit, &exclusion.test.reading)?;
        let whole = reading.quality == Quality::Good;
        (whole && exclusion.test.holds(reading.value))
            .then(|| format!("{} ({:.3})", exclusion.because, reading.value))
    })
}

/// Whom the rule's selector found.
#[derive(Clone, Copy)]
enum Chosen<'a> {
    /// The rule names no culprit.
    NotAsked,
    /// Nobody's reading is known.
    Unknown(&'a Selector),
    /// The largest has too little.
    NobodyStandsOut(&'a Selector, Leader<'a>),
    /// This one.
    One(&'a Selector, Leader<'a>),
}

impl<'a> Chosen<'a> {
    fn of(rule: &'a Rule, readings: &mut Readings<'a>) -> Self {
        let Some(selector) = &rule.culprit else {
            return Self::NotAsked;
        };
        match readings.leader(&selector.by) {
            None => Self::Unknown(selector),
            Some(leader) if leader.share < selector.min_share => {
                Self::NobodyStandsOut(selector, leader)
            }
            Some(leader) => Self::One(selector, leader),
        }
    }

    fn id(self) -> Option<CgroupId> {
        match self {
            Self::One(_, leader) => Some(leader.facts.id),
            _ => None,
        }
    }

    fn culprit(self) -> Option<Culprit> {
        let Self::One(selector, leader) = self else {
            return None;
        };
        Some(Culprit {
            cgroup: leader.facts.id,
            path: leader.facts.path.clone(),
            chosen_by: selector.by.clone(),
            value: leader.reading.value,
        })
    }

    /// How it was found, or why there is none.
    fn note(self) -> Option<String> {
        Some(match self {
            Self::NotAsked => return None,
            Self::Unknown(selector) => format!("no cgroup's {} is known: no culprit", selector.by),
            Self::NobodyStandsOut(Selector { by, min_share, .. }, leader) => {
                let percent = leader.share * 100.0;
                format!(
                    "no cgroup stands out by {by}: the largest, {}, has {percent:.0} % of it, under {:.0} %",
                    leader.facts.path,
                    min_share * 100.0
                )
            }
            Self::One(selector, leader) => {
                let percent = leader.share * 100.0;
                format!(
                    "{} has {percent:.0} % of all {}",
                    leader.facts.path, selector.by
                )
            }
        })
    }
}

/// One hypothesis while they are ranked: numbers only, nothing allocated.
struct Candidate<'a> {
    rule: &'a Rule,
    /// The numbers of the rule's features, in its order.
    weights: &'a [Weight],
    culprit: Chosen<'a>,
    /// Natural logarithm of prior times all likelihood ratios.
    score: f64,
    prior: f64,
    posterior: f64,
    support: Support,
    /// The posterior before it was capped, if it was.
    capped_from: Option<f64>,
}

/// What is wrong with the evidence that a posterior rests on.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Support {
    /// Some of it is partial.
    pub(super) partial: bool,
    /// Decisive evidence is missing or partial: it will not be acted upon.
    pub(super) wanting: bool,
}

impl Support {
    /// Whether a verdict could not rest on this feature, of a reading of this quality.
    pub(super) fn is_wanting(
        weight: &Weight,
        quality: Option<Quality>,
        config: &DiagnosisConfig,
    ) -> bool {
        weight.decisive
            && match quality {
                None => true,
                Some(Quality::Partial) => !config.decisive_may_be_partial,
                Some(Quality::Good) => false,
            }
    }

    /// The most that a posterior may be, and why.
    pub(super) fn cap(self, config: &DiagnosisConfig) -> (f64, &'static str) {
        let mut lowest = (config.posterior_cap, "no rule is always right");
        let wanting = (
            config.missing_cap,
            "decisive evidence for it is missing or partial",
        );
        let partial = (config.partial_cap, "it rests on partial readings");
        for (applies, cap) in [(self.wanting, wanting), (self.partial, partial)] {
            if applies && cap.0 < lowest.0 {
                lowest = cap;
            }
        }
        lowest
    }
}

/// What the first competes with, before any cap.
#[derive(Clone, Copy)]
struct Shares {
    /// Of none of the known causes.
    unknown: f64,
    /// Of all others and of none of the known causes.
    rest: f64,
}

/// Bits of each feature of a rule, in the rule's order.
pub(super) type Bits = [f64; FEATURES_MAX];

impl<'a> Candidate<'a> {
    fn weigh(
        rule: &'a Rule,
        culprit: Chosen<'a>,
        weights: &'a [Weight],
        mut reading: impl FnMut(u32) -> Option<Reading>,
        config: &DiagnosisConfig,
    ) -> Self {
        let mut bits: Bits = [0.0; FEATURES_MAX];
        let mut partial_at = [false; FEATURES_MAX];
        let (mut seen, mut wanting) = (false, false);
        for (at, weight) in weights.iter().enumerate() {
            let reading = reading(weight.reading);
            let quality = reading.map(|reading| reading.quality);
            wanting |= Support::is_wanting(weight, quality, config);
            let Some(reading) = reading else {
                continue;
            };
            bits[at] = weigh(weight.bits(reading.value), reading.quality, config);
            seen |= weight.decisive;
            partial_at[at] = reading.quality == Quality::Partial;
        }
        count_groups_once(weights, &mut bits, |_| {});
        let rests_on_partial =
            |(at, weight): (usize, &Weight)| partial_at[at] && (bits[at] > 0.0 || weight.decisive);
        let sum: f64 = bits.iter().sum();
        Self {
            rule,
            weights,
            culprit,
            score: rule.prior.ln() + sum * LN_2 + if seen { 0.0 } else { UNSEEN.ln() },
            prior: rule.prior,
            posterior: 0.0,
            support: Support {
                partial: weights.iter().enumerate().any(rests_on_partial),
                wanting,
            },
            capped_from: None,
        }
    }

    /// Lowers the posterior to what its evidence can bear; returns what was taken away.
    fn cap(&mut self, config: &DiagnosisConfig) -> f64 {
        let (cap, _) = self.support.cap(config);
        let before = self.posterior;
        if before <= cap {
            return 0.0;
        }
        self.posterior = cap;
        self.capped_from = Some(before);
        before - cap
    }

    /// In words; and the variance of its evidence in nats², see [`doubt`].
    fn report(&self, readings: &mut Readings<'a>, config: &DiagnosisConfig) -> (Hypothesis, f64) {
        let mut notes: Vec<String> = self.culprit.note().into_iter().collect();
        let mut features: Vec<WeighedFeature> = Vec::with_capacity(self.rule.features.len());
        let mut bits: Bits = [0.0; FEATURES_MAX];
        for (at, (feature, weight)) in self.rule.features.iter().zip(self.weights).enumerate() {
            let reading = readings.get(self.culprit.id(), &feature.test.reading);
            bits[at] = reading.map_or(0.0, |reading| {
                weigh(weight.bits(reading.value), reading.quality, config)
            });
            features.push(weighed(feature, reading));
        }
        let mut dropped: Vec<&str> = Vec::new();
        count_groups_once(self.weights, &mut bits, |at| {
            dropped.push(&self.rule.features[at].id);
        });
        if !dropped.is_empty() {
            let again = dropped.join(", ");
            notes.push(format!("not counted again (same symptom): {again}"));
        }
        let mut doubt = 0.0;
        for ((told, feature), bits) in features.iter_mut().zip(&self.rule.features).zip(bits) {
            told.bits = bits;
            if let (true, Some(held), Some(quality)) = (bits != 0.0, told.held, told.quality) {
                doubt += trust(quality, config).powi(2) * doubt::of_feature(feature, held);
            }
        }
        features.sort_by(|a, b| {
            b.bits
                .abs()
                .total_cmp(&a.bits.abs())
                .then_with(|| a.id.cmp(&b.id))
        });
        if let Some(before) = self.capped_from {
            let (cap, why) = self.support.cap(config);
            notes.push(format!(
                "posterior capped at {cap} (from {before:.4}): {why}"
            ));
        }
        let hypothesis = Hypothesis {
            id: self.rule.id.clone(),
            title: self.rule.title.clone(),
            posterior: self.posterior,
            interval: None,
            prior: self.prior,
            culprit: self.culprit.culprit(),
            features,
            notes,
            recovery: self.rule.recovery.clone(),
            remedies: self.rule.remedies.clone(),
        };
        (hypothesis, doubt)
    }

    /// Whether its rule asks for a culprit and nobody stands out.
    fn lacks_culprit(&self) -> bool {
        let asked = self.rule.culprit.as_ref().is_some_and(|c| c.required);
        asked && self.culprit.id().is_none()
    }

    /// As the first: what would change the verdict, in words.
    fn turning(
        &self,
        conclusive: bool,
        shares: Shares,
        readings: &mut Readings<'a>,
        config: &DiagnosisConfig,
    ) -> Option<String> {
        let mut known = [None; FEATURES_MAX];
        for (known, feature) in known.iter_mut().zip(&self.rule.features) {
            *known = readings.get(self.culprit.id(), &feature.test.reading);
        }
        let first = turning::First {
            rule: self.rule,
            weights: self.weights,
            readings: &known[..self.weights.len()],
            posterior: self.capped_from.unwrap_or(self.posterior),
            rest: shares.rest,
            unknown: shares.unknown,
            lacks_culprit: self.lacks_culprit(),
        };
        turning::sentence(&first, conclusive, config)
    }
}

/// Bits of evidence of one feature.
pub(super) fn weigh(bits: f64, quality: Quality, config: &DiagnosisConfig) -> f64 {
    trust(quality, config) * bits
}

/// How much of its weight a reading keeps.
fn trust(quality: Quality, config: &DiagnosisConfig) -> f64 {
    match quality {
        Quality::Good => 1.0,
        Quality::Partial => config.partial_weight,
    }
}

fn weighed(feature: &Feature, reading: Option<Reading>) -> WeighedFeature {
    WeighedFeature {
        id: feature.id.clone(),
        says: feature.says.clone(),
        test: feature.test.clone(),
        value: reading.map(|reading| reading.value),
        held: reading.map(|reading| feature.test.holds(reading.value)),
        quality: reading.map(|reading| reading.quality),
        bits: 0.0,
        decisive: feature.decisive,
    }
}

/// Leaves of each group the strongest weight for and the strongest against, and tells which others
/// were dropped.
pub(super) fn count_groups_once(
    weights: &[Weight],
    bits: &mut Bits,
    mut dropped: impl FnMut(usize),
) {
    let all = *bits;
    for (i, weight) in weights.iter().enumerate() {
        if weight.group == 0 || all[i] == 0.0 {
            continue;
        }
        // An earlier one of equal weight wins.
        let outdone = weights.iter().enumerate().any(|(j, other)| {
            let (mine, theirs) = (all[i], all[j]);
            let stronger = theirs.abs() > mine.abs() || (theirs.abs() >= mine.abs() && j < i);
            j != i && other.group == weight.group && mine * theirs > 0.0 && stronger
        });
        if outdone {
            bits[i] = 0.0;
            dropped(i);
        }
    }
}

/// Sets priors and posteriors among the candidates and `none`; returns `none`'s posterior.
fn softmax(candidates: &mut [Candidate<'_>], unknown_prior: f64) -> f64 {
    let none = unknown_prior.max(f64::MIN_POSITIVE).ln();
    let top = candidates.iter().map(|c| c.score).fold(none, f64::max);
    let sum: f64 = candidates
        .iter()
        .map(|c| (c.score - top).exp())
        .sum::<f64>()
        + (none - top).exp();
    let priors: f64 = candidates.iter().map(|c| c.rule.prior).sum::<f64>() + unknown_prior;
    for candidate in candidates {
        candidate.posterior = (candidate.score - top).exp() / sum;
        candidate.prior = candidate.rule.prior / priors;
    }
    (none - top).exp() / sum
}

/// Whether the first of the ranking may be acted upon. The most useful reason comes first.
fn verdict(
    candidates: &[Candidate<'_>],
    reported: &[Hypothesis],
    unknown: f64,
    config: &DiagnosisConfig,
) -> Verdict {
    let (Some(top), Some(told)) = (candidates.first(), reported.first()) else {
        return Verdict::Inconclusive("no rule applies to this alert and evidence".to_owned());
    };
    let names = |wanted: &dyn Fn(&WeighedFeature) -> bool| {
        let decisive = told.features.iter().filter(|feature| feature.decisive);
        let found: Vec<&str> = decisive
            .filter(|f| wanted(f))
            .map(|f| f.test.reading.as_str())
            .collect();
        found.join(", ")
    };
    let missing = names(&|f| f.value.is_none());
    let failed = names(&|f| f.held == Some(false));
    let partial = names(&|f| f.quality == Some(Quality::Partial));
    let (id, posterior) = (&top.rule.id, top.posterior);
    let why = if unknown >= posterior {
        let percent = unknown * 100.0;
        format!("none of the known causes explains the evidence ({percent:.0} % unknown)")
    } else if !missing.is_empty() {
        String::new()
    } else if !failed.is_empty() {
        format!("decisive evidence speaks against {id}: {failed}")
    } else if !partial.is_empty() && !config.decisive_may_be_partial {
        format!("decisive evidence for {id} is partial: {partial}")
    } else if top.lacks_culprit() {
        format!("{id} needs a culprit, and no cgroup stands out")
    } else if posterior < config.act_threshold {
        let bar = config.act_threshold;
        format!("{id} at {posterior:.2} is under the bar of {bar:.2}")
    } else {
        return Verdict::Conclusive;
    };
    if missing.is_empty() {
        return Verdict::Inconclusive(why);
    }
    let joint = if why.is_empty() { "" } else { "; " };
    Verdict::Inconclusive(format!(
        "{why}{joint}decisive evidence for {id} is missing: {missing}"
    ))
}
