//! `paramedic incidents …` beside a journal that another process has open, and a second agent on the
//! same directory: the programs themselves, on a real directory.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "only tests call the helpers"
)]

use std::{
    path::Path,
    process::{Command, Output, Stdio},
    time::{Duration, Instant},
};

use jiff::Timestamp;
use paramedic::{
    incident::{Entry, Evidence},
    journal::Journal,
    ledger::Ledger,
};

use self::{
    journal::config,
    record::{diagnosed, id, opened},
};

#[path = "parts/journal.rs"]
mod journal;
#[path = "parts/record.rs"]
mod record;

fn incidents(state: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_paramedic"))
        .arg("incidents")
        .args(args)
        .arg("--state-dir")
        .arg(state)
        .output()
        .expect("starts")
}

fn evidence(window_s: f64) -> Evidence {
    Evidence {
        window_s,
        ..Evidence::nothing(Timestamp::UNIX_EPOCH)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn incidents_are_exported_beside_a_writer_with_their_evidence() {
    let state = tempfile::tempdir().expect("temporary directory");
    let (ledger, _) = Ledger::open(&config(state.path()), 1000).expect("opens");
    for n in [1, 2] {
        ledger
            .append(id(n), opened(n, &format!("Alert{n}")))
            .await
            .expect("appends");
        let place = ledger.store_evidence(id(n), &evidence(n as f64)).await;
        ledger
            .append(id(n), diagnosed(place.expect("stores")))
            .await
            .expect("appends");
    }
    // A reference to what is not there: told in its place, and the rest is exported.
    let nowhere = r#"{"lsn":9,"segment":77,"offset":4224,"len":10}"#;
    ledger
        .append(id(2), diagnosed(nowhere.to_owned()))
        .await
        .expect("appends");

    let one = incidents(state.path(), &["export", &id(1).to_string(), "--json"]);
    assert_eq!(one.status.code(), Some(0), "{one:?}");
    let one: serde_json::Value = serde_json::from_slice(&one.stdout).expect("JSON");
    assert_eq!(one["evidence"][0]["window_s"], 1.0, "{one}");

    let all = incidents(state.path(), &["export"]);
    assert_eq!(all.status.code(), Some(0), "{all:?}");
    let all = String::from_utf8(all.stdout).expect("UTF-8");
    let lines: Vec<serde_json::Value> = all
        .lines()
        .map(|line| serde_json::from_str(line).expect("a line of JSON"))
        .collect();
    assert_eq!(lines.len(), 2);
    assert_eq!(lines[0], one, "oldest first, and the same as alone");
    assert_eq!(lines[1]["incident"]["id"], id(2).to_string());
    assert_eq!(lines[1]["evidence"][0]["window_s"], 2.0);
    let why = lines[1]["evidence"][1]["unreadable"].as_str();
    assert!(why.is_some_and(|why| why.contains("77")), "{}", lines[1]);

    let missing = incidents(state.path(), &["export", "ep-nobody"]);
    assert_eq!(missing.status.code(), Some(2));
    // What was read beside the writer has not disturbed it.
    ledger.append(id(1), Entry::Closed).await.expect("appends");
    let list = incidents(state.path(), &["list", "--json"]);
    let list: serde_json::Value = serde_json::from_slice(&list.stdout).expect("JSON");
    assert_eq!(list.as_array().map(Vec::len), Some(2));
}

/// The agent itself, told to use a directory that is taken.
#[tokio::test]
async fn a_second_agent_is_refused_and_says_who_has_the_directory() {
    let state = tempfile::tempdir().expect("temporary directory");
    let (journal, _) = Journal::open(&config(state.path())).expect("opens");
    let file = state.path().join("agent.yaml");
    let text = format!(
        "state_dir: {}\nintake:\n  listen: 127.0.0.1:0\n",
        state.path().display()
    );
    std::fs::write(&file, text).expect("writes");
    let mut agent = Command::new(env!("CARGO_BIN_EXE_paramedic"))
        .arg("run")
        .arg("--config")
        .arg(&file)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("starts");
    let until = Instant::now() + Duration::from_mins(1);
    while agent.try_wait().expect("is ours").is_none() {
        if Instant::now() > until {
            agent.kill().expect("is ours");
            panic!("a second agent runs on the same directory");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let output = agent.wait_with_output().expect("has ended");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    let who = format!("is in use by process {}", std::process::id());
    assert!(said.contains(&who), "{said}");
    journal.close().await.expect("closes");
}
