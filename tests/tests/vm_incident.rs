//! The agent as people run it against real faults: cure and undoing, a crash at the worst moment, a
//! full disk under the journal, no privileges. Runs in the VM, on every kernel.

#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests, which clippy does not take for tests"
)]

#[path = "vm_incident/guardian.rs"]
mod guardian;

use std::{
    fs::{self, File},
    io::{ErrorKind, Write},
    os::unix::{fs::chown, process::CommandExt},
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use paramedic_tests::{Agent, Cgroup, Process, http, payload, tools, wait_for};
use serde_json::{Value, json};

/// For a diagnosis and an action on an emulated CPU under load.
const SOON: Duration = Duration::from_mins(1);
/// Evidence of a calm node before the fault, then of the fault.
const WINDOW: Duration = Duration::from_secs(5);
/// What `cpu.max` holds where nobody has set it.
const UNLIMITED: &str = "max 100000";
/// An ordinary user.
const NOBODY: u32 = 65_534;

fn config(more: &str) -> String {
    format!("state_dir: $STATE\nintake: {{listen: $LISTEN}}\n{more}")
}

fn webhook(alertname: &str, starts_at: Timestamp, annotations: &Value) -> String {
    let labels = json!({"alertname": alertname, "instance": "node-1", "severity": "critical"});
    payload::firing(&labels, annotations, starts_at).to_string()
}

/// Entries of an incident with this name.
fn entries<'a>(incident: &'a Value, name: &str) -> Vec<&'a Value> {
    let lines = incident["entries"].as_array().unwrap();
    lines.iter().filter(|line| line["entry"] == name).collect()
}

fn has(incident: &Value, name: &str) -> bool {
    !entries(incident, name).is_empty()
}

/// More busy workers than CPUs in a cgroup of their own, and an innocent one beside it.
struct CpuHog {
    hog: Cgroup,
    bystander: Cgroup,
}

impl CpuHog {
    fn start(test: &str) -> Self {
        let mut hog = Cgroup::make(&format!("tests/{test}-hog")).unwrap();
        let mut bystander = Cgroup::make(&format!("tests/{test}-bystander")).unwrap();
        let at_most = Duration::from_mins(4);
        let mut sleeper = Command::new("sleep");
        sleeper.arg("240");
        bystander.spawn(sleeper, at_most).unwrap();
        let mut workers = Command::new("stress-ng");
        workers.args(["--temp-path", "/tmp", "--cpu", "4"]);
        hog.spawn(workers, at_most).unwrap();
        Self { hog, bystander }
    }

    fn limit(&self) -> String {
        self.hog.get("cpu.max").unwrap()
    }
}

/// An agent that has seen a calm node, then a hog, then the alert for it.
fn alerted(test: &str, more: &str) -> (Agent, CpuHog, String) {
    let agent = Agent::start(&config(more)).unwrap();
    thread::sleep(WINDOW);
    let fault = CpuHog::start(test);
    thread::sleep(WINDOW);
    assert_eq!(fault.limit(), UNLIMITED);
    let body = webhook("HostCpuSaturated", Timestamp::now(), &json!({}));
    let answer = agent.post("/webhook", &body).unwrap();
    assert_eq!(answer.status, 200, "{}", answer.body);
    (agent, fault, body)
}

fn the_only_incident(agent: &Agent, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    let incident = agent.wait_for_incident(what, SOON, wanted).unwrap();
    assert_eq!(agent.incidents().unwrap().len(), 1);
    incident
}

#[test]
fn a_cpu_hog_is_throttled_verified_and_released_when_the_lease_ends() {
    let (mut agent, fault, _) = alerted("heal", "remedy: {level: act, lease_s: 20}\n");
    let incident = the_only_incident(&agent, "verified incident", |i| has(i, "verified"));

    let diagnosis = &entries(&incident, "diagnosed")[0]["diagnosis"];
    assert_eq!(diagnosis["top"][0]["id"], "cpu-hog", "{diagnosis:#}");
    assert_eq!(diagnosis["top"][0]["culprit"]["path"], fault.hog.path());
    let intent = &entries(&incident, "intended")[0]["intent"];
    assert_eq!(intent["action"]["kind"], "throttle-cpu");
    assert_eq!(intent["action"]["path"], fault.hog.path());
    assert_eq!(intent["action"]["cgroup"], fault.hog.id().unwrap());
    assert_eq!(intent["changes"][0]["file"], "cpu.max");
    assert_eq!(
        intent["changes"][0]["prior"].as_str().unwrap().trim(),
        UNLIMITED
    );
    let outcome = &entries(&incident, "verified")[0]["outcome"];
    assert_eq!(outcome["kind"], "healed", "{outcome:#}");
    let limit = fault.limit();
    assert_ne!(limit, UNLIMITED);
    assert_eq!(
        intent["changes"][0]["value"]
            .as_str()
            .unwrap()
            .split(' ')
            .next(),
        limit.split(' ').next()
    );
    assert_eq!(fault.bystander.get("cpu.max").unwrap(), UNLIMITED);

    let closed = the_only_incident(&agent, "closed incident", |i| has(i, "closed"));
    assert_eq!(entries(&closed, "rolled_back")[0]["reason"], "lease_ended");
    assert_eq!(fault.limit(), UNLIMITED);
    assert_eq!(entries(&closed, "intended").len(), 1);

    // The record tells it with the agent gone.
    agent.terminate().unwrap();
    let shown = agent.show(incident["id"].as_str().unwrap()).unwrap();
    for word in ["throttle-cpu", "healed", "lease_ended", "cpu.max"] {
        assert!(shown.contains(word), "no {word} in\n{shown}");
    }
}

#[test]
fn killed_before_the_verdict_it_undoes_its_effect_and_does_not_act_again() {
    // Half a minute of looks: time enough to be killed between the effect and its verdict.
    // The guardian waits longer than an agent may take to start on an emulated CPU.
    let slow = "remedy: {level: act, orphan_grace_s: 60, limits: {target_cooldown_s: 0}}\n\
                verify: {poll_ms: 1000, healed_polls: 25}\n";
    let (mut agent, fault, body) = alerted("crash", slow);
    let before = the_only_incident(&agent, "applied action", |i| has(i, "applied"));
    assert!(!has(&before, "verified"));
    agent.kill().unwrap();
    assert_ne!(fault.limit(), UNLIMITED, "the effect outlived the agent");

    agent.restart().unwrap();
    let after = the_only_incident(&agent, "closed incident", |i| has(i, "closed"));
    assert_eq!(after["id"], before["id"]);
    assert_eq!(
        entries(&after, "rolled_back")[0]["reason"],
        "agent_restarted"
    );
    assert_eq!(fault.limit(), UNLIMITED);

    // Alertmanager sends it again, the node is as sick as before: still one action an episode.
    assert_eq!(agent.post("/webhook", &body).unwrap().status, 200);
    thread::sleep(WINDOW * 2);
    let last = the_only_incident(&agent, "incident", |_| true);
    assert_eq!(entries(&last, "intended").len(), 1, "{last:#}");
    assert_eq!(entries(&last, "applied").len(), 1, "{last:#}");
    assert_eq!(fault.limit(), UNLIMITED);
    let shown = agent.show(last["id"].as_str().unwrap()).unwrap();
    assert!(shown.contains("agent_restarted"), "{shown}");
}

#[test]
fn killed_after_the_verdict_it_takes_the_effect_over_until_the_lease_ends() {
    let (mut agent, fault, _) = alerted("takeover", "remedy: {level: act, lease_s: 30}\n");
    let before = the_only_incident(&agent, "verified incident", |i| has(i, "verified"));
    let outcome = &entries(&before, "verified")[0]["outcome"];
    assert_eq!(outcome["kind"], "healed", "{outcome:#}");
    let limit = fault.limit();
    agent.kill().unwrap();
    agent.restart().unwrap();

    let taken = the_only_incident(&agent, "taken over", |i| has(i, "taken_over"));
    assert!(!has(&taken, "rolled_back"), "{taken:#}");
    assert_eq!(fault.limit(), limit, "still throttled");
    let closed = the_only_incident(&agent, "closed incident", |i| has(i, "closed"));
    assert_eq!(entries(&closed, "rolled_back")[0]["reason"], "lease_ended");
    assert_eq!(entries(&closed, "intended").len(), 1);
    assert_eq!(fault.limit(), UNLIMITED);
}

/// Everything that is left of the disk. Gone on drop.
struct Ballast(PathBuf);

impl Ballast {
    fn fill(folder: &Path) -> Self {
        let ballast = Self(folder.join("ballast"));
        let mut file = File::create(&ballast.0).unwrap();
        let mut block = vec![0xa5; 1 << 20];
        // Ever smaller blocks, down to one that no longer fits.
        loop {
            match file.write_all(&block) {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::StorageFull => {
                    if block.len() == 512 {
                        break;
                    }
                    block.truncate((block.len() / 8).max(512));
                }
                Err(error) => panic!("{}: {error}", ballast.0.display()),
            }
        }
        // Delayed allocation: until it is written out, the space is only promised.
        file.sync_all().unwrap();
        ballast
    }
}

impl Drop for Ballast {
    fn drop(&mut self) {
        fs::remove_file(&self.0).unwrap_or_default();
    }
}

#[test]
fn on_a_full_disk_it_answers_503_and_loses_nothing_that_it_accepted() {
    /// Alerts sent at most; the prepared segments hold far fewer.
    const SENT_MAX: usize = 600;
    let small = "journal: {fast_segment_bytes: 262144, segments_ahead: 1, \
                 safe_segment_bytes: 4194304, snapshot_bytes_max: 2097152, \
                 record_bytes_max: 131072, outcome_reserve_bytes: 65536, space_retry_ms: 200, \
                 deadline_ms: 2000}\n\
                 remedy: {level: observe}\n";
    let mut agent = Agent::start(&config(small)).unwrap();
    // The longest annotations that are kept whole.
    let words = json!({"a": "x".repeat(4000), "b": "y".repeat(4000), "c": "z".repeat(4000)});
    let begun = Timestamp::now();
    let mut accepted = Vec::new();
    let mut send = |agent: &Agent, nth: usize| {
        let name = format!("Alert{nth}");
        let answer = agent
            .post("/webhook", &webhook(&name, begun, &words))
            .unwrap();
        if answer.status == 200 {
            accepted.push(name);
        }
        answer
    };
    assert_eq!(send(&agent, 0).status, 200);

    // The agent's own log lies on that disk too.
    let ballast = Ballast::fill(agent.state_dir().parent().unwrap());
    let refused = (1..SENT_MAX)
        .map(|nth| send(&agent, nth))
        .find(|answer| answer.status != 200)
        .expect("a full disk refuses some alert");
    assert_eq!(refused.status, 503, "{}", refused.body);
    assert!(refused.body.contains("not recorded"), "{}", refused.body);
    // It lives, and what it knows can still be read.
    assert_eq!(agent.get("/api/v1/incidents").unwrap().status, 200);

    drop(ballast);
    wait_for("acceptance once there is space", SOON, || {
        let answer = send(&agent, SENT_MAX);
        anyhow::ensure!(answer.status == 200, "{}: {}", answer.status, answer.body);
        Ok(())
    })
    .unwrap();

    agent.kill().unwrap();
    agent.restart().unwrap();
    let listed = agent.get("/api/v1/incidents?limit=1000").unwrap();
    let listed = listed.json().unwrap();
    let known: Vec<&str> = listed["incidents"]
        .as_array()
        .unwrap()
        .iter()
        .map(|summary| summary["alert"].as_str().unwrap())
        .collect();
    assert!(accepted.len() > 2, "{accepted:?}");
    for name in &accepted {
        let times = known.iter().filter(|alert| **alert == name).count();
        assert_eq!(times, 1, "{name} of {accepted:?}, known are {known:?}");
    }
}

#[test]
fn without_root_it_says_what_is_missing_and_diagnoses_all_the_same() {
    let prepared = Agent::prepare(&config("remedy: {level: act}\n")).unwrap();
    // Its own copy: an ordinary user may not see the folder that it was built in.
    let folder = tools::temporary_folder().unwrap();
    let binary = folder.path().join("paramedic");
    fs::copy(tools::agent_binary().unwrap(), &binary).unwrap();
    let home = prepared.state_dir().parent().unwrap().to_owned();
    for path in [folder.path(), &home] {
        chown(path, Some(NOBODY), Some(NOBODY)).unwrap();
    }
    let mut command = Command::new(&binary);
    command.arg("run").arg("--config").arg(prepared.config());
    command.uid(NOBODY).gid(NOBODY).current_dir(folder.path());
    let log = folder.path().join("log");
    let mut process = Process::start("agent without root", command, &log).unwrap();
    let address = prepared.address();
    process
        .ready(SOON, || http::get(address, "/-/ready")?.ok())
        .unwrap();
    thread::sleep(WINDOW);
    let fault = CpuHog::start("nobody");
    thread::sleep(WINDOW);
    let body = webhook("HostCpuSaturated", Timestamp::now(), &json!({}));
    assert_eq!(prepared.post("/webhook", &body).unwrap().status, 200);

    let incident = the_only_incident(&prepared, "closed incident", |i| has(i, "closed"));
    let diagnosis = &entries(&incident, "diagnosed")[0]["diagnosis"];
    assert_eq!(diagnosis["top"][0]["id"], "cpu-hog", "{diagnosis:#}");
    assert!(!has(&incident, "applied"), "{incident:#}");
    let refusal = &entries(&incident, "refused")[0]["refusal"];
    assert!(refusal["detail"].as_str().unwrap().len() > 10, "{refusal}");
    assert_eq!(fault.limit(), UNLIMITED);

    let said = process.log();
    for name in [
        "CAP_BPF and CAP_PERFMON missing",
        "CAP_DAC_OVERRIDE missing",
    ] {
        assert!(said.contains(name), "no {name:?} in\n{said}");
    }
    let begun = Instant::now();
    let status = process.terminate(Duration::from_secs(20)).unwrap();
    assert!(
        status.success(),
        "{status} after {:?}\n{}",
        begun.elapsed(),
        process.log()
    );
}
