//! `paramedic diagnose`: one diagnosis of this host now, or of a case folder, with nothing recorded and
//! nothing done.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, bail};
use jiff::Timestamp;

use super::EXIT_OK;
use crate::{
    app::{AppError, load_rules},
    config::Config,
    diagnosis::{self, causal, explain},
    evidence::{Recorder, probes::Probes},
    incident::{Alert, AlertStatus, Fingerprint, Source},
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
    /// A case folder (docs/cases.md) instead of this host: ranks its entities
    #[arg(long, value_name = "PATH", conflicts_with_all = ["config", "seconds"])]
    replay: Option<PathBuf>,
    /// JSON instead of text
    #[arg(long)]
    json: bool,
}

/// Watches this host and prints the ranked answer.
pub(super) fn diagnose(args: &Args) -> anyhow::Result<u8> {
    if let Some(path) = &args.replay {
        return replay(path, args.json);
    }
    let config = Config::load_or_shipped(args.config.as_deref())?;
    let rules = load_rules(&config.rules).map_err(|findings| AppError::Rules { findings })?;
    let probes = Arc::new(Probes::start(&config.probes));
    let recorder = Recorder::start(&config.evidence, probes).context("cannot start the readers")?;
    recorder.watch_syscalls(true);
    // The first window begins with the recorder, so all of it is this command's own watch.
    let window = Duration::from_secs(args.seconds);
    std::thread::sleep(window);
    let evidence = recorder.evidence(window + config.evidence.period());
    let answer = diagnosis::diagnose(
        &rules,
        &by_hand(),
        &Source::Manual,
        &evidence,
        &config.diagnosis,
    );
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
    if !path.is_dir() {
        bail!(
            "{} is not a case folder: docs/cases.md says what is in one",
            path.display()
        );
    }
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

/// The alert that nobody sent.
fn by_hand() -> Alert {
    let labels = [("alertname".to_owned(), "manual".to_owned())].into();
    Alert {
        status: AlertStatus::Firing,
        fingerprint: Fingerprint::of(&labels),
        labels,
        annotations: [].into(),
        starts_at: Timestamp::now(),
        ends_at: None,
    }
}
