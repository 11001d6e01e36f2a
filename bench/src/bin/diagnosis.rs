//! `cargo xtask bench diagnosis|cases|petshop`: parses the options and runs one of them.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use paramedic_bench::{cases, petshop};

#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// How often the cause is named, over case folders
    Cases(cases::Options),
    /// The same over the PetShop dataset
    Petshop(petshop::Options),
}

fn main() -> ExitCode {
    let result = match Cli::parse().what {
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
