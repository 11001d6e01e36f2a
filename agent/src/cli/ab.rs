//! `paramedic ab report`: the two strategies on the same incidents, and whether to promote the shadow.

use std::collections::BTreeMap;

use anyhow::Context;
use clap::Subcommand;
use serde::Serialize;

use super::{EXIT_OK, history, incidents::INCIDENTS_MAX, place::Place};
use crate::{
    diagnosis::{
        gateway::{Paired, mcnemar},
        history::{Event, History},
    },
    incident::{DualResult, Entry, OutcomeKind},
    ledger::{self, Incident},
};

/// Arguments of `paramedic ab`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    place: Place,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Agreement, who was right where the cause is known, and whether that is chance
    Report,
}

/// The figures of one pair of strategies.
#[derive(Debug, Default, PartialEq, Serialize)]
struct Pair {
    incidents: u64,
    agreed: u64,
    disagreed: u64,
    /// No answer of B within its deadline.
    late: u64,
    /// Incidents whose cause was proven or told.
    known: Paired,
    /// McNemar's exact test over those.
    p: f64,
    promote_b: bool,
}

/// Runs the subcommand.
pub(super) fn ab(args: &Args) -> anyhow::Result<u8> {
    let Command::Report = args.command;
    let dir = args.place.journal_dir()?;
    let (index, _) = ledger::read(&dir, INCIDENTS_MAX)
        .with_context(|| format!("cannot read the journal at {}", dir.display()))?;
    let config = args.place.config()?;
    let history = history::store(&config, args.place.state_dir.as_deref()).load()?;
    let pairs = pairs(index.iter(), &told(&history));
    if args.place.json {
        println!("{}", serde_json::json!({ "pairs": pairs }));
        return Ok(EXIT_OK);
    }
    for (name, pair) in &pairs {
        let Pair {
            incidents,
            agreed,
            disagreed,
            late,
            known,
            p,
            ..
        } = pair;
        println!(
            "{name}: {incidents} incidents, {agreed} agreed, {disagreed} disagreed, {late} late"
        );
        println!(
            "  cause known in {}: both right {}, only A {}, only B {}, neither {}; p = {p:.4}",
            known.incidents(),
            known.both,
            known.only_a,
            known.only_b,
            known.neither
        );
        let advice = if pair.promote_b {
            "B is better, and not by chance: promote it"
        } else {
            "keep A: B is not shown to be better over 30 incidents or more"
        };
        println!("  {advice}");
    }
    if pairs.is_empty() {
        println!("no incident has two diagnoses yet");
    }
    Ok(EXIT_OK)
}

/// What people said, by incident; the last word counts.
fn told(history: &History) -> BTreeMap<String, Option<String>> {
    let said = history
        .lessons()
        .iter()
        .filter_map(|lesson| match &lesson.event {
            Event::Learned { cause, by, episode } if by == "feedback" => {
                Some((episode.clone(), cause.clone()))
            }
            _ => None,
        });
    said.collect()
}

fn pairs<'a>(
    incidents: impl Iterator<Item = &'a Incident>,
    told: &BTreeMap<String, Option<String>>,
) -> BTreeMap<String, Pair> {
    let mut pairs: BTreeMap<String, Pair> = BTreeMap::new();
    for incident in incidents {
        let dual = incident
            .entries
            .iter()
            .rev()
            .find_map(|line| match &line.entry {
                Entry::Shadowed { dual } => Some(dual),
                _ => None,
            });
        let Some(dual) = dual else { continue };
        let pair = pairs.entry(format!("{} | {}", dual.a, dual.b)).or_default();
        let known = told
            .get(&incident.id.to_string())
            .cloned()
            .or_else(|| proven(incident, dual).map(Some));
        pair.count(dual, known.as_ref());
    }
    for pair in pairs.values_mut() {
        pair.p = mcnemar(pair.known.only_a, pair.known.only_b);
        pair.promote_b = pair.known.promotes_b();
    }
    pairs
}

/// A remedy that healed proves the cause that it was for.
fn proven(incident: &Incident, dual: &DualResult) -> Option<String> {
    let healed = incident.entries.iter().any(|line| {
        matches!(&line.entry, Entry::Verified { outcome, .. } if outcome.kind == OutcomeKind::Healed)
    });
    let named = || dual.a_said.first.as_ref().map(|(id, _)| id.clone());
    healed.then(named).flatten()
}

impl Pair {
    fn count(&mut self, dual: &DualResult, known: Option<&Option<String>>) {
        self.incidents += 1;
        let Some(b) = &dual.b_said else {
            self.late += 1;
            return;
        };
        let agreed = dual.consensus == Some(true);
        self.agreed += u64::from(agreed);
        self.disagreed += u64::from(!agreed);
        if let Some(cause) = known {
            let right =
                |said: &Option<(String, f64)>| said.as_ref().map(|(id, _)| id) == cause.as_ref();
            self.known.add(right(&dual.a_said.first), right(&b.first));
        }
    }
}
