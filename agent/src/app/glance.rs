//! What `GET /api/v1/recorder` answers: the recorder's evidence of the last seconds, how the probes fare, what
//! recording costs, and the last events that are worth a person's look.

use std::{collections::HashMap, time::Duration};

use serde::Serialize;

use super::privileges::{self, Kept};
use crate::{
    evidence::{
        KernelProbes as _, ProbeStatus, Recorder,
        probes::{ProbeName, Probes, ProcessEvent, TcpEvent, Told},
    },
    incident::{CgroupId, Evidence},
};

/// Events told at most, the newest.
const EVENTS_MAX: usize = 64;

/// One answer.
#[derive(Debug, Serialize)]
pub(super) struct Glance {
    /// Of the window that was asked for.
    evidence: Evidence,
    probes: Vec<ProbeStatus>,
    recorder: Cost,
    /// Capabilities that the agent has kept, and what for.
    privileges: Vec<Kept>,
    /// Newest first.
    events: Vec<Event>,
}

/// What recording costs.
#[derive(Debug, Serialize)]
struct Cost {
    windows: usize,
    cgroups: usize,
    /// CPU time of the last sample, microseconds.
    sample_us: u128,
    bytes: usize,
}

#[derive(Debug, Serialize)]
struct Event {
    kind: ProbeName,
    /// Seconds ago.
    age_s: f64,
    cgroup: CgroupId,
    /// Of the cgroup, if the evidence knows it.
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<String>,
    pid: u32,
    comm: String,
    /// What happened, in words.
    text: String,
}

/// Takes one; reads files and maps, so not on a thread of the runtime.
pub(super) fn glance(recorder: &Recorder, probes: &Probes, window: Duration) -> Glance {
    let evidence = recorder.evidence(window);
    let stats = recorder.stats();
    let paths: HashMap<CgroupId, &str> = evidence
        .cgroups
        .iter()
        .map(|facts| (facts.id, facts.path.as_str()))
        .collect();
    let now_ns = monotonic_ns();
    let events = events(probes.recent(), &paths, now_ns);
    Glance {
        probes: probes.statuses(),
        recorder: Cost {
            windows: stats.windows,
            cgroups: stats.cgroups,
            sample_us: stats.sample_took.as_micros(),
            bytes: stats.bytes,
        },
        privileges: privileges::kept(),
        events,
        evidence,
    }
}

/// The kernel's `bpf_ktime_get_ns`.
fn monotonic_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let now = Duration::try_from(now).unwrap_or_default();
    u64::try_from(now.as_nanos()).unwrap_or(u64::MAX)
}

fn events(recent: Vec<ProcessEvent>, paths: &HashMap<CgroupId, &str>, now_ns: u64) -> Vec<Event> {
    let told = recent.into_iter().rev().filter_map(|event| {
        let text = words(&event)?;
        Some(Event {
            kind: event.kind,
            age_s: now_ns.saturating_sub(event.at_ns) as f64 / 1e9,
            cgroup: event.cgroup,
            path: paths.get(&event.cgroup).map(|path| (*path).to_owned()),
            pid: event.pid,
            comm: event.comm,
            text,
        })
    });
    told.take(EVENTS_MAX).collect()
}

/// What is worth telling: forks, good ends and harmless signals are not.
fn words(event: &ProcessEvent) -> Option<String> {
    match (event.kind, event.told) {
        (ProbeName::Exec, _) => Some("started".to_owned()),
        (ProbeName::Oom, _) => Some("is killed for memory".to_owned()),
        (ProbeName::Exit, _) => ended(event.exit_code?),
        (
            _,
            Some(Told::Signal {
                number,
                sender,
                fatal: true,
            }),
        ) => Some(match sender {
            Some(sender) => format!("gets signal {number} from process {sender}"),
            None => format!("gets signal {number} from the kernel"),
        }),
        (_, Some(Told::Tcp { what, peer, port })) => {
            let what = match what {
                TcpEvent::Failed => "no connection with",
                TcpEvent::Retransmit => "sends again to",
                TcpEvent::ResetSent => "resets",
                TcpEvent::ResetReceived => "is reset by",
            };
            Some(format!("{what} {peer}, port {port}"))
        }
        _ => None,
    }
}

/// Of a wait status; nothing of a good end.
fn ended(status: u32) -> Option<String> {
    let (signal, code) = (status & 0x7f, (status >> 8) & 0xff);
    match (signal, code) {
        (0, 0) => None,
        (0, code) => Some(format!("ended with exit code {code}")),
        (signal, _) => Some(format!("was ended by signal {signal}")),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::{CgroupId, ProbeName, ProcessEvent, TcpEvent, Told, events};

    fn event(kind: ProbeName, at_ns: u64) -> ProcessEvent {
        ProcessEvent {
            kind,
            at_ns,
            cgroup: CgroupId(7),
            pid: 42,
            parent: None,
            exit_code: None,
            told: None,
            comm: "worker".to_owned(),
        }
    }

    #[test]
    fn what_is_worth_a_look_is_told_newest_first() {
        let mut failed = event(ProbeName::Exit, 2_000_000_000);
        failed.exit_code = Some(137 << 8);
        let mut killed = event(ProbeName::Exit, 3_000_000_000);
        killed.exit_code = Some(9);
        let mut good = event(ProbeName::Exit, 3_500_000_000);
        good.exit_code = Some(0);
        let mut refused = event(ProbeName::Tcp, 4_000_000_000);
        refused.told = Some(Told::Tcp {
            what: TcpEvent::Failed,
            peer: "10.0.0.7".parse().unwrap(),
            port: 5432,
        });
        let mut harmless = event(ProbeName::Signal, 4_500_000_000);
        harmless.told = Some(Told::Signal {
            number: 10,
            sender: Some(1),
            fatal: false,
        });
        let all = vec![
            event(ProbeName::Fork, 1),
            failed,
            killed,
            good,
            refused,
            harmless,
        ];
        let paths = HashMap::from([(CgroupId(7), "/work")]);
        let told = events(all, &paths, 5_000_000_000);
        let texts: Vec<(f64, &str)> = told
            .iter()
            .map(|event| (event.age_s, event.text.as_str()))
            .collect();
        assert_eq!(
            texts,
            [
                (1.0, "no connection with 10.0.0.7, port 5432"),
                (2.0, "was ended by signal 9"),
                (3.0, "ended with exit code 137"),
            ]
        );
        assert_eq!(told[0].path.as_deref(), Some("/work"));
        let many = vec![event(ProbeName::Oom, 1); super::EVENTS_MAX + 9];
        assert_eq!(events(many, &HashMap::new(), 2).len(), super::EVENTS_MAX);
    }
}
