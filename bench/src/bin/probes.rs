//! `cargo xtask bench probes`: parses the options and runs [`paramedic_bench::probes`].

use std::process::ExitCode;

use clap::Parser;
use paramedic_bench::probes::{self, Options};

fn main() -> ExitCode {
    match probes::run(&Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench probes: {error:#}");
            ExitCode::from(2)
        }
    }
}
