//! `paramedic guardian`: ends the effects of an agent that can't do so any more. The agent starts it
//! by itself; a service manager may run it as a unit of its own instead, so that it survives the
//! agent's unit.

use std::{path::PathBuf, time::Duration};

use super::EXIT_OK;
use crate::{remedy::guardian, telemetry};

/// Arguments.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The folder of leases: `leases` in the agent's state directory
    #[arg(long)]
    dir: PathBuf,
    /// Seconds that a restart of the agent is waited for before effects that nobody verified are
    /// undone
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=600))]
    grace_s: u64,
    /// Wait for the next agent when one is gone and nothing is in force, instead of ending: for a
    /// unit of its own
    #[arg(long)]
    stay: bool,
    /// Shape of the log on stderr
    #[arg(long, value_enum, default_value = "text")]
    log_format: telemetry::LogFormat,
}

pub(super) fn guardian(args: &Args) -> anyhow::Result<u8> {
    telemetry::init(args.log_format);
    guardian::guard(&args.dir, Duration::from_secs(args.grace_s), args.stay)?;
    Ok(EXIT_OK)
}
