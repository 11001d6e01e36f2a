//! An alert from a file, for commands that diagnose without having been called by one.

use std::{
    collections::BTreeMap,
    fs::File,
    io::Read as _,
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};
use jiff::Timestamp;
use serde::Deserialize;

use crate::{
    incident::{Alert, AlertStatus, Fingerprint, Source},
    intake::{IntakeConfig, payload},
};

/// What Alertmanager sends is a hundredth of that.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// `--alert FILE`.
#[derive(Debug, clap::Args)]
pub(super) struct AlertFile {
    /// Diagnose as if this alert had called: a webhook's body with one firing alert, or an object with
    /// its `labels`. Without one, every rule is a candidate
    #[arg(long, value_name = "FILE")]
    alert: Option<PathBuf>,
}

/// An alert alone: of what else stands in the file nothing is needed.
#[derive(Deserialize)]
struct Bare {
    labels: BTreeMap<String, String>,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
}

/// Only to tell a webhook's body from an alert alone.
#[derive(Deserialize)]
struct Shape {
    #[serde(default)]
    alerts: Option<serde::de::IgnoredAny>,
}

impl AlertFile {
    /// Whether a file was named.
    pub(super) fn is_given(&self) -> bool {
        self.alert.is_some()
    }

    /// The alert of the file and who sends it; without a file, the alert that nobody sent.
    ///
    /// # Errors
    /// When the file cannot be read or names no alert, or more than one.
    pub(super) fn read(&self, limits: &IntakeConfig) -> anyhow::Result<(Alert, Source)> {
        let Some(path) = &self.alert else {
            let labels = [("alertname".to_owned(), "manual".to_owned())].into();
            return Ok((firing(labels, BTreeMap::new()), Source::Manual));
        };
        let bytes = bounded(path)?;
        parse(&bytes, limits).with_context(|| format!("no alert in {}", path.display()))
    }
}

fn bounded(path: &Path) -> anyhow::Result<Vec<u8>> {
    let cannot = || format!("cannot read the alert in {}", path.display());
    let mut bytes = Vec::new();
    let file = File::open(path).with_context(cannot)?;
    file.take(FILE_BYTES_MAX + 1)
        .read_to_end(&mut bytes)
        .with_context(cannot)?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        bail!(
            "{} is over {FILE_BYTES_MAX} bytes: give one alert alone",
            path.display()
        );
    }
    Ok(bytes)
}

fn parse(bytes: &[u8], limits: &IntakeConfig) -> anyhow::Result<(Alert, Source)> {
    let shape: Shape = serde_json::from_slice(bytes)?;
    if shape.alerts.is_none() {
        let Bare {
            labels,
            annotations,
        } = serde_json::from_slice(bytes)?;
        let receiver = "file".to_owned();
        return Ok((
            firing(labels, annotations),
            Source::Alertmanager { receiver },
        ));
    }
    let sent = payload::parse(bytes, limits)?;
    let mut alerts = sent.alerts;
    alerts.retain(|alert| alert.status == AlertStatus::Firing);
    let receiver = sent.receiver;
    match alerts.pop() {
        Some(alert) if alerts.is_empty() => Ok((alert, Source::Alertmanager { receiver })),
        Some(_) => bail!(
            "{} alerts fire in it: leave the one that is meant",
            alerts.len() + 1
        ),
        None => bail!("none of its alerts fires"),
    }
}

fn firing(labels: BTreeMap<String, String>, annotations: BTreeMap<String, String>) -> Alert {
    Alert {
        status: AlertStatus::Firing,
        fingerprint: Fingerprint::of(&labels),
        labels,
        annotations,
        starts_at: Timestamp::now(),
        ends_at: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> anyhow::Result<(Alert, Source)> {
        parse(text.as_bytes(), &IntakeConfig::default())
    }

    #[test]
    fn a_body_with_one_firing_alert_and_an_alert_alone_are_taken() {
        let one = r#"{"status": "firing", "labels": {"alertname": "Full"}, "startsAt": "2026-01-02T03:04:05Z"}"#;
        let (alert, source) = read(one).unwrap();
        assert_eq!(alert.name(), "Full");
        assert_eq!(alert.fingerprint, Fingerprint::of(&alert.labels));
        assert!(matches!(source, Source::Alertmanager { .. }));

        let over = one.replace("firing", "resolved").replace("Full", "Over");
        let body = format!(r#"{{"version": "4", "receiver": "r", "alerts": [{over}, {one}]}}"#);
        let (alert, source) = read(&body).unwrap();
        assert_eq!(alert.name(), "Full");
        let receiver = "r".to_owned();
        assert_eq!(source, Source::Alertmanager { receiver });
    }

    #[test]
    fn what_is_not_one_alert_is_refused_with_the_reason() {
        let one = r#"{"status": "firing", "labels": {"alertname": "Full"}, "startsAt": "2026-01-02T03:04:05Z"}"#;
        let two = format!(r#"{{"version": "4", "alerts": [{one}, {one}]}}"#);
        let over =
            format!(r#"{{"version": "4", "alerts": [{one}]}}"#).replace("firing", "resolved");
        let cases = [
            ("{}", "labels"),
            (two.as_str(), "2 alerts fire"),
            (over.as_str(), "none of its alerts fires"),
            ("no JSON", "expected"),
        ];
        for (text, why) in cases {
            let said = format!("{:#}", read(text).unwrap_err());
            assert!(said.contains(why), "{said}");
        }
    }
}
