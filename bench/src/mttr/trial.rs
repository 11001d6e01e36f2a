//! One scenario under one strategy, once: calm, fault, answer, recovery, and what it cost.

use std::{
    fs,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use hdrhistogram::Histogram;
use jiff::Timestamp;
use paramedic_parts::{Cgroup, chance::Rng, http, wait_for};
use serde_json::{Value, json};

use super::{
    attribution,
    driver::{Driver, TIMEOUT},
    exporter::{Exporter, Now},
    fault,
    record::Trial,
    relay::Relay,
    scenario::{FaultKind, Scenario, Strategy},
    slice::Slice,
    slo::{self, Request, WINDOW_S, Window},
    stack::{INSTANCE, Stack},
    strategy::Answering,
    unix,
};

/// For the node to come to rest before a trial.
const CALM_WITHIN: Duration = Duration::from_secs(90);
/// Seconds of service that must keep its promise first.
const CALM_S: f64 = 3.0;
/// Between two looks: the exporter's period.
const EVERY: Duration = Duration::from_millis(100);
/// After recovery, for the agent's own verdict.
const VERDICT_WITHIN: Duration = Duration::from_secs(15);
/// After the fault was ended by us, for the service to come back; queues are two seconds long.
const AFTER_WITHIN: Duration = Duration::from_secs(20);
/// Whatever is started ends by itself after this long.
const AT_MOST: Duration = Duration::from_mins(8);

/// What every trial of a run shares.
pub struct Bench<'a> {
    /// Cgroups.
    pub slice: &'a Slice,
    /// Monitoring.
    pub stack: &'a Stack,
    /// Before whoever answers.
    pub relay: &'a Relay,
    /// Metrics.
    pub exporter: &'a Exporter,
    /// Rounds of arithmetic a millisecond.
    pub spins_a_ms: u64,
    /// For small files of the faults and the service, on a disk.
    pub folder: &'a Path,
    /// CPUs.
    pub cpus: usize,
}

/// What runs in one trial.
struct Running<'a> {
    bench: &'a Bench<'a>,
    scenario: &'a Scenario,
    strategy: Strategy,
    driver: Driver,
    web: Cgroup,
    web_pid: u32,
    answering: Answering,
    culprits: Vec<(String, Cgroup)>,
    injected: Instant,
    injected_at: f64,
}

impl Bench<'_> {
    /// Runs one trial. What fails in it makes it void, with the reason; the run goes on.
    pub fn trial(&self, scenario: &Scenario, strategy: Strategy, repetition: usize) -> Trial {
        let trace_id = trace_id();
        self.relay.set(super::relay::Behind::Nobody);
        let tried = self
            .prepare(scenario, strategy, &trace_id)
            .and_then(Running::run);
        let mut trial = tried.unwrap_or_else(|error| void(&format!("{error:#}")));
        trial.scenario.clone_from(&scenario.name.value);
        trial.strategy = strategy;
        trial.repetition = repetition;
        trial.trace_id = trace_id;
        self.relay.set(super::relay::Behind::Nobody);
        trial
    }

    fn prepare<'a>(
        &'a self,
        scenario: &'a Scenario,
        strategy: Strategy,
        trace_id: &str,
    ) -> anyhow::Result<Running<'a>> {
        let workload = &scenario.workload;
        let mut web = Slice::child("web")?;
        let listen = http::free_address()?;
        let mut command = std::process::Command::new(std::env::current_exe()?);
        let spins = (self.spins_a_ms as f64 * workload.cpu_ms.value).round();
        command
            .arg("serve")
            .args(["--listen", &listen.to_string()])
            .args(["--spins", &format!("{spins:.0}")])
            .args(["--memory-kib", &workload.memory_kib.value.to_string()])
            .args(["--write-kib", &workload.write_kib.value.to_string()])
            .arg("--file")
            .arg(self.folder.join("service"));
        let web_pid = web.spawn(command, AT_MOST)?;
        wait_for("answer of the service", Duration::from_secs(30), || {
            http::get(listen, "/")?.ok()
        })?;
        let answering = strategy.start(self.slice, &self.stack.prometheus.url())?;
        let trace = format!("00-{trace_id}-0000000000000001-01");
        let driver = Driver::start(listen, workload.rate_per_s.value, &trace);
        let mut culprits: Vec<(String, Cgroup)> = Vec::new();
        for fault in &scenario.faults {
            let name = &fault.cgroup.value;
            if fault.kind == FaultKind::AlertOnly || culprits.iter().any(|(of, _)| of == name) {
                continue;
            }
            let cgroup = Slice::child(name)?;
            if let Some(weight) = &fault.cpu_weight {
                cgroup.set("cpu.weight", &weight.value.to_string())?;
            }
            culprits.push((name.clone(), cgroup));
        }
        let running = Running {
            bench: self,
            scenario,
            strategy,
            driver,
            web,
            web_pid,
            answering,
            culprits,
            injected: Instant::now(),
            injected_at: 0.0,
        };
        running.calm()?;
        strategy.arm(self.relay, &running.answering)?;
        Ok(running)
    }
}

impl Running<'_> {
    /// Waits until nothing fires and the service keeps its promise.
    fn calm(&self) -> anyhow::Result<()> {
        let begun = Instant::now();
        loop {
            let now_s = self.driver.begun().elapsed().as_secs_f64();
            let windows = slo::windows(&self.driver.answered(), now_s, &self.scenario.workload.slo);
            let recent = windows.iter().filter(|w| w.at_s >= -CALM_S - WINDOW_S);
            let enough = now_s > CALM_S + 1.0 && !windows.is_empty();
            let worst = recent.clone().find(|window| !window.met);
            let restless = match self.bench.stack.restless()? {
                Some(why) => Some(why),
                None => worst.map(|window| {
                    let (ms, errors) = (window.latency_ms, window.errors);
                    format!("the service takes {ms:.0} ms and fails {errors:.2}")
                }),
            };
            if enough && restless.is_none() {
                return Ok(());
            }
            if begun.elapsed() > CALM_WITHIN {
                let why = restless.unwrap_or_else(|| "no requests were answered".to_owned());
                bail!("the node did not come to rest: {why}");
            }
            thread::sleep(Duration::from_secs(1));
        }
    }

    fn run(mut self) -> anyhow::Result<Trial> {
        self.injected = Instant::now();
        self.injected_at = unix::now();
        let mut pending: Vec<usize> = (0..self.scenario.faults.len()).collect();
        let duration = Duration::from_secs_f64(self.scenario.duration_s.value);
        let mut recovered_at: Option<Instant> = None;
        while self.injected.elapsed() < duration {
            let since_s = self.injected.elapsed().as_secs_f64();
            let mut left = Vec::new();
            for at in pending {
                if self.scenario.faults[at].at_s <= since_s {
                    self.inject(at)?;
                } else {
                    left.push(at);
                }
            }
            pending = left;
            let windows = self.windows();
            self.sample(&windows);
            let recovered = slo::course(&windows, self.scenario.recovery.hold_s).recovered_s;
            recovered_at = match (recovered, recovered_at) {
                (Some(_), at) => at.or(Some(Instant::now())),
                (None, _) => None,
            };
            // A false alarm runs to its end: an action may come late.
            let over = recovered_at.is_some_and(|at| {
                at.elapsed() >= VERDICT_WITHIN || !self.strategy.is_agent() || self.judged()
            });
            if over && pending.is_empty() && self.scenario.is_fault() {
                break;
            }
            thread::sleep(EVERY);
        }
        self.end(recovered_at.is_some())
    }

    fn inject(&mut self, at: usize) -> anyhow::Result<()> {
        let fault = &self.scenario.faults[at];
        if let Some(command) = fault::command(fault, self.bench.cpus, self.bench.folder)? {
            let (_, cgroup) = self
                .culprits
                .iter_mut()
                .find(|(name, _)| *name == fault.cgroup.value)
                .context("every fault has its cgroup")?;
            cgroup.spawn(command, AT_MOST)?;
            return Ok(());
        }
        let name = self
            .scenario
            .alert
            .as_ref()
            .context("an alert to tell of")?;
        let now = Timestamp::now();
        let alert = json!([{
            "labels": {"alertname": name.value, "instance": INSTANCE, "severity": "critical"},
            "startsAt": now.to_string(),
            "endsAt": (now + Duration::from_secs_f64(self.scenario.duration_s.value)).to_string(),
        }]);
        self.bench.stack.alertmanager.post_alerts(&alert)
    }

    fn windows(&self) -> Vec<Window> {
        self.over(&self.driver.answered())
    }

    fn over(&self, requests: &[Request]) -> Vec<Window> {
        let injected = self.injected.saturating_duration_since(self.driver.begun());
        slo::windows(
            requests,
            injected.as_secs_f64(),
            &self.scenario.workload.slo,
        )
    }

    fn sample(&self, windows: &[Window]) {
        let Some(last) = windows.last() else { return };
        let now = Now {
            latency_ms: last.latency_ms,
            met: last.met,
            since_ms: Some(self.injected.elapsed().as_secs_f64() * 1e3),
        };
        let name = &self.scenario.name.value;
        self.bench.exporter.sample(
            name,
            &self.scenario.inject_type(),
            self.strategy.name(),
            now,
        );
    }

    /// Whether every episode of the agent has its verdict or its reason for not acting.
    fn judged(&self) -> bool {
        let incidents = self.incidents();
        let settled = |incident: &Value| {
            let entries = incident["entries"].as_array();
            entries.into_iter().flatten().any(|entry| {
                matches!(
                    entry["entry"].as_str(),
                    Some("verified" | "refused" | "failed")
                )
            })
        };
        !incidents.is_empty() && incidents.iter().all(settled)
    }

    fn incidents(&self) -> Vec<Value> {
        let Some(agent) = &self.answering.agent else {
            return Vec::new();
        };
        let summaries = agent.incidents().unwrap_or_default();
        let ids = summaries
            .iter()
            .filter_map(|summary| summary["id"].as_str());
        ids.filter_map(|id| agent.incident(id).ok()).collect()
    }

    /// Ends the fault, waits for the service, and looks at what is left.
    fn end(mut self, recovered: bool) -> anyhow::Result<Trial> {
        let hold_s = self.scenario.recovery.hold_s;
        // Before anything is ended: what was done meanwhile is on its record.
        let mut incidents = self.incidents();
        let ended_s = self.injected.elapsed().as_secs_f64();
        let before = self.windows();
        let course = slo::course(&before, hold_s);
        for (_, cgroup) in &self.culprits {
            cgroup.kill()?;
        }
        let began = Instant::now();
        let broken = course.broken_s.is_some();
        let mut after = course;
        while broken && !recovered && began.elapsed() < AFTER_WITHIN {
            thread::sleep(EVERY);
            let windows = self.windows();
            self.sample(&windows);
            after = slo::course(&windows, hold_s);
            if after.recovered_s.is_some() {
                break;
            }
        }
        // An alert may come at the last moment.
        if self.strategy.is_agent() && incidents.is_empty() {
            thread::sleep(TIMEOUT);
            incidents = self.incidents();
        }
        let mut harm = self.harm()?;
        let killed = self.victims(&mut harm)?;
        let account = self
            .strategy
            .is_agent()
            .then(|| attribution::account(&incidents));
        if let Some(account) = &account {
            let culprits: Vec<String> = self
                .culprits
                .iter()
                .map(|(name, _)| Slice::path(name))
                .collect();
            let innocent = |path: &String| !culprits.contains(path);
            for (kind, path) in account.actions.iter().filter(|(_, path)| innocent(path)) {
                harm.push(format!("{kind} on {path}, which is no culprit"));
            }
            let worse = account
                .verdicts
                .iter()
                .filter(|verdict| *verdict == "worse");
            harm.extend(worse.map(|_| "the agent's own verdict: worse".to_owned()));
        }
        let phases = attribution::phases(&incidents, self.injected_at);
        let delivered_s = self.delivered_s();
        if let Some(agent) = &mut self.answering.agent {
            agent
                .terminate()
                .context("the agent did not end in order")?;
        }
        let injected = self.injected.saturating_duration_since(self.driver.begun());
        let slo = self.scenario.workload.slo;
        let requests = self.driver.stop();
        let windows = slo::windows(&requests, injected.as_secs_f64(), &slo);
        let since: Vec<Request> = requests
            .iter()
            .filter(|request| request.at_s >= injected.as_secs_f64())
            .copied()
            .collect();
        let healed = broken && course.recovered_s.is_some();
        drop(self.web);
        Ok(Trial {
            injected_at: self.injected_at,
            delivered_s,
            ended_s,
            course: if healed { course } else { after },
            mttr_s: course.recovered_s.or(after.recovered_s),
            healed,
            harm,
            killed,
            agent: account,
            phases,
            windows,
            latency_ms: latencies(&since)?,
            requests: since.len(),
            failed: since.iter().filter(|request| !request.ok).count(),
            ..empty()
        })
    }

    /// From the injection to the first delivery of the scenario's alert.
    fn delivered_s(&self) -> Option<f64> {
        let wanted = self.scenario.alert.as_ref()?;
        let deliveries = self.bench.relay.deliveries();
        let first = deliveries
            .iter()
            .find(|d| d.firing && d.alert == wanted.value && d.at >= self.injected_at)?;
        Some(first.at - self.injected_at)
    }

    /// What of the innocent is gone.
    fn harm(&self) -> anyhow::Result<Vec<String>> {
        let mut harm = Vec::new();
        if !self.web.pids()?.contains(&self.web_pid) {
            harm.push("the service was killed".to_owned());
        }
        Ok(harm)
    }

    /// How many processes the script killed; those outside the guilty cgroups are harm.
    fn victims(&self, harm: &mut Vec<String>) -> anyhow::Result<usize> {
        let Some(file) = &self.answering.victims else {
            return Ok(0);
        };
        if !file.is_file() {
            return Ok(0);
        }
        let text = fs::read_to_string(file).context("cannot read the script's victims")?;
        for line in text.lines() {
            let guilty = self
                .culprits
                .iter()
                .any(|(name, _)| line.ends_with(&Slice::path(name)));
            // A line without a cgroup: it had ended by itself.
            if !guilty && line.contains('/') {
                harm.push(format!("the script killed {line}"));
            }
        }
        harm.dedup();
        Ok(text.lines().count())
    }
}

fn latencies(requests: &[Request]) -> anyhow::Result<[f64; 3]> {
    let mut histogram = Histogram::<u64>::new_with_bounds(1, 60_000_000, 3)?;
    for request in requests {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "microseconds of a request"
        )]
        histogram.saturating_record((request.took_ms * 1e3) as u64);
    }
    Ok([0.5, 0.95, 0.99].map(|q| histogram.value_at_quantile(q) as f64 / 1e3))
}

fn void(why: &str) -> Trial {
    Trial {
        void: Some(why.to_owned()),
        ..empty()
    }
}

fn empty() -> Trial {
    Trial {
        scenario: String::new(),
        strategy: Strategy::None,
        repetition: 0,
        trace_id: String::new(),
        injected_at: 0.0,
        void: None,
        delivered_s: None,
        ended_s: 0.0,
        course: slo::Course::default(),
        mttr_s: None,
        healed: false,
        harm: Vec::new(),
        killed: 0,
        agent: None,
        phases: Vec::new(),
        windows: Vec::new(),
        latency_ms: [0.0; 3],
        requests: 0,
        failed: 0,
    }
}

/// 16 bytes that differ from trial to trial, as hexadecimal digits.
fn trace_id() -> String {
    let mut rng = Rng(Timestamp::now().as_microsecond().unsigned_abs());
    format!("{:016x}{:016x}", rng.next(), rng.next())
}
