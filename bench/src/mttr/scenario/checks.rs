//! What a scenario must fulfil beyond its shape. Every finding names its place.

use std::path::Path;

use serde_saphyr::Spanned;

use super::{Catalogue, FaultKind, Scenario};

/// Longest fault: a run has a deadline.
const DURATION_S_MAX: f64 = 300.0;
/// Actions that a scenario may expect: the agent's own catalogue of those that change something.
const ACTIONS: [&str; 4] = ["throttle-cpu", "cap-memory", "cap-pids", "kill-cgroup"];
/// Cgroups of the run itself.
const TAKEN: [&str; 4] = ["web", "monitoring", "paramedic", "responder"];

struct Findings<'a> {
    path: &'a Path,
    found: Vec<String>,
}

impl Findings<'_> {
    fn add<T>(&mut self, at: &Spanned<T>, message: &str) {
        let (line, column) = (at.referenced.line(), at.referenced.column());
        let path = self.path.display();
        self.found
            .push(format!("{path}:{line}:{column}: {message}"));
    }

    fn within(&mut self, at: &Spanned<f64>, name: &str, low: f64, high: f64) {
        if !(low..=high).contains(&at.value) {
            let value = at.value;
            self.add(
                at,
                &format!("{name}: {value} is not within {low} to {high}"),
            );
        }
    }

    fn name(&mut self, at: &Spanned<String>) {
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        if at.value.is_empty() || at.value.len() > 40 || !at.value.bytes().all(plain) {
            let message = format!("{:?} is not 1 to 40 of a-z, 0-9 and -", at.value);
            self.add(at, &message);
        }
    }
}

pub(super) fn findings(scenario: &Scenario, path: &Path) -> Vec<String> {
    let mut findings = Findings {
        path,
        found: Vec::new(),
    };
    findings.name(&scenario.name);
    if path
        .file_stem()
        .is_some_and(|stem| stem != scenario.name.value.as_str())
    {
        findings.add(
            &scenario.name,
            "the file has another name than the scenario",
        );
    }
    findings.within(&scenario.duration_s, "duration_s", 1.0, DURATION_S_MAX);
    faults(scenario, &mut findings);
    workload(scenario, &mut findings);
    expectation(scenario, &mut findings);
    if scenario.strategies.is_empty() {
        findings.add(
            &scenario.name,
            "no strategies: leave the key out for all of them",
        );
    }
    findings.found
}

fn faults(scenario: &Scenario, findings: &mut Findings<'_>) {
    if scenario.is_fault() && scenario.faults.is_empty() {
        findings.add(&scenario.name, "no faults: only a false alarm has none");
    }
    for fault in &scenario.faults {
        let (low, high) = match fault.kind {
            FaultKind::Cpu | FaultKind::Forks => (0.25, 16.0),
            FaultKind::Memory => (0.1, 1.0),
            FaultKind::Io => (1.0, 16.0),
            FaultKind::Leak => (0.5, 1000.0),
            FaultKind::AlertOnly => (0.0, 1.0),
        };
        findings.within(&fault.intensity, "intensity", low, high);
        findings.name(&fault.cgroup);
        if TAKEN.contains(&fault.cgroup.value.as_str()) {
            findings.add(&fault.cgroup, "this cgroup belongs to the run itself");
        }
        if !(0.0..scenario.duration_s.value).contains(&fault.at_s) {
            findings.add(&fault.intensity, "at_s lies outside duration_s");
        }
        if let Some(weight) = &fault.cpu_weight
            && !(1..=10_000).contains(&weight.value)
        {
            findings.add(weight, "cpu_weight is not within 1 to 10000");
        }
    }
}

fn workload(scenario: &Scenario, findings: &mut Findings<'_>) {
    let workload = &scenario.workload;
    findings.within(&workload.rate_per_s, "rate_per_s", 1.0, 2000.0);
    findings.within(&workload.cpu_ms, "cpu_ms", 0.01, 500.0);
    if workload.memory_kib.value > 65_536 {
        findings.add(&workload.memory_kib, "memory_kib is more than 65536");
    }
    if workload.write_kib.value > 1024 {
        findings.add(&workload.write_kib, "write_kib is more than 1024");
    }
    let slo = &workload.slo;
    let sound = (0.5..1.0).contains(&slo.quantile)
        && slo.latency_ms > 0.0
        && (0.0..1.0).contains(&slo.errors)
        && (1.0..=60.0).contains(&scenario.recovery.hold_s);
    if !sound {
        findings.add(
            &scenario.name,
            "slo.quantile lies within 0.5 and 1, latency_ms above 0, errors below 1, \
             recovery.hold_s within 1 and 60",
        );
    }
}

fn expectation(scenario: &Scenario, findings: &mut Findings<'_>) {
    let expect = &scenario.expect;
    if let Some(action) = &expect.action {
        if !ACTIONS.contains(&action.value.as_str()) {
            findings.add(action, &format!("no action of {}", ACTIONS.join(", ")));
        }
        if !scenario.is_fault() {
            findings.add(action, "a false alarm expects no action");
        }
    }
    if let Some(culprit) = &expect.culprit
        && !scenario
            .faults
            .iter()
            .any(|fault| fault.cgroup.value == culprit.value)
    {
        findings.add(culprit, "no fault runs in this cgroup");
    }
    if scenario.is_fault() && expect.hypothesis.is_none() {
        findings.add(&scenario.name, "a fault expects a hypothesis");
    }
}

/// Each scenario's alert is there, each name once.
pub(super) fn alerts(catalogue: &Catalogue, folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let known = |name: &str| catalogue.alerts.iter().any(|alert| alert.alert == name);
    for scenario in &catalogue.scenarios {
        let file = folder.join(format!("{}.yaml", scenario.name.value));
        let mut findings = Findings {
            path: &file,
            found: Vec::new(),
        };
        if let Some(alert) = &scenario.alert
            && !known(&alert.value)
        {
            findings.add(alert, "alerts.yaml has no such alert");
        }
        found.append(&mut findings.found);
    }
    found
}
