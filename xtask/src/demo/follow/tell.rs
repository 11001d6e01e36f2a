//! One journal entry as a few lines for people.

use serde_json::Value;

use super::unix;
use crate::demo::story::{Beat, Story, bar, number};

/// Evidence shown for the first cause, each way.
const FEATURES_MAX: usize = 4;

/// Tells an entry; `entries` are all that there are, for what belongs together.
pub fn entry(story: Story, at: Option<f64>, entry: &Value, entries: &[Value]) {
    match text(&entry["entry"]) {
        "opened" => opened(story, at, &entry["episode"]),
        "diagnosed" => diagnosed(story, at, entry),
        "refused" => {
            let refusal = &entry["refusal"];
            let (reason, detail) = (text(&refusal["reason"]), text(&refusal["detail"]));
            story.event(at, Beat::Failed, &format!("no action ({reason}): {detail}"));
        }
        "applied" => {
            let intent = entries.iter().find(|entry| entry["entry"] == "intended");
            if let Some(intent) = intent {
                applied(story, at, &intent["intent"], entry);
            }
        }
        "verified" => verified(story, at, &entry["outcome"]),
        "resolved" => story.event(
            at,
            Beat::Resolved,
            "Prometheus no longer sees it, Alertmanager says so",
        ),
        "rolled_back" => {
            let reason = text(&entry["reason"]);
            story.event(at, Beat::Failed, &format!("rolled back: {reason}"));
        }
        "failed" => story.event(at, Beat::Failed, text(&entry["error"])),
        // Intended is told with applied; the rest is in the record.
        _ => {}
    }
}

fn opened(story: Story, at: Option<f64>, episode: &Value) {
    let alert = &episode["alert"];
    let started = at.zip(unix::seconds(text(&alert["starts_at"])));
    let opened = unix::seconds(text(&episode["opened_at"]));
    let fired = started
        .zip(opened)
        .map(|((at, started), opened)| at - (opened - started));
    let name = text(&alert["labels"]["alertname"]);
    let said = format!("{name} fires in Prometheus, Alertmanager calls the webhook");
    story.event(fired, Beat::Alert, &said);
    let said = format!(
        "as incident {}; it was synced to disk before Alertmanager got its 200",
        text(&episode["id"])
    );
    story.event(at, Beat::Accepted, &said);
}

fn diagnosed(story: Story, at: Option<f64>, entry: &Value) {
    let diagnosis = &entry["diagnosis"];
    let verdict = &diagnosis["verdict"];
    let verdict = match verdict["why"].as_str() {
        Some(why) => format!("{}: {why}", text(&verdict["verdict"])),
        None => text(&verdict["verdict"]).to_owned(),
    };
    let said = format!(
        "{} ms after acceptance ({} us of ranking), {verdict}",
        entry["since_open_ms"], diagnosis["took_us"]
    );
    story.event(at, Beat::Diagnosed, &said);
    let causes = diagnosis["top"].as_array().map_or(&[][..], Vec::as_slice);
    let widest = causes.iter().map(|cause| text(&cause["id"]).len()).max();
    for (nth, cause) in causes.iter().enumerate() {
        ranked(story, nth, widest.unwrap_or_default(), cause);
    }
}

fn ranked(story: Story, nth: usize, width: usize, cause: &Value) {
    let posterior = cause["posterior"].as_f64().unwrap_or_default();
    let head = format!(
        "{}. {:<width$}  {} {:>3.0} %",
        nth + 1,
        text(&cause["id"]),
        bar(posterior),
        posterior * 100.0
    );
    let culprit = match cause["culprit"]["path"].as_str() {
        Some(path) => format!("  {path}"),
        None => String::new(),
    };
    if nth == 0 {
        story.detail_strong(&format!("{head}{culprit}"));
        story.detail(&format!("   {}", text(&cause["title"])), 3);
    } else {
        story.detail(&format!("{head}  {}", text(&cause["title"])), 3);
    }
    let features = cause["features"].as_array().map_or(&[][..], Vec::as_slice);
    let many = if nth == 0 { FEATURES_MAX } else { 1 };
    let bits = |feature: &Value| feature["bits"].as_f64().unwrap_or_default();
    let supporting = features.iter().filter(|feature| bits(feature) > 0.0);
    let opposing = features.iter().filter(|feature| bits(feature) < 0.0);
    for (side, feature) in supporting
        .take(many)
        .map(|feature| ("for    ", feature))
        .chain(opposing.take(many).map(|feature| ("against", feature)))
    {
        let said = evidence(feature);
        story.detail(
            &format!("   {side} {:>+5.1} bits  {said}", bits(feature)),
            23,
        );
    }
    if nth == 0 {
        for feature in features.iter().filter(|feature| feature["value"].is_null()) {
            let reading = text(&feature["test"]["reading"]);
            story.detail(&format!("   missing             {reading}"), 23);
        }
    }
}

/// What a test that held means, with its value; of one that did not, the reading and its bound.
fn evidence(feature: &Value) -> String {
    let value = feature["value"].as_f64().map_or("missing".into(), number);
    if feature["held"] == true {
        return format!("{}: {value}", text(&feature["says"]));
    }
    let test = &feature["test"];
    format!("{} is {value}, not{}", text(&test["reading"]), bounds(test))
}

fn bounds(test: &Value) -> String {
    let bound = |name: &str, sign: &str| {
        test[name]
            .as_f64()
            .map_or_else(String::new, |value| format!(" {sign} {}", number(value)))
    };
    bound("at_least", ">=") + &bound("below", "<")
}

fn applied(story: Story, at: Option<f64>, intent: &Value, applied: &Value) {
    let action = &intent["action"];
    let said = format!(
        "{} on {}, written in {} us, after the intent was synced to disk",
        text(&action["kind"]),
        text(&action["path"]),
        applied["took_us"]
    );
    story.event(at, Beat::Acted, &said);
    for change in intent["changes"].as_array().into_iter().flatten() {
        let (file, prior) = (text(&change["file"]), text(&change["prior"]).trim());
        let value = text(&change["value"]).trim();
        story.detail(&format!("{file}: {prior} -> {value}"), 2);
    }
    let until = text(&intent["lease_until"]);
    let until = until.split('.').next().unwrap_or(until);
    let until = until.trim_end_matches('Z').replace('T', " ");
    story.detail(&format!("a lease: undone by itself at {until} UTC"), 2);
}

fn verified(story: Story, at: Option<f64>, outcome: &Value) {
    let kind = text(&outcome["kind"]).replace('_', " ");
    let after = outcome["after_s"].as_f64().unwrap_or_default();
    let beat = if kind == "healed" {
        Beat::Verified
    } else {
        Beat::Failed
    };
    story.event(at, beat, &format!("{kind}, {after:.1} s after the action"));
    for check in outcome["checks"].as_array().into_iter().flatten() {
        let value = |at: usize| check[at].as_f64().map_or("missing".into(), number);
        let reading = text(&check[0]["reading"]);
        let (before, after, wanted) = (value(1), value(2), bounds(&check[0]));
        story.detail(
            &format!("{reading}: {before} -> {after}, wanted{wanted}"),
            2,
        );
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}
