//! The post-mortem of one incident, from its record alone: what happened, why, what was done, whether it
//! helped. One document, written as Markdown or as an HTML file that needs nothing else.

mod chart;
mod document;
mod parts;

use axum::{
    http::header,
    response::{IntoResponse, Response},
};
use serde::Deserialize;

use crate::{
    incident::{Entry, Evidence},
    ledger::Incident,
};
use document::Document;

/// How it is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// GitHub-flavoured Markdown, without charts.
    Md,
    /// One file with its style and charts.
    #[default]
    Html,
}

/// No script, nothing from elsewhere.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; \
                      form-action 'none'; frame-ancestors 'none'";

/// The whole document. `read` gives the evidence that an entry names, or says why it can't.
pub fn write(
    incident: &Incident,
    read: &dyn Fn(&str) -> Result<Evidence, String>,
    format: Format,
) -> String {
    let snapshot = |entry: &Entry| match entry {
        Entry::Diagnosed { snapshot, .. } => snapshot.clone().map(|at| (false, at)),
        Entry::Verified { snapshot, .. } => snapshot.clone().map(|at| (true, at)),
        _ => None,
    };
    let mut seen = parts::Seen::default();
    for (is_after, reference) in incident.entries.iter().filter_map(|l| snapshot(&l.entry)) {
        match read(&reference) {
            Ok(evidence) if is_after => seen.after = Some(evidence),
            Ok(evidence) => seen.before = Some(evidence),
            Err(why) => seen.missing.push(why),
        }
    }
    let name = incident.episode.alert.name();
    let mut document = Document::new(&format!("{name}: {}", parts::ended(incident.state())));
    parts::facts(&mut document, incident);
    parts::timeline(&mut document, incident);
    parts::causes(&mut document, incident);
    parts::action(&mut document, incident);
    parts::verification(&mut document, incident);
    parts::seen(&mut document, &seen);
    parts::collected(&mut document, incident);
    match format {
        Format::Md => document.markdown(),
        Format::Html => document.html(),
    }
}

/// The document as an answer over HTTP.
pub(super) fn answer(format: Format, text: String) -> Response {
    let kind = match format {
        Format::Md => "text/markdown; charset=utf-8",
        Format::Html => "text/html; charset=utf-8",
    };
    let headers = [
        (header::CONTENT_TYPE, kind),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-cache"),
    ];
    (headers, text).into_response()
}

#[cfg(test)]
mod tests;
