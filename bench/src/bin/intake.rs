//! `cargo xtask bench intake`: parses the options and runs [`paramedic_bench::intake`].

use std::process::ExitCode;

use clap::Parser;
use paramedic_bench::intake::{self, Options};

fn main() -> ExitCode {
    match intake::run(&Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench intake: {error:#}");
            ExitCode::from(2)
        }
    }
}
