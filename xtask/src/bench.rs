//! `cargo xtask bench`: builds the benchmarks with their peers and runs one.

mod faults;
mod mttr;

use std::ffi::OsString;

use anyhow::Context;

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
    let target = std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| sh::root().join("target"), std::path::PathBuf::from);
    let program = target.join("measure").join(what.program());
    let status = std::process::Command::new(&program)
        .args(what.subcommand())
        .args(args)
        .current_dir(sh::root())
        .status()
        .with_context(|| format!("cannot start {}", program.display()))?;
    Ok(status
        .code()
        .and_then(|code| u8::try_from(code).ok())
        .unwrap_or(1))
}
