//! `cargo xtask bench diagnosis|cases|petshop`: parses the options and runs one of them.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use paramedic_bench::{cases, diagnosis, petshop};

#[global_allocator]
static COUNTING: diagnosis::Counting = diagnosis::Counting;

#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Time and allocations by the number of rules
    Diagnosis(diagnosis::Options),
    /// How often the cause is named, over case folders
    Cases(cases::Options),
    /// The same over the PetShop dataset
    Petshop(petshop::Options),
}

fn main() -> ExitCode {
    let result = match Cli::parse().what {
        What::Diagnosis(options) => diagnosis::run(&options),
        What::Cases(options) => cases::run(&options),
        What::Petshop(options) => petshop::run(&options),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::from(2)
        }
    }
}
