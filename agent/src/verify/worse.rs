//! When a reading is clearly worse than before.

use crate::incident::FeatureTest;

/// A gap must have grown by this factor …
const FACTOR: f64 = 1.5;
/// … and by this share of the test's bound, …
const SHARE: f64 = 0.2;
/// … and by this much at least: ratios near zero jump.
const LEAST: f64 = 0.02;

/// How far a value is from passing, in the reading's unit; 0 when it passes.
pub(super) fn gap(test: &FeatureTest, value: f64) -> f64 {
    let short = test.at_least.map_or(0.0, |bound| (bound - value).max(0.0));
    let over = test.below.map_or(0.0, |bound| (value - bound).max(0.0));
    short.max(over)
}

pub(super) fn clearly(test: &FeatureTest, was: f64, is: f64) -> bool {
    let bound = test.at_least.or(test.below).unwrap_or(0.0).abs();
    let (was, is) = (gap(test, was), gap(test, is));
    is > was * FACTOR && is - was > (SHARE * bound).max(LEAST)
}
