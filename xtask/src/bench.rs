//! `cargo xtask bench`: builds the benchmarks with their peers and runs one.

mod faults;
mod mttr;

use std::ffi::OsString;

use crate::{chaos, sh};

/// A benchmark.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum What {
    /// The journal beside fio, raft-engine and okaywal
    Journal,
    /// The kernel probes beside empty programs, libbpf-tools and bpftrace
    Probes,
    /// The durable intake beside a handler that only parses and a webhook that runs scripts
    Intake,
    /// Time and allocations of a diagnosis by the number of rules
    Diagnosis,
    /// How often the cause is named, over case folders: `--data DIR`, or `--synthetic COUNT`
    Cases,
    /// The same over the PetShop dataset: `--data DIR [--issues train]`
    Petshop,
    /// Time to recovery in the VM: faults, strategies, a service with a promise; see `--help` after it
    Mttr,
    /// The fault matrix in the VM: is each cause named, and how surely; see `--help` after it
    Faults,
    /// A trickle of alerts for `--hours N` or `--minutes N`: memory, descriptors, threads, latency, judged by
    /// their trends
    Soak,
}

impl What {
    fn program(self) -> &'static str {
        match self {
            Self::Journal => "bench-journal",
            Self::Probes => "bench-probes",
            Self::Intake => "bench-intake",
            Self::Diagnosis | Self::Cases | Self::Petshop => "bench-diagnosis",
            Self::Mttr => "bench-mttr",
            Self::Faults => "bench-faults",
            Self::Soak => "chaos",
        }
    }

    /// The program's subcommand, where it has some.
    fn subcommand(self) -> Option<&'static str> {
        match self {
            Self::Journal
            | Self::Probes
            | Self::Intake
            | Self::Mttr
            | Self::Faults
            | Self::Soak => None,
            Self::Diagnosis => Some("diagnosis"),
            Self::Cases => Some("cases"),
            Self::Petshop => Some("petshop"),
        }
    }
}

/// Builds and runs; the result is the exit code.
pub fn bench(what: What, args: &[OsString]) -> anyhow::Result<u8> {
    match what {
        What::Mttr => return mttr::mttr(args),
        What::Faults => return faults::faults(args),
        // What leaks does so at any optimisation: the storms' build will do.
        What::Soak => return chaos::chaos("soak", args),
        _ => {}
    }
    // Built apart from running, so that the machine is quiet when it is measured.
    let mut build = sh::cargo();
    build.args(["build", "--quiet", "--profile", "measure"]);
    build.args(["--package", "paramedic-bench", "--bin", what.program()]);
    match what {
        What::Journal => {
            build.args(["--features", "peers"]);
        }
        What::Probes => {
            crate::build::build_probes(&sh::root())?;
            // The agent whose idle cost is measured.
            build.args(["--package", "paramedic", "--bin", "paramedic"]);
        }
        What::Intake
        | What::Diagnosis
        | What::Cases
        | What::Petshop
        | What::Mttr
        | What::Faults
        | What::Soak => {}
    }
    sh::run(&mut build)?;
    sh::exit_code(
        std::process::Command::new(sh::built("measure", what.program()))
            .args(what.subcommand())
            .args(args)
            .current_dir(sh::root()),
    )
}

/// The options of a benchmark with a command line of its own; `Err` is the exit code, when what there is
/// to say (help, a mistake) has been said.
fn options<O: clap::Parser>(name: &str, args: &[OsString]) -> anyhow::Result<Result<O, u8>> {
    let name = OsString::from(name);
    match O::try_parse_from(std::iter::once(&name).chain(args)) {
        Ok(options) => Ok(Ok(options)),
        Err(error) => {
            error.print()?;
            Ok(Err(u8::from(error.use_stderr()) * 2))
        }
    }
}
