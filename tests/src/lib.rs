//! What starts the real parts, under the name that the tests of this package use.

pub use paramedic_parts::*;
