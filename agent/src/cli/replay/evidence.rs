//! Where the evidence comes from: files of `paramedic record`, and the record of an agent.

use std::path::Path;

use anyhow::{Context, bail};
use serde::Serialize;

use super::{
    Pair,
    stretch::{Of, Subject},
};
use crate::{
    cli::incidents::INCIDENTS_MAX,
    evidence::recording::{Recording, RecordingError},
    incident::{Alert, Entry, Source},
    ledger::{self, Incident, Line},
};

/// Troubles of one record that are told one by one.
const TROUBLES_MAX: usize = 20;

/// Compares every second of a recording. What comes before a cut or a damage is compared, and the error
/// is told beside it.
pub(super) fn of_recording(
    path: &Path,
    pair: &Pair,
    alert: &Alert,
    source: &Source,
) -> (Subject, Option<RecordingError>) {
    let mut subject = Subject::new(Of::Recording(path.display().to_string()));
    let read = Recording::each(path, |at_s, evidence| {
        subject.add(at_s, pair.ask(alert, source, &evidence));
    });
    (subject, read.err())
}

/// What a record held.
#[derive(Debug, Serialize)]
pub(super) struct Incidents {
    pub(super) all: usize,
    /// Of those, the ones with no evidence to compare: never diagnosed, not stored, given up by
    /// retention, or damaged.
    pub(super) without_evidence: usize,
    /// What could not be read, for people; empty = all was. Evidence that is only gone is none.
    pub(super) trouble: Vec<String>,
}

/// Compares every incident in a state directory, oldest first; those without evidence are counted.
///
/// # Errors
/// When there is no record, or it cannot be read at all.
pub(super) fn of_incidents(state: &Path, pair: &Pair) -> anyhow::Result<(Incidents, Vec<Subject>)> {
    let dir = state.join("journal");
    if !dir.is_dir() {
        bail!(
            "no journal at {}: name an agent's state directory with --state",
            dir.display()
        );
    }
    let (index, found) = ledger::read(&dir, INCIDENTS_MAX)
        .with_context(|| format!("cannot read the journal at {}", dir.display()))?;
    let mut incidents = Incidents {
        all: 0,
        without_evidence: 0,
        trouble: Vec::new(),
    };
    for (lsn, why) in &found.unreadable {
        incidents.note(format!("record {} cannot be decoded: {why}", lsn.0));
    }
    for corruption in &found.corruption {
        incidents.note(corruption.to_string());
    }
    let mut subjects = Vec::new();
    for incident in index.iter() {
        incidents.all += 1;
        let subject = of_incident(&dir, incident, pair);
        if subject.moments == 0 {
            incidents.without_evidence += 1;
        } else {
            subjects.push(subject);
        }
    }
    Ok((incidents, subjects))
}

impl Incidents {
    fn note(&mut self, trouble: String) {
        if self.trouble.len() < TROUBLES_MAX {
            self.trouble.push(trouble);
        }
    }
}

/// Each evidence that this incident was diagnosed from.
fn of_incident(dir: &Path, incident: &Incident, pair: &Pair) -> Subject {
    let episode = &incident.episode;
    let mut subject = Subject::new(Of::Incident {
        id: incident.id,
        alert: episode.alert.name().to_owned(),
    });
    let stored = |line: &Line| match &line.entry {
        Entry::Diagnosed { snapshot, .. } => Some((line.at, snapshot.clone()?)),
        _ => None,
    };
    for (at, reference) in incident.entries.iter().filter_map(stored) {
        let Ok(evidence) = ledger::read_evidence(dir, &reference) else {
            continue;
        };
        let at_s = at.duration_since(episode.opened_at).as_secs_f64();
        subject.add(at_s, pair.ask(&episode.alert, &episode.source, &evidence));
    }
    subject
}
