//! Where the time went, by the agent's own record. Pure: the API's JSON in, spans out.

use serde_json::Value;

use super::{
    record::{Account, Phase},
    unix,
};

/// What the agent said and did in all its episodes.
pub fn account(incidents: &[Value]) -> Account {
    let mut account = Account {
        episodes: incidents.len(),
        ..Account::default()
    };
    for entry in incidents.iter().flat_map(entries) {
        match entry["entry"].as_str() {
            Some("intended") => {
                let action = &entry["intent"]["action"];
                account
                    .actions
                    .push((text(&action["kind"]), text(&action["path"])));
            }
            Some("verified") => account.verdicts.push(text(&entry["outcome"]["kind"])),
            Some("refused") => {
                let refusal = &entry["refusal"];
                let told = format!("{}: {}", text(&refusal["reason"]), text(&refusal["detail"]));
                account.refusals.push(told);
            }
            Some("failed") => account.failures.push(text(&entry["error"])),
            _ => {}
        }
    }
    let top = chosen(incidents).and_then(|incident| {
        let diagnosed = find(incident, "diagnosed")?;
        Some(&diagnosed["diagnosis"]["top"][0])
    });
    if let Some(top) = top {
        account.hypothesis = top["id"].as_str().map(str::to_owned);
        account.posterior = top["posterior"].as_f64();
        account.culprit = top["culprit"]["path"].as_str().map(str::to_owned);
    }
    account
}

/// The spans of the episode that counts, in seconds since the injection. `recovered_s` is the
/// service's own recovery, which may come before the agent's verdict.
///
/// The journal has no entry between the opening of an episode and its diagnosis, so that waiting in
/// the queue and taking evidence are one span, `sample`.
pub fn phases(incidents: &[Value], injected_at: f64) -> Vec<Phase> {
    let Some(incident) = chosen(incidents) else {
        return Vec::new();
    };
    let at = |value: &Value| {
        value
            .as_str()
            .and_then(unix::parse)
            .map(|at| at - injected_at)
    };
    let entry = |name: &str| find(incident, name).and_then(|entry| at(&entry["at"]));
    let starts = at(&incident["episode"]["alert"]["starts_at"]);
    let diagnosed = entry("diagnosed");
    let ranking_s = find(incident, "diagnosed")
        .and_then(|entry| entry["diagnosis"]["took_us"].as_f64())
        .map_or(0.0, |us| us / 1e6);
    let marks = [
        ("detect", starts),
        ("deliver", entry("opened")),
        ("sample", diagnosed.map(|at| at - ranking_s)),
        ("diagnose", diagnosed),
        ("decide", entry("intended")),
        ("act", entry("applied")),
        ("verify", entry("verified")),
        ("resolve", entry("resolved")),
    ];
    let mut phases = Vec::new();
    let mut from_s = 0.0;
    for (name, until) in marks {
        let Some(until) = until else { continue };
        // Clocks of two programs: what ends before it began took no time. The alert may resolve
        // before the verdict.
        let until_s = until.max(from_s);
        phases.push(Phase {
            name: name.to_owned(),
            from_s,
            until_s,
        });
        from_s = until_s;
    }
    phases
}

/// The first episode that acted, else the first of all.
fn chosen(incidents: &[Value]) -> Option<&Value> {
    let opened = |incident: &&Value| {
        incident["episode"]["opened_at"]
            .as_str()
            .and_then(unix::parse)
            .unwrap_or(f64::MAX)
    };
    let first = |acted: bool| {
        incidents
            .iter()
            .filter(|incident| !acted || find(incident, "intended").is_some())
            .min_by(|a, b| opened(a).total_cmp(&opened(b)))
    };
    first(true).or_else(|| first(false))
}

fn entries(incident: &Value) -> impl Iterator<Item = &Value> {
    incident["entries"].as_array().into_iter().flatten()
}

fn find<'a>(incident: &'a Value, name: &str) -> Option<&'a Value> {
    entries(incident).find(|entry| entry["entry"] == name)
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn incident(opened: &str, acted: bool) -> Value {
        let mut entries = vec![
            json!({"entry": "opened", "at": opened}),
            json!({"entry": "diagnosed", "at": "2026-01-01T00:00:03.5Z", "diagnosis": {
                "took_us": 20_000, "top": [{"id": "cpu-hog", "posterior": 0.9,
                "culprit": {"path": "/a"}}]}}),
        ];
        if acted {
            entries.extend([
                json!({"entry": "intended", "at": "2026-01-01T00:00:03.6Z",
                    "intent": {"action": {"kind": "throttle-cpu", "path": "/a"}}}),
                json!({"entry": "applied", "at": "2026-01-01T00:00:03.7Z"}),
                json!({"entry": "resolved", "at": "2026-01-01T00:00:05.0Z"}),
                json!({"entry": "verified", "at": "2026-01-01T00:00:05.7Z",
                    "outcome": {"kind": "healed"}}),
            ]);
        }
        json!({"episode": {"opened_at": opened, "alert": {"starts_at": "2026-01-01T00:00:02Z"}},
            "entries": entries})
    }

    #[test]
    fn spans_follow_each_other_without_a_gap() {
        let injected = unix::parse("2026-01-01T00:00:00Z").unwrap();
        let incidents = [
            incident("2026-01-01T00:00:01Z", false),
            incident("2026-01-01T00:00:03Z", true),
        ];
        let phases = phases(&incidents, injected);
        let names: Vec<&str> = phases.iter().map(|phase| phase.name.as_str()).collect();
        let wanted = [
            "detect", "deliver", "sample", "diagnose", "decide", "act", "verify", "resolve",
        ];
        assert_eq!(names, wanted);
        assert!(
            phases
                .windows(2)
                .all(|pair| (pair[0].until_s - pair[1].from_s).abs() < 1e-9)
        );
        assert!((phases[2].until_s - 3.48).abs() < 1e-6, "{phases:?}");
        // Resolved before the verdict: no time, not a negative one.
        assert!((phases[7].until_s - 5.7).abs() < 1e-6);
        let account = account(&incidents);
        assert_eq!(
            account.actions,
            [("throttle-cpu".to_owned(), "/a".to_owned())]
        );
        assert_eq!(
            (account.episodes, account.culprit.as_deref()),
            (2, Some("/a"))
        );
    }
}
