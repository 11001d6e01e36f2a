//! A webhook's body with one alert, as Alertmanager writes it.

use std::fmt::Display;

use serde_json::{Value, json};

/// What Alertmanager writes for an alert that has not ended.
const NO_END: &str = "0001-01-01T00:00:00Z";

/// Of an alert that fires since `starts_at`; `labels` with an `alertname`.
pub fn firing(labels: &Value, annotations: &Value, starts_at: impl Display) -> Value {
    webhook("firing", labels, annotations, starts_at, NO_END)
}

/// Of an alert that has ended.
pub fn resolved(labels: &Value, starts_at: impl Display, ends_at: impl Display) -> Value {
    webhook("resolved", labels, &json!({}), starts_at, ends_at)
}

fn webhook(
    status: &str,
    labels: &Value,
    annotations: &Value,
    starts_at: impl Display,
    ends_at: impl Display,
) -> Value {
    let name = &labels["alertname"];
    json!({
        "version": "4",
        "groupKey": format!("{{}}:{{alertname={name}}}"),
        "truncatedAlerts": 0,
        "status": status,
        "receiver": "paramedic",
        "groupLabels": {"alertname": name},
        "commonLabels": labels,
        "commonAnnotations": {},
        "externalURL": "http://127.0.0.1:9093",
        "alerts": [{
            "status": status,
            "labels": labels,
            "annotations": annotations,
            "startsAt": starts_at.to_string(),
            "endsAt": ends_at.to_string(),
            "generatorURL": "",
        }],
    })
}
