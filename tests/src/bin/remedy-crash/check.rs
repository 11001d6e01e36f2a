//! What must hold after a crash: as before or healed, never in between, and the record says which.

use std::{collections::BTreeSet, fs, path::Path};

use anyhow::Context;
use paramedic::{
    incident::{Entry, Holder, Intent, OutcomeKind},
    ledger::{self, Incident},
};
use paramedic_tests::cgroup::ROOT;

use crate::{
    target::{self, Values},
    watch::Point,
};

/// The one incident, if its opening was durable.
pub fn incident(dir: &Path) -> anyhow::Result<Option<Incident>> {
    let journal = dir.join("journal");
    if !journal.is_dir() {
        return Ok(None);
    }
    let (index, found) = ledger::read(&journal, 16).context("the journal cannot be read")?;
    anyhow::ensure!(found.corruption.is_empty(), "{:?}", found.corruption);
    anyhow::ensure!(found.unreadable.is_empty(), "{:?}", found.unreadable);
    Ok(index.iter().next().cloned())
}

/// Where an incident stood.
pub fn phase(incident: Option<&Incident>) -> &'static str {
    let last = incident.and_then(|incident| incident.entries.last());
    match last.map(|line| &line.entry) {
        None => "accepted",
        Some(Entry::Intended { .. }) => "intended",
        Some(Entry::Applied { .. }) => "verifying",
        Some(Entry::Verified { outcome, .. }) if outcome.kind == OutcomeKind::Healed => "holding",
        Some(Entry::TakenOver { .. }) => "taken over",
        Some(Entry::Verified { .. } | Entry::RolledBack { .. } | Entry::Failed { .. }) => "undone",
        Some(Entry::Closed) => "closed",
        Some(_) => "planned",
    }
}

fn count(incident: &Incident, name: &str) -> usize {
    let entries = incident.entries.iter();
    entries.filter(|line| line.entry.name() == name).count()
}

/// Right after a restart has settled what the earlier life left.
pub fn settled(incident: Option<&Incident>, before: &Values, now: &Values) -> Vec<String> {
    let Some(incident) = incident else {
        return differences("nothing is recorded", before, now);
    };
    match incident.intent() {
        None => differences("nothing was intended", before, now),
        Some(_) if incident.closed() => differences("the record says undone", before, now),
        Some((intent, true)) => {
            let healed = target::with(before, intent);
            // Its lease may have ended since.
            if now == before {
                return Vec::new();
            }
            differences("the record says healed", &healed, now)
        }
        Some((_, false)) => vec!["settled, and neither undone nor healed".to_owned()],
    }
}

/// At the end, when nobody has anything left to do.
pub fn ended(incident: Option<&Incident>, before: &Values, now: &Values) -> Vec<String> {
    let mut wrong = differences("at the end", before, now);
    let Some(incident) = incident else {
        wrong.push("no incident is recorded".to_owned());
        return wrong;
    };
    let mut expect = |name: &str, times: &[usize]| {
        let found = count(incident, name);
        if !times.contains(&found) {
            wrong.push(format!("{found} entries {name:?}, not {times:?}"));
        }
    };
    let intended = incident.intent().is_some();
    expect("opened", &[1]);
    expect("closed", &[1]);
    expect("intended", if intended { &[1] } else { &[0] });
    expect("applied", &[0, 1]);
    expect("rolled_back", if intended { &[1] } else { &[0] });
    for line in &incident.entries {
        if let Entry::RolledBack { left_alone, .. } = &line.entry
            && !left_alone.is_empty()
        {
            wrong.push(format!("left alone: {left_alone:?}"));
        }
    }
    wrong
}

fn differences(when: &str, expected: &Values, found: &Values) -> Vec<String> {
    let names: BTreeSet<&String> = expected.keys().chain(found.keys()).collect();
    names
        .into_iter()
        .filter(|name| expected.get(*name) != found.get(*name))
        .map(|name| {
            let (is, was) = (found.get(name), expected.get(name));
            format!("in between: {when}, and {name} is {is:?}, not {was:?}")
        })
        .collect()
}

/// Values of an intent that were written more than once, over all lives.
pub fn repeated(intent: &Intent, carried_out: &[Point]) -> Vec<String> {
    let path = intent.action.path.trim_start_matches('/');
    let mut wrong = Vec::new();
    for change in &intent.changes {
        let file = match change.of {
            Holder::Cgroup => format!("{ROOT}/{path}/{}", change.file),
            Holder::Process { pid, .. } => format!("/proc/{pid}/{}", change.file),
        };
        let effect = Some((file, change.value.clone()));
        let times = carried_out
            .iter()
            .filter(|point| point.effect == effect)
            .count();
        if times > 1 {
            wrong.push(format!("repeated: {change} was written {times} times"));
        }
    }
    wrong
}

/// Files that nobody will look at again.
pub fn leftovers(dir: &Path) -> anyhow::Result<Vec<String>> {
    let mut left = Vec::new();
    for entry in fs::read_dir(dir.join("leases"))? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if name != "agent.lock" && name != "guardian.lock" {
            left.push(format!("left over: leases/{name}"));
        }
    }
    Ok(left)
}
