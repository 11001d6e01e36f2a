//! Benchmarks of Paramedic against its limits and its peers.

pub mod cases;
pub mod diagnosis;
pub mod faults;
pub mod intake;
pub mod journal;
pub mod mttr;
pub mod petshop;
pub mod probes;

pub(crate) use paramedic_parts::figures::median;

/// To thousandths: three decimals are more than the machine's noise leaves.
pub(crate) fn round(value: f64) -> f64 {
    (value * 1e3).round() / 1e3
}
