//! `paramedic incidents list|show|report|export|feedback|approve|reject|levels`: reads the journal, writes
//! nothing there.

use std::{
    io::{self, Write as _},
    path::Path,
};

use anyhow::{Context, bail};
use clap::Subcommand;
use jiff::Timestamp;

use super::{
    EXIT_FINDINGS, EXIT_OK,
    answer::{Reach, answer},
    history,
    place::Place,
};
use crate::{
    app::{AppError, load_rules},
    diagnosis::history::Event,
    incident::{Entry, EpisodeId},
    ledger::{self, Incident, Index, Line},
    remedy::Standings,
    report::{Format, incident_table, incident_text, level_table, post_mortem},
};

/// Incidents read into memory at most; the newest win.
pub(super) const INCIDENTS_MAX: usize = 100_000;

/// Arguments of `paramedic incidents`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    place: Place,
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
    /// The post-mortem of one incident: a document complete in one file, on stdout
    Report {
        /// `ep-…`, or the beginning of one
        id: String,
        /// HTML has charts
        #[arg(long, value_enum, default_value = "html")]
        format: Format,
    },
    /// Say what the cause was: the priors learn from it. A running agent follows on SIGHUP
    Feedback {
        /// `ep-…`, or the beginning of one
        id: String,
        /// Id of a hypothesis, or `none`: none of the causes that the rules know
        #[arg(long)]
        cause: String,
    },
    /// Approve the action that an incident proposes; the running agent looks again, then does it
    Approve {
        /// `ep-…`, or the beginning of one
        id: String,
        #[command(flatten)]
        reach: Reach,
    },
    /// Reject the action that an incident proposes
    Reject {
        /// `ep-…`, or the beginning of one
        id: String,
        #[command(flatten)]
        reach: Reach,
    },
    /// What each rule's actions have earned by their outcomes
    Levels,
    /// One incident with its evidence as JSON; without an id all of them, oldest first, a line each
    Export {
        /// `ep-…`, or the beginning of one
        id: Option<String>,
    },
}

/// Runs the subcommand.
pub fn incidents(args: Args) -> anyhow::Result<u8> {
    let dir = args.place.journal_dir()?;
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
            if args.place.json {
                println!("{}", serde_json::to_string_pretty(&summaries)?);
            } else {
                print!("{}", incident_table(&summaries));
            }
        }
        Command::Show { id } => {
            let incident = find(&index, &id)?;
            if args.place.json {
                println!("{}", serde_json::to_string_pretty(incident)?);
            } else {
                print!("{}", incident_text(incident));
            }
        }
        Command::Report { id, format } => {
            let read = |reference: &str| ledger::read_evidence(&dir, reference);
            print!("{}", post_mortem(find(&index, &id)?, &read, format));
        }
        Command::Feedback { id, cause } => {
            feedback(find(&index, &id)?, &cause, &args.place)?;
        }
        Command::Approve { id, reach } => {
            return answer(&args.place, find(&index, &id)?.id, "approve", &reach);
        }
        Command::Reject { id, reach } => {
            return answer(&args.place, find(&index, &id)?.id, "reject", &reach);
        }
        Command::Levels => levels(&index, &args.place)?,
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

/// What the record says of every rule's actions, as the agent would read it at its next start.
fn levels(index: &Index, place: &Place) -> anyhow::Result<()> {
    let promotion = place.config()?.remedy.promotion;
    let mut standings = Standings::default();
    for (rule, action, outcome) in index.judged() {
        standings.add(rule, action, outcome);
    }
    let earned = standings.earned(&promotion);
    if place.json {
        println!("{}", serde_json::to_string_pretty(&earned)?);
        return Ok(());
    }
    if !promotion.enabled {
        println!("remedy.promotion is off: these levels count for nothing");
    }
    print!("{}", level_table(&earned));
    Ok(())
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
fn feedback(incident: &Incident, cause: &str, place: &Place) -> anyhow::Result<()> {
    let config = place.config()?;
    let rules = load_rules(&config.rules).map_err(|findings| AppError::Rules { findings })?;
    if cause != "none" && rules.get(cause).is_none() {
        bail!("no rule has the id {cause:?}: name one, or `none`");
    }
    let event = Event::Learned {
        cause: (cause != "none").then(|| cause.to_owned()),
        by: "feedback".to_owned(),
        episode: incident.id.to_string(),
    };
    let learned =
        history::store(&config, place.state_dir.as_deref()).append(Timestamp::now(), event)?;
    let (version, before) = (learned.version(), learned.version() - 1);
    println!("learned as version {version}; `paramedic history revert {before}` undoes it");
    Ok(())
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
