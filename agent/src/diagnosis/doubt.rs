//! How far a posterior may be off because nobody knows likelihoods and priors exactly.
//!
//! A rule's likelihoods are declared as numbers, yet they are guesses, worth as much as so many outcomes
//! looked at: as many as [`STRENGTH`] says of the priors. A probability p known from n outcomes is a Beta
//! variable with np + 1 and n(1 − p) + 1 (Laplace's rule), so the variance of its logarithm is
//! ψ₁(np + 1) − ψ₁(n + 2), with ψ₁ the trigamma function. A posterior's log odds are a sum of such
//! logarithms, so their variances add up, each by the square of its weight (the delta method), and the
//! interval is normal in log odds. This is the error bar of Van Allen, Singh, Greiner and Hooper, "Quantifying
//! the uncertainty of a belief net response: Bayesian error-bars for belief net inference", Artificial
//! Intelligence 172 (2008), applied to naive Bayes.
//!
//! It says nothing of what caps are for: evidence that is lossy, features that are not independent.

use crate::incident::{Hypothesis, Interval};

use super::{history::STRENGTH, rules::Feature};

/// Standard deviations on either side that hold 90 % of a normal distribution.
const NINETY_PERCENT: f64 = 1.644_853_626_951_472_2;

/// Variance in nats² of the weight of one result of a test: held, or not.
pub(super) fn of_feature(feature: &Feature, held: bool) -> f64 {
    let of = |holds: f64| of_logarithm(if held { holds } else { 1.0 - holds });
    of(feature.given_cause) + of(feature.otherwise)
}

/// Variance of the logarithm of a probability.
fn of_logarithm(probability: f64) -> f64 {
    trigamma(STRENGTH * probability + 1.0) - trigamma(STRENGTH + 2.0)
}

/// Variance of the log odds of a share of the priors against all others together.
fn of_prior(share: f64) -> f64 {
    trigamma(STRENGTH * share + 1.0) + trigamma(STRENGTH * (1.0 - share) + 1.0)
}

/// Gives each reported hypothesis its 90 % interval. `evidence` holds the variance of the evidence of each,
/// in nats², `caps` the most that each may be. A rival's doubt counts by the square of its share among
/// what the hypothesis competes with, so that of rivals too improbable to be reported does not matter.
pub(super) fn set_intervals(top: &mut [Hypothesis], evidence: &[f64], caps: &[f64]) {
    for at in 0..top.len() {
        let posterior = top[at].posterior;
        let others = (1.0 - posterior).max(f64::MIN_POSITIVE);
        let rivals: f64 = (0..top.len())
            .filter(|rival| *rival != at)
            .map(|rival| (top[rival].posterior / others).min(1.0).powi(2) * evidence[rival])
            .sum();
        let variance = evidence[at] + of_prior(top[at].prior) + rivals;
        let log_odds = posterior.ln() - (-posterior).ln_1p();
        let reach = NINETY_PERCENT * variance.sqrt();
        let probability = |log_odds: f64| 1.0 / (1.0 + (-log_odds).exp());
        top[at].interval = Some(Interval {
            low: probability(log_odds - reach).min(posterior),
            high: probability(log_odds + reach).max(posterior).min(caps[at]),
        });
    }
}

/// ψ₁(x) for x ≥ 1: by its recurrence up to 10, then by the asymptotic series (Abramowitz and Stegun,
/// 6.4.6 and 6.4.12); off by less than 1e-10.
fn trigamma(x: f64) -> f64 {
    let (mut x, mut sum) = (x, 0.0);
    while x < 10.0 {
        sum += 1.0 / (x * x);
        x += 1.0;
    }
    let square = 1.0 / (x * x);
    let series = 1.0 / 6.0 - square * (1.0 / 30.0 - square * (1.0 / 42.0 - square / 30.0));
    sum + 1.0 / x + square / 2.0 + square / x * series
}

#[cfg(test)]
mod tests;
