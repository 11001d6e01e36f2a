//! The command line of Paramedic.
fn main() {}
