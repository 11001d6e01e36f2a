//! Kills the agent, its guardian, or both, before every single call by which an action changes anything
//! (a cgroup's file, a lease, the journal), and checks what is left once somebody has come back.
//!
//! - `sweep`: many crash points over all reversible actions, several at once; prints a line an action;
//! - `neighbour`: the latency of somebody beside hostile commands in the sandbox;
//! - `life`: one life of an agent: the real pipeline, ledger, guardian and cgroups, with evidence that
//!   always, or never, shows recovery;
//! - `guardian`: what the agent starts.
//!
//! The product has no hooks for it. Each life puts a seccomp filter on itself that reports such calls to
//! the sweep before they are carried out (`seccomp_unotify`), so that a crash point is a place between
//! two calls, is the same every time, and needs no waiting. Runs in the VM.
//!
//! Exit codes: 0 all well, 1 something in between, left over or done twice, 2 the test itself failed.

mod case;
mod check;
mod choose;
mod life;
mod neighbour;
mod sweep;
mod target;
mod watch;

use std::{path::PathBuf, process::ExitCode, time::Duration};

use clap::{Parser, Subcommand};

#[derive(Debug, Parser)]
#[command(name = "remedy-crash")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Crash points over all reversible actions
    Sweep(sweep::Sweep),
    /// What a neighbour feels of hostile commands in the sandbox
    Neighbour,
    /// The neighbour itself
    #[command(hide = true)]
    Requests(neighbour::Requests),
    /// One life of an agent
    #[command(hide = true)]
    Life(life::Life),
    /// The guardian, as the agent starts it
    #[command(hide = true)]
    Guardian {
        #[arg(long)]
        dir: PathBuf,
        #[arg(long)]
        grace_s: u64,
    },
}

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Sweep(sweep) => sweep.run(),
        Command::Neighbour => neighbour::run(),
        Command::Requests(requests) => requests.run().map(|()| true),
        Command::Life(life) => life.run().map(|()| true),
        Command::Guardian { dir, grace_s } => {
            paramedic::remedy::guardian::guard(&dir, Duration::from_secs(grace_s), false)
                .map(|()| true)
                .map_err(anyhow::Error::from)
        }
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            eprintln!("remedy-crash: {error:#}");
            ExitCode::from(2)
        }
    }
}
