//! `cargo xtask …`: one enum of commands, a module each.
fn main() {}
