use std::{fs, path::Path};

use serde_json::{Value, json};

use super::*;

fn captured(name: &str) -> Value {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/data/alertmanager");
    let text = fs::read(dir.join(name)).unwrap();
    serde_json::from_slice::<Value>(&text).unwrap()["body"].take()
}

fn parsed(body: &Value) -> Result<Payload, PayloadError> {
    parse(body.to_string().as_bytes(), &IntakeConfig::default())
}

fn refused(body: &Value) -> String {
    parsed(body).unwrap_err().to_string()
}

fn body() -> Value {
    json!({
        "version": "4",
        "alerts": [{
            "status": "firing",
            "labels": {"alertname": "HighCpu"},
            "startsAt": "2026-11-23T09:39:30.119Z",
        }],
    })
}

#[test]
fn captured_requests_are_understood() {
    let payload = parsed(&captured("01-w-firing.json")).unwrap();
    assert_eq!((payload.receiver.as_str(), payload.truncated), ("w", 0));
    let [alert] = &payload.alerts[..] else {
        panic!("{payload:?}")
    };
    assert_eq!(alert.name(), "HighCpu");
    assert_eq!(alert.status, AlertStatus::Firing);
    assert_eq!(alert.starts_at.to_string(), "2026-11-23T09:39:30.119Z");
    assert_eq!(alert.ends_at, None, "the year 1 is no end");
    assert_eq!(alert.fingerprint.to_string(), "b60646f68411edf2");
    assert_eq!(alert.annotations["summary"], "cpu 1.5500000000000025");

    let payload = parsed(&captured("02-trunc-firing-truncated.json")).unwrap();
    assert_eq!((payload.alerts.len(), payload.truncated), (3, 13));

    let payload = parsed(&captured("05-w-resolved.json")).unwrap();
    let ends_at = payload.alerts[0].ends_at.map(|at| at.to_string());
    assert_eq!(payload.alerts[0].status, AlertStatus::Resolved);
    assert_eq!(ends_at.as_deref(), Some("2026-11-23T11:06:04.119Z"));
}

#[test]
fn a_missing_fingerprint_is_what_alertmanager_would_have_sent() {
    for name in ["01-w-firing.json", "02-trunc-firing-truncated.json"] {
        let mut body = captured(name);
        let sent = parsed(&body).unwrap();
        for alert in body["alerts"].as_array_mut().unwrap() {
            alert.as_object_mut().unwrap().remove("fingerprint");
        }
        assert_eq!(parsed(&body).unwrap(), sent, "{name}");
        for alert in body["alerts"].as_array_mut().unwrap() {
            alert["fingerprint"] = json!("");
        }
        assert_eq!(parsed(&body).unwrap(), sent, "{name}");
    }
}

#[test]
fn grafana_is_understood() {
    let mut grafana = body();
    grafana["version"] = json!("1");
    grafana["orgId"] = json!(1);
    grafana["state"] = json!("alerting");
    grafana["alerts"][0]["values"] = json!({"B": 44.2, "C": null});
    grafana["alerts"][0]["silenceURL"] = json!("https://example.invalid/silence");
    grafana["alerts"][0]["startsAt"] = json!("2026-11-23T11:39:30.119000001+02:00");
    grafana["alerts"][0]["endsAt"] = json!("0001-01-01T00:00:00+02:00");
    let alert = parsed(&grafana).unwrap().alerts.remove(0);
    assert_eq!(
        alert.starts_at.to_string(),
        "2026-11-23T09:39:30.119000001Z"
    );
    assert_eq!(alert.ends_at, None);
}

#[test]
fn unknown_fields_and_each_alerts_own_status() {
    let mut mixed = body();
    mixed["status"] = json!("firing");
    mixed["routeLabels"] = json!({"deep": [[[{"x": 1}]]]});
    mixed["notification_reason"] = json!("anything");
    let mut resolved = mixed["alerts"][0].clone();
    resolved["status"] = json!("resolved");
    resolved["labels"]["job"] = json!("b");
    resolved["endsAt"] = json!("0001-01-01T00:00:00Z");
    mixed["alerts"].as_array_mut().unwrap().push(resolved);
    mixed["alerts"][0]["endsAt"] = json!("2030-01-01T00:00:00Z");
    mixed["alerts"][0]["annotations"] = Value::Null;
    let payload = parsed(&mixed).unwrap();
    let found: Vec<_> = payload
        .alerts
        .iter()
        .map(|alert| (alert.status, alert.ends_at))
        .collect();
    assert_eq!(
        found,
        [(AlertStatus::Firing, None), (AlertStatus::Resolved, None)],
        "a firing alert has no end"
    );
}

#[test]
fn what_is_not_this_payload_is_refused_by_name() {
    let other = |text: &str| {
        parse(text.as_bytes(), &IntakeConfig::default())
            .unwrap_err()
            .to_string()
    };
    assert!(other("alerts=1").starts_with("the body is not JSON: "));
    assert!(other("").starts_with("the body is not JSON: EOF"));
    assert!(other(&format!("{} x", body())).starts_with("the body is not JSON: trailing"));
    let deep = format!("{{\"version\":{}", "[".repeat(100_000));
    assert!(
        other(&deep).contains("expected a string"),
        "{}",
        other(&deep)
    );
    let deep = format!("{{\"x\":{}", "[".repeat(100_000));
    assert!(
        other(&deep).starts_with("the body is not JSON: EOF"),
        "{}",
        other(&deep)
    );

    for (field, value, says) in [
        (
            "/version",
            json!("3"),
            "version: \"3\" is not supported, only \"4\"",
        ),
        ("/version", json!("1"), "version: \"1\" is not supported"),
        (
            "/version",
            json!(4),
            "version: invalid type: integer `4`, expected a string",
        ),
        (
            "/alerts",
            json!({}),
            "alerts: invalid type: map, expected a sequence",
        ),
        (
            "/alerts/0/status",
            json!("on"),
            "alerts[0].status: unknown variant `on`",
        ),
        (
            "/alerts/0/labels",
            json!({}),
            "alerts[0].labels: an alert without labels",
        ),
        (
            "/alerts/0/labels/alertname",
            json!(1),
            "alerts[0].labels.alertname: invalid type",
        ),
        ("/alerts/0/startsAt", json!("soon"), "alerts[0].startsAt: "),
        (
            "/alerts/0/startsAt",
            json!("0001-01-01T00:00:00Z"),
            "alerts[0].startsAt: the year 1 is no start",
        ),
    ] {
        let mut wrong = body();
        *wrong.pointer_mut(field).unwrap() = value;
        let error = refused(&wrong);
        assert!(error.starts_with(says), "{field}: {error}");
    }
    for field in ["status", "labels", "startsAt"] {
        let mut wrong = body();
        wrong["alerts"][0].as_object_mut().unwrap().remove(field);
        let error = refused(&wrong);
        assert!(
            error.contains(&format!("missing field `{field}`")),
            "{error}"
        );
    }
    let mut wrong = body();
    wrong["alerts"][0]["fingerprint"] = json!("not hex");
    assert!(refused(&wrong).starts_with("alerts[0].fingerprint: fingerprint \"not hex\""));
    assert!(refused(&json!({"alerts": []})).contains("missing field `version`"));
}

#[test]
fn every_limit_names_its_field_and_its_key() {
    let config = IntakeConfig {
        alerts_max: 2,
        labels_max: 2,
        label_bytes_max: 16,
        ..IntakeConfig::default()
    };
    let error = |body: &Value| {
        parse(body.to_string().as_bytes(), &config)
            .unwrap_err()
            .to_string()
    };
    let mut many = body();
    let alert = many["alerts"][0].clone();
    many["alerts"] = json!([alert, alert, alert]);
    assert_eq!(
        error(&many),
        "alerts: 3 alerts, at most 2; raise intake.alerts_max, or set a lower max_alerts in \
         Alertmanager's webhook_config"
    );
    let mut labels = body();
    labels["alerts"][0]["labels"] = json!({"a": "", "b": "", "c": ""});
    assert_eq!(
        error(&labels),
        "alerts[0].labels: 3 labels, at most 2; raise intake.labels_max"
    );
    let mut annotations = body();
    annotations["alerts"][0]["annotations"] = json!({"a": "", "b": "", "c": ""});
    assert_eq!(
        error(&annotations),
        "alerts[0].annotations: 3 annotations, at most 2; raise intake.labels_max"
    );
    let mut value = body();
    value["alerts"][0]["labels"]["job"] = json!("x".repeat(17));
    assert_eq!(
        error(&value),
        "alerts[0].labels[\"job\"]: 17 bytes of value, at most 16; raise intake.label_bytes_max"
    );
    let mut name = body();
    name["alerts"][0]["labels"] = json!({"n".repeat(17): ""});
    assert!(
        error(&name).contains("17 bytes of name, at most 16"),
        "{}",
        error(&name)
    );
    let mut empty = body();
    empty["alerts"][0]["labels"] = json!({"": "x"});
    assert!(
        error(&empty).ends_with("[\"\"]: a label needs a name"),
        "{}",
        error(&empty)
    );

    let mut long = body();
    long["alerts"][0]["annotations"] = json!({"summary": "ü".repeat(20)});
    let payload = parse(long.to_string().as_bytes(), &config).unwrap();
    assert_eq!(payload.alerts[0].annotations["summary"], "üüüüüü…");
}

/// Whatever comes is taken within the limits, or refused in few words.
#[test]
fn mutants_of_real_requests_are_within_the_limits_or_refused() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/data/alertmanager");
    let mut names: Vec<_> = fs::read_dir(dir)
        .unwrap()
        .map(|e| e.unwrap().file_name())
        .collect();
    names.sort();
    let corpus: Vec<_> = names
        .iter()
        .map(|name| captured(name.to_str().unwrap()).to_string().into_bytes())
        .collect();
    assert!(corpus.len() >= 7, "{names:?}");
    let config = IntakeConfig {
        alerts_max: 5,
        labels_max: 6,
        label_bytes_max: 64,
        ..IntakeConfig::default()
    };
    let (mut taken, mut refused) = (0, 0);
    crate::mutate::each(&corpus, 30_000, |bytes| match parse(bytes, &config) {
        Ok(payload) => {
            taken += 1;
            assert!(payload.alerts.len() <= 5 && payload.receiver.len() <= 256);
            for alert in &payload.alerts {
                assert!((1..=6).contains(&alert.labels.len()) && alert.annotations.len() <= 6);
                let words = alert.labels.iter().chain(&alert.annotations);
                assert!(
                    words
                        .into_iter()
                        .all(|(name, value)| name.len() <= 64 && value.len() <= 64)
                );
                assert!(alert.status == AlertStatus::Resolved || alert.ends_at.is_none());
            }
        }
        Err(error) => {
            refused += 1;
            assert!(error.to_string().len() < 2048, "{error}");
        }
    });
    assert!(
        taken > 1000 && refused > 1000,
        "{taken} taken, {refused} refused"
    );
}
