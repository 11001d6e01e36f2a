//! `paramedic incidents list|show|export|feedback`: reads the journal, writes nothing there.

use std::{
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};
use clap::Subcommand;
use jiff::Timestamp;

use super::{EXIT_FINDINGS, EXIT_OK, history};
use crate::{
    app::{AppError, load_rules},
    config::Config,
    diagnosis::history::Event,
    incident::{Entry, EpisodeId},
    ledger::{self, Incident, Index, Line},
    report::{incident_table, incident_text},
};

/// Incidents read into memory at most; the newest win.
pub(super) const INCIDENTS_MAX: usize = 100_000;

/// Arguments of `paramedic incidents`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The agent's state directory
    #[arg(long, global = true, conflicts_with = "config")]
    state_dir: Option<PathBuf>,
    /// The agent's configuration file, to find its state directory
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
    /// One line an incident, newest first
    List {
        /// How many
        #[arg(long, default_value_t = 50)]
        limit: usize,
    },
    /// One incident: what happened, why, and what was done
    Show {
        /// `ep-…`, or the beginning of one
        id: String,
    },
    /// Say what the cause was: the priors learn from it. A running agent follows on SIGHUP
    Feedback {
        /// `ep-…`, or the beginning of one
        id: String,
        /// Id of a hypothesis, or `none`: none of the causes that the rules know
        #[arg(long)]
        cause: String,
    },
    /// One incident with its evidence as JSON; without an id all of them, oldest first, a line each
    Export {
        /// `ep-…`, or the beginning of one
        id: Option<String>,
    },
}

/// Runs the subcommand.
pub fn incidents(args: Args) -> anyhow::Result<u8> {
    let dir = journal_dir(args.state_dir.as_deref(), args.config.as_deref())?;
    if !dir.is_dir() {
        bail!(
            "no journal at {}: name the agent's folder with --state-dir or its file with --config",
            dir.display()
        );
    }
    let (index, found) = ledger::read(&dir, INCIDENTS_MAX)
        .with_context(|| format!("cannot read the journal at {}", dir.display()))?;
    for (lsn, why) in &found.unreadable {
        eprintln!("paramedic: record {} cannot be decoded: {why}", lsn.0);
    }
    for corruption in &found.corruption {
        eprintln!("paramedic: {corruption}");
    }
    match args.command {
        Command::List { limit } => {
            let summaries: Vec<_> = index
                .iter()
                .rev()
                .take(limit)
                .map(Incident::summary)
                .collect();
            if args.json {
                println!("{}", serde_json::to_string_pretty(&summaries)?);
            } else {
                print!("{}", incident_table(&summaries));
            }
        }
        Command::Show { id } => {
            let incident = find(&index, &id)?;
            if args.json {
                println!("{}", serde_json::to_string_pretty(incident)?);
            } else {
                print!("{}", incident_text(incident));
            }
        }
        Command::Feedback { id, cause } => {
            let (state_dir, config) = (args.state_dir.as_deref(), args.config.as_deref());
            feedback(find(&index, &id)?, &cause, state_dir, config)?;
        }
        Command::Export { id: Some(id) } => {
            let incident = export(&dir, find(&index, &id)?)?;
            println!("{}", serde_json::to_string_pretty(&incident)?);
        }
        Command::Export { id: None } => {
            let mut out = io::stdout().lock();
            for incident in index.iter() {
                serde_json::to_writer(&mut out, &export(&dir, incident)?)?;
                writeln!(out)?;
            }
        }
    }
    Ok(if found.corruption.is_empty() {
        EXIT_OK
    } else {
        EXIT_FINDINGS
    })
}

/// The incident and all evidence that it names. Evidence that retention has given up, or that
/// is damaged, is named in its place: the rest is worth having.
fn export(dir: &Path, incident: &Incident) -> anyhow::Result<serde_json::Value> {
    let reference = |line: &Line| match &line.entry {
        Entry::Diagnosed { snapshot, .. } | Entry::Verified { snapshot, .. } => snapshot.clone(),
        _ => None,
    };
    let mut evidence = Vec::new();
    for reference in incident.entries.iter().filter_map(reference) {
        evidence.push(match ledger::read_evidence(dir, &reference) {
            Ok(found) => serde_json::to_value(found)?,
            Err(why) => serde_json::json!({ "snapshot": reference, "unreadable": why }),
        });
    }
    Ok(serde_json::json!({ "incident": incident, "evidence": evidence }))
}

/// Records a person's word; it must name a hypothesis that the rules have.
fn feedback(
    incident: &Incident,
    cause: &str,
    state_dir: Option<&Path>,
    config: Option<&Path>,
) -> anyhow::Result<()> {
    let config = history::config(config)?;
    let rules = load_rules(&config.rules).map_err(|findings| AppError::Rules { findings })?;
    if cause != "none" && rules.get(cause).is_none() {
        bail!("no rule has the id {cause:?}: name one, or `none`");
    }
    let event = Event::Learned {
        cause: (cause != "none").then(|| cause.to_owned()),
        by: "feedback".to_owned(),
        episode: incident.id.to_string(),
    };
    let learned = history::store(&config, state_dir).append(Timestamp::now(), event)?;
    let (version, before) = (learned.version(), learned.version() - 1);
    println!("learned as version {version}; `paramedic history revert {before}` undoes it");
    Ok(())
}

pub(super) fn journal_dir(
    state_dir: Option<&Path>,
    config: Option<&Path>,
) -> anyhow::Result<PathBuf> {
    Ok(match (state_dir, config) {
        (Some(dir), _) => dir.join("journal"),
        (None, Some(file)) => Config::load(file)?.journal.dir,
        (None, None) => Config::shipped().journal.dir,
    })
}

/// By full id or unambiguous beginning.
fn find<'a>(index: &'a Index, id: &str) -> anyhow::Result<&'a Incident> {
    if let Some(incident) = id.parse::<EpisodeId>().ok().and_then(|id| index.get(id)) {
        return Ok(incident);
    }
    let mut matches = index
        .iter()
        .filter(|incident| incident.id.to_string().starts_with(id));
    match (matches.next(), matches.next()) {
        (Some(incident), None) => Ok(incident),
        (Some(_), Some(_)) => bail!("incident {id:?} is ambiguous: give more of it"),
        _ => bail!("no incident {id:?}: `paramedic incidents list` shows what there is"),
    }
}
