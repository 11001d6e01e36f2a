//! What a running agent has kept of root's privileges: every thread of it, and what it starts.
#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests, which clippy does not take for tests"
)]

use std::{collections::BTreeSet, fs, io, path::Path};

use paramedic_tests::Agent;

/// `linux/capability.h`.
const DAC_OVERRIDE: u64 = 1 << 1;
const KILL: u64 = 1 << 5;
const SETGID: u64 = 1 << 6;
const SETUID: u64 = 1 << 7;
const SYS_PTRACE: u64 = 1 << 19;
const SYS_ADMIN: u64 = 1 << 21;
const SYS_NICE: u64 = 1 << 23;
const SYS_RESOURCE: u64 = 1 << 24;
const SYSLOG: u64 = 1 << 34;
const PERFMON: u64 = 1 << 38;
const BPF: u64 = 1 << 39;

const ALWAYS: u64 = DAC_OVERRIDE | SYS_PTRACE | SYS_NICE | SYS_RESOURCE | SYSLOG;

fn set(status: &str, key: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix(key));
    u64::from_str_radix(line.unwrap().trim(), 16).unwrap()
}

fn status(of: impl AsRef<Path>) -> io::Result<String> {
    fs::read_to_string(of.as_ref().join("status"))
}

/// Of every thread of the agent.
fn threads(agent: &mut Agent) -> Vec<String> {
    let pid = agent.process().unwrap().pid();
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    // One that waited for work in vain may end meanwhile.
    let all: Vec<String> = tasks
        .filter_map(|task| status(task.unwrap().path()).ok())
        .collect();
    assert!(all.len() > 3, "{all:?}");
    all
}

/// Threads that have these capabilities, no others, and no way to others.
fn assert_kept(threads: &[String], wanted: u64, had: u64) {
    for thread in threads {
        for key in ["CapEff:", "CapPrm:", "CapBnd:"] {
            assert_eq!(set(thread, key), wanted & had, "{key} of\n{thread}");
        }
        assert_eq!(set(thread, "CapInh:") & !wanted, 0, "{thread}");
        assert_eq!(set(thread, "NoNewPrivs:"), 1, "{thread}");
        // 2: a filter (proc(5)).
        assert_eq!(set(thread, "Seccomp:"), 2, "{thread}");
    }
}

#[test]
fn no_thread_has_more_than_what_is_enabled_needs() {
    // What a program of root's gets here: in a container perhaps less than everything.
    let own = status("/proc/self").unwrap();
    let had = set(&own, "CapBnd:");
    let may_bound = set(&own, "CapEff:") >> 8 & 1;
    assert_eq!(may_bound, 1, "run this test as root, with CAP_SETPCAP");

    let mut little = Agent::start(
        "state_dir: $STATE\nintake: {listen: $LISTEN}\nremedy: {level: observe, allow: [notify]}\n\
         probes: {enabled: false}\n",
    )
    .unwrap();
    assert_kept(&threads(&mut little), ALWAYS, had);
    drop(little);

    let mut whole =
        Agent::start("state_dir: $STATE\nintake: {listen: $LISTEN}\nremedy: {level: act}\n")
            .unwrap();
    let wanted = ALWAYS | KILL | SETGID | SETUID | SYS_ADMIN | PERFMON | BPF;
    assert_kept(&threads(&mut whole), wanted, had);
    // What it has is what it says.
    let told = whole.get("/api/v1/recorder").unwrap().json().unwrap();
    let told: BTreeSet<&str> = told["privileges"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| {
            assert!(!one["why"].as_str().unwrap().is_empty());
            one["capability"].as_str().unwrap()
        })
        .collect();
    assert_eq!(told.len(), (wanted & had).count_ones() as usize, "{told:?}");
    assert!(told.iter().all(|name| name.starts_with("CAP_")), "{told:?}");
    // The guardian, which a thread of it has started.
    let pid = whole.process().unwrap().pid();
    let children: Vec<String> = fs::read_dir(format!("/proc/{pid}/task"))
        .unwrap()
        .filter_map(|task| fs::read_to_string(task.unwrap().path().join("children")).ok())
        .flat_map(|pids| {
            pids.split_whitespace()
                .map(str::to_owned)
                .collect::<Vec<_>>()
        })
        .collect();
    assert!(!children.is_empty(), "no guardian");
    for child in children {
        let child = status(format!("/proc/{child}")).unwrap();
        assert_eq!(set(&child, "CapEff:") & !wanted, 0, "{child}");
        assert_eq!(set(&child, "NoNewPrivs:"), 1, "{child}");
        assert_eq!(set(&child, "Seccomp:"), 2, "{child}");
    }
}
