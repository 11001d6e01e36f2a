//! `cargo xtask bench journal`: parses the options and runs [`paramedic_bench::journal`].

use std::process::ExitCode;

use clap::Parser;
use paramedic_bench::journal::{self, Options};

fn main() -> ExitCode {
    match journal::run(&Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench journal: {error:#}");
            ExitCode::from(2)
        }
    }
}
