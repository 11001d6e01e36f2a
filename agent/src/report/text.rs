//! Incidents as text for a terminal of 100 columns.

use std::fmt::Write as _;

use jiff::Timestamp;

use crate::{
    diagnosis::explain,
    incident::{DualResult, Entry, KnobChange, Outcome, OutcomeKind, Shadow},
    ledger::{Incident, Summary},
    remedy::Earned,
};

/// Widest line written.
const COLUMNS: usize = 100;

/// A table of incidents, one line each.
pub fn incident_table(incidents: &[Summary]) -> String {
    let mut text = format!(
        "{:<35}  {:<20}  {:<11}  {}\n",
        "INCIDENT", "OPENED (UTC)", "STATE", "ALERT -> CAUSE"
    );
    for summary in incidents {
        let cause = summary.top.as_ref().map_or_else(
            || "not diagnosed".to_owned(),
            |(id, p)| format!("{id} {:.0} %", p * 100.0),
        );
        let line = format!(
            "{:<35}  {:<20}  {:<11}  {} -> {cause}",
            summary.id.to_string(),
            seconds(summary.opened_at),
            summary.state.as_str(),
            clean(&summary.alert),
        );
        text.push_str(&clip(&line));
        text.push('\n');
    }
    text
}

/// What rules' actions have earned, one line each.
pub fn level_table(earned: &[Earned]) -> String {
    let mut text = format!(
        "{:<28}  {:<17}  {:>8}  {:>11}  LEVEL\n",
        "RULE", "ACTION", "HEALED", "AT LEAST"
    );
    for one in earned {
        let healed = format!("{}/{}", one.healed, one.judged);
        let line = format!(
            "{:<28}  {:<17}  {healed:>8}  {:>9.1} %  {}",
            clean(&one.rule),
            one.action,
            one.lower_bound * 100.0,
            one.level.as_str(),
        );
        text.push_str(&clip(&line));
        text.push('\n');
    }
    text
}

/// One incident: what happened, why, and what was done, with seconds since its opening.
pub fn incident_text(incident: &Incident) -> String {
    let episode = &incident.episode;
    let mut text = String::new();
    put(
        &mut text,
        &format!("{}  {}", incident.id, incident.state().as_str()),
    );
    put(
        &mut text,
        &format!(
            "alert   {} ({})",
            clean(episode.alert.name()),
            episode.alert.fingerprint
        ),
    );
    for (name, value) in episode
        .alert
        .labels
        .iter()
        .filter(|(name, _)| *name != "alertname")
    {
        put(&mut text, &format!("        {}={:?}", clean(name), value));
    }
    put(
        &mut text,
        &format!(
            "opened  {}   tenant {}",
            seconds(episode.opened_at),
            episode.tenant
        ),
    );
    put(&mut text, &format!("trace   {}\n", episode.trace.trace_id));
    for line in &incident.entries {
        let since = line.at.duration_since(episode.opened_at).as_secs_f64();
        let said = say(&line.entry);
        put(
            &mut text,
            &format!(
                "{since:>+9.3} s  {}",
                said.first().map_or("", String::as_str)
            ),
        );
        for more in said.iter().skip(1) {
            put(&mut text, &format!("             {more}"));
        }
    }
    text
}

/// What one entry says: a headline and lines below it.
fn say(entry: &Entry) -> Vec<String> {
    match entry {
        Entry::Opened { .. } => vec!["accepted: the alert is durable".into()],
        Entry::Seen { .. } => vec!["the same alert again".into()],
        Entry::Resolved { .. } => vec!["the alert resolved".into()],
        Entry::Diagnosed {
            diagnosis,
            since_open_ms,
            ..
        } => {
            let mut lines = vec![format!(
                "diagnosed {since_open_ms} ms after acceptance (ranking took {} us)",
                diagnosis.took_us
            )];
            lines.extend(explain(diagnosis).lines().map(str::to_owned));
            lines
        }
        Entry::Shadowed { dual } => vec![shadowed(dual)],
        Entry::Refused { refusal, .. } => {
            vec![
                format!("no action ({})", refusal.reason),
                refusal.detail.clone(),
            ]
        }
        Entry::Proposed { intent, expires } => {
            let mut lines = vec![format!(
                "proposed: {} on {}; waits for a person until {}",
                intent.action.kind,
                clean(&intent.action.path),
                seconds(*expires)
            )];
            lines.extend(intent.changes.iter().map(change));
            lines
        }
        Entry::Approved { by } => vec![format!("approved by {}", clean(by))],
        Entry::Rejected { by } => vec![format!("rejected by {}", clean(by))],
        Entry::Lapsed { why } => vec![format!("the proposal lapsed: {why}")],
        Entry::Intended { intent } => {
            let mut lines = vec![format!(
                "intent: {} on {}",
                intent.action.kind,
                clean(&intent.action.path)
            )];
            lines.extend(intent.changes.iter().map(change));
            lines.push(format!("lease until {}", seconds(intent.lease_until)));
            lines
        }
        Entry::Applied { took_us } => vec![format!("applied in {took_us} us")],
        Entry::Collected {
            command,
            status,
            output,
        } => {
            let mut lines = vec![format!("collected {command} ({status})")];
            lines.extend(output.lines().take(12).map(clean));
            lines
        }
        Entry::Verified { outcome, .. } => verified(outcome),
        Entry::RolledBack {
            reason,
            by_guardian,
            left_alone,
        } => {
            let mut lines = vec![format!("rolled back ({reason})")];
            lines.extend(by_guardian.map(|at| format!("by the guardian, at {at}")));
            lines.extend(left_alone.iter().map(|what| format!("left alone: {what}")));
            lines
        }
        Entry::TakenOver { detail } => vec![format!("taken over: {detail}")],
        Entry::Failed { error } => vec![format!("failed: {error}")],
        Entry::Closed => vec!["closed".into()],
    }
}

fn change(change: &KnobChange) -> String {
    format!(
        "{}: {:?} -> {:?}",
        change.file,
        change.prior.trim(),
        change.value.trim()
    )
}

fn verified(outcome: &Outcome) -> Vec<String> {
    let word = match outcome.kind {
        OutcomeKind::Healed => "healed",
        OutcomeKind::NoEffect => "no effect",
        OutcomeKind::Worse => "worse",
        OutcomeKind::Unknown => "unknown",
    };
    let mut lines = vec![format!("verified after {:.1} s: {word}", outcome.after_s)];
    for (test, before, after) in &outcome.checks {
        let show = |value: &Option<f64>| value.map_or("missing".into(), |v| format!("{v:.3}"));
        lines.push(format!("{test}: {} -> {}", show(before), show(after)));
    }
    lines
}

fn put(text: &mut String, line: &str) {
    // Writing to a String cannot fail.
    writeln!(text, "{}", clip(line)).unwrap_or_default();
}

/// Control characters of foreign text must not reach the terminal.
fn clean(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .collect()
}

fn clip(line: &str) -> String {
    if line.chars().count() <= COLUMNS {
        return line.to_owned();
    }
    line.chars().take(COLUMNS - 1).chain(['…']).collect()
}

fn seconds(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

fn shadowed(dual: &DualResult) -> String {
    let said = |shadow: &Shadow| match &shadow.first {
        Some((id, posterior)) => format!("{} ({:.0} %)", clean(id), posterior * 100.0),
        None => "none of the known causes".to_owned(),
    };
    match &dual.b_said {
        None => format!("shadow {}: no answer in time", dual.b),
        Some(b) if dual.consensus == Some(true) => format!("shadow {} agrees: {}", dual.b, said(b)),
        Some(b) => format!("shadow {} disagrees: {}", dual.b, said(b)),
    }
}
