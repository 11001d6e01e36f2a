//! Benchmarks of Paramedic against its limits and its peers.

pub mod cases;
pub mod diagnosis;
pub mod faults;
pub mod intake;
pub mod journal;
pub mod mttr;
pub mod petshop;
pub mod probes;

/// Median; 0 of nothing.
pub(crate) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => 0.0,
        n if n % 2 == 1 => sorted[n / 2],
        n => f64::midpoint(sorted[n / 2 - 1], sorted[n / 2]),
    }
}

/// To thousandths: three decimals are more than the machine's noise leaves.
pub(crate) fn round(value: f64) -> f64 {
    (value * 1e3).round() / 1e3
}
