//! Alertmanager's webhook body, version 4, and Grafana's of the same shape: pure decoding, bounded.
//!
//! Unknown fields are skipped without being kept. Decisions:
//!
//! - An alert's own `status` counts, never the group's.
//! - An alert that is absent is not resolved, whether `truncatedAlerts` says so or not.
//! - The year 1 (Go's zero time) means "no time".
//! - Grafana writes `"version": "1"`; it is told from a foreign version 1 by its own fields.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, de::IgnoredAny};

use super::IntakeConfig;
use crate::incident::{Alert, AlertStatus, Fingerprint};

/// Longest `receiver` kept, bytes.
const RECEIVER_BYTES_MAX: usize = 256;

/// Why a body was refused; every text names the field and, where there is one, the way out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PayloadError {
    /// Not JSON at all.
    #[error("the body is not JSON: {0}")]
    NotJson(String),
    /// JSON of another shape.
    #[error("{path}: {why}")]
    Shape {
        /// Where, as in `alerts[2].labels.job`.
        path: String,
        /// What is wrong.
        why: String,
    },
    /// Another version of the payload.
    #[error(
        "version: {0:?} is not supported, only \"4\" (Alertmanager 0.6 and later, and Grafana's webhook)"
    )]
    Version(String),
    /// Within the shape, over a limit.
    #[error("{path}: {count} {what}, at most {max}; raise intake.{key}{or}")]
    Limit {
        /// Where.
        path: String,
        /// How many there are.
        count: usize,
        /// Of what.
        what: &'static str,
        /// How many there may be.
        max: usize,
        /// The configuration key.
        key: &'static str,
        /// Another way out, or nothing.
        or: &'static str,
    },
}

/// A decoded body.
#[derive(Clone, Debug, PartialEq)]
pub struct Payload {
    /// As sent (escaped as a regular expression by Alertmanager), cut to 256 bytes.
    pub receiver: String,
    /// In the order sent.
    pub alerts: Vec<Alert>,
    /// Alerts that the sender left out.
    pub truncated: u64,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Body {
    version: String,
    #[serde(default)]
    receiver: Option<String>,
    alerts: Vec<RawAlert>,
    #[serde(default)]
    truncated_alerts: Option<u64>,
    /// Grafana's.
    #[serde(default)]
    org_id: Option<IgnoredAny>,
    /// Grafana's.
    #[serde(default)]
    state: Option<IgnoredAny>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawAlert {
    status: AlertStatus,
    labels: BTreeMap<String, String>,
    #[serde(default)]
    annotations: Option<BTreeMap<String, String>>,
    starts_at: Timestamp,
    #[serde(default)]
    ends_at: Option<Timestamp>,
    #[serde(default)]
    fingerprint: Option<String>,
}

/// Decodes a body within the limits of `config`.
pub fn parse(bytes: &[u8], config: &IntakeConfig) -> Result<Payload, PayloadError> {
    let body = decode(bytes)?;
    let grafana = body.version == "1" && (body.org_id.is_some() || body.state.is_some());
    if body.version != "4" && !grafana {
        return Err(PayloadError::Version(cut(&body.version, 32).to_owned()));
    }
    let count = body.alerts.len();
    if count > config.alerts_max {
        let (what, or) = (
            "alerts",
            ", or set a lower max_alerts in Alertmanager's webhook_config",
        );
        return Err(limit(
            "alerts",
            count,
            what,
            config.alerts_max,
            "alerts_max",
            or,
        ));
    }
    let alerts = body.alerts.into_iter().enumerate();
    let alerts = alerts.map(|(i, raw)| alert(i, raw, config));
    Ok(Payload {
        receiver: cut(&body.receiver.unwrap_or_default(), RECEIVER_BYTES_MAX).to_owned(),
        alerts: alerts.collect::<Result<_, _>>()?,
        truncated: body.truncated_alerts.unwrap_or(0),
    })
}

/// Nearly every body is right, and looking for the place of an error costs as much again as decoding:
/// only a wrong one is looked at twice.
fn decode(bytes: &[u8]) -> Result<Body, PayloadError> {
    serde_json::from_slice(bytes).or_else(|_| explain(bytes))
}

/// Decodes again, for an error that names the field.
fn explain(bytes: &[u8]) -> Result<Body, PayloadError> {
    use serde_json::error::Category;
    let mut json = serde_json::Deserializer::from_slice(bytes);
    let body = serde_path_to_error::deserialize(&mut json).map_err(|error| {
        let path = error.path().to_string();
        match error.inner().classify() {
            Category::Data => PayloadError::Shape {
                path: cut(&path, 256).to_owned(),
                why: cut(&error.inner().to_string(), 512).to_owned(),
            },
            _ => PayloadError::NotJson(error.inner().to_string()),
        }
    })?;
    json.end()
        .map_err(|error| PayloadError::NotJson(error.to_string()))?;
    Ok(body)
}

fn alert(i: usize, raw: RawAlert, config: &IntakeConfig) -> Result<Alert, PayloadError> {
    let shape = |field: &str, why: String| PayloadError::Shape {
        path: format!("alerts[{i}].{field}"),
        why,
    };
    if raw.labels.is_empty() {
        return Err(shape(
            "labels",
            "an alert without labels has no identity".into(),
        ));
    }
    check_labels(i, &raw.labels, config)?;
    let annotations = raw.annotations.unwrap_or_default();
    if annotations.len() > config.labels_max {
        let path = format!("alerts[{i}].annotations");
        let count = annotations.len();
        return Err(limit(
            &path,
            count,
            "annotations",
            config.labels_max,
            "labels_max",
            "",
        ));
    }
    let starts_at =
        stated(raw.starts_at).ok_or_else(|| shape("startsAt", "the year 1 is no start".into()))?;
    let fingerprint = match raw.fingerprint.filter(|text| !text.is_empty()) {
        Some(text) => Fingerprint::try_from(cut(&text, 64).to_owned())
            .map_err(|why| shape("fingerprint", why))?,
        None => Fingerprint::of(&raw.labels),
    };
    let ends_at = match raw.status {
        AlertStatus::Firing => None,
        AlertStatus::Resolved => raw.ends_at.and_then(stated),
    };
    let longest = config.label_bytes_max;
    let annotations = annotations.into_iter();
    Ok(Alert {
        status: raw.status,
        labels: raw.labels,
        annotations: annotations
            .map(|(name, value)| (shorten(name, longest), shorten(value, longest)))
            .collect(),
        starts_at,
        ends_at,
        fingerprint,
    })
}

fn check_labels(
    i: usize,
    labels: &BTreeMap<String, String>,
    config: &IntakeConfig,
) -> Result<(), PayloadError> {
    let path = format!("alerts[{i}].labels");
    if labels.len() > config.labels_max {
        return Err(limit(
            &path,
            labels.len(),
            "labels",
            config.labels_max,
            "labels_max",
            "",
        ));
    }
    let (max, key) = (config.label_bytes_max, "label_bytes_max");
    for (name, value) in labels {
        let path = format!("{path}[{:?}]", cut(name, 64));
        if name.is_empty() {
            let why = "a label needs a name".to_owned();
            return Err(PayloadError::Shape { path, why });
        }
        if name.len() > max {
            return Err(limit(&path, name.len(), "bytes of name", max, key, ""));
        }
        if value.len() > max {
            return Err(limit(&path, value.len(), "bytes of value", max, key, ""));
        }
    }
    Ok(())
}

fn limit(
    path: &str,
    count: usize,
    what: &'static str,
    max: usize,
    key: &'static str,
    or: &'static str,
) -> PayloadError {
    PayloadError::Limit {
        path: path.to_owned(),
        count,
        what,
        max,
        key,
        or,
    }
}

/// A time as Go writes it: its zero value, the year 1, says that there is none.
fn stated(time: Timestamp) -> Option<Timestamp> {
    // The zero value may be written with a zone's offset, so the day beside it counts too.
    const YEAR_2_UNIX_S: i64 = -62_104_060_800;
    (time.as_second() >= YEAR_2_UNIX_S).then_some(time)
}

/// The longest beginning of at most `bytes` bytes that ends between characters.
fn cut(text: &str, bytes: usize) -> &str {
    &text[..text.floor_char_boundary(bytes)]
}

fn shorten(text: String, bytes: usize) -> String {
    if text.len() <= bytes {
        return text;
    }
    format!("{}…", cut(&text, bytes.saturating_sub('…'.len_utf8())))
}

#[cfg(test)]
mod tests;
