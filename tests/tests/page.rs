//! The page in a real browser: what a person reads there is what the journal holds.

#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests, which clippy does not take for tests"
)]

use std::{
    fs,
    process::{Command, Stdio},
    time::Duration,
};

use paramedic_tests::{Agent, payload, tools, wait_for};
use serde_json::json;

const SOON: Duration = Duration::from_mins(1);
/// Loading and drawing, in the browser's own time.
const BROWSER_MS: u32 = 8_000;

/// The page's elements after its scripts have run, and what the browser complained about.
fn dom(url: &str) -> (String, String) {
    let profile = tools::temporary_folder().unwrap();
    let mut command = Command::new("timeout");
    command
        .args(["60", "chromium", "--headless=new", "--disable-gpu"])
        // The sandbox refuses to run for root; the page is our own.
        .args([
            "--no-sandbox",
            "--enable-logging=stderr",
            "--window-size=1280,900",
        ])
        .arg(format!("--user-data-dir={}", profile.path().display()))
        .arg(format!("--virtual-time-budget={BROWSER_MS}"))
        .args(["--dump-dom", url])
        .stdin(Stdio::null());
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(text.contains("</html>"), "{:?}: {said}", output.status);
    (text, said)
}

fn complaints(said: &str) -> Vec<&str> {
    said.lines()
        .filter(|line| line.contains("CONSOLE"))
        .collect()
}

#[test]
fn an_incident_is_told_and_what_an_alert_says_is_only_text() {
    let agent =
        Agent::start("state_dir: $STATE\nintake: {listen: $LISTEN}\nremedy: {level: observe}\n")
            .unwrap();
    let (empty, said) = dom(&agent.url("/?once"));
    assert!(empty.contains("All quiet"), "{empty}");
    assert_eq!(complaints(&said), Vec::<&str>::new());

    let hostile = "<img src=x onerror=\"document.title='owned'\">";
    let labels = json!({"alertname": "HostCpuSaturated", "instance": hostile});
    let body = payload::firing(&labels, &json!({}), "2026-01-02T03:04:05Z");
    assert_eq!(
        agent.post("/webhook", &body.to_string()).unwrap().status,
        200
    );
    let incident = agent.wait_for_closed(SOON).unwrap();

    let (page, said) = dom(&agent.url("/?once"));
    for words in [
        "HostCpuSaturated",
        "What happened",
        "Accepted",
        "Closed",
        "Why",
        "What was seen",
    ] {
        assert!(page.contains(words), "no {words} in\n{page}");
    }
    assert!(page.contains("&lt;img src=x"), "{page}");
    assert!(
        !page.contains("<img") && !page.contains("owned'\"></"),
        "{page}"
    );
    assert!(!page.contains("[object"), "{page}");
    assert!(page.contains(incident["id"].as_str().unwrap()));
    assert_eq!(complaints(&said), Vec::<&str>::new());
}

#[test]
fn a_page_that_is_open_learns_of_a_new_incident() {
    let agent = Agent::start("state_dir: $STATE\nintake: {listen: $LISTEN}\n").unwrap();
    let log = agent.state_dir().join("events");
    let out = fs::File::create(&log).unwrap();
    let mut reader = Command::new("curl")
        .args(["--silent", "--no-buffer", "--max-time", "30"])
        .arg(agent.url("/api/v1/events"))
        .stdout(out)
        .spawn()
        .unwrap();
    let events = |count: usize| {
        wait_for("an event", SOON, || {
            let text = fs::read_to_string(&log)?;
            anyhow::ensure!(text.matches("data: ").count() >= count, "{text:?}");
            Ok(())
        })
        .unwrap();
    };
    events(1);
    let labels = json!({"alertname": "A"});
    let body = payload::firing(&labels, &json!({}), "2026-01-02T03:04:05Z");
    assert_eq!(
        agent.post("/webhook", &body.to_string()).unwrap().status,
        200
    );
    events(2);
    // Its end does not wait for who follows it.
    let mut agent = agent;
    assert!(agent.terminate().unwrap().success());
    assert!(
        reader.wait().unwrap().success(),
        "the stream was closed in order"
    );
}
