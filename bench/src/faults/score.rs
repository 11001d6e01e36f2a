//! How well a run went: who was named, how sure, and whether it kept quiet when it should.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::record::{NOTHING, Trial};

/// `diagnosis.act_threshold`, as shipped.
pub const BAR: f64 = 0.8;
/// Of the calibration error.
const BINS: usize = 10;

/// A run's figures; 0 to 1 unless said otherwise. Void trials count in `void` only.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Scores {
    /// Of the faults, those whose cause is the answer: first of the ranking, and likelier than unknown.
    pub top1: f64,
    /// Of the faults, those whose cause is among the three.
    pub top3: f64,
    /// Of the faults that one cgroup causes, those where cause *and* cgroup are right.
    pub culprit: f64,
    /// Mean square of (how sure it was of its answer - whether that was right), over all trials.
    pub brier: f64,
    /// Expected calibration error of the same, ten bins of equal width.
    pub ece: f64,
    /// Mean of the classes' F1; `nothing` is a class.
    pub macro_f1: f64,
    /// Of the trials without a fault, those without a conclusive verdict.
    pub abstain_noise: f64,
    /// Of the answers without the decisive evidence, those in which no cause is over the bar.
    pub abstain_no_decisive: f64,
    /// By cause.
    pub by_class: BTreeMap<String, Class>,
    /// Trials that count.
    pub trials: usize,
    /// Trials that do not: the fault did not take hold, or a part of the trial failed.
    pub void: usize,
    /// Kernel releases.
    pub kernel: String,
}

/// One cause's figures.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Class {
    /// Trials that count.
    pub trials: usize,
    /// As in [`Scores`].
    pub top1: f64,
    /// As in [`Scores`].
    pub top3: f64,
    /// As in [`Scores`]; none where no cgroup is to blame.
    pub culprit: Option<f64>,
    /// Of the answers that name it, those that are right.
    pub precision: f64,
    /// Harmonic mean of precision and `top1`.
    pub f1: f64,
    /// Mean posterior of its answers.
    pub sure: f64,
    /// As in [`Scores`]; none where nothing was taken away.
    pub abstain_no_decisive: Option<f64>,
    /// Trials that do not count.
    pub void: usize,
}

/// Truth and answer of every trial that counts; an accepted name counts as the truth's own.
pub fn pairs(trials: &[Trial]) -> Vec<(String, String)> {
    let answered = trials.iter().filter(|trial| trial.void.is_none());
    answered
        .filter_map(|trial| {
            let (first, _) = trial.sighted.as_ref()?.first();
            let said = if trial.accepts(first) {
                trial.truth.clone()
            } else {
                first.to_owned()
            };
            Some((trial.truth.clone(), said))
        })
        .collect()
}

/// Scores trials.
pub fn score(trials: &[Trial]) -> Scores {
    let counted: Vec<&Trial> = trials
        .iter()
        .filter(|trial| trial.void.is_none() && trial.sighted.is_some())
        .collect();
    let faults = || {
        counted
            .iter()
            .copied()
            .filter(|trial| trial.truth != NOTHING)
    };
    let sure: Vec<(f64, bool)> = counted
        .iter()
        .filter_map(|trial| confidence(trial))
        .collect();
    let kernels: BTreeSet<&str> = trials.iter().map(|trial| trial.kernel.as_str()).collect();
    let blind = counted.iter().filter_map(|trial| abstains_blind(trial));
    Scores {
        top1: share(faults().map(is_right)),
        top3: share(faults().map(is_among_three)),
        culprit: share(faults().filter_map(names_culprit)),
        brier: brier(&sure),
        ece: ece(&sure),
        macro_f1: macro_f1(&pairs(trials)),
        abstain_noise: share(
            counted
                .iter()
                .filter(|trial| trial.truth == NOTHING)
                .map(|trial| trial.sighted.as_ref().is_some_and(|said| !said.conclusive)),
        ),
        abstain_no_decisive: share(blind),
        by_class: classes(trials),
        trials: counted.len(),
        void: trials.len() - counted.len(),
        kernel: kernels.into_iter().collect::<Vec<_>>().join(", "),
    }
}

fn classes(trials: &[Trial]) -> BTreeMap<String, Class> {
    let pairs = pairs(trials);
    let names: BTreeSet<&str> = trials.iter().map(|trial| trial.truth.as_str()).collect();
    let of = |name: &str| {
        let all = || trials.iter().filter(|trial| trial.truth == name);
        let ours: Vec<&Trial> = all()
            .filter(|trial| trial.void.is_none() && trial.sighted.is_some())
            .collect();
        let (precision, _, f1) = precision_recall_f1(&pairs, name);
        let culprit: Vec<bool> = ours
            .iter()
            .filter_map(|trial| names_culprit(trial))
            .collect();
        let blind: Vec<bool> = ours
            .iter()
            .filter_map(|trial| abstains_blind(trial))
            .collect();
        let sure: Vec<f64> = ours
            .iter()
            .filter_map(|trial| Some(confidence(trial)?.0))
            .collect();
        Class {
            trials: ours.len(),
            top1: share(ours.iter().map(|trial| is_right(trial))),
            top3: share(ours.iter().map(|trial| is_among_three(trial))),
            culprit: (!culprit.is_empty()).then(|| share(culprit.iter().copied())),
            precision,
            f1,
            sure: crate::round(sure.iter().sum::<f64>() / sure.len().max(1) as f64),
            abstain_no_decisive: (!blind.is_empty()).then(|| share(blind.iter().copied())),
            void: all().count() - ours.len(),
        }
    };
    names
        .into_iter()
        .map(|name| (name.to_owned(), of(name)))
        .collect()
}

fn is_right(trial: &Trial) -> bool {
    let said = trial.sighted.as_ref();
    said.is_some_and(|said| trial.accepts(said.first().0))
}

fn is_among_three(trial: &Trial) -> bool {
    let said = trial.sighted.as_ref();
    said.is_some_and(|said| {
        said.top.iter().any(|named| trial.accepts(&named.id)) || trial.accepts(said.first().0)
    })
}

/// Whether cause and cgroup are right; none where no cgroup is to blame.
fn names_culprit(trial: &Trial) -> Option<bool> {
    let wanted = trial.culprit.as_ref()?;
    let said = trial.sighted.as_ref()?;
    let named = said.top.first().and_then(|named| named.culprit.as_ref());
    Some(is_right(trial) && named == Some(wanted))
}

fn confidence(trial: &Trial) -> Option<(f64, bool)> {
    let (first, sure) = trial.sighted.as_ref()?.first();
    Some((sure, trial.accepts(first)))
}

fn abstains_blind(trial: &Trial) -> Option<bool> {
    let said = trial.blind.as_ref()?;
    Some(!said.conclusive && said.top.iter().all(|named| named.posterior < BAR))
}

/// Share of those that are true; 0 of nothing.
fn share(all: impl Iterator<Item = bool>) -> f64 {
    let (mut right, mut count) = (0.0, 0.0);
    for one in all {
        count += 1.0;
        right += f64::from(u8::from(one));
    }
    if count > 0.0 { right / count } else { 0.0 }
}

/// Mean square error of probabilities that an answer is right (Brier, 1950, of two outcomes: 0 to 1).
pub fn brier(sure: &[(f64, bool)]) -> f64 {
    let errors = sure
        .iter()
        .map(|(p, right)| (p - f64::from(u8::from(*right))).powi(2));
    errors.sum::<f64>() / sure.len().max(1) as f64
}

/// Expected calibration error: the mean distance of confidence and accuracy over `BINS` bins of equal
/// width, weighed by their sizes (Naeini et al., 2015).
pub fn ece(sure: &[(f64, bool)]) -> f64 {
    let mut bins = [(0.0, 0.0); BINS];
    for (p, right) in sure {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a probability times ten"
        )]
        let bin = ((p.clamp(0.0, 1.0) * BINS as f64) as usize).min(BINS - 1);
        bins[bin].0 += p;
        bins[bin].1 += f64::from(u8::from(*right));
    }
    let distance: f64 = bins.iter().map(|(sure, right)| (sure - right).abs()).sum();
    distance / sure.len().max(1) as f64
}

/// Precision, recall and F1 of one class; 0 where they have no value.
fn precision_recall_f1(pairs: &[(String, String)], class: &str) -> (f64, f64, f64) {
    let count = |wanted: &dyn Fn(&str, &str) -> bool| {
        pairs
            .iter()
            .filter(|(truth, said)| wanted(truth, said))
            .count() as f64
    };
    let hits = count(&|truth, said| truth == class && said == class);
    let named = count(&|_, said| said == class);
    let there = count(&|truth, _| truth == class);
    let part = |whole: f64| if whole > 0.0 { hits / whole } else { 0.0 };
    let (precision, recall) = (part(named), part(there));
    let f1 = if hits > 0.0 {
        2.0 * precision * recall / (precision + recall)
    } else {
        0.0
    };
    (precision, recall, f1)
}

/// Mean F1 of all classes that occur as truth.
pub fn macro_f1(pairs: &[(String, String)]) -> f64 {
    let classes: BTreeSet<&str> = pairs.iter().map(|(truth, _)| truth.as_str()).collect();
    let sum: f64 = classes
        .iter()
        .map(|class| precision_recall_f1(pairs, class).2)
        .sum();
    sum / classes.len().max(1) as f64
}

#[cfg(test)]
mod tests;
