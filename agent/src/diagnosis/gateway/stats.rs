//! Paired statistics: two strategies on the same incidents.

use serde::Serialize;

/// How two strategies did on the same incidents with a known cause.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Paired {
    /// Both right.
    pub both: u64,
    /// Only A right.
    pub only_a: u64,
    /// Only B right.
    pub only_b: u64,
    /// Both wrong.
    pub neither: u64,
}

impl Paired {
    /// Counts one incident.
    pub fn add(&mut self, a_right: bool, b_right: bool) {
        match (a_right, b_right) {
            (true, true) => self.both += 1,
            (true, false) => self.only_a += 1,
            (false, true) => self.only_b += 1,
            (false, false) => self.neither += 1,
        }
    }

    /// Incidents counted.
    pub fn incidents(&self) -> u64 {
        self.both + self.only_a + self.only_b + self.neither
    }

    /// Whether B may take A's place: better, and not by chance (p under 0.05), over at least 30
    /// incidents.
    pub fn promotes_b(&self) -> bool {
        self.incidents() >= 30
            && self.only_b > self.only_a
            && mcnemar(self.only_a, self.only_b) < 0.05
    }
}

/// McNemar's exact test, two-sided: how likely so uneven a split of the disagreements is when both
/// are equally good. 1 without any disagreement. (Binomial with one half; McNemar 1947.)
pub fn mcnemar(only_a: u64, only_b: u64) -> f64 {
    let n = only_a + only_b;
    let fewer = only_a.min(only_b);
    // ln(n choose k) by steps; 2^-n underflows otherwise.
    let half = (n as f64) * std::f64::consts::LN_2;
    let (mut ln_choose, mut sum) = (0.0, 0.0);
    for k in 0..=fewer {
        if k > 0 {
            ln_choose += ((n - k + 1) as f64).ln() - (k as f64).ln();
        }
        sum += (ln_choose - half).exp();
    }
    (2.0 * sum).min(1.0)
}
