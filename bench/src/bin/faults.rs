//! `cargo xtask bench faults`: parses the options and runs [`paramedic_bench::faults`].

use std::process::ExitCode;

use clap::Parser;
use paramedic_bench::faults::{self, Options};

fn main() -> ExitCode {
    match faults::run(Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench faults: {error:#}");
            ExitCode::from(2)
        }
    }
}
