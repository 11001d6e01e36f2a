//! The document's parts, from the record.

use jiff::Timestamp;

use super::{chart, document::Document};
use crate::{
    incident::{
        Diagnosis, Entry, Evidence, Holder, Hypothesis, OutcomeKind, Quality, Reading, Verdict,
    },
    ledger::{Incident, State},
};

/// Readings of the host that are compared, before and after.
const COMPARED: [&str; 10] = [
    "cpu.busy",
    "cpu.iowait",
    "psi.cpu.some",
    "psi.memory.some",
    "psi.io.some",
    "mem.available",
    "disk.util",
    "fs.used",
    "forks_per_s",
    "procs",
];
/// Series that are drawn.
const SERIES_MAX: usize = 12;

/// Evidence around the action.
#[derive(Debug, Default)]
pub(super) struct Seen {
    pub(super) before: Option<Evidence>,
    pub(super) after: Option<Evidence>,
    pub(super) missing: Vec<String>,
}

/// How it stands, in words.
pub(super) fn ended(state: State) -> &'static str {
    match state {
        State::Open => "not yet diagnosed",
        State::Diagnosed => "diagnosed",
        State::Proposed => "an action waits for a person",
        State::Acting => "an action is under way",
        State::Holding => "healed, the effect is still in force",
        State::Healed => "healed",
        State::RolledBack => "the action did not help and was undone",
        State::Reported => "reported, no action",
        State::Failed => "handling failed",
    }
}

/// A number as people read it.
pub(super) fn number(value: f64) -> String {
    let size = value.abs();
    if size >= 1e9 {
        format!("{:.2} G", value / 1e9)
    } else if size >= 1e6 {
        format!("{:.2} M", value / 1e6)
    } else if size >= 1e4 {
        format!("{:.1} k", value / 1e3)
    } else if size >= 100.0 {
        format!("{value:.0}")
    } else {
        format!("{value:.2}")
    }
}

fn or_missing(value: Option<f64>) -> String {
    value.map_or_else(|| "missing".to_owned(), number)
}

fn utc(at: Timestamp) -> String {
    at.strftime("%Y-%m-%d %H:%M:%S UTC").to_string()
}

fn pair(name: &str, value: impl Into<String>) -> Vec<String> {
    vec![name.to_owned(), value.into()]
}

pub(super) fn facts(document: &mut Document, incident: &Incident) {
    let episode = &incident.episode;
    let last = incident.entries.last().map_or(episode.opened_at, |l| l.at);
    let took_s = last.duration_since(episode.opened_at).as_secs_f64();
    let mut rows = vec![
        pair("Incident", incident.id.to_string()),
        pair("Opened", utc(episode.opened_at)),
        pair("Alert began", utc(episode.alert.starts_at)),
        pair(
            "Last entry",
            format!("{} ({took_s:.1} s after opening)", utc(last)),
        ),
        pair("Tenant", episode.tenant.to_string()),
        pair("Trace", episode.trace.trace_id.clone()),
    ];
    let alert = &episode.alert;
    for (name, value) in &alert.labels {
        rows.push(vec![format!("Label {name}"), value.clone()]);
    }
    for (name, value) in &alert.annotations {
        rows.push(vec![format!("Annotation {name}"), value.clone()]);
    }
    document.table(&["", ""], rows);
}

pub(super) fn timeline(document: &mut Document, incident: &Incident) {
    document.heading("Timeline");
    let opened = incident.episode.opened_at;
    let rows = incident.entries.iter().map(|line| {
        let since = line.at.duration_since(opened).as_secs_f64();
        vec![
            format!("{since:+.3} s"),
            line.at.strftime("%H:%M:%S%.3f").to_string(),
            told(&line.entry),
        ]
    });
    document.table(&["After opening", "UTC", "What"], rows.collect());
}

/// One sentence an entry; the parts below have the details.
fn told(entry: &Entry) -> String {
    match entry {
        Entry::Opened { .. } => "The alert was accepted and is durable".to_owned(),
        Entry::Seen { .. } => "The same alert came again".to_owned(),
        Entry::Resolved { .. } => "The alert resolved".to_owned(),
        Entry::Diagnosed {
            diagnosis,
            since_open_ms,
            ..
        } => {
            let top = diagnosis.top.first().map_or_else(
                || "no known cause".to_owned(),
                |top| format!("{} with {:.0} %", top.id, top.posterior * 100.0),
            );
            format!("Diagnosed {since_open_ms} ms after opening: {top}")
        }
        Entry::Shadowed { dual } => match dual.consensus {
            Some(true) => format!("The second strategy ({}) agrees", dual.b),
            Some(false) => format!("The second strategy ({}) disagrees", dual.b),
            None => format!("The second strategy ({}) gave no answer in time", dual.b),
        },
        Entry::Refused { refusal, .. } => {
            format!("No action ({}): {}", refusal.reason, refusal.detail)
        }
        Entry::Proposed { intent, expires } => {
            let action = &intent.action;
            format!(
                "Proposed until {expires}: {} on {}",
                action.kind, action.path
            )
        }
        Entry::Approved { by } => format!("Approved by {by}"),
        Entry::Rejected { by } => format!("Rejected by {by}"),
        Entry::Lapsed { why } => format!("The proposal lapsed: {why}"),
        Entry::Intended { intent } => {
            let action = &intent.action;
            format!("Intent recorded: {} on {}", action.kind, action.path)
        }
        Entry::Applied { took_us } => format!("Applied in {took_us} µs"),
        Entry::Collected {
            command, status, ..
        } => format!("Collected {command} ({status})"),
        Entry::Verified { outcome, .. } => format!(
            "Verified {:.1} s after the action: {}",
            outcome.after_s,
            judged(outcome.kind)
        ),
        Entry::RolledBack {
            reason,
            by_guardian,
            ..
        } => {
            let who = by_guardian.map_or("", |_| " by the guardian");
            format!("Undone{who} ({reason})")
        }
        Entry::TakenOver { detail } => format!("Taken over after a restart: {detail}"),
        Entry::Failed { error } => format!("Handling failed: {error}"),
        Entry::Closed => "Closed".to_owned(),
    }
}

fn judged(kind: OutcomeKind) -> &'static str {
    match kind {
        OutcomeKind::Healed => "healed",
        OutcomeKind::NoEffect => "no effect",
        OutcomeKind::Worse => "worse than before",
        OutcomeKind::Unknown => "could not be judged",
    }
}

pub(super) fn causes(document: &mut Document, incident: &Incident) {
    let Some(diagnosis) = incident.diagnosis() else {
        return;
    };
    document.heading("Why");
    document.paragraph(&match &diagnosis.verdict {
        Verdict::Conclusive => format!(
            "Conclusive; ranking took {} µs. None of the known causes: {:.0} %.",
            diagnosis.took_us,
            diagnosis.unknown * 100.0
        ),
        Verdict::Inconclusive(why) => format!("Inconclusive: {why}."),
    });
    for (rank, hypothesis) in diagnosis.top.iter().enumerate() {
        cause(document, rank, hypothesis);
    }
    excluded(document, diagnosis);
}

fn cause(document: &mut Document, rank: usize, hypothesis: &Hypothesis) {
    let percent = |part: f64| format!("{:.0} %", part * 100.0);
    document.sub(&format!(
        "{}. {}: {} ({}, {} before the evidence)",
        rank + 1,
        hypothesis.id,
        hypothesis.title,
        percent(hypothesis.posterior),
        percent(hypothesis.prior)
    ));
    if let Some(culprit) = &hypothesis.culprit {
        document.paragraph(&format!(
            "Culprit: {} (cgroup {}), by {} = {}",
            culprit.path,
            culprit.cgroup.0,
            culprit.chosen_by,
            number(culprit.value)
        ));
    }
    let weighed = hypothesis.features.iter().filter(|f| f.bits != 0.0);
    let weights: Vec<(String, f64)> = weighed
        .map(|feature| {
            let says = if feature.says.is_empty() {
                &feature.id
            } else {
                &feature.says
            };
            (says.clone(), feature.bits)
        })
        .collect();
    if !weights.is_empty() {
        let caption = "Evidence for (right) and against (left), in bits";
        document.chart(caption, chart::weights(&weights));
    }
    let rows = hypothesis.features.iter().map(|feature| {
        let quality = match feature.quality {
            Some(Quality::Good) => "good",
            Some(Quality::Partial) => "partial",
            None => "missing",
        };
        let held = feature
            .held
            .map_or("-", |held| if held { "yes" } else { "no" });
        vec![
            feature.says.clone(),
            feature.test.to_string(),
            or_missing(feature.value),
            held.to_owned(),
            format!("{:+.1}", feature.bits),
            quality.to_owned(),
        ]
    });
    document.table(
        &["Evidence", "Test", "Seen", "Held", "Bits", "Quality"],
        rows.collect(),
    );
    for note in &hypothesis.notes {
        document.paragraph(&format!("Note: {note}"));
    }
}

fn excluded(document: &mut Document, diagnosis: &Diagnosis) {
    let rows = diagnosis.excluded.iter();
    let rows = rows.map(|(id, because)| vec![id.clone(), because.clone()]);
    document.table(&["Excluded", "Because"], rows.collect());
}

pub(super) fn action(document: &mut Document, incident: &Incident) {
    document.heading("What was done");
    let Some((intent, _)) = incident.intent() else {
        let refusal = incident
            .entries
            .iter()
            .rev()
            .find_map(|line| match &line.entry {
                Entry::Refused { refusal, .. } => {
                    Some(format!("{}: {}", refusal.reason, refusal.detail))
                }
                _ => None,
            });
        let why = refusal.unwrap_or_else(|| "no action is recorded".to_owned());
        document.paragraph(&format!("Nothing. {why}"));
        return;
    };
    let action = &intent.action;
    document.paragraph(&format!(
        "{} on {} (cgroup {}); the lease ends {}.",
        action.kind,
        action.path,
        action.cgroup.0,
        utc(intent.lease_until)
    ));
    let rows = intent.changes.iter().map(|change| {
        let of = match change.of {
            Holder::Cgroup => "the cgroup".to_owned(),
            Holder::Process { pid, .. } => format!("process {pid}"),
        };
        vec![
            of,
            change.file.clone(),
            change.prior.trim().to_owned(),
            change.value.trim().to_owned(),
        ]
    });
    document.table(&["Of", "File", "Before", "Written"], rows.collect());
    let mut undone = false;
    for line in &incident.entries {
        if let Entry::RolledBack {
            reason, left_alone, ..
        } = &line.entry
        {
            undone = true;
            document.paragraph(&format!(
                "Undone at {} ({reason}): the values before were restored.",
                utc(line.at)
            ));
            for what in left_alone {
                document.paragraph(&format!("Left alone: {what}"));
            }
        }
    }
    if !undone {
        document.paragraph("Not undone yet: the values above are restored when the lease ends.");
    }
}

pub(super) fn verification(document: &mut Document, incident: &Incident) {
    let mut newest_first = incident.entries.iter().rev();
    let Some(outcome) = newest_first.find_map(|line| match &line.entry {
        Entry::Verified { outcome, .. } => Some(outcome),
        _ => None,
    }) else {
        return;
    };
    document.heading("Did it help");
    document.paragraph(&format!(
        "{}, judged {:.1} s after the action.",
        judged(outcome.kind),
        outcome.after_s
    ));
    let rows = outcome.checks.iter().map(|(test, before, after)| {
        vec![test.to_string(), or_missing(*before), or_missing(*after)]
    });
    document.table(&["Recovery means", "Before", "After"], rows.collect());
}

pub(super) fn seen(document: &mut Document, seen: &Seen) {
    if seen.before.is_none() && seen.missing.is_empty() {
        return;
    }
    document.heading("What was seen");
    for why in &seen.missing {
        document.paragraph(&format!("Evidence that cannot be read any more: {why}"));
    }
    let Some(before) = &seen.before else { return };
    let read = |evidence: &Evidence, name: &str| evidence.host.get(name).map(|r: &Reading| r.value);
    let after = seen.after.as_ref();
    let rows = COMPARED.iter().filter_map(|&name| {
        let first = read(before, name);
        let then = after.and_then(|evidence| read(evidence, name));
        let row = vec![name.to_owned(), or_missing(first), or_missing(then)];
        (first.is_some() || then.is_some()).then_some(row)
    });
    document.table(&["Of the host", "Before", "After"], rows.collect());
    for series in before.series.iter().take(SERIES_MAX) {
        if let Some(svg) = chart::line(series) {
            let labels = series.labels.iter();
            let labels: Vec<String> = labels
                .map(|(name, value)| format!("{name}={value}"))
                .collect();
            let long_s = u64::from(series.step_s) * series.values.len().saturating_sub(1) as u64;
            let caption = format!(
                "{} {} over the last {long_s} s; a dashed line where its level changed",
                series.name,
                labels.join(" ")
            );
            document.chart(&caption, svg);
        }
    }
    let gaps = before.coverage.iter().filter(|c| !c.complete);
    let gaps = gaps.map(|c| vec![c.source.clone(), c.note.clone()]);
    document.table(&["Source not complete", "What stood in"], gaps.collect());
}

pub(super) fn collected(document: &mut Document, incident: &Incident) {
    for line in &incident.entries {
        if let Entry::Collected {
            command,
            status,
            output,
        } = &line.entry
        {
            document.sub(&format!("{command} ({status})"));
            document.pre(output);
        }
    }
}
