//! Effects end although the agent can't end them: dead, stopped, or dead together with its guardian.

use std::{
    fs,
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

use anyhow::ensure;
use jiff::Timestamp;
use paramedic_tests::{Agent, wait_for};
use rustix::process::{Pid, Signal, kill_process};

use super::{CpuHog, SOON, UNLIMITED, alerted, entries, has, the_only_incident};

/// What the guardian may take in memory, in KiB: 3 MiB of its own, its program's pages aside.
const OWN_KIB_MAX: u64 = 3 * 1024;

fn leases(agent: &Agent) -> PathBuf {
    agent.state_dir().join("leases")
}

fn guardian(agent: &Agent) -> Pid {
    let text = fs::read_to_string(leases(agent).join("guardian.lock")).unwrap();
    Pid::from_raw(text.parse().unwrap()).unwrap()
}

fn lives(pid: Pid) -> bool {
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero()));
    stat.is_ok_and(|stat| !stat.contains(") Z "))
}

fn wait_until_free(fault: &CpuHog, within: Duration) -> Duration {
    let begun = Instant::now();
    wait_for("the limit's end", within, || {
        let limit = fault.limit();
        ensure!(limit == UNLIMITED, "it is {limit}");
        Ok(())
    })
    .unwrap();
    begun.elapsed()
}

#[test]
fn an_agent_that_dies_before_the_verdict_and_stays_dead_leaves_nothing_behind() {
    let slow = "remedy: {level: act, orphan_grace_s: 2, limits: {target_cooldown_s: 0}}\n\
                verify: {poll_ms: 1000, healed_polls: 25}\n";
    let (mut agent, fault, body) = alerted("orphan", slow);
    let before = the_only_incident(&agent, "applied action", |i| has(i, "applied"));
    let pid = guardian(&agent);
    let status = fs::read_to_string(format!("/proc/{}/status", pid.as_raw_nonzero())).unwrap();
    let anonymous = status
        .lines()
        .find_map(|line| line.strip_prefix("RssAnon:"));
    let kib: u64 = anonymous
        .unwrap()
        .trim()
        .trim_end_matches(" kB")
        .parse()
        .unwrap();
    let lines = status
        .lines()
        .filter(|line| line.starts_with("Rss") || line.starts_with("VmRSS"));
    println!(
        "the guardian's memory: {}",
        lines.collect::<Vec<_>>().join(", ")
    );
    assert!(kib < OWN_KIB_MAX, "{kib} KiB of its own");

    agent.kill().unwrap();
    assert_ne!(fault.limit(), UNLIMITED, "a restart is waited for");
    let took = wait_until_free(&fault, Duration::from_secs(10));
    println!("undone {took:?} after the agent's death, 2 s of which are the grace time");
    wait_for("the guardian's end", SOON, || {
        ensure!(!lives(pid), "it guards nothing");
        Ok(())
    })
    .unwrap();

    agent.restart().unwrap();
    let after = the_only_incident(&agent, "closed incident", |i| has(i, "closed"));
    assert_eq!(after["id"], before["id"]);
    let undone = entries(&after, "rolled_back");
    assert_eq!(undone.len(), 1, "{after:#}");
    assert_eq!(undone[0]["reason"], "agent_gone");
    assert!(undone[0]["by_guardian"].is_string(), "{after:#}");
    assert_eq!(agent.post("/webhook", &body).unwrap().status, 200);
    thread::sleep(Duration::from_secs(3));
    let last = the_only_incident(&agent, "incident", |_| true);
    assert_eq!(entries(&last, "intended").len(), 1, "{last:#}");
    let shown = agent.show(last["id"].as_str().unwrap()).unwrap();
    assert!(shown.contains("by the guardian"), "{shown}");
}

#[test]
fn a_lease_ends_within_a_second_with_the_agent_dead() {
    let (mut agent, fault, _) = alerted("lease", "remedy: {level: act, lease_s: 15}\n");
    let incident = the_only_incident(&agent, "verified incident", |i| has(i, "verified"));
    assert_eq!(
        entries(&incident, "verified")[0]["outcome"]["kind"],
        "healed"
    );
    let ends = &entries(&incident, "intended")[0]["intent"]["lease_until"];
    let ends: Timestamp = ends.as_str().unwrap().parse().unwrap();
    agent.kill().unwrap();
    while Timestamp::now() < ends {
        assert_ne!(
            fault.limit(),
            UNLIMITED,
            "what helped stays until its lease ends"
        );
        thread::sleep(Duration::from_millis(50));
    }
    let took = wait_until_free(&fault, Duration::from_secs(1));
    println!("undone {took:?} after the lease's end");

    agent.restart().unwrap();
    let after = the_only_incident(&agent, "closed incident", |i| has(i, "closed"));
    let undone = entries(&after, "rolled_back");
    assert_eq!(undone[0]["reason"], "lease_ended");
    assert!(undone[0]["by_guardian"].is_string(), "{after:#}");
    assert!(!has(&after, "taken_over"), "{after:#}");
}

#[test]
fn a_stopped_agent_a_killed_guardian_and_both_dead_at_once() {
    let (mut agent, fault, _) = alerted("guards", "remedy: {level: act, lease_s: 25}\n");
    the_only_incident(&agent, "verified incident", |i| has(i, "verified"));

    // A killed guardian is replaced.
    let first = guardian(&agent);
    kill_process(first, Signal::KILL).unwrap();
    wait_for("another guardian", SOON, || {
        let now = guardian(&agent);
        ensure!(now != first && lives(now), "still {now:?}");
        Ok(())
    })
    .unwrap();
    assert_ne!(fault.limit(), UNLIMITED);

    // Both dead: the next start takes the effect over.
    kill_process(guardian(&agent), Signal::KILL).unwrap();
    agent.kill().unwrap();
    agent.restart().unwrap();
    let taken = the_only_incident(&agent, "taken over", |i| has(i, "taken_over"));
    assert!(!has(&taken, "rolled_back"), "{taken:#}");

    // An agent that hangs does not hold its effects up.
    let pid = Pid::from_raw(agent.process().unwrap().pid().cast_signed()).unwrap();
    kill_process(pid, Signal::STOP).unwrap();
    wait_until_free(&fault, SOON);
    kill_process(pid, Signal::CONT).unwrap();
    let closed = the_only_incident(&agent, "closed incident", |i| has(i, "closed"));
    let undone = entries(&closed, "rolled_back");
    assert_eq!(undone.len(), 1, "{closed:#}");
    assert_eq!(undone[0]["reason"], "lease_ended");
    assert_eq!(entries(&closed, "intended").len(), 1);

    // An orderly end leaves no guardian for long, and no lease.
    let last = guardian(&agent);
    agent.terminate().unwrap();
    wait_for("the guardian's end", SOON, || {
        ensure!(!lives(last), "it guards nothing");
        Ok(())
    })
    .unwrap();
    let left: Vec<_> = fs::read_dir(leases(&agent)).unwrap().flatten().collect();
    let left: Vec<_> = left.iter().map(|entry| entry.path()).collect();
    assert!(
        left.iter()
            .all(|path| path.extension().is_some_and(|e| e != "lease")),
        "{left:?}"
    );
}
