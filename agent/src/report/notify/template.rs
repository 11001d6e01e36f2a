//! What a notification says: fields of an incident, and text with `{{field}}`s.

use std::collections::BTreeMap;

use crate::{
    incident::{Entry, KnobChange},
    ledger::{Incident, State},
};

/// The text unless the configuration has another.
pub(super) const SHIPPED: &str = "{{node}}: {{alert}} - {{outcome}}\n\
                                  Cause: {{cause}} ({{probability}}) {{culprit}}\n\
                                  Action: {{action}}\n{{link}}";

/// A field that is longer is cut, so that labels of a megabyte make no message of one.
const FIELD_CHARS_MAX: usize = 400;
const TEMPLATE_BYTES_MAX: usize = 4096;

/// Every field that a template may name.
pub(super) const FIELDS: [&str; 13] = [
    "action",
    "alert",
    "cause",
    "culprit",
    "incident",
    "labels",
    "link",
    "node",
    "opened",
    "outcome",
    "probability",
    "state",
    "tenant",
];

/// What an incident has to say now.
pub(super) type Fields = BTreeMap<&'static str, String>;

/// Fields of an incident in a state. `page_url` has no slash at its end.
pub(super) fn fields(
    incident: &Incident,
    state: State,
    node: &str,
    page_url: Option<&str>,
) -> Fields {
    let episode = &incident.episode;
    let top = incident.diagnosis().and_then(|found| found.top.first());
    let labels = episode.alert.labels.iter();
    let labels: Vec<String> = labels
        .map(|(name, value)| format!("{name}={value:?}"))
        .collect();
    let id = incident.id.to_string();
    let cause = top.map_or_else(
        || "not known".to_owned(),
        |top| format!("{}: {}", top.id, top.title),
    );
    let culprit = top.and_then(|top| top.culprit.as_ref());
    let link = page_url.map_or_else(String::new, |page| format!("{page}/#/{id}"));
    let all = [
        ("action", action(incident)),
        ("alert", episode.alert.name().to_owned()),
        ("cause", cause),
        (
            "culprit",
            culprit.map_or_else(String::new, |found| found.path.clone()),
        ),
        ("incident", id),
        ("labels", labels.join(" ")),
        ("link", link),
        ("node", node.to_owned()),
        ("opened", episode.opened_at.to_string()),
        ("outcome", outcome(incident, state)),
        (
            "probability",
            top.map_or_else(
                || "-".to_owned(),
                |top| format!("{:.0} %", top.posterior * 100.0),
            ),
        ),
        ("state", state.as_str().to_owned()),
        ("tenant", episode.tenant.to_string()),
    ];
    all.map(|(name, value)| (name, bounded(&value)))
        .into_iter()
        .collect()
}

fn action(incident: &Incident) -> String {
    let Some((intent, _)) = incident.intent() else {
        return "none".to_owned();
    };
    let changes: Vec<String> = intent.changes.iter().map(KnobChange::to_string).collect();
    let action = &intent.action;
    format!(
        "{} on {} ({})",
        action.kind,
        action.path,
        changes.join(", ")
    )
}

fn outcome(incident: &Incident, state: State) -> String {
    let last = |of: fn(&Entry) -> Option<String>| {
        incident
            .entries
            .iter()
            .rev()
            .find_map(|line| of(&line.entry))
    };
    match state {
        State::Open => "accepted".to_owned(),
        State::Diagnosed => "diagnosed".to_owned(),
        State::Proposed => {
            let id = incident.episode.id;
            format!("waits for a person: paramedic incidents approve {id}, or reject")
        }
        State::Acting => "acting".to_owned(),
        State::Holding => "healed; the effect is in force until its lease ends".to_owned(),
        State::Healed => "healed, and the effect has ended".to_owned(),
        State::RolledBack => "not healed: the action did not help and was undone".to_owned(),
        State::Reported => {
            let why = last(|entry| match entry {
                Entry::Refused { refusal, .. } => Some(refusal.detail.clone()),
                Entry::Rejected { by } => Some(format!("rejected by {by}")),
                Entry::Lapsed { why } => Some(why.clone()),
                _ => None,
            });
            format!("no action: {}", why.unwrap_or_default())
        }
        State::Failed => {
            let why = last(|entry| match entry {
                Entry::Failed { error } => Some(error.clone()),
                _ => None,
            });
            format!("handling failed: {}", why.unwrap_or_default())
        }
    }
}

/// One line of bounded length, without control characters.
fn bounded(value: &str) -> String {
    let plain = value.chars().map(|c| if c.is_control() { ' ' } else { c });
    let mut short: String = plain.take(FIELD_CHARS_MAX).collect();
    if value.chars().count() > FIELD_CHARS_MAX {
        short.push('…');
    }
    short
}

/// Whether every field of a template is one.
pub(super) fn check(template: &str) -> Result<(), String> {
    if template.len() > TEMPLATE_BYTES_MAX {
        return Err(format!("longer than {TEMPLATE_BYTES_MAX} bytes"));
    }
    let mut rest = template;
    while let Some((_, after)) = rest.split_once("{{") {
        let (name, after) = after
            .split_once("}}")
            .ok_or_else(|| "{{ without }}".to_owned())?;
        if !FIELDS.contains(&name.trim()) {
            let known = FIELDS.join(", ");
            return Err(format!("no field {:?}; there are {known}", name.trim()));
        }
        rest = after;
    }
    Ok(())
}

/// Fills a template in, once: a value that looks like a field stays text. `escape` is the receiver's.
pub(super) fn fill(template: &str, fields: &Fields, escape: impl Fn(&str) -> String) -> String {
    let mut text = String::new();
    let mut rest = template;
    while let Some((before, after)) = rest.split_once("{{") {
        text.push_str(before);
        let Some((name, after)) = after.split_once("}}") else {
            break;
        };
        if let Some(value) = fields.get(name.trim()) {
            text.push_str(&escape(value));
        }
        rest = after;
    }
    text.push_str(rest);
    text
}

/// What Slack's markup asks for: <https://docs.slack.dev/messaging/formatting-message-text>.
pub(super) fn slack(value: &str) -> String {
    value
        .replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

/// As it is.
pub(super) fn plain(value: &str) -> String {
    value.to_owned()
}
