//! Benchmarks of Paramedic against its limits and its peers.

pub mod journal;
pub mod probes;
