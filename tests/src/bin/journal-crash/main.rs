//! Breaks the journal on real disks, and checks what is left against what was acknowledged.
//!
//! - `write`: appends with many writers and reports every acknowledgement, until it is killed;
//! - `kill`: runs `write`, kills it at random moments, checks, many times over;
//! - `replay`: takes a recording of every write and flush of a block device, cuts the power at
//!   many points of it, and checks each disk that is left.
//!
//! Exit codes: 0 nothing lost, 1 something lost, 2 the test itself failed.

mod check;
mod kill;
mod load;
mod recording;
mod replay;

use std::{path::PathBuf, process::ExitCode, time::Duration};

use clap::{Parser, Subcommand};

#[derive(Debug, Parser)]
#[command(name = "journal-crash")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Append until killed, or for some lives of some time each
    Write {
        /// State directory; the journal is `journal` in it
        dir: PathBuf,
        /// Number of this run, in every record
        #[arg(long, default_value_t = 0)]
        run: u32,
        /// Put acknowledgements, one a sector, into this file on the same disk instead of stdout
        #[arg(long)]
        markers: Option<PathBuf>,
        /// Openings of the journal, one after another
        #[arg(long, default_value_t = 1)]
        lives: u32,
        /// Length of each
        #[arg(long, default_value_t = 3_600_000)]
        life_ms: u64,
        /// Concurrent writers
        #[arg(long, default_value_t = 6)]
        writers: u16,
    },
    /// `kill -9` at random moments, on this machine's own disk
    Kill {
        /// State directory; emptied
        dir: PathBuf,
        /// How often
        #[arg(long, default_value_t = 30)]
        rounds: u32,
        /// Of the random moments
        #[arg(long, default_value_t = 1)]
        seed: u64,
    },
    /// Power cuts in a recording
    Replay {
        /// The disk as it was before the recording
        #[arg(long)]
        base: PathBuf,
        /// The recording, as QEMU's blklogwrites makes it
        #[arg(long)]
        log: PathBuf,
        /// Folder for the disks that are made, best in memory
        #[arg(long)]
        work: PathBuf,
        /// How many cuts
        #[arg(long, default_value_t = 2000)]
        cuts: usize,
        /// Of the sectors that survive
        #[arg(long, default_value_t = 1)]
        seed: u64,
    },
}

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Write {
            dir,
            run,
            markers,
            lives,
            life_ms,
            writers,
        } => load::write(
            &dir,
            run,
            markers.as_deref(),
            lives,
            Duration::from_millis(life_ms),
            writers,
        )
        .map(|()| true),
        Command::Kill { dir, rounds, seed } => kill::kill(&dir, rounds, seed),
        Command::Replay {
            base,
            log,
            work,
            cuts,
            seed,
        } => replay::replay(&base, &log, &work, cuts, seed),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            eprintln!("journal-crash: {error:#}");
            ExitCode::from(2)
        }
    }
}
