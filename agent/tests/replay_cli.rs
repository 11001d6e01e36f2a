//! `paramedic replay`: the program itself, on recordings that `paramedic record` makes here, on one whose
//! evidence is known, and on the record of an agent that another process has open.
#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests, which clippy does not take for tests"
)]

use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    process::{Command, Output},
};

use jiff::{SignedDuration, Timestamp};
use paramedic::{
    evidence::recording::Writer,
    incident::{CgroupFacts, CgroupId, Entry, Evidence, Reading},
    ledger::Ledger,
};
use serde_json::Value;

use self::{
    journal::config,
    record::{diagnosed, id, opened},
};

#[path = "parts/journal.rs"]
mod journal;
#[path = "parts/record.rs"]
mod record;

/// One cause; what stands for `$BAR` decides from which load on.
const RULES: &str = "\
family: test
hypotheses:
  - id: hot
    title: the CPUs are busy
    description: Somebody computes.
    prior: 0.5
    applies: {alerts: [\"Cpu.*\"]}
    culprit: {by: cpu.cores, min_share: 0.5}
    features:
      - {id: busy, reading: host.cpu.busy, at_least: $BAR, given_cause: 0.99, otherwise: 0.01, decisive: true, says: busy}
    recovery: [{reading: host.cpu.busy, below: 0.5}]
    remedies: [{action: throttle-cpu, amount: 0.5, level: act}]
";
/// A cause that every host has.
const ALWAYS: &str = "\
family: test
hypotheses:
  - id: has-cpus
    title: it has a CPU
    description: Every host has one.
    prior: 0.5
    features:
      - {id: cpus, reading: host.cpu.count, at_least: 1, given_cause: 0.99, otherwise: 0.01, decisive: true, says: cpus}
    remedies: [{action: notify, level: advise}]
";

fn paramedic(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_paramedic"))
        .args(args)
        .output()
        .unwrap()
}

/// Exit status and what was printed, errors behind the rest.
fn told(args: &[&str]) -> (Option<i32>, String) {
    let output = paramedic(args);
    let said = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8(said).unwrap())
}

fn json(args: &[&str]) -> Value {
    let output = paramedic(&[args, &["--json"]].concat());
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

fn written(dir: &Path, name: &str, text: &str) -> String {
    let path = dir.join(name);
    fs::write(&path, text).unwrap();
    path.display().to_string()
}

/// The rules from two bars on: the second one is never reached.
fn two_sets(dir: &Path) -> (String, String) {
    (
        written(dir, "low.yaml", &RULES.replace("$BAR", "0.9")),
        written(dir, "high.yaml", &RULES.replace("$BAR", "0.995")),
    )
}

fn evidence(taken_at: Timestamp, busy: f64) -> Evidence {
    let readings = |pairs: &[(&str, f64)]| -> BTreeMap<String, Reading> {
        let named = pairs.iter().map(|(name, value)| (*name, *value));
        named
            .map(|(name, value)| (name.to_owned(), Reading::good(value)))
            .collect()
    };
    Evidence {
        window_s: 3.0,
        host: readings(&[("cpu.busy", busy), ("cpu.count", 2.0)]),
        cgroups: vec![CgroupFacts {
            id: CgroupId(7),
            path: "/batch".to_owned(),
            leaf: true,
            readings: readings(&[("cpu.cores", 2.0 * busy)]),
        }],
        syscalls_s: 3.0,
        ..Evidence::nothing(taken_at)
    }
}

/// A recording of one load a second.
fn recording(dir: &Path, name: &str, loads: &[f64]) -> String {
    let path = dir.join(name);
    let mut writer = Writer::create(&path, "6.12.0".to_owned()).unwrap();
    let began = Timestamp::now();
    for (second, load) in (1..).zip(loads) {
        let at = began + SignedDuration::from_secs(second);
        writer.add(&evidence(at, *load)).unwrap();
    }
    writer.finish().unwrap();
    path.display().to_string()
}

#[test]
fn a_recording_of_this_host_is_ranked_under_both_sets() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("host.rec").display().to_string();
    let (code, said) = told(&["record", "--for", "2s", &file]);
    assert_eq!(code, Some(0), "{said}");

    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("../rules");
    let shipped = shipped.display().to_string();
    let (code, said) = told(&["replay", &file, "--rules", &shipped]);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("2 moments, all the same"), "{said}");
    assert!(said.contains("0 of 1 recordings differ"), "{said}");

    let always = written(dir.path(), "always.yaml", ALWAYS);
    let (code, said) = told(&["replay", &file, "--rules", &always]);
    assert_eq!(code, Some(1), "{said}");
    assert!(
        said.lines().all(|line| line.chars().count() <= 100),
        "{said}"
    );
    let got = json(&["replay", &file, "--rules", &always]);
    let subject = &got["subjects"][0];
    assert_eq!(subject["of"]["recording"], file.as_str());
    assert_eq!(subject["moments"], 2);
    // By its last second the readers have counted the CPUs, however slow the machine.
    let last = subject["stretches"].as_array().unwrap().last().unwrap();
    assert_eq!(last["after"]["ranking"][0]["id"], "has-cpus", "{got}");
    assert_eq!(last["after"]["action"], "notify@advise", "{got}");
    let places = last["before"]["ranking"].as_array().unwrap();
    assert!(
        places.iter().all(|place| place["id"] != "has-cpus"),
        "{got}"
    );
}

#[test]
fn what_differs_is_shown_from_when_to_when() {
    let dir = tempfile::tempdir().unwrap();
    let (low, high) = two_sets(dir.path());
    let file = recording(dir.path(), "hog.rec", &[0.2, 0.2, 0.99, 0.99, 0.99, 0.2]);
    let args = ["replay", &file, "--against", &low, "--rules", &high];
    let (code, said) = told(&args);
    assert_eq!(code, Some(1), "{said}");
    for part in [
        "6 moments, 3 differ",
        "(3 moments)",
        "ranking  - hot 9",
        "verdict  - conclusive",
        "culprit  - /batch",
        "action   - throttle-cpu 0.5@act",
        "         + none",
        "1 of 1 recordings differ",
    ] {
        assert!(said.contains(part), "no {part:?} in\n{said}");
    }
    let got = json(&args);
    let stretches = got["subjects"][0]["stretches"].as_array().unwrap();
    assert_eq!(stretches.len(), 1, "{got}");
    let differs = serde_json::json!(["ranking", "verdict", "culprit", "action"]);
    assert_eq!(stretches[0]["differs"], differs);
    // A recording begins a moment before its first second.
    let (from_s, to_s) = (&stretches[0]["from_s"], &stretches[0]["to_s"]);
    let span_s = to_s.as_f64().unwrap() - from_s.as_f64().unwrap();
    assert!((span_s - 2.0).abs() < 1e-3, "{got}");

    // Either way round, and each with itself.
    let (code, said) = told(&["replay", &file, "--against", &high, "--rules", &low]);
    assert_eq!(code, Some(1));
    assert!(said.contains("+ throttle-cpu 0.5@act"), "{said}");
    for same in [&low, &high] {
        let (code, said) = told(&["replay", &file, "--against", same, "--rules", same]);
        assert_eq!(code, Some(0), "{said}");
    }
}

#[test]
fn an_alert_decides_which_rules_are_candidates() {
    let dir = tempfile::tempdir().unwrap();
    let (low, high) = two_sets(dir.path());
    let file = recording(dir.path(), "hog.rec", &[0.99]);
    let ask = |name: &str| {
        let alert = format!(r#"{{"labels": {{"alertname": {name:?}}}}}"#);
        let alert = written(dir.path(), "alert.json", &alert);
        let sets = ["--against", &low, "--rules", &high];
        told(&[&["replay", &file, "--alert", &alert][..], &sets].concat())
    };
    let (code, said) = ask("CpuHigh");
    assert_eq!(code, Some(1), "{said}");
    let (code, said) = ask("DiskFull");
    assert_eq!(code, Some(0), "{said}");
    // The same file for `diagnose`.
    let config = written(
        dir.path(),
        "agent.yaml",
        &format!("rules: {{dirs: [{low:?}]}}\n"),
    );
    let alert = dir.path().join("alert.json").display().to_string();
    let of = ["--config", &config, "--replay", &file, "--alert", &alert];
    let got = json(&[&["diagnose"][..], &of].concat());
    assert_eq!(got["diagnosis"]["top"], serde_json::json!([]), "{got}");
}

#[test]
fn what_cannot_be_compared_is_said_and_exits_2() {
    let dir = tempfile::tempdir().unwrap();
    let (low, _) = two_sets(dir.path());
    let whole = recording(dir.path(), "whole.rec", &[0.99; 3]);
    let mut bytes = fs::read(&whole).unwrap();
    bytes.truncate(bytes.len() - 9);
    let cut = dir.path().join("cut.rec");
    fs::write(&cut, bytes).unwrap();
    let cut = cut.display().to_string();
    let nowhere = dir.path().join("absent").display().to_string();
    let state = dir.path().display().to_string();
    let cases: [(&[&str], &str); 6] = [
        (&["--rules", &low], "--state"),
        (&[&whole], "--rules"),
        (&[&whole, "--rules", &nowhere], "absent"),
        (&[&nowhere, "--rules", &low], "absent"),
        (&[&cut, &whole, "--rules", &low], "cut off"),
        (&["--state", &state, "--rules", &low], "no journal at"),
    ];
    for (args, why) in cases {
        let (code, said) = told(&[&["replay"], args].concat());
        assert_eq!(code, Some(2), "{args:?}: {said}");
        assert!(said.contains(why), "{args:?}: {said}");
    }
    // What follows the one that is cut off has been compared all the same.
    let got = json(&["replay", &cut, &whole, "--rules", &low]);
    assert_eq!(got["whole"], false);
    assert_eq!(got["subjects"][1]["moments"], 3, "{got}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn incidents_are_ranked_again_by_their_own_alerts_and_evidence() {
    let state = tempfile::tempdir().unwrap();
    let (ledger, _) = Ledger::open(&config(state.path()), 1_000).unwrap();
    let rules = tempfile::tempdir().unwrap();
    let (low, high) = two_sets(rules.path());
    let state = state.path().display().to_string();
    let args = [
        "replay",
        "--state",
        &state,
        "--against",
        &low,
        "--rules",
        &high,
    ];
    let (code, said) = told(&args);
    assert_eq!(code, Some(2), "an empty record: {said}");
    assert!(said.contains("nothing to compare"), "{said}");

    // The rule is for the first alert only; of the third nothing was seen, that of the fourth is gone.
    let alerts = ["CpuHigh", "DiskFull", "CpuHigh", "CpuHigh"];
    for (n, alert) in (1..).zip(alerts) {
        let id = id(n);
        ledger.append(id, opened(n, alert)).await.unwrap();
        let place = match n {
            3 => continue,
            4 => r#"{"lsn":9,"segment":77,"offset":4224,"len":10}"#.to_owned(),
            _ => {
                let seen = evidence(Timestamp::now(), 0.99);
                ledger.store_evidence(id, &seen).await.unwrap()
            }
        };
        ledger.append(id, diagnosed(place)).await.unwrap();
    }
    let (code, said) = told(&args);
    assert_eq!(code, Some(1), "{said}");
    let summary = "1 of 2 incidents with evidence differ, 2 had none";
    assert!(said.contains(summary), "{said}");
    assert!(said.contains("CpuHigh: 1 moment, all differ"), "{said}");
    assert!(!said.contains("DiskFull"), "{said}");
    let got = json(&args);
    assert_eq!(got["incidents"]["all"], 4);
    assert_eq!(got["incidents"]["without_evidence"], 2);
    let of = &got["subjects"][0]["of"]["incident"];
    assert_eq!(of["alert"], "CpuHigh", "{got}");
    // A set that says the same, and the record is as it was.
    let same = [
        "replay",
        "--state",
        &state,
        "--against",
        &low,
        "--rules",
        &low,
    ];
    let (code, said) = told(&same);
    assert_eq!(code, Some(0), "{said}");
    ledger.append(id(1), Entry::Closed).await.unwrap();
}
