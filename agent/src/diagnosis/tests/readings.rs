use super::{cgroup, evidence};
use crate::{
    diagnosis::features::{NEVER_S, lookup, resembling},
    incident::{CgroupId, Evidence, Quality, Reading, Series},
};

fn tree() -> Evidence {
    let mut evidence = evidence(&[
        ("cpu.busy", 0.9),
        ("cpu.count", 4.0),
        ("mem.available", 0.25),
        ("mem.total_bytes", 4e9),
        ("forks_per_s", 100.0),
    ]);
    evidence.cgroups = vec![
        cgroup(1, "/", false, &[("cpu.psi", 0.99)]),
        cgroup(2, "/a", false, &[("cpu.psi", 0.98)]),
        cgroup(
            3,
            "/a/hog",
            true,
            &[
                ("cpu.psi", 0.97),
                ("cpu.cores", 2.7),
                ("forks_per_s", 54.0),
                ("mem.growth_bytes_per_s", 1e7),
            ],
        ),
        cgroup(4, "/a/hog/child", true, &[("cpu.psi", 0.96)]),
        cgroup(
            5,
            "/a/hogwarts",
            true,
            &[("cpu.psi", 0.3), ("cpu.cores", 0.3), ("forks_per_s", 0.0)],
        ),
        cgroup(
            6,
            "/b",
            true,
            &[
                ("cpu.psi", 0.2),
                ("cpu.cores", 0.001),
                ("forks_per_s", 3.0),
                ("mem.growth_bytes_per_s", -5.0),
            ],
        ),
    ];
    evidence
}

fn value(evidence: &Evidence, culprit: u64, reading: &str) -> Option<f64> {
    lookup(evidence, Some(CgroupId(culprit)), reading).map(|found| found.value)
}

#[test]
fn bystanders_are_neither_the_culprit_nor_above_nor_below_it() {
    let tree = tree();
    // `/a/hogwarts` begins like the culprit's path and is none of it.
    assert_eq!(value(&tree, 3, "bystanders.psi.cpu"), Some(0.3));
    assert_eq!(value(&tree, 5, "bystanders.psi.cpu"), Some(0.97));
    assert_eq!(
        lookup(&tree, None, "bystanders.psi.cpu").map(|r| r.value),
        Some(0.97)
    );
    assert_eq!(value(&tree, 3, "bystanders.psi.io"), None);
}

#[test]
fn derived_readings_are_ratios() {
    let tree = tree();
    assert_eq!(value(&tree, 3, "host.forks_per_cpu_s"), Some(25.0));
    assert_eq!(value(&tree, 3, "culprit.forks_per_busy_s"), Some(20.0));
    assert_eq!(value(&tree, 5, "culprit.forks_per_busy_s"), Some(0.0));
    // Next to no CPU time, and none known.
    assert_eq!(value(&tree, 6, "culprit.forks_per_busy_s"), None);
    assert_eq!(value(&tree, 4, "culprit.forks_per_busy_s"), None);
    // 2.7 of 0.9 x 4 CPUs, although the known leaves add up to 3 only.
    assert_eq!(value(&tree, 3, "top_share.cpu.cores"), Some(0.75));
    assert_eq!(value(&tree, 3, "culprit.mem.exhausts_in_s"), Some(100.0));
    assert_eq!(value(&tree, 6, "culprit.mem.exhausts_in_s"), Some(NEVER_S));
    assert_eq!(value(&tree, 5, "culprit.mem.exhausts_in_s"), None);
}

#[test]
fn what_is_not_finite_or_not_known_is_missing() {
    let mut tree = tree();
    tree.host
        .insert("cpu.busy".to_owned(), Reading::good(f64::NAN));
    tree.host.insert("cpu.count".to_owned(), Reading::good(0.0));
    for reading in [
        "host.cpu.busy",
        "host.forks_per_cpu_s",
        "host.nonsense",
        "busy",
        "",
        "host.",
    ] {
        assert_eq!(lookup(&tree, None, reading), None, "{reading}");
    }
    assert_eq!(lookup(&tree, None, "culprit.cpu.cores"), None);
    assert_eq!(lookup(&tree, Some(CgroupId(77)), "culprit.cpu.cores"), None);
}

#[test]
fn a_series_that_ends_in_gaps_is_partial() {
    let mut evidence = evidence(&[]);
    let series = |values: &[Option<f64>]| Series {
        name: "depth".to_owned(),
        labels: std::collections::BTreeMap::new(),
        start_s: 0,
        step_s: 15,
        values: values.to_vec(),
        stats: None,
    };
    evidence.series = vec![
        series(&[Some(3.0), Some(7.0), None]),
        series(&[None, Some(5.0)]),
    ];
    assert_eq!(
        lookup(&evidence, None, "series.depth"),
        Some(Reading::partial(7.0))
    );
    evidence.series.swap_remove(0);
    let found = lookup(&evidence, None, "series.depth").unwrap();
    assert_eq!((found.value, found.quality), (5.0, Quality::Good));
    evidence.series = vec![series(&[None, None])];
    assert_eq!(lookup(&evidence, None, "series.depth"), None);
}

#[test]
fn typos_find_their_reading() {
    assert_eq!(
        resembling("host.cpu.bussy").as_deref(),
        Some("host.cpu.busy")
    );
    assert_eq!(
        resembling("cpu.cores").as_deref(),
        Some("culprit.cpu.cores")
    );
    assert_eq!(resembling("host.weather"), None);
}

#[test]
fn a_share_is_partial_where_somebody_unknown_may_have_more() {
    let mut node = evidence(&[("cpu.busy", 1.0), ("cpu.count", 2.0)]);
    node.cgroups = vec![
        cgroup(2, "/web", true, &[("cpu.cores", 0.3)]),
        cgroup(3, "/silent", true, &[("mem.bytes", 1e6)]),
    ];
    let quality = |node: &Evidence| {
        let found = lookup(node, None, "top_share.cpu.cores");
        found.map(|reading| (reading.value, reading.quality))
    };
    assert_eq!(quality(&node), Some((0.15, Quality::Partial)));
    // Nobody else is there: the rest is the kernel's own.
    node.cgroups.pop();
    assert_eq!(quality(&node), Some((0.15, Quality::Good)));
    // What is left is less than the largest has.
    node.cgroups = vec![
        cgroup(2, "/web", true, &[("cpu.cores", 1.2)]),
        cgroup(3, "/silent", true, &[("mem.bytes", 1e6)]),
    ];
    assert_eq!(quality(&node), Some((0.6, Quality::Good)));
}

#[test]
fn who_stalls_unseen_is_missed_in_the_shares_of_the_others() {
    let mut node = evidence(&[("psi.memory.some", 0.4)]);
    node.cgroups = vec![
        cgroup(2, "/web", true, &[("mem.psi", 0.02)]),
        cgroup(3, "/silent", true, &[("mem.bytes", 1e6)]),
    ];
    let share = lookup(&node, None, "top_share.mem.psi").unwrap();
    assert!(
        share.value < 0.06 && share.quality == Quality::Partial,
        "{share:?}"
    );
    node.cgroups[1].readings.insert(
        "mem.psi".to_owned(),
        Reading {
            value: 0.39,
            quality: Quality::Good,
        },
    );
    let share = lookup(&node, None, "top_share.mem.psi").unwrap();
    assert!(
        share.value > 0.9 && share.quality == Quality::Good,
        "{share:?}"
    );
}

#[test]
fn calls_and_waits_are_put_beside_the_time_that_was_used() {
    let mut node = evidence(&[]);
    let readings = [
        ("cpu.cores", 0.25),
        ("runq.waiting", 0.75),
        ("syscall.futex.per_s", 3000.0),
    ];
    node.cgroups = vec![
        cgroup(2, "/web", true, &readings),
        cgroup(
            3,
            "/idle",
            true,
            &[("cpu.cores", 0.001), ("runq.waiting", 0.0)],
        ),
    ];
    assert_eq!(value(&node, 2, "culprit.runq.delay_share"), Some(0.75));
    let per_busy = "culprit.syscall.futex.per_busy_s";
    assert_eq!(value(&node, 2, per_busy), Some(12_000.0));
    assert_eq!(value(&node, 2, "culprit.syscall.read.per_busy_s"), None);
    assert_eq!(value(&node, 3, "culprit.runq.delay_share"), None);
    assert_eq!(value(&node, 3, per_busy), None);
}
