//! The shipped systemd units, under a systemd that is process 1: hardened as they are, the agent
//! diagnoses and heals; it keeps the documented capabilities and no others; a hanging agent is
//! restarted; the guardian outlives it. Runs in the VM, on every kernel.

#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests, which clippy does not take for tests"
)]

use std::{
    collections::BTreeSet, fs, net::SocketAddr, path::Path, process::Command, sync::Once,
    time::Duration,
};

use anyhow::{Context, bail, ensure};
use jiff::Timestamp;
use paramedic_tests::{http, payload, tools, wait_for};
use serde_json::{Value, json};

/// For a start, a diagnosis or an action on an emulated CPU under load.
const SOON: Duration = Duration::from_mins(1);
/// Where the program and its configuration lie here: `/usr` and `/etc` are the machine's, read-only.
const PLACE: &str = "/run/paramedic-under-test";
const UNITS: [&str; 3] = [
    "paramedic.service",
    "paramedic-guardian.service",
    "paramedic.slice",
];
/// Numbers of `linux/capability.h`.
const CAPABILITIES: [(u32, &str); 11] = [
    (1, "CAP_DAC_OVERRIDE"),
    (5, "CAP_KILL"),
    (6, "CAP_SETGID"),
    (7, "CAP_SETUID"),
    (19, "CAP_SYS_PTRACE"),
    (21, "CAP_SYS_ADMIN"),
    (23, "CAP_SYS_NICE"),
    (24, "CAP_SYS_RESOURCE"),
    (34, "CAP_SYSLOG"),
    (38, "CAP_PERFMON"),
    (39, "CAP_BPF"),
];

fn listen() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 9911))
}

fn tree(path: &str) -> String {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path);
    fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}

/// What a unit has logged since the boot.
fn journal_of(unit: &str) -> String {
    let log = Command::new("journalctl")
        .args(["-b", "--no-pager", "-u", unit])
        .output()
        .unwrap();
    String::from_utf8_lossy(&log.stdout).into_owned()
}

fn systemctl(words: &[&str]) -> anyhow::Result<String> {
    let output = Command::new("systemctl")
        .args(words)
        .output()
        .context("cannot start systemctl")?;
    if !output.status.success() {
        let log = Command::new("journalctl")
            .args(["-b", "--no-pager", "-n", "60", "-u", "paramedic*"])
            .output()?;
        bail!(
            "systemctl {words:?}: {}\n{}\n{}",
            output.status,
            String::from_utf8_lossy(&output.stderr),
            String::from_utf8_lossy(&log.stdout),
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn property(unit: &str, name: &str) -> String {
    systemctl(&["show", "--value", "-p", name, unit]).unwrap()
}

/// The shipped units, with no word changed but the two paths that this machine has not got.
fn install() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        fs::create_dir_all(PLACE).unwrap();
        fs::copy(tools::agent_binary().unwrap(), format!("{PLACE}/paramedic")).unwrap();
        let config = tree("agent/deploy/systemd/paramedic.yaml");
        assert!(config.contains("level: advise"));
        let config = config.replace("level: advise", "level: act\n  lease_s: 600");
        let config = format!("{config}pressure: {{enabled: false}}\n");
        fs::write(format!("{PLACE}/paramedic.yaml"), config).unwrap();
        for unit in UNITS {
            let text = tree(&format!("agent/deploy/systemd/{unit}"));
            let here = text
                .replace("/usr/bin/paramedic ", &format!("{PLACE}/paramedic "))
                .replace("/etc/paramedic/", &format!("{PLACE}/"));
            assert_eq!(here != text, unit != "paramedic.slice", "{unit}");
            fs::write(format!("/run/systemd/system/{unit}"), here).unwrap();
        }
        systemctl(&["daemon-reload"]).unwrap();
        // Returns when the agent has said that it is ready.
        systemctl(&["start", "paramedic.service"]).unwrap();
    });
}

fn agents_pid() -> String {
    property("paramedic.service", "MainPID")
}

fn status_of(pid: &str, key: &str) -> String {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(key));
    line.unwrap_or_else(|| panic!("no {key} of {pid}"))
        .trim()
        .to_owned()
}

fn capabilities(pid: &str) -> BTreeSet<String> {
    let bits = u64::from_str_radix(&status_of(pid, "CapEff:"), 16).unwrap();
    (0..64)
        .filter(|bit| bits >> bit & 1 == 1)
        .map(|bit| {
            let known = CAPABILITIES.iter().find(|(number, _)| *number == bit);
            known.map_or_else(
                || format!("capability {bit}"),
                |(_, name)| (*name).to_owned(),
            )
        })
        .collect()
}

/// The first column of the first table of docs/security.md.
fn documented() -> BTreeSet<String> {
    let text = tree("docs/security.md");
    let rows = text.lines().filter_map(|line| line.strip_prefix("| `CAP_"));
    rows.filter_map(|row| row.split('`').next())
        .map(|name| format!("CAP_{name}"))
        .collect()
}

fn incidents() -> anyhow::Result<Vec<Value>> {
    let mut list = http::get(listen(), "/api/v1/incidents")?.json()?;
    let Value::Array(list) = list["incidents"].take() else {
        bail!("no list of incidents");
    };
    list.iter()
        .map(|summary| {
            let id = summary["id"].as_str().context("an incident without id")?;
            http::get(listen(), &format!("/api/v1/incidents/{id}"))?.json()
        })
        .collect()
}

fn entry<'a>(incident: &'a Value, name: &str) -> Option<&'a Value> {
    let lines = incident["entries"].as_array().unwrap();
    lines.iter().find(|line| line["entry"] == name)
}

#[test]
fn a_it_is_ready_confined_and_keeps_the_documented_capabilities() {
    install();
    assert_eq!(property("paramedic.service", "ActiveState"), "active");
    assert_eq!(
        property("paramedic-guardian.service", "ActiveState"),
        "active"
    );
    assert_eq!(
        property("paramedic.service", "StatusText"),
        format!("listens on {}", listen())
    );
    let pid = agents_pid();
    let kept = capabilities(&pid);
    println!("the agent's effective capabilities: {kept:?}");
    assert_eq!(kept, documented());
    assert_eq!(status_of(&pid, "CapBnd:"), status_of(&pid, "CapEff:"));
    assert_eq!(status_of(&pid, "NoNewPrivs:"), "1");
    // 2: a filter (proc(5)).
    assert_eq!(status_of(&pid, "Seccomp:"), "2");
    let guardian = property("paramedic-guardian.service", "MainPID");
    let only = BTreeSet::from(["CAP_DAC_OVERRIDE".to_owned()]);
    assert_eq!(capabilities(&guardian), only);
    assert_eq!(status_of(&guardian, "Seccomp:"), "2");
    let said = journal_of("paramedic-guardian.service").replace('"', "");
    let confined = ["to_its_files=whole", "to_its_files=partly"];
    assert!(confined.iter().any(|sign| said.contains(sign)), "{said}");
    assert!(!said.contains("no use for"), "{said}");
    // One level below the delegated cgroup, so that the sandbox has a place beside it.
    let cgroup = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    assert_eq!(cgroup.trim(), "0::/paramedic.slice/paramedic.service/agent");
    // Under these limits every probe still attaches.
    let log = journal_of("paramedic.service");
    for sign in [
        "fallback",
        "missing (run as root",
        "no use for",
        "Operation not permitted",
    ] {
        assert!(!log.contains(sign), "{sign:?} in the log:\n{log}");
    }
}

#[test]
fn a_the_kernels_log_is_read() {
    install();
    wait_for("errors of the kernel's log in the evidence", SOON, || {
        let found = http::get(listen(), "/api/v1/recorder")?.json()?;
        let errors = found["evidence"]["host"]["kernel.errors_per_s"]["value"].as_f64();
        let sources = &found["evidence"]["coverage"];
        errors.with_context(|| format!("it is not read: {sources:#}"))
    })
    .unwrap();
}

#[test]
fn a_a_failed_unit_is_the_cause_and_is_named() {
    install();
    let failed = Command::new("systemd-run")
        .args(["--quiet", "--unit=nightly", "false"])
        .status()
        .unwrap();
    assert!(failed.success());
    wait_for("failed unit in the evidence", SOON, || {
        let found = http::get(listen(), "/api/v1/recorder")?.json()?;
        let evidence = &found["evidence"];
        let units = evidence["coverage"].as_array().context("no coverage")?;
        let units = units.iter().find(|one| one["source"] == "reader:units");
        let note = units.map(|one| one["note"].to_string());
        let named = note
            .as_ref()
            .is_some_and(|note| note.contains("nightly.service"));
        ensure!(named, "what is said of units: {note:?}");
        let age_s = evidence["host"]["units.failed_age_s"]["value"].as_f64();
        let age_s = age_s.context("no age")?;
        ensure!(age_s < 600.0, "it failed {age_s} s ago");
        Ok(())
    })
    .unwrap();
    let labels = json!({"alertname": "SystemdUnitFailed", "instance": "node-1"});
    let body = payload::firing(&labels, &json!({}), Timestamp::now()).to_string();
    let answer = http::post_json(listen(), "/webhook", &body).unwrap();
    assert_eq!(answer.status, 200, "{}", answer.body);
    let diagnosis = wait_for("diagnosis of the failed unit", SOON, || {
        let found = incidents()?;
        let mut told = found.iter().filter_map(|one| entry(one, "diagnosed"));
        let of_unit = |line: &&Value| line["diagnosis"]["top"][0]["id"] == "unit-failed";
        let found = told.find(of_unit).cloned();
        found.context("no incident has a failed unit for its cause")
    })
    .unwrap();
    assert_eq!(
        diagnosis["diagnosis"]["verdict"]["verdict"], "conclusive",
        "{diagnosis:#}"
    );
    systemctl(&["reset-failed", "nightly.service"]).unwrap();
}

#[test]
fn b_it_heals_a_service_and_undoes_its_effect_when_it_is_stopped() {
    install();
    let run = Command::new("systemd-run")
        .args(["--quiet", "--unit=batch", "-p", "CPUWeight=100"])
        .args(["-p", "RuntimeMaxSec=240", "-p", "WorkingDirectory=/tmp"])
        .args(["stress-ng", "--temp-path", "/tmp", "--cpu", "4"])
        .status()
        .unwrap();
    assert!(run.success());
    let dir = Path::new("/sys/fs/cgroup/system.slice/batch.service");
    let limit = || {
        fs::read_to_string(dir.join("cpu.max"))
            .unwrap()
            .trim()
            .to_owned()
    };
    let unlimited = limit();
    wait_for("busy batch", SOON, || {
        let text = fs::read_to_string(dir.join("cpu.stat"))?;
        let used: u64 = text
            .lines()
            .find_map(|line| line.strip_prefix("usage_usec "))
            .context("no usage_usec")?
            .parse()?;
        ensure!(used > 6_000_000, "{used} us of CPU so far");
        Ok(())
    })
    .unwrap();
    let labels =
        json!({"alertname": "HostCpuSaturated", "instance": "node-1", "severity": "critical"});
    let body = payload::firing(&labels, &json!({}), Timestamp::now()).to_string();
    let answer = http::post_json(listen(), "/webhook", &body).unwrap();
    assert_eq!(answer.status, 200, "{}", answer.body);
    let incident = wait_for("verdict on an action", SOON, || {
        let found = incidents()?;
        let said = found.iter().map(|one| one["entries"].to_string());
        let said: String = said.collect();
        let one = found
            .into_iter()
            .find(|one| entry(one, "verified").is_some());
        one.with_context(|| format!("no incident with a verified action, but {said}"))
    })
    .unwrap();
    let intent = &entry(&incident, "intended").unwrap()["intent"];
    assert_eq!(intent["action"]["path"], "/system.slice/batch.service");
    let outcome = &entry(&incident, "verified").unwrap()["outcome"];
    assert_eq!(outcome["kind"], "healed", "{outcome:#}");
    assert_ne!(limit(), unlimited);
    // The lease has minutes to go: an orderly stop does not wait for it.
    systemctl(&["stop", "paramedic.service"]).unwrap();
    assert_eq!(limit(), unlimited);
    assert_eq!(
        property("paramedic-guardian.service", "ActiveState"),
        "active"
    );
    systemctl(&["start", "paramedic.service"]).unwrap();
    systemctl(&["reload", "paramedic.service"]).unwrap();
    assert_eq!(property("paramedic.service", "ActiveState"), "active");
    systemctl(&["stop", "batch.service"]).unwrap_or_default();
}

#[test]
fn c_a_hanging_agent_is_restarted_by_the_watchdog() {
    install();
    // The shipped limit is 30 s; only the waiting is shortened here.
    fs::create_dir_all("/run/systemd/system/paramedic.service.d").unwrap();
    fs::write(
        "/run/systemd/system/paramedic.service.d/soon.conf",
        "[Service]\nWatchdogSec=6\nWatchdogSignal=SIGKILL\n",
    )
    .unwrap();
    systemctl(&["daemon-reload"]).unwrap();
    systemctl(&["restart", "paramedic.service"]).unwrap();
    let before = agents_pid();
    systemctl(&[
        "kill",
        "--kill-who=main",
        "--signal=STOP",
        "paramedic.service",
    ])
    .unwrap();
    wait_for("restarted agent", SOON, || {
        let now = agents_pid();
        ensure!(now != before && now != "0", "its pid is {now}");
        http::get(listen(), "/-/ready")?.ok()
    })
    .unwrap();
}
