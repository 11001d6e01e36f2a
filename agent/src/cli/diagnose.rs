//! `paramedic diagnose`: one diagnosis of this host now, of a recording, or of a case folder, with nothing
//! recorded and nothing done.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, bail};

use super::{EXIT_OK, alert::AlertFile};
use crate::{
    app::{AppError, load_rules},
    config::Config,
    diagnosis::{self, RuleSet, causal, explain},
    evidence::{Recorder, probes::Probes, recording::Recording},
    incident::{Alert, Evidence, Source},
};

/// Arguments of `paramedic diagnose`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Configuration file; the defaults if left out
    #[arg(long)]
    config: Option<PathBuf>,
    /// Seconds to watch before the diagnosis
    #[arg(long = "for", default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=300))]
    seconds: u64,
    /// A file of `paramedic record` instead of this host; or a case folder (docs/cases.md): ranks its
    /// entities
    #[arg(long, value_name = "PATH", conflicts_with = "seconds")]
    replay: Option<PathBuf>,
    /// Second of the recording; its last one if left out
    #[arg(long, value_name = "SECONDS", requires = "replay")]
    at: Option<f64>,
    #[command(flatten)]
    alert: AlertFile,
    /// JSON instead of text
    #[arg(long)]
    json: bool,
}

/// Watches this host and prints the ranked answer.
pub(super) fn diagnose(args: &Args) -> anyhow::Result<u8> {
    if let Some(path) = &args.replay {
        if path.is_dir() {
            if args.config.is_some() || args.at.is_some() || args.alert.is_given() {
                bail!(
                    "--config, --at and --alert are for recordings, {} is a case folder",
                    path.display()
                );
            }
            return replay(path, args.json);
        }
        return replay_recording(args, path);
    }
    let config = Config::load_or_shipped(args.config.as_deref())?;
    let rules = load_rules(&config.rules).map_err(|findings| AppError::Rules { findings })?;
    let called = args.alert.read(&config.intake)?;
    let probes = Arc::new(Probes::start(&config.probes));
    let recorder = Recorder::start(&config.evidence, probes).context("cannot start the readers")?;
    recorder.watch_syscalls(true);
    // The first window begins with the recorder, so all of it is this command's own watch.
    let window = Duration::from_secs(args.seconds);
    std::thread::sleep(window);
    let evidence = recorder.evidence(window + config.evidence.period());
    tell(args, &called, &rules, &config, &evidence)
}

/// The same of a recording: what the rules are given is all that differs.
fn replay_recording(args: &Args, path: &Path) -> anyhow::Result<u8> {
    let config = Config::load_or_shipped(args.config.as_deref())?;
    let rules = load_rules(&config.rules).map_err(|findings| AppError::Rules { findings })?;
    let called = args.alert.read(&config.intake)?;
    let recording = Recording::read(path, args.at)?;
    if !args.json {
        println!(
            "second {:.0} of {} of a recording that began {} on Linux {}",
            recording.at_s, recording.records, recording.header.began, recording.header.kernel
        );
    }
    tell(args, &called, &rules, &config, &recording.evidence)
}

fn tell(
    args: &Args,
    called: &(Alert, Source),
    rules: &RuleSet,
    config: &Config,
    evidence: &Evidence,
) -> anyhow::Result<u8> {
    let (alert, source) = called;
    let answer = diagnosis::diagnose(rules, alert, source, evidence, &config.diagnosis);
    if args.json {
        let out = serde_json::json!({ "diagnosis": answer, "evidence": evidence });
        println!("{}", serde_json::to_string_pretty(&out)?);
    } else {
        print!("{}", explain(&answer));
        for gap in evidence.coverage.iter().filter(|source| !source.complete) {
            println!("  {}: {}", gap.source, gap.note);
        }
    }
    Ok(EXIT_OK)
}

/// Ranks the entities of a case folder.
fn replay(path: &Path, json: bool) -> anyhow::Result<u8> {
    let case = causal::read(path)?;
    let ranking = causal::rank(&case);
    if json {
        let alert = &case.alert;
        let out = serde_json::json!({ "case": case.name, "alert": alert, "ranking": ranking });
        println!("{}", serde_json::to_string_pretty(&out)?);
    } else {
        print!("{}", causal::ranking_text(&ranking));
    }
    Ok(EXIT_OK)
}
