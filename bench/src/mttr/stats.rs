//! Quantiles, intervals and tests over few, noisy repetitions. Pure.

use paramedic_parts::chance::Rng;

/// Resamples of a bootstrap, shuffles of a permutation test.
const DRAWS: usize = 4000;

/// The quantile by linear interpolation between order statistics (Hyndman and Fan's type 7); 0 of
/// nothing.
pub fn quantile(values: &[f64], q: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let Some(last) = sorted.len().checked_sub(1) else {
        return 0.0;
    };
    let place = q.clamp(0.0, 1.0) * last as f64;
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "an index within the slice"
    )]
    let below = place.floor() as usize;
    let above = (below + 1).min(last);
    sorted[below] + (sorted[above] - sorted[below]) * (place - below as f64)
}

/// Median.
pub fn median(values: &[f64]) -> f64 {
    quantile(values, 0.5)
}

/// A percentile bootstrap interval of 95 % of `statistic` over the values; `None` of fewer than two.
/// The same seed gives the same interval.
pub fn interval(
    values: &[f64],
    seed: u64,
    statistic: impl Fn(&[f64]) -> f64,
) -> Option<(f64, f64)> {
    if values.len() < 2 {
        return None;
    }
    let mut rng = Rng(seed);
    let mut drawn = vec![0.0; values.len()];
    let found: Vec<f64> = (0..DRAWS)
        .map(|_| {
            for place in &mut drawn {
                *place = pick(values, &mut rng);
            }
            statistic(&drawn)
        })
        .collect();
    Some((quantile(&found, 0.025), quantile(&found, 0.975)))
}

fn pick(values: &[f64], rng: &mut Rng) -> f64 {
    let at = rng.below(values.len() as u64);
    usize::try_from(at)
        .ok()
        .and_then(|at| values.get(at))
        .copied()
        .unwrap_or_default()
}

/// How often chance alone makes the new values of the strata as much larger than the base ones, on
/// average of the logarithms: a one-sided permutation test, labels shuffled within each stratum only.
/// 1 where there is nothing to compare.
pub fn worse_by_chance(strata: &[(Vec<f64>, Vec<f64>)], seed: u64) -> f64 {
    let logs =
        |values: &[f64]| -> Vec<f64> { values.iter().map(|value| value.max(1e-3).ln()).collect() };
    let strata: Vec<(Vec<f64>, usize)> = strata
        .iter()
        .filter(|(base, new)| !base.is_empty() && !new.is_empty())
        .map(|(base, new)| ([logs(base), logs(new)].concat(), base.len()))
        .collect();
    if strata.is_empty() {
        return 1.0;
    }
    let difference = |all: &[f64], base: usize| mean(&all[base..]) - mean(&all[..base]);
    let observed: f64 = strata
        .iter()
        .map(|(all, base)| difference(all, *base))
        .sum();
    let mut rng = Rng(seed);
    let mut shuffled = strata.clone();
    let as_large = (0..DRAWS)
        .filter(|_| {
            let sum: f64 = shuffled
                .iter_mut()
                .map(|(all, base)| {
                    shuffle(all, &mut rng);
                    difference(all, *base)
                })
                .sum();
            sum >= observed - 1e-12
        })
        .count();
    // The observed labelling is one of the possible ones.
    (as_large + 1) as f64 / (DRAWS + 1) as f64
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}

/// Fisher and Yates.
pub fn shuffle<T>(values: &mut [T], rng: &mut Rng) {
    for last in (1..values.len()).rev() {
        let other = usize::try_from(rng.below(last as u64 + 1)).unwrap_or(0);
        values.swap(last, other);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_those_of_the_field() {
        let values = [4.0, 1.0, 3.0, 2.0];
        assert!((median(&values) - 2.5).abs() < 1e-12);
        assert!((quantile(&values, 0.95) - 3.85).abs() < 1e-12);
        assert!((quantile(&values, 1.0) - 4.0).abs() < 1e-12);
        assert!(quantile(&[], 0.5).abs() < 1e-12);
    }

    #[test]
    fn an_interval_holds_the_median_and_shrinks_with_more() {
        let few = [3.0, 4.0, 5.0];
        let many: Vec<f64> = few.iter().cycle().take(60).copied().collect();
        let (low, high) = interval(&few, 7, median).unwrap();
        assert!(low <= 4.0 && 4.0 <= high);
        let (closer_low, closer_high) = interval(&many, 7, median).unwrap();
        assert!(closer_high - closer_low <= high - low);
        assert_eq!(interval(&few, 7, median), interval(&few, 7, median));
        assert_eq!(interval(&[1.0], 7, median), None);
    }

    #[test]
    fn noise_is_no_regression_and_twice_as_slow_is_one() {
        let base = vec![3.0, 3.3, 2.9];
        let same = vec![3.1, 2.95, 3.2];
        let slow = vec![6.0, 6.3, 6.1];
        let of = |new: &Vec<f64>| {
            let strata = [(base.clone(), new.clone()), (base.clone(), new.clone())];
            worse_by_chance(&strata, 1)
        };
        assert!(of(&same) > 0.2, "{}", of(&same));
        assert!(of(&slow) < 0.01, "{}", of(&slow));
        assert!((worse_by_chance(&[], 1) - 1.0).abs() < 1e-12);
    }
}
