//! `paramedic probes`: what attaches on this kernel, what falls back and why.

use std::path::PathBuf;

use super::{EXIT_FINDINGS, EXIT_OK};
use crate::{
    config::Config,
    evidence::probes::{ProbeState, Probes},
};

/// Arguments of `paramedic probes`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Configuration file; the defaults if left out
    #[arg(long)]
    config: Option<PathBuf>,
    /// JSON instead of text
    #[arg(long)]
    json: bool,
}

/// Loads and attaches every probe, prints how it went, and detaches them. Exit 1 if any falls back.
pub(super) fn probes(args: &Args) -> anyhow::Result<u8> {
    let config = match &args.config {
        Some(file) => Config::load(file)?,
        None => Config::shipped(),
    };
    let statuses = Probes::start(&config.probes).statuses();
    if args.json {
        println!("{}", serde_json::to_string_pretty(&statuses)?);
    } else {
        println!(
            "{:<10} {:<10} {:<16} INSTEAD / WHY",
            "PROBE", "STATE", "TYPE"
        );
        for status in &statuses {
            let state = match status.state {
                ProbeState::Attached => "attached",
                ProbeState::Fallback => "fallback",
                ProbeState::Off => "off",
            };
            println!(
                "{:<10} {state:<10} {:<16} {}",
                status.name,
                status.kind,
                if status.state == ProbeState::Fallback {
                    status.fallback
                } else {
                    ""
                }
            );
            if let Some(why) = &status.why {
                println!("{:<10} {why}", "");
            }
        }
    }
    let fell_back = statuses
        .iter()
        .any(|status| status.state == ProbeState::Fallback);
    Ok(if fell_back { EXIT_FINDINGS } else { EXIT_OK })
}
