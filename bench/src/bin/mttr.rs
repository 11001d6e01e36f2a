//! `cargo xtask bench mttr`: parses the options and runs [`paramedic_bench::mttr`].

use std::process::ExitCode;

use clap::Parser;
use paramedic_bench::mttr::{self, Options};

fn main() -> ExitCode {
    match mttr::run(Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench mttr: {error:#}");
            ExitCode::from(2)
        }
    }
}
