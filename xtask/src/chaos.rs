//! `cargo xtask chaos`: storms against the real agent, or its own code in virtual time.
//!
//! Storms: builds the agent and `chaos` (tests/chaos) and runs it. `--simulate N`: N seeds of
//! the simulation among the agent's unit tests, which otherwise runs a few.

use std::{ffi::OsString, process::Command};

use crate::{build, sh};

/// What is shaken, and how long.
#[derive(Debug, clap::Args)]
pub struct Chaos {
    /// Storms: 50 unless said otherwise
    #[arg(long)]
    seeds: Option<u64>,
    /// The first seed
    #[arg(long, conflicts_with = "seed")]
    from: Option<u64>,
    /// One seed again, with its schedule told; of the simulation with --simulate
    #[arg(long, conflicts_with = "seeds")]
    seed: Option<u64>,
    /// Storms at a time
    #[arg(long)]
    jobs: Option<u64>,
    /// Keep what every storm leaves
    #[arg(long)]
    keep: bool,
    /// One object as the last line
    #[arg(long)]
    json: bool,
    /// Instead of storms, this many seeds of the simulation in virtual time
    #[arg(long, conflicts_with_all = ["seeds", "from", "jobs", "keep", "json"])]
    simulate: Option<u64>,
}

impl Chaos {
    /// Runs it; the result is the exit code.
    pub fn run(&self) -> anyhow::Result<u8> {
        match self.simulate {
            Some(seeds) => self.simulated(seeds),
            None => self.storms(),
        }
    }

    fn storms(&self) -> anyhow::Result<u8> {
        let mut args: Vec<OsString> = Vec::new();
        for (name, value) in [
            ("--seeds", self.seeds),
            ("--from", self.from),
            ("--seed", self.seed),
            ("--jobs", self.jobs),
        ] {
            if let Some(value) = value {
                args.extend([name.into(), value.to_string().into()]);
            }
        }
        for (name, wanted) in [("--keep", self.keep), ("--json", self.json)] {
            if wanted {
                args.push(name.into());
            }
        }
        chaos("storms", &args)
    }

    fn simulated(&self, seeds: u64) -> anyhow::Result<u8> {
        let mut command = sh::cargo();
        command.args(["test", "--workspace", "--exclude", "agent-ebpf", "--lib"]);
        command.args(["--", "--nocapture", "--exact"]);
        command.arg("app::simulation::what_is_accepted_survives_every_crash");
        command.env("PARAMEDIC_SIMULATIONS", seeds.to_string());
        if let Some(seed) = self.seed {
            command.env("PARAMEDIC_SIMULATION", seed.to_string());
        }
        Ok(u8::from(!command.status()?.success()))
    }
}

/// Builds the agent and `chaos`, and runs one of its commands; the result is the exit code.
pub fn chaos(what: &str, args: &[OsString]) -> anyhow::Result<u8> {
    build::build_probes(&sh::root())?;
    let mut building = sh::cargo();
    building.args(["build", "--quiet", "--workspace", "--exclude", "agent-ebpf"]);
    sh::run(building.args(["--bin", "paramedic", "--bin", "chaos"]))?;
    sh::exit_code(
        Command::new(sh::built("debug", "chaos"))
            .arg(what)
            .args(args),
    )
}
