//! What a series did: its usual value before the alert, how far from it it is now, and where it
//! changed. Robust throughout: one outlier in the baseline must not hide a fault. Pure.

use crate::incident::SeriesStats;

/// A normal distribution's standard deviation over its median absolute deviation.
const MAD_TO_SIGMA: f64 = 1.4826;
/// Beyond this a score says no more than "far".
const Z_MAX: f64 = 1000.0;
/// Fewer baseline points than this have no usual value.
const BASELINE_MIN: usize = 5;
/// Fewer points than this have no change point.
const POINTS_MIN: usize = 12;
/// Critical value of the supremum of a Brownian bridge at 1 %: Kolmogorov's 1.63.
const CHANGE_MIN: f64 = 1.63;

/// Statistics of a series whose first `baseline` grid points lie before the alert. `None` where there
/// are too few of them.
pub(super) fn of(values: &[Option<f64>], baseline: usize) -> Option<SeriesStats> {
    let mut before: Vec<f64> = values.iter().take(baseline).flatten().copied().collect();
    if before.len() < BASELINE_MIN {
        return None;
    }
    let usual = median(&mut before)?;
    let mut deviations: Vec<f64> = before.iter().map(|value| (value - usual).abs()).collect();
    let mad = median(&mut deviations)?;
    let last = values.iter().rev().find_map(|value| *value)?;
    Some(SeriesStats {
        median: usual,
        mad,
        robust_z: z(last, usual, mad),
        changed_at: change_point(values),
    })
}

/// (value - median) / (1.4826 MAD), as Iglewicz and Hoaglin (1993) score outliers.
fn z(value: f64, usual: f64, mad: f64) -> f64 {
    let off = value - usual;
    // A constant baseline: any difference that is more than rounding is far.
    let scale = (MAD_TO_SIGMA * mad).max(usual.abs() * 1e-9);
    if off == 0.0 {
        0.0
    } else {
        (off / scale).clamp(-Z_MAX, Z_MAX)
    }
}

/// The grid point at which the level changed most: the maximum of the cumulative sum of deviations
/// from the mean, if it is more than chance. The noise is judged by successive differences, which a
/// step does not inflate.
fn change_point(values: &[Option<f64>]) -> Option<usize> {
    let points: Vec<(usize, f64)> = values
        .iter()
        .enumerate()
        .filter_map(|(at, value)| Some((at, (*value)?)))
        .collect();
    if points.len() < POINTS_MIN {
        return None;
    }
    let points = tamed(points)?;
    let n = points.len() as f64;
    let mean = points.iter().map(|(_, value)| value).sum::<f64>() / n;
    let mut steps: Vec<f64> = points
        .windows(2)
        .map(|pair| (pair[1].1 - pair[0].1).abs())
        .collect();
    // Of differences of two, hence the root of two.
    let sigma = median(&mut steps)? * MAD_TO_SIGMA / std::f64::consts::SQRT_2;
    let spread = points.iter().map(|(_, v)| (v - mean).abs()).sum::<f64>() / n;
    let sigma = sigma.max(spread * 1e-3);
    if sigma <= 0.0 || !sigma.is_finite() {
        return None;
    }
    let mut sum = 0.0;
    let mut most = (0.0, 0);
    for (at, (_, value)) in points.iter().enumerate() {
        sum += value - mean;
        if sum.abs() > most.0 {
            most = (sum.abs(), at + 1);
        }
    }
    let change = points.get(most.1)?.0;
    (most.0 / (sigma * n.sqrt()) >= CHANGE_MIN).then_some(change)
}

/// Outliers pulled in to where a change of level is still seen, and a single point is not one.
fn tamed(mut points: Vec<(usize, f64)>) -> Option<Vec<(usize, f64)>> {
    let mut values: Vec<f64> = points.iter().map(|(_, value)| *value).collect();
    let middle = median(&mut values)?;
    let mut off: Vec<f64> = values.iter().map(|value| (value - middle).abs()).collect();
    let far = 5.0 * MAD_TO_SIGMA * median(&mut off)?;
    if far > 0.0 && far.is_finite() {
        for (_, value) in &mut points {
            *value = value.clamp(middle - far, middle + far);
        }
    }
    Some(points)
}

/// Median; `None` of nothing.
fn median(values: &mut [f64]) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => None,
        n if n % 2 == 1 => Some(values[n / 2]),
        n => Some(f64::midpoint(values[n / 2 - 1], values[n / 2])),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Noise without chance, of mean 0 and about 1 high.
    fn noise(n: usize) -> impl Iterator<Item = f64> {
        (0..n).map(|at| ((at * 7919 + 13) % 101) as f64 / 50.0 - 1.0)
    }

    #[test]
    fn a_step_is_found_where_it_is_and_scored() {
        let values: Vec<_> = noise(60)
            .enumerate()
            .map(|(at, noise)| Some(if at < 40 { 10.0 } else { 20.0 } + noise))
            .collect();
        let stats = of(&values, 40).unwrap();
        assert!((9.5..10.5).contains(&stats.median), "{stats:?}");
        assert!((0.3..0.8).contains(&stats.mad), "{stats:?}");
        assert!(stats.robust_z > 8.0, "{stats:?}");
        assert_eq!(stats.changed_at, Some(40));
    }

    #[test]
    fn noise_has_no_change_and_one_outlier_is_none_either() {
        let mut values: Vec<_> = noise(60).map(Some).collect();
        assert_eq!(of(&values, 40).unwrap().changed_at, None);
        values[10] = Some(15.0);
        let stats = of(&values, 40).unwrap();
        assert_eq!(stats.changed_at, None, "{stats:?}");
        assert!(stats.robust_z.abs() < 3.0, "{stats:?}");
    }

    #[test]
    fn a_constant_baseline_makes_any_difference_far_and_gaps_are_no_zeros() {
        let mut values = vec![Some(3.0); 30];
        assert!(of(&values, 20).unwrap().robust_z.abs() < f64::EPSILON);
        values[29] = Some(4.0);
        assert!((of(&values, 20).unwrap().robust_z - Z_MAX).abs() < f64::EPSILON);
        values[29] = None;
        assert!(of(&values, 20).unwrap().robust_z.abs() < f64::EPSILON);
        assert_eq!(of(&values, 4), None);
        assert_eq!(of(&[None; 30], 20), None);
    }

    proptest! {
        #[test]
        fn nothing_finite_gives_anything_that_is_not(
            values in proptest::collection::vec(proptest::option::of(-1e300f64..1e300), 0..80),
            baseline in 0usize..90,
        ) {
            if let Some(stats) = of(&values, baseline) {
                prop_assert!(!stats.robust_z.is_nan() && stats.robust_z.abs() <= Z_MAX);
                prop_assert!(stats.changed_at.is_none_or(|at| at < values.len()));
            }
        }
    }
}
