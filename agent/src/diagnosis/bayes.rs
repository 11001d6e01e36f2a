//! Naive Bayes in log space.
//!
//! Each hypothesis is weighed against "none of the known causes": `ln prior + Σ w · ln(P(test |
//! cause) / P(test | otherwise))`, where `w` is 1 for a complete reading, less for a partial one and
//! 0 for a missing one: missing is not absent. A softmax over all candidates and `none` gives
//! posteriors that sum to 1. Features of one group count once (strongest for, strongest against), as
//! they are one symptom. Then caps: what they take away goes to `none`.

use std::f64::consts::LN_2;

use crate::incident::{
    Alert, CgroupId, Culprit, Diagnosis, Evidence, Hypothesis, Quality, Source, Verdict,
    WeighedFeature,
};

use super::{
    DiagnosisConfig, RuleSet, culprit, features,
    rules::{Feature, Rule, Selector},
};

/// How many hypotheses are reported.
const TOP: usize = 3;

/// Ranks the causes of one alert. Deterministic; `took_us` is left 0 for the caller, who has the
/// clock.
pub fn diagnose(
    rules: &RuleSet,
    alert: &Alert,
    source: &Source,
    evidence: &Evidence,
    config: &DiagnosisConfig,
) -> Diagnosis {
    let mut excluded = Vec::new();
    let mut candidates: Vec<Candidate<'_>> = Vec::new();
    for rule in rules.rules() {
        if !rule.applies.to(alert, source) {
            continue;
        }
        match exclusion(rule, evidence) {
            Some(because) => excluded.push((rule.id.clone(), because)),
            None => candidates.push(Candidate::weigh(rule, evidence, config)),
        }
    }
    let unknown = softmax(&mut candidates, config.unknown_prior);
    // Equal posteriors: by id, so that the same evidence has the same answer everywhere.
    candidates.sort_by(|a, b| {
        b.posterior
            .total_cmp(&a.posterior)
            .then_with(|| a.rule.id.cmp(&b.rule.id))
    });
    let taken: f64 = candidates
        .iter_mut()
        .map(|candidate| candidate.cap(config))
        .sum();
    let unknown = (unknown + taken).min(1.0);
    let verdict = verdict(&candidates, unknown, config);
    Diagnosis {
        top: candidates
            .into_iter()
            .take(TOP)
            .map(Candidate::report)
            .collect(),
        unknown,
        excluded,
        verdict,
        took_us: 0,
    }
}

/// Why evidence rules a hypothesis out. Only complete readings may: an incomplete window proves no
/// absence.
fn exclusion(rule: &Rule, evidence: &Evidence) -> Option<String> {
    let found = culprit_of(rule, evidence).and_then(Result::ok);
    let culprit = found.map(|(culprit, _)| culprit.cgroup);
    rule.exclude.iter().find_map(|exclusion| {
        let reading = features::lookup(evidence, culprit, &exclusion.test.reading)?;
        let whole = reading.quality == Quality::Good;
        (whole && exclusion.test.holds(reading.value))
            .then(|| format!("{} ({:.3})", exclusion.because, reading.value))
    })
}

/// The selected culprit with a note on how it was found, or why there is none.
fn culprit_of(rule: &Rule, evidence: &Evidence) -> Option<Result<(Culprit, String), String>> {
    let Selector { by, min_share, .. } = rule.culprit.as_ref()?;
    let Some(leader) = culprit::leader(evidence, by) else {
        return Some(Err(format!("no cgroup's {by} is known: no culprit")));
    };
    let percent = leader.share * 100.0;
    if leader.share < *min_share {
        return Some(Err(format!(
            "no cgroup stands out by {by}: the largest, {}, has {percent:.0} % of it, under {:.0} %",
            leader.facts.path,
            min_share * 100.0
        )));
    }
    let culprit = Culprit {
        cgroup: leader.facts.id,
        path: leader.facts.path.clone(),
        chosen_by: by.clone(),
        value: leader.reading.value,
    };
    let note = format!("{} has {percent:.0} % of all {by}", culprit.path);
    Some(Ok((culprit, note)))
}

struct Candidate<'a> {
    rule: &'a Rule,
    culprit: Option<Culprit>,
    weighed: Vec<WeighedFeature>,
    notes: Vec<String>,
    /// Natural logarithm of prior times all likelihood ratios.
    score: f64,
    prior: f64,
    posterior: f64,
}

impl<'a> Candidate<'a> {
    fn weigh(rule: &'a Rule, evidence: &Evidence, config: &DiagnosisConfig) -> Self {
        let mut notes = Vec::new();
        let culprit = match culprit_of(rule, evidence) {
            Some(Ok((culprit, note))) => {
                notes.push(note);
                Some(culprit)
            }
            Some(Err(note)) => {
                notes.push(note);
                None
            }
            None => None,
        };
        let id = culprit.as_ref().map(|culprit| culprit.cgroup);
        let mut weighed: Vec<WeighedFeature> = rule
            .features
            .iter()
            .map(|feature| weigh(feature, evidence, id, config))
            .collect();
        let dropped = count_groups_once(&rule.features, &mut weighed);
        if !dropped.is_empty() {
            notes.push(format!(
                "not counted again (same symptom): {}",
                dropped.join(", ")
            ));
        }
        let bits: f64 = weighed.iter().map(|feature| feature.bits).sum();
        weighed.sort_by(|a, b| {
            b.bits
                .abs()
                .total_cmp(&a.bits.abs())
                .then_with(|| a.id.cmp(&b.id))
        });
        Self {
            rule,
            culprit,
            weighed,
            notes,
            score: rule.prior.ln() + bits * LN_2,
            prior: rule.prior,
            posterior: 0.0,
        }
    }

    /// Lowers the posterior to what its evidence can bear; returns what was taken away.
    fn cap(&mut self, config: &DiagnosisConfig) -> f64 {
        let partial = self
            .weighed
            .iter()
            .any(|f| f.quality == Some(Quality::Partial) && (f.bits > 0.0 || f.decisive));
        let (cap, why) = if partial && config.partial_cap < config.posterior_cap {
            (config.partial_cap, "it rests on partial readings")
        } else {
            (config.posterior_cap, "no rule is always right")
        };
        let before = self.posterior;
        if before <= cap {
            return 0.0;
        }
        self.posterior = cap;
        self.notes.push(format!(
            "posterior capped at {cap} (from {before:.4}): {why}"
        ));
        before - cap
    }

    fn report(self) -> Hypothesis {
        Hypothesis {
            id: self.rule.id.clone(),
            title: self.rule.title.clone(),
            posterior: self.posterior,
            prior: self.prior,
            culprit: self.culprit,
            features: self.weighed,
            notes: self.notes,
            recovery: self.rule.recovery.clone(),
            remedies: self.rule.remedies.clone(),
        }
    }

    fn decisive(&self) -> impl Iterator<Item = &WeighedFeature> {
        self.weighed.iter().filter(|feature| feature.decisive)
    }
}

fn weigh(
    feature: &Feature,
    evidence: &Evidence,
    culprit: Option<CgroupId>,
    config: &DiagnosisConfig,
) -> WeighedFeature {
    let reading = features::lookup(evidence, culprit, &feature.test.reading);
    let held = reading.map(|reading| feature.test.holds(reading.value));
    let trust = match reading.map(|reading| reading.quality) {
        Some(Quality::Good) => 1.0,
        Some(Quality::Partial) => config.partial_weight,
        None => 0.0,
    };
    let ratio = if held == Some(true) {
        feature.given_cause / feature.otherwise
    } else {
        (1.0 - feature.given_cause) / (1.0 - feature.otherwise)
    };
    WeighedFeature {
        id: feature.id.clone(),
        says: feature.says.clone(),
        test: feature.test.clone(),
        value: reading.map(|reading| reading.value),
        held,
        quality: reading.map(|reading| reading.quality),
        // `held` is unknown when missing, and then trust is zero.
        bits: if trust > 0.0 {
            trust * ratio.log2()
        } else {
            0.0
        },
        decisive: feature.decisive,
    }
}

/// Leaves of each group the strongest weight for and the strongest against; the ids of the others,
/// whose weight is now zero.
fn count_groups_once(features: &[Feature], weighed: &mut [WeighedFeature]) -> Vec<String> {
    let mut dropped = Vec::new();
    for i in 0..features.len() {
        let Some(group) = &features[i].group else {
            continue;
        };
        let bits = weighed[i].bits;
        // An earlier one of equal weight wins.
        let outdone = (0..features.len()).any(|j| {
            let same = j != i && features[j].group.as_ref() == Some(group);
            let (mine, other) = (bits, weighed[j].bits);
            let stronger = other.abs() > mine.abs() || (other.abs() >= mine.abs() && j < i);
            same && mine * other > 0.0 && stronger
        });
        if bits != 0.0 && outdone {
            dropped.push(i);
        }
    }
    for &i in &dropped {
        weighed[i].bits = 0.0;
    }
    dropped.iter().map(|&i| features[i].id.clone()).collect()
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
fn verdict(candidates: &[Candidate<'_>], unknown: f64, config: &DiagnosisConfig) -> Verdict {
    let Some(top) = candidates.first() else {
        return Verdict::Inconclusive("no rule applies to this alert and evidence".to_owned());
    };
    let names = |wanted: &dyn Fn(&WeighedFeature) -> bool| {
        let found: Vec<&str> = top
            .decisive()
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
    } else if top.culprit.is_none() && top.rule.culprit.as_ref().is_some_and(|c| c.required) {
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
