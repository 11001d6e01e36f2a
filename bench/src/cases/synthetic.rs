//! Made-up incidents: a random system of services, a fault that spreads along its calls, and all that
//! makes real data hard. What a method is tuned by must not be what it is judged by: here every fault
//! is at another place.

mod shape;
mod world;

use paramedic::diagnosis::causal::Case;

use shape::Shape;
use world::World;

/// A made-up incident.
pub struct Made {
    /// Which difficulty.
    pub scenario: &'static str,
    /// The case, with its truth.
    pub case: Case,
}

/// The difficulties, each the only change to an ordinary case.
pub const SCENARIOS: [(&str, Shape); 11] = [
    ("plain", Shape::PLAIN),
    (
        "short",
        Shape {
            short: true,
            ..Shape::PLAIN
        },
    ),
    (
        "no_baseline",
        Shape {
            baseline: false,
            ..Shape::PLAIN
        },
    ),
    (
        "no_topology",
        Shape {
            topology: false,
            ..Shape::PLAIN
        },
    ),
    (
        "cycle",
        Shape {
            cycle: true,
            ..Shape::PLAIN
        },
    ),
    (
        "missing",
        Shape {
            missing: true,
            ..Shape::PLAIN
        },
    ),
    (
        "other_names",
        Shape {
            names: shape::Names::Other,
            ..Shape::PLAIN
        },
    ),
    (
        "counters",
        Shape {
            names: shape::Names::Counters,
            ..Shape::PLAIN
        },
    ),
    (
        "percentiles",
        Shape {
            names: shape::Names::Percentiles,
            ..Shape::PLAIN
        },
    ),
    (
        "no_traffic",
        Shape {
            traffic: false,
            ..Shape::PLAIN
        },
    ),
    (
        "late_alert",
        Shape {
            late_alert: true,
            ..Shape::PLAIN
        },
    ),
];

/// The case of a seed: the difficulties take turns.
pub fn case(seed: u64) -> Made {
    let at = usize::try_from(seed % SCENARIOS.len() as u64).unwrap_or(0);
    let (scenario, shape) = &SCENARIOS[at];
    Made {
        scenario,
        case: of_shape(seed, shape),
    }
}

/// A case of a seed in a given shape.
pub fn of_shape(seed: u64, shape: &Shape) -> Case {
    let world = World::new(seed, shape.cycle);
    shape.case(&world, seed)
}

/// SplitMix64: the same numbers everywhere.
#[derive(Clone, Debug)]
pub(crate) struct Rng(u64);

impl Rng {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x5851_f42d_4c95_7f2d)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// 0 to 1, 1 left out.
    pub(crate) fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    pub(crate) fn within(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * self.unit()
    }

    /// 0 to `n`, `n` left out.
    pub(crate) fn below(&mut self, n: usize) -> usize {
        usize::try_from(self.next() % n.max(1) as u64).unwrap_or(0)
    }

    /// Standard normal (Box-Muller).
    pub(crate) fn normal(&mut self) -> f64 {
        let (a, b) = (1.0 - self.unit(), self.unit());
        (-2.0 * a.ln()).sqrt() * (std::f64::consts::TAU * b).cos()
    }

    /// A number of events: Poisson, by its normal approximation above 30.
    pub(crate) fn events(&mut self, mean: f64) -> f64 {
        if mean > 30.0 {
            return (mean + mean.sqrt() * self.normal()).round().max(0.0);
        }
        let (bar, mut product, mut count) = ((-mean).exp(), self.unit(), 0.0);
        while product > bar {
            product *= self.unit();
            count += 1.0;
        }
        count
    }
}

#[cfg(test)]
mod tests;
