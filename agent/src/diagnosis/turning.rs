//! What would change its mind: the one feature of the first hypothesis whose other result would move the
//! verdict across the bar.
//!
//! Looked at are features that are missing, partial, or speak against the hypothesis; those that are known
//! and speak for it are what it rests on. All else is taken to stay as it is: where another rule looks at
//! the same reading, that rule's share changes as well, and the new posterior is near what is said here.

use std::f64::consts::LN_2;

use crate::incident::{Quality, Reading};

use super::{
    DiagnosisConfig,
    bayes::{Bits, Support, UNSEEN, count_groups_once, weigh},
    rules::{FEATURES_MAX, Rule, table::Weight},
};

/// The first hypothesis and what is known of its features.
pub(super) struct First<'a> {
    pub(super) rule: &'a Rule,
    pub(super) weights: &'a [Weight],
    /// In the rule's order.
    pub(super) readings: &'a [Option<Reading>],
    /// Before any cap.
    pub(super) posterior: f64,
    /// Likewise, of all others, "none of the known causes" among them. One minus the posterior would be 0
    /// where it is not.
    pub(super) rest: f64,
    /// Likewise, of "none of the known causes" alone.
    pub(super) unknown: f64,
    /// Whether it needs a culprit and has none.
    pub(super) lacks_culprit: bool,
}

/// A feature as it is or might be.
#[derive(Clone, Copy)]
struct Seen {
    held: bool,
    quality: Quality,
}

/// What the hypothesis would be with one feature otherwise.
struct Otherwise {
    at: usize,
    held: bool,
    posterior: f64,
}

type Results = [Option<Seen>; FEATURES_MAX];

/// A sentence for people; `None` where no single feature would do.
pub(super) fn sentence(
    first: &First<'_>,
    conclusive: bool,
    config: &DiagnosisConfig,
) -> Option<String> {
    let found = find(first, conclusive, config)?;
    let test = &first.rule.features[found.at].test;
    let (wanted, now) = match first.readings[found.at] {
        None => (outcome(found.held), "is missing".to_owned()),
        Some(Reading {
            value,
            quality: Quality::Partial,
        }) => {
            let same = test.holds(value) == found.held;
            let wanted = if same {
                "were known completely"
            } else {
                outcome(found.held)
            };
            (wanted, format!("is partial, {value:.3}"))
        }
        Some(Reading { value, .. }) => (outcome(found.held), format!("is {value:.3}")),
    };
    let verdict = if conclusive {
        "inconclusive"
    } else {
        "conclusive"
    };
    let percent = found.posterior * 100.0;
    Some(format!(
        "would be {verdict}, at {percent:.0} %, if {test} {wanted}; it {now}"
    ))
}

fn outcome(held: bool) -> &'static str {
    if held { "held" } else { "did not hold" }
}

/// Of all changes that would do, the one that moves the posterior most; of a missing, a partial and a known
/// feature rather the missing one: looking is easier than mending.
fn find(first: &First<'_>, conclusive: bool, config: &DiagnosisConfig) -> Option<Otherwise> {
    let mut results: Results = [None; FEATURES_MAX];
    let known = first.readings.iter().zip(&first.rule.features);
    for (result, (reading, feature)) in results.iter_mut().zip(known) {
        *result = reading.map(|reading| Seen {
            held: feature.test.holds(reading.value),
            quality: reading.quality,
        });
    }
    let mut best: Option<(u8, f64, Otherwise)> = None;
    for at in 0..first.readings.len().min(first.weights.len()) {
        let is = results[at];
        let ease = match is {
            None => 0,
            Some(Seen {
                quality: Quality::Partial,
                ..
            }) => 1,
            Some(_) => 2,
        };
        for held in [true, false] {
            let speaks_for = first.weights[at].bits_if(held) > 0.0;
            let stays = is.is_some_and(|is| is.held == held && is.quality == Quality::Good);
            let rests_on_it = is.is_some_and(|is| is.held != held && !speaks_for);
            if stays || rests_on_it {
                continue;
            }
            let mut changed = results;
            changed[at] = Some(Seen {
                held,
                quality: Quality::Good,
            });
            let moved = score(first, &changed, config).0 - score(first, &results, config).0;
            let (posterior, would_be) = judge(first, moved, &changed, config);
            if would_be == conclusive {
                continue;
            }
            let moved = moved.abs();
            let better = best.as_ref().is_none_or(|(easiest, most, _)| {
                ease < *easiest || (ease == *easiest && moved > *most)
            });
            if better {
                let otherwise = Otherwise {
                    at,
                    held,
                    posterior,
                };
                best = Some((ease, moved, otherwise));
            }
        }
    }
    best.map(|(_, _, otherwise)| otherwise)
}

/// Posterior and verdict if the features were as in `changed`, which moves the log odds by `moved` nats.
fn judge(
    first: &First<'_>,
    moved: f64,
    changed: &Results,
    config: &DiagnosisConfig,
) -> (f64, bool) {
    let odds = moved.exp();
    let sum = first.posterior * odds + first.rest;
    let (uncapped, unknown) = (first.posterior * odds / sum, first.unknown / sum);
    let (_, support) = score(first, changed, config);
    let posterior = uncapped.min(support.cap(config).0);
    let unknown = unknown + uncapped - posterior;
    let is_whole = |result: &Seen| {
        result.held && (result.quality == Quality::Good || config.decisive_may_be_partial)
    };
    let mut decisive = first
        .weights
        .iter()
        .zip(changed)
        .filter(|(weight, _)| weight.decisive);
    let conclusive = unknown < posterior
        && decisive.all(|(_, result)| result.as_ref().is_some_and(is_whole))
        && !first.lacks_culprit
        && posterior >= config.act_threshold;
    (posterior, conclusive)
}

/// What the features say, in nats without the prior, and what that rests on.
fn score(first: &First<'_>, results: &Results, config: &DiagnosisConfig) -> (f64, Support) {
    let mut bits: Bits = [0.0; FEATURES_MAX];
    let (mut seen, mut wanting) = (false, false);
    for (at, (weight, result)) in first.weights.iter().zip(results).enumerate() {
        wanting |= Support::is_wanting(weight, result.map(|seen| seen.quality), config);
        if let Some(Seen { held, quality }) = result {
            bits[at] = weigh(weight.bits_if(*held), *quality, config);
            seen |= weight.decisive;
        }
    }
    count_groups_once(first.weights, &mut bits, |_| {});
    let mut known = first.weights.iter().zip(results).zip(bits);
    let partial = known.any(|((weight, result), bits)| {
        let is_partial = result.is_some_and(|is| is.quality == Quality::Partial);
        is_partial && (bits > 0.0 || weight.decisive)
    });
    let sum: f64 = bits.iter().sum();
    let support = Support { partial, wanting };
    (sum * LN_2 + if seen { 0.0 } else { UNSEEN.ln() }, support)
}
