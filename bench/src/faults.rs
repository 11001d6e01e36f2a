//! The fault matrix: every cause of the catalogue that one machine can be given is provoked, and the
//! real agent says what it takes it for.
//!
//! A *trial* ([`trial`]) is one fault of random size in a cgroup of its own beside a noisy neighbour. What
//! is provoked stands in `bench/faults/faults.yaml` ([`catalogue`]); whether it took hold is judged from
//! outside the agent ([`inject`]). A second agent is kept from the decisive evidence and must not be sure.
//! Each trial is a line of JSON as soon as it is over ([`record`]); figures are made of these lines alone
//! ([`score`], [`report`]).

pub mod agent;
pub mod catalogue;
pub mod inject;
pub mod inside;
pub mod kind;
pub mod modules;
pub mod picture;
pub mod record;
pub mod report;
pub mod score;
pub mod trial;
pub mod work;

use clap::{Parser, Subcommand};

/// What to do.
#[derive(Clone, Debug, Parser)]
#[command(name = "bench-faults", max_term_width = 100)]
pub struct Options {
    #[command(subcommand)]
    command: Command,
}

#[derive(Clone, Debug, Subcommand)]
enum Command {
    /// Trials, inside the VM
    Inside(inside::Inside),
    /// Figures of records, on this machine
    Report(report::Report),
    /// Checks the matrix and names of hypotheses; runs nothing
    Check {
        /// Hypotheses
        #[arg(long)]
        only: Vec<String>,
    },
    /// A part of a fault
    #[command(subcommand)]
    Work(work::Work),
}

/// Does it.
///
/// # Errors
/// What could not be started, measured or written.
pub fn run(options: Options) -> anyhow::Result<()> {
    match options.command {
        Command::Inside(inside) => inside.run(),
        Command::Report(report) => report.write(),
        Command::Check { only } => {
            let catalogue = catalogue::Catalogue::load(&catalogue::Catalogue::shipped())?;
            catalogue.chosen(&only).map(drop)
        }
        Command::Work(work) => work.run(),
    }
}
