//! Benchmarks of Paramedic against its limits and its peers.
