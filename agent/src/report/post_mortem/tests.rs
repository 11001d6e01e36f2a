use serde_json::json;

use super::*;
use crate::ledger::{Index, Line};

const ID: &str = "ep-018cc251f40000000000000000000001";
const HOSTILE: &str = "<script>alert(1)</script>|`x`\n# [y](z)";

/// A healed incident whose labels and paths mean harm, as the journal would give it back.
fn incident() -> Incident {
    let alert = json!({
        "status": "firing", "fingerprint": "1", "starts_at": "2024-01-01T00:00:00Z",
        "labels": {"alertname": "HostCpuSaturated", "instance": HOSTILE},
        "annotations": {"summary": "busy"},
    });
    let feature = json!({
        "id": "saturated", "says": "the CPUs are saturated", "decisive": true, "bits": 2.7,
        "test": {"reading": "host.cpu.busy", "at_least": 0.85}, "value": 1.0, "held": true,
        "quality": "good",
    });
    let against = json!({
        "id": "load", "says": HOSTILE, "decisive": false, "bits": -0.8,
        "test": {"reading": "series.load", "at_least": 1.0}, "value": 0.6, "held": false,
        "quality": "partial",
    });
    let top = json!([{
        "id": "cpu-hog", "title": "one cgroup takes the CPUs", "posterior": 0.94, "prior": 0.12,
        "culprit": {"cgroup": 7, "path": "/batch", "chosen_by": "cpu.cores", "value": 3.0},
        "features": [feature, against],
    }]);
    let action = json!({"kind": "throttle-cpu", "cgroup": 7, "path": "/batch", "amount": 0.4});
    let entries = json!([
        {"entry": "opened", "episode": {
            "id": ID, "tenant": "default", "alert": alert, "source": {"kind": "manual"},
            "opened_at": "2024-01-01T00:00:01Z",
            "trace": {"trace_id": "4bf92f3577b34da6a3ce929d0e0e4736", "span_id": "00f067aa0ba902b7", "sampled": true},
        }},
        {"entry": "diagnosed", "since_open_ms": 668, "snapshot": "before", "diagnosis": {
            "top": top, "unknown": 0.02, "excluded": [["memory-hog", "memory is free"]],
            "verdict": {"verdict": "conclusive"}, "took_us": 16500,
        }},
        {"entry": "intended", "intent": {
            "episode": ID, "action": action, "lease_until": "2024-01-01T00:10:00Z",
            "changes": [{"file": "cpu.max", "prior": "max 100000\n", "value": "40000 100000"}],
        }},
        {"entry": "applied", "took_us": 76},
        {"entry": "verified", "snapshot": "after", "outcome": {
            "kind": "healed", "after_s": 1.8,
            "checks": [[{"reading": "host.cpu.busy", "below": 0.85}, 1.0, 0.51]],
        }},
        {"entry": "rolled_back", "reason": "lease_ended", "left_alone": []},
        {"entry": "closed"},
    ]);
    let mut index = Index::new(10);
    for (nth, entry) in entries.as_array().unwrap().iter().enumerate() {
        let line = Line {
            lsn: nth as u64,
            at: format!("2024-01-01T00:00:0{}Z", nth + 1).parse().unwrap(),
            entry: serde_json::from_value(entry.clone()).unwrap(),
        };
        index.push(ID.parse().unwrap(), line);
    }
    index.get(ID.parse().unwrap()).unwrap().clone()
}

#[allow(clippy::unnecessary_wraps, reason = "of the type that a reader has")]
fn evidence(reference: &str) -> Result<Evidence, String> {
    let busy = if reference == "before" { 1.0 } else { 0.51 };
    let values = [Some(0.1), None, Some(0.2), Some(busy)];
    Ok(serde_json::from_value(json!({
        "taken_at": "2024-01-01T00:00:01Z", "window_s": 3.0, "cgroups": [], "coverage": [
            {"source": "probe:exec", "complete": false, "note": HOSTILE},
        ],
        "host": {"cpu.busy": {"value": busy, "quality": "good"}},
        "series": [{"name": "node_load1", "labels": {"x": HOSTILE}, "start_s": 0, "step_s": 5,
            "values": values, "stats": {"median": 0.1, "mad": 0.0, "robust_z": 9.0, "changed_at": 3}}],
    }))
    .unwrap())
}

#[test]
fn the_report_tells_the_whole_case_in_both_formats() {
    for format in [Format::Md, Format::Html] {
        let text = write(&incident(), &evidence, format);
        for words in [
            "HostCpuSaturated: healed",
            "Timeline",
            "+1.000 s",
            "668 ms",
            "cpu-hog",
            "94 %",
            "the CPUs are saturated",
            "+2.7",
            "-0.8",
            "/batch",
            "cpu.max",
            "max 100000",
            "40000 100000",
            "lease",
            "memory is free",
            "1.8 s after the action",
            "0.51",
            "4bf92f3577b34da6a3ce929d0e0e4736",
        ] {
            let found = text.contains(words) || text.contains(&words.replace('_', "\\_"));
            assert!(found, "{words} is not in\n{text}");
        }
        assert!(!text.replace("\\<", "").contains("<script"), "{text}");
    }
}

#[test]
fn html_needs_nothing_else_and_every_tag_is_closed() {
    let text = write(&incident(), &evidence, Format::Html);
    let charts = text.matches("<svg").count();
    assert_eq!(
        (charts, text.matches("</svg>").count()),
        (2, 2),
        "weights and one series"
    );
    // The namespace is a name, not an address.
    let fetched = text.replace("http://www.w3.org/2000/svg", "");
    for foreign in ["http://", "https://", "src=", "href=", "url(", "@import"] {
        assert!(!fetched.contains(foreign), "{foreign}");
    }
    for tag in [
        "table", "tr", "td", "th", "p", "h2", "h3", "figure", "main", "body", "html", "div",
    ] {
        let open =
            text.matches(&format!("<{tag}>")).count() + text.matches(&format!("<{tag} ")).count();
        assert_eq!(open, text.matches(&format!("</{tag}>")).count(), "{tag}");
    }
    // The gap in the series is one in its line.
    assert_eq!(text.matches("class='line' d='M").count(), 1);
    let line = text
        .split("class='line' d='")
        .nth(1)
        .unwrap()
        .split('\'')
        .next()
        .unwrap();
    assert_eq!(line.matches('M').count(), 2, "{line}");
}

#[test]
fn in_markdown_no_datum_makes_a_row_or_a_heading() {
    let text = write(&incident(), &evidence, Format::Md);
    for line in text.lines().filter(|line| line.starts_with('|')) {
        let cells = line.replace("\\|", "").matches('|').count();
        assert!([3, 4, 5, 7].contains(&cells), "{cells}: {line}");
    }
    let headings: Vec<&str> = text.lines().filter(|line| line.starts_with('#')).collect();
    assert_eq!(headings.len(), 7, "{headings:?}");
}

#[test]
fn evidence_that_is_gone_is_named_and_the_rest_is_told() {
    let gone = |_: &str| Err("given up by retention".to_owned());
    let text = write(&incident(), &gone, Format::Html);
    assert!(text.contains("given up by retention") && text.contains("Did it help"));
    assert_eq!(
        text.matches("<svg").count(),
        1,
        "the weights need no evidence"
    );
}
