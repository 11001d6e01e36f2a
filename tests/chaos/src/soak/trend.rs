//! Whether a series goes up: the Mann-Kendall test with Theil and Sen's slope. Neither asks for a normal
//! distribution, and one odd sample changes nothing. Pure.
//!
//! Samples of memory follow one another closely, which makes the test believe too much; so medians of
//! blocks are tested, not samples (30 blocks: Hamed and Rao's correction of what is left is small then).

use paramedic_parts::figures::median;

/// Blocks that are tested.
const BLOCKS: usize = 30;
/// One-sided level at which a rise counts as one.
const LEVEL: f64 = 0.01;

/// What a series does.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Trend {
    /// Of all samples.
    pub median: f64,
    /// Theil and Sen's, a sample.
    pub slope: f64,
    /// Upper end of its 95 % interval (one-sided), a sample.
    pub slope_max: f64,
    /// How often chance alone rises as much (one-sided).
    pub p_up: f64,
}

impl Trend {
    /// Whether the rise is no chance.
    pub fn is_up(&self) -> bool {
        self.p_up < LEVEL
    }
}

/// Looks at a series of evenly spaced samples.
pub fn trend(values: &[f64]) -> Trend {
    let block = values.len().div_ceil(BLOCKS).max(1);
    let blocks: Vec<f64> = values.chunks(block).map(median).collect();
    let n = blocks.len();
    let mut slopes = Vec::new();
    let mut s = 0.0;
    for (i, early) in blocks.iter().enumerate() {
        for (j, late) in blocks.iter().enumerate().skip(i + 1) {
            let rise = late - early;
            s += if rise == 0.0 { 0.0 } else { rise.signum() };
            slopes.push(rise / ((j - i) * block) as f64);
        }
    }
    slopes.sort_by(f64::total_cmp);
    let variance = variance(&blocks);
    // Continuity correction: S moves by two.
    let z = if variance == 0.0 || s == 0.0 {
        0.0
    } else {
        (s - s.signum()) / variance.sqrt()
    };
    // Sen's interval: the slope whose rank is the middle plus half of 1.645 standard deviations of S.
    let rank = f64::midpoint(slopes.len() as f64, 1.645 * variance.sqrt());
    let beyond = slopes
        .iter()
        .enumerate()
        .skip_while(|(at, _)| (*at as f64) < rank);
    let highest = beyond.map(|(_, slope)| *slope).next();
    Trend {
        median: median(values),
        slope: median(&slopes),
        slope_max: highest.or(slopes.last().copied()).unwrap_or(0.0),
        p_up: if n < 4 { 1.0 } else { upper_tail(z) },
    }
}

/// Of S under no trend, ties counted.
fn variance(values: &[f64]) -> f64 {
    let term = |n: f64| n * (n - 1.0) * (2.0 * n + 5.0);
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let ties: f64 = sorted
        .chunk_by(|a, b| a.total_cmp(b).is_eq())
        .map(|tied| term(tied.len() as f64))
        .sum();
    (term(values.len() as f64) - ties) / 18.0
}

/// Of the standard normal distribution beyond `z` (Abramowitz and Stegun, 26.2.17; within 1e-7).
fn upper_tail(z: f64) -> f64 {
    let t = 1.0 / (1.0 + 0.231_641_9 * z.abs());
    let density = (-z * z / 2.0).exp() / (2.0 * std::f64::consts::PI).sqrt();
    let weights = [
        0.319_381_530,
        -0.356_563_782,
        1.781_477_937,
        -1.821_255_978,
        1.330_274_429,
    ];
    let series = weights.iter().rev().fold(0.0, |sum, w| (sum + w) * t);
    let tail = density * series;
    if z >= 0.0 { tail } else { 1.0 - tail }
}

#[cfg(test)]
mod tests {
    use paramedic_parts::chance::Rng;

    use super::{trend, upper_tail};

    /// Noise of a few units, with one sample in twenty far off.
    fn noisy(seed: u64, slope: f64) -> Vec<f64> {
        let mut rng = Rng(seed);
        (0..180)
            .map(|n| {
                let noise = rng.below(100) as f64 / 25.0;
                let odd = if rng.below(20) == 0 { 50.0 } else { 0.0 };
                100.0 + slope * f64::from(n) + noise + odd
            })
            .collect()
    }

    #[test]
    fn a_slow_leak_is_seen_and_noise_is_not() {
        let seen = (0..50).filter(|seed| trend(&noisy(*seed, 0.02)).is_up());
        assert!(seen.count() >= 48);
        let imagined = (0..200).filter(|seed| trend(&noisy(*seed, 0.0)).is_up());
        assert!(imagined.count() <= 6);
        let falling = (0..50).filter(|seed| trend(&noisy(*seed, -0.02)).is_up());
        assert_eq!(falling.count(), 0);
    }

    #[test]
    fn its_slope_is_the_slope() {
        let found = trend(&noisy(1, 0.5));
        assert!((found.slope - 0.5).abs() < 0.02, "{found:?}");
        assert!(found.slope_max > found.slope, "{found:?}");
    }

    #[test]
    fn a_level_series_and_a_step_down_are_steady() {
        assert!(!trend(&[7.0; 180]).is_up());
        let step: Vec<f64> = (0..180).map(|n| if n < 90 { 9.0 } else { 7.0 }).collect();
        assert!(!trend(&step).is_up());
        assert!(!trend(&[]).is_up());
    }

    #[test]
    fn the_tail_is_the_normal_one() {
        for (z, tail) in [(0.0, 0.5), (1.645, 0.05), (2.326, 0.01), (-1.645, 0.95)] {
            assert!((upper_tail(z) - tail).abs() < 1e-3, "{z}");
        }
    }
}
