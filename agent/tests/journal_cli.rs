//! `paramedic journal …`, the program itself, on a real directory.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "only tests call the helpers"
)]

use std::{
    path::Path,
    process::{Command, Output},
};

use paramedic::journal::{Journal, Record, SnapshotMeta};

use self::journal::config;

#[path = "parts/journal.rs"]
mod journal;

fn paramedic(state: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_paramedic"))
        .arg("journal")
        .args(args)
        .arg("--state-dir")
        .arg(state)
        .output()
        .expect("starts")
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

#[tokio::test]
async fn stat_check_dump_and_repair() {
    let state = tempfile::tempdir().expect("temporary directory");
    let config = config(state.path());
    let (journal, _) = Journal::open(&config).expect("opens");
    for i in 0..4 {
        let record = Record {
            kind: 1,
            episode: [i; 16],
            payload: format!("{{\"n\":{i}}}").into_bytes().into(),
        };
        journal.append(vec![record]).await.expect("appends");
    }
    let meta = SnapshotMeta {
        kind: 1,
        episode: [1; 16],
    };
    journal
        .store_snapshot(meta, vec![1; 5000].into())
        .await
        .expect("stores");

    // Beside a running agent: read, never repaired.
    let stat = paramedic(state.path(), &["stat"]);
    assert_eq!(stat.status.code(), Some(0), "{}", text(&stat));
    let open = format!("open in process {}", std::process::id());
    assert!(text(&stat).contains(&open), "{}", text(&stat));
    assert!(
        text(&stat).contains("4 records (LSN 1 to 4)"),
        "{}",
        text(&stat)
    );
    let refused = paramedic(state.path(), &["repair", "--yes"]);
    assert_eq!(refused.status.code(), Some(2));
    assert!(
        text(&refused).contains("is in use by process"),
        "{}",
        text(&refused)
    );
    journal.close().await.expect("closes");

    let stat = paramedic(state.path(), &["stat", "--json"]);
    let stat: serde_json::Value = serde_json::from_slice(&stat.stdout).expect("JSON");
    assert_eq!(stat["held_by"], serde_json::Value::Null);
    assert_eq!(stat["lanes"][0]["next_lsn"], 5);
    assert_eq!(stat["lanes"][0]["segments"][0]["use"], "begun");
    let dump = paramedic(state.path(), &["dump"]);
    let dump = String::from_utf8(dump.stdout).expect("UTF-8");
    let lines: Vec<serde_json::Value> = dump
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON lines"))
        .collect();
    assert_eq!(lines.len(), 5);
    assert_eq!(
        (&lines[2]["lsn"], &lines[2]["payload"]["n"]),
        (&3.into(), &2.into())
    );
    assert_eq!(
        (&lines[4]["lane"], &lines[4]["bytes"]),
        (&"safe".into(), &5000.into())
    );

    // The third record, long acknowledged, is hit.
    let path = config.dir.join("fast-0000000000000001.seg");
    let mut image = std::fs::read(&path).expect("reads");
    let at = 3 * 4096 + 200;
    image[at] ^= 1;
    std::fs::write(&path, &image).expect("writes");
    let check = paramedic(state.path(), &["check"]);
    assert_eq!(check.status.code(), Some(1));
    let said = text(&check);
    assert!(
        said.contains("fast lane is corrupt at segment 1, offset 12288"),
        "{said}"
    );
    assert!(said.contains("checksum mismatch"), "{said}");
    let plan = paramedic(state.path(), &["repair"]);
    assert_eq!(plan.status.code(), Some(1));
    assert!(text(&plan).contains("add --yes"), "{}", text(&plan));
    assert!(std::fs::read(&path).expect("reads") == image, "only told");
    let repair = paramedic(state.path(), &["repair", "--yes", "--json"]);
    assert_eq!(repair.status.code(), Some(0), "{}", text(&repair));
    let done: serde_json::Value = serde_json::from_slice(&repair.stdout).expect("JSON");
    let counts = ["records_kept", "records_beyond", "records_lost"].map(|key| &done[0][key]);
    assert_eq!(counts, [2, 1, 1], "{done}");
    assert_eq!(paramedic(state.path(), &["check"]).status.code(), Some(0));
    let again = paramedic(state.path(), &["repair", "--yes"]);
    assert_eq!(again.status.code(), Some(0));
    let (journal, recovered) = Journal::open(&config).expect("opens");
    assert_eq!(recovered.corruption, []);
    let episodes: Vec<_> = recovered
        .records
        .iter()
        .map(|(_, _, r)| r.episode[0])
        .collect();
    assert_eq!(episodes, [0, 1, 3]);
    journal.close().await.expect("closes");
}

#[test]
fn a_missing_journal_is_named() {
    let state = tempfile::tempdir().expect("temporary directory");
    for command in ["stat", "check", "dump", "repair"] {
        let output = paramedic(state.path(), &[command]);
        assert_eq!(output.status.code(), Some(2), "{}", text(&output));
        assert!(text(&output).contains("--state-dir"), "{}", text(&output));
    }
}
