//! `paramedic history show|revert`: what verified outcomes taught the priors.

use std::path::{Path, PathBuf};

use clap::Subcommand;
use jiff::Timestamp;

use super::EXIT_OK;
use crate::{
    app::{AppError, load_rules},
    config::Config,
    diagnosis::history::{Event, History, Lesson, Store},
};

/// Arguments of `paramedic history`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The agent's state directory
    #[arg(long, global = true)]
    state_dir: Option<PathBuf>,
    /// The agent's configuration file
    #[arg(long, global = true)]
    config: Option<PathBuf>,
    /// JSON instead of text
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Every lesson with its version, and the priors that follow from them
    Show,
    /// Set aside everything after a version; nothing is lost. A running agent follows on SIGHUP
    Revert {
        /// Version to go back to; 0 = nothing learned
        version: u64,
    },
}

/// Runs the subcommand.
pub(super) fn history(args: &Args) -> anyhow::Result<u8> {
    let config = Config::load_or_shipped(args.config.as_deref())?;
    let store = store(&config, args.state_dir.as_deref());
    match args.command {
        Command::Show => show(&config, &store.load()?, args.json)?,
        Command::Revert { version } => {
            let history = store.append(Timestamp::now(), Event::Reverted { to: version })?;
            println!(
                "version {}: as it was at version {version}",
                history.version()
            );
        }
    }
    Ok(EXIT_OK)
}

/// Where the history lies.
pub(super) fn store(config: &Config, state_dir: Option<&Path>) -> Store {
    Store::new(state_dir.unwrap_or(&config.state_dir))
}

fn show(config: &Config, history: &History, json: bool) -> anyhow::Result<()> {
    let rules = load_rules(&config.rules).map_err(|findings| AppError::Rules { findings })?;
    let priors = history.priors(&rules, &config.diagnosis, Timestamp::now());
    if json {
        let lessons = history.lessons();
        println!(
            "{}",
            serde_json::json!({ "lessons": lessons, "priors": priors })
        );
        return Ok(());
    }
    for lesson in history.lessons() {
        println!("{}", line(lesson));
    }
    println!("version {}", history.version());
    for prior in priors.iter().filter(|prior| prior.outcomes > 0.0) {
        println!(
            "{:<28} prior {:.4}, declared {:.4}, {:.1} outcomes",
            prior.id, prior.prior, prior.declared, prior.outcomes
        );
    }
    Ok(())
}

fn line(lesson: &Lesson) -> String {
    let what = match &lesson.event {
        Event::Learned { cause, by, episode } => {
            let cause = cause.as_deref().unwrap_or("none of the known causes");
            format!("{cause} ({by}, {episode})")
        }
        Event::Reverted { to } => format!("back to version {to}"),
    };
    format!("{:>5}  {}  {what}", lesson.version, lesson.at)
}
