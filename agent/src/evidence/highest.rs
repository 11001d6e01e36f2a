//! The highest of several values, of which some or all may not be known.

/// Raises `highest` to `value`, if that is known and higher.
pub(super) fn raise(highest: &mut Option<f64>, value: Option<f64>) {
    *highest = match (*highest, value) {
        (Some(highest), Some(value)) => Some(highest.max(value)),
        (highest, value) => highest.or(value),
    };
}
