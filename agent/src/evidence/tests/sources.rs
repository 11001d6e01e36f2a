//! Every reading that a shipped rule looks at has a source.

use std::collections::{BTreeSet, HashMap};

use paramedic_abi::errno;

use super::*;
use crate::{
    diagnosis::{
        RuleSet,
        features::{Scope, alternatives, lookup, scope},
        rules::Rule,
    },
    evidence::{
        kernel::{BlockCounts, Device, LATENCY_BUCKETS, SchedCounts, SyscallCounts},
        scan::{For, Looker},
    },
};

/// Readings of rules that no source gives, each with its reason.
const WITHOUT_SOURCE: [&str; 0] = [];

/// Given by the diagnosis itself from others, or by the syscall pair for each call that is made.
const DERIVED: [&str; 8] = [
    "forks_per_cpu_s",
    "execs_per_cpu_s",
    "forks_per_busy_s",
    "runq.delay_share",
    "tcp.retransmit_share",
    "mem.exhausts_in_s",
    "syscalls.counted_s",
    "syscall.",
];

/// The node with every counter moving and every probe counting, and levels of every reader.
fn everything(second: u64) -> Sample {
    let mut sample = host(second);
    sample.host.counters = [Count::new(1000 + second * 7); HostCounter::N];
    sample.host.swap_used = Some(0.5);
    sample.fullest = Fullest {
        used: Some(0.5),
        inodes_used: Some(0.5),
    };
    // What this machine has no sensor, module or array for is still a name that the readers know.
    let levels = crate::evidence::node::LEVELS.iter();
    sample.node.levels = levels.map(|name| (*name, 0.5, true)).collect();
    let mut cgroup = leaf("/a", second * 1000, 4096);
    cgroup.counters = [Count::new(second * 5); Counter::N];
    cgroup.gauges = [Count::new(1 + second); Gauge::N];
    cgroup.limits = Limits {
        memory: Count::new(1 << 20),
        pids: Count::new(100),
        swapped: Count::ZERO,
    };
    cgroup.limit_hits = Count::new(second);
    cgroup.major_faults = Count::new(second);
    cgroup.reclaimed = Count::new(second);
    let mut sample = counting(with(sample, &[(7, cgroup)]), &[(7, forks(second))], 0);
    let waits = SchedCounts {
        buckets: [second; LATENCY_BUCKETS],
        runq_ns: second * 1000,
        uninterruptible_ns: 0,
    };
    sample.kernel.counts.sched = HashMap::from([(CgroupId(7), waits)]);
    let requests = BlockCounts {
        buckets: [second; LATENCY_BUCKETS],
        total_ns: second * 1000,
        read_bytes: 0,
        written_bytes: 0,
        errors: 0,
    };
    sample.kernel.counts.block = HashMap::from([((CgroupId(7), Device::new(8, 0)), requests)]);
    let openat = 257;
    let telling = crate::evidence::errnos::NAMES.iter();
    sample.kernel.counts.errnos = telling
        .map(|(errno, _)| ((CgroupId(7), openat, *errno), second))
        .collect();
    for name in ["syscalls", "sched", "signal", "reclaim", "tcp", "block"] {
        let mut status = sample.kernel.statuses[0].clone();
        status.name = name;
        sample.kernel.statuses.push(status);
    }
    let mut looker = Looker::default();
    for at in [0, 60] {
        let at = sample.at + Duration::from_secs(at);
        sample.looks = looker
            .look(at, For::Keeping, 100_000, || Duration::ZERO)
            .clone();
    }
    sample
}

/// All that a rule looks at.
fn readings(rule: &Rule) -> Vec<String> {
    let features = rule.features.iter().map(|feature| &feature.test);
    let tests = features.chain(&rule.recovery);
    let by = rule
        .culprit
        .iter()
        .map(|culprit| format!("culprit.{}", culprit.by));
    let excluded = rule
        .exclude
        .iter()
        .map(|exclusion| exclusion.test.reading.clone());
    tests
        .map(|test| test.reading.clone())
        .chain(by)
        .chain(excluded)
        .collect()
}

fn given() -> Evidence {
    let samples: Vec<Sample> = (0..4).map(everything).collect();
    told(&samples)
}

#[test]
fn every_reading_of_a_rule_has_a_source() {
    let evidence = given();
    let cgroup = &evidence.cgroups[0].readings;
    let rules = RuleSet::shipped().unwrap();
    let mut without = BTreeSet::new();
    let mut asked = 0;
    let read: Vec<String> = rules.rules().iter().flat_map(readings).collect();
    for name in read.iter().flat_map(|name| alternatives(name)) {
        let there = match scope(name) {
            Some(Scope::Host(name)) => evidence.host.contains_key(name),
            Some(Scope::Culprit(name) | Scope::TopShare(name) | Scope::Bystanders(name)) => {
                cgroup.contains_key(name)
            }
            // Prometheus'.
            Some(Scope::Series(_)) => continue,
            None => panic!("a rule asks for {name}, which nobody knows"),
        };
        asked += 1;
        if !there && !DERIVED.iter().any(|derived| name.contains(derived)) {
            without.insert(name.to_owned());
        }
    }
    assert!(asked > 60, "only {asked} readings were looked at");
    assert_eq!(
        without.iter().map(String::as_str).collect::<Vec<_>>(),
        WITHOUT_SOURCE
    );
}

#[test]
fn every_reading_that_is_given_has_a_name_that_rules_may_use() {
    let evidence = given();
    for name in evidence.host.keys() {
        assert!(scope(&format!("host.{name}")).is_some(), "host.{name}");
    }
    for name in evidence.cgroups[0].readings.keys() {
        assert!(
            scope(&format!("culprit.{name}")).is_some(),
            "culprit.{name}"
        );
    }
}

#[test]
fn calls_are_so_many_a_second_of_the_time_that_they_were_counted() {
    // Attached when the alert came: a tenth of a second before the end of three.
    let mut samples: Vec<Sample> = (0..4).map(everything).collect();
    for sample in &mut samples {
        sample.kernel.counts.errnos.clear();
        sample
            .kernel
            .statuses
            .retain(|status| status.name != "syscalls");
    }
    let attached = everything(3).kernel.statuses;
    let last = &mut samples[3];
    last.kernel.statuses = attached;
    last.kernel.counts.syscalls_since = last.at.checked_sub(Duration::from_millis(100));
    let mut futex = SyscallCounts {
        buckets: [0; LATENCY_BUCKETS],
        errors: 0,
        total_ns: 0,
    };
    futex.buckets[3] = 500;
    last.kernel.counts.syscalls = HashMap::from([((CgroupId(7), 202), futex)]);
    last.kernel.counts.errnos = HashMap::from([((CgroupId(7), 257, errno::EMFILE), 20)]);
    let evidence = told(&samples);
    assert!((evidence.window_s - 3.0).abs() < 1e-9);
    assert!((evidence.syscalls_s - 0.1).abs() < 1e-9);
    let of = |reading: &str| lookup(&evidence, Some(CgroupId(7)), reading).map(|found| found.value);
    assert!((of("culprit.syscall.futex.per_s").unwrap() - 5000.0).abs() < 1e-6);
    assert!((of("culprit.errno.emfile.per_s").unwrap() - 200.0).abs() < 1e-6);
}
