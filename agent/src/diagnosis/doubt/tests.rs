use std::f64::consts::PI;

use super::{super::tests::hypothesis, *};
use crate::incident::FeatureTest;

/// [`STRENGTH`], to count by.
const OUTCOMES: u32 = 60;

/// Numbers within 0 and 1, the same in every run (xorshift64*, Vigna 2016).
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> f64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let bits = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11;
        (bits as f64 + 0.5) / (1_u64 << 53) as f64
    }

    /// A draw from the Beta distribution of a probability known from `OUTCOMES` outcomes, of which `seen`
    /// had it: the `seen + 1`-th smallest of `OUTCOMES + 1` uniform numbers.
    fn probability(&mut self, seen: usize) -> f64 {
        let mut draws: Vec<f64> = (0..=OUTCOMES).map(|_| self.next()).collect();
        draws.sort_by(f64::total_cmp);
        draws[seen]
    }
}

fn feature(given_cause: f64, otherwise: f64) -> Feature {
    Feature {
        id: "f".to_owned(),
        test: FeatureTest {
            reading: "host.cpu.busy".to_owned(),
            at_least: Some(1.0),
            below: None,
        },
        given_cause,
        otherwise,
        decisive: false,
        group: None,
        says: String::new(),
    }
}

#[test]
fn trigamma_is_what_it_is_at_known_places() {
    // Of one, and by its recurrence of two and of eleven.
    let of_one = PI * PI / 6.0;
    let below_eleven: f64 = (1..=10).map(|n| 1.0 / f64::from(n * n)).sum();
    for (x, known) in [
        (1.0, of_one),
        (2.0, of_one - 1.0),
        (11.0, of_one - below_eleven),
    ] {
        assert!((trigamma(x) - known).abs() < 1e-10, "{x}");
    }
    // Of one and a half: pi squared over two, less four.
    assert!((trigamma(1.5) - (PI * PI / 2.0 - 4.0)).abs() < 1e-10);
}

/// The interval beside what really happens to a posterior when likelihoods and prior are drawn from the
/// distributions that the interval stands for.
#[test]
fn nine_of_ten_draws_fall_into_the_interval() {
    // (outcomes of STRENGTH with it given the cause, otherwise, held)
    let features = [(54, 6, true), (48, 12, true), (57, 30, false)];
    let (prior, draws) = (15_usize, 20_000);
    assert!((f64::from(OUTCOMES) - STRENGTH).abs() < f64::EPSILON);
    let share = |seen: usize| seen as f64 / STRENGTH;
    let odds = |p: f64| p / (1.0 - p);
    let mut declared = odds(share(prior));
    let mut variance = 0.0;
    for (cause, otherwise, held) in features {
        let (cause, otherwise) = (share(cause), share(otherwise));
        declared *= if held {
            cause / otherwise
        } else {
            (1.0 - cause) / (1.0 - otherwise)
        };
        variance += of_feature(&feature(cause, otherwise), held);
    }
    let posterior = declared / (1.0 + declared);
    let mut top = [hypothesis("a", posterior, share(prior))];
    set_intervals(&mut top, &[variance], &[1.0]);
    let Interval { low, high } = top[0].interval.unwrap();

    let mut chance = Chance(0x9e37_79b9_7f4a_7c15);
    let mut within = 0;
    for _ in 0..draws {
        let mut there = odds(chance.probability(prior));
        for (cause, otherwise, held) in features {
            let (cause, otherwise) = (chance.probability(cause), chance.probability(otherwise));
            there *= if held {
                cause / otherwise
            } else {
                (1.0 - cause) / (1.0 - otherwise)
            };
        }
        let there = there / (1.0 + there);
        within += u32::from((low..=high).contains(&there));
    }
    let part = f64::from(within) / f64::from(draws);
    assert!(
        (0.87..=0.93).contains(&part),
        "{part} within {low} to {high}"
    );
}

#[test]
fn intervals_hold_their_posterior_widen_with_doubt_and_stop_at_the_cap() {
    let width = |top: &Hypothesis| {
        let Interval { low, high } = top.interval.unwrap();
        assert!(low <= top.posterior && top.posterior <= high && high <= 0.99);
        high - low
    };
    let of = |variance: f64| {
        let mut top = [hypothesis("a", 0.6, 0.1), hypothesis("b", 0.3, 0.1)];
        set_intervals(&mut top, &[variance, 0.0], &[0.99; 2]);
        width(&top[0])
    };
    assert!(of(0.0) > 0.0, "the prior alone");
    assert!(of(0.5) > of(0.1));
    // A rival's doubt is one's own.
    let rival = |variance: f64| {
        let mut top = [hypothesis("a", 0.6, 0.1), hypothesis("b", 0.3, 0.1)];
        set_intervals(&mut top, &[0.1, variance], &[0.99; 2]);
        width(&top[0])
    };
    assert!(rival(2.0) > rival(0.1));
    for posterior in [0.0, f64::MIN_POSITIVE, 0.5, 0.99] {
        let mut top = [hypothesis("a", posterior, 0.1)];
        set_intervals(&mut top, &[1.0], &[0.99]);
        width(&top[0]);
    }
    // What is almost certain is guessed, as far as declared: doubt stays finite.
    assert!(of_feature(&feature(0.999, 0.001), false) < 4.0);
}
