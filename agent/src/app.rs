//! The only wiring: what connects the stages without belonging to any.

pub mod gate;
