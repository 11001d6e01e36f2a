//! Differences and sums on made-up samples.

use std::{
    collections::HashMap,
    sync::OnceLock,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use proptest::prelude::*;

mod sources;

use super::{
    account::Account,
    cgroup::{ByProcesses, CgroupSample, Cgroups, Limits, Walk},
    counters::{Count, Counter, Gauge, HostCounter},
    filesystems::Fullest,
    host::{DiskCounters, HostSample},
    kernel::{KernelCounts, ProbeState, ProbeStatus, ProcessCounts},
    node::NodeSample,
    process::Newcomers,
    sample::{KernelSample, Sample},
    scan::Looks,
    window::Window,
};
use crate::incident::{CgroupId, Evidence, Quality, Reading};

const GIB: u64 = 1 << 30;

/// All moments are relative to one.
fn epoch() -> Instant {
    static EPOCH: OnceLock<Instant> = OnceLock::new();
    *EPOCH.get_or_init(Instant::now)
}

/// A two-CPU host at `second`, half busy.
fn host(second: u64) -> Sample {
    let mut counters = [Count::ABSENT; HostCounter::N];
    for (column, per_second) in [
        (HostCounter::CpuTotal, 200),
        (HostCounter::CpuBusy, 100),
        (HostCounter::CpuIowait, 20),
        (HostCounter::PsiCpuSome, 250_000),
        (HostCounter::Forks, 10),
        (HostCounter::OomKills, 1),
    ] {
        counters[column as usize] = Count::new(1000 + second * per_second);
    }
    Sample {
        at: epoch() + Duration::from_secs(second),
        wall: Timestamp::from_second(1_700_000_000).unwrap(),
        took: Duration::ZERO,
        host: HostSample {
            counters,
            disks: vec![DiskCounters {
                device: (254, 0),
                busy_ms: second * 900,
                requests: second * 100,
                waited_ms: second * 2000,
                bytes: second * 4_000_000,
            }],
            cpus: 2,
            runnable: Some(3),
            memory_total: Some(4 * GIB),
            memory_available: Some(GIB),
            swap_used: None,
            tasks: Some(90),
            blocked: Some(1),
        },
        node: NodeSample::default(),
        looks: Looks::default(),
        has_cgroups: true,
        cgroups: Cgroups::new(),
        walk: Walk::default(),
        fullest: Fullest::default(),
        filesystems_left_out: 0,
        kernel: KernelSample::default(),
        newcomers: Newcomers::default(),
    }
}

/// A leaf that has used `cpu_us` and holds `memory` bytes.
fn leaf(path: &str, cpu_us: u64, memory: u64) -> CgroupSample {
    let mut counters = [Count::ABSENT; Counter::N];
    counters[Counter::CpuUs as usize] = Count::new(cpu_us);
    let mut gauges = [Count::ABSENT; Gauge::N];
    gauges[Gauge::Memory as usize] = Count::new(memory);
    gauges[Gauge::Own as usize] = Count::new(memory / 2);
    CgroupSample {
        path: path.into(),
        leaf: true,
        counters,
        gauges,
        by_processes: ByProcesses::default(),
        limits: Limits::ABSENT,
        limit_hits: Count::ABSENT,
        major_faults: Count::ABSENT,
        reclaimed: Count::ABSENT,
    }
}

fn with(mut sample: Sample, cgroups: &[(u64, CgroupSample)]) -> Sample {
    sample.cgroups = cgroups
        .iter()
        .map(|(id, cgroup)| (CgroupId(*id), cgroup.clone()))
        .collect();
    sample
}

/// A probe of each kind that counts, and what it has counted.
fn counting(mut sample: Sample, counts: &[(u64, ProcessCounts)], lost: u64) -> Sample {
    let status = |name| ProbeStatus {
        name,
        state: ProbeState::Attached,
        kind: String::new(),
        fallback: "",
        why: None,
        events: 0,
        drops: lost,
    };
    let processes: HashMap<_, _> = counts
        .iter()
        .map(|(id, counts)| (CgroupId(*id), *counts))
        .collect();
    for (id, cgroup) in &mut sample.cgroups {
        let counts = processes.get(id).copied().unwrap_or_default();
        cgroup.counters[Counter::Forks as usize] = Count::new(counts.forks);
        cgroup.counters[Counter::Execs as usize] = Count::new(counts.execs);
        cgroup.counters[Counter::Exits as usize] = Count::new(counts.exits);
    }
    sample.kernel = KernelSample {
        run_delay_ns: None,
        counts: KernelCounts {
            processes,
            ..KernelCounts::default()
        },
        statuses: ["fork", "exec", "exit"].map(status).into(),
        lost,
    };
    sample
}

fn forks(forks: u64) -> ProcessCounts {
    ProcessCounts {
        forks,
        ..ProcessCounts::default()
    }
}

fn windows(samples: &[Sample], kept: usize) -> Vec<Window> {
    samples
        .windows(2)
        .map(|pair| Window::between(&pair[0], &pair[1], kept))
        .collect()
}

fn told_of(samples: &[Sample], kept: usize, asked_s: u64) -> Evidence {
    let windows = windows(samples, kept);
    Account {
        windows: &windows.iter().collect::<Vec<_>>(),
        latest: samples.last().unwrap(),
        asked: Duration::from_secs(asked_s),
        cgroups_max: kept,
        syscalls_max: 8,
    }
    .evidence()
}

fn told(samples: &[Sample]) -> Evidence {
    let span = samples.last().unwrap().at - samples[0].at;
    told_of(samples, 64, span.as_secs())
}

fn of(evidence: &Evidence, path: &str, name: &str) -> Option<Reading> {
    let facts = evidence.cgroups.iter().find(|facts| facts.path == path)?;
    facts.readings.get(name).copied()
}

#[track_caller]
fn assert_reading(reading: Option<Reading>, value: f64, quality: Quality) {
    let reading = reading.expect("it is there");
    assert!(
        (reading.value - value).abs() < 1e-9 * value.abs().max(1.0),
        "{reading:?}, not {value}"
    );
    assert_eq!(reading.quality, quality);
}

#[test]
fn the_nodes_readings_are_those_of_the_time_between() {
    let told = told(&[host(10), host(11), host(14)]);
    let host = |name: &str| told.host.get(name).copied();
    assert!((told.window_s - 4.0).abs() < 1e-9);
    assert_reading(host("cpu.busy"), 0.5, Quality::Good);
    assert_reading(host("cpu.iowait"), 0.1, Quality::Good);
    assert_reading(host("psi.cpu.some"), 0.25, Quality::Good);
    assert_reading(host("forks_per_s"), 10.0, Quality::Good);
    assert_reading(host("mem.oom_kills"), 4.0, Quality::Good);
    assert_reading(host("mem.available"), 0.25, Quality::Good);
    assert_reading(host("load.runnable_per_cpu"), 1.5, Quality::Good);
    assert_reading(host("disk.util"), 0.9, Quality::Good);
    assert_reading(host("disk.await_s"), 0.02, Quality::Good);
    for absent in [
        "psi.io.some",
        "swap.used",
        "fs.used",
        "execs_per_s",
        "cpu.steal",
    ] {
        assert_eq!(host(absent), None, "{absent} was never had");
    }
}

#[test]
fn a_cgroups_readings_are_shares_of_the_node() {
    let at = |second: u64, cpu_us, memory| with(host(second), &[(7, leaf("/web", cpu_us, memory))]);
    let told = told(&[at(0, 500, GIB), at(2, 3_000_500, 2 * GIB)]);
    assert_reading(of(&told, "/web", "cpu.cores"), 1.5, Quality::Good);
    assert_reading(of(&told, "/web", "cpu.share"), 0.75, Quality::Good);
    assert_reading(of(&told, "/web", "mem.share"), 0.5, Quality::Good);
    let growth = GIB as f64 / 4.0;
    assert_reading(
        of(&told, "/web", "mem.growth_bytes_per_s"),
        growth,
        Quality::Good,
    );
    for absent in [
        "cpu.throttled",
        "cpu.psi",
        "io.bytes_per_s",
        "io.share",
        "pids",
        "mem.anon_share",
    ] {
        assert_eq!(of(&told, "/web", absent), None, "{absent} was never had");
    }
}

#[test]
fn memory_that_breathes_does_not_grow() {
    let grown_by = |bytes| {
        let at = |second, memory| with(host(second), &[(7, leaf("/web", 0, memory))]);
        of(
            &told(&[at(0, GIB), at(2, GIB + bytes)]),
            "/web",
            "mem.growth_bytes_per_s",
        )
    };
    // Half of a leaf's memory is its own here, so 4 MiB of it are its own breathing.
    assert_reading(grown_by(7 << 20), 0.0, Quality::Good);
    assert_reading(grown_by(40 << 20), 10.0 * 1024.0 * 1024.0, Quality::Good);
}

#[test]
fn a_cgroup_made_in_the_window_counts_from_zero() {
    let old = || (1, leaf("/old", 0, 0));
    let told = told(&[
        with(host(0), &[old()]),
        with(host(2), &[old(), (2, leaf("/new", 1_000_000, GIB))]),
    ]);
    assert_reading(of(&told, "/new", "cpu.cores"), 0.5, Quality::Good);
    assert_reading(
        of(&told, "/new", "mem.growth_bytes_per_s"),
        GIB as f64 / 4.0,
        Quality::Good,
    );
}

#[test]
fn after_a_walk_that_was_cut_off_a_first_sight_is_no_birth() {
    let mut before = with(host(0), &[(1, leaf("/old", 0, 0))]);
    before.walk.cut_off = true;
    let after = |second| with(host(second), &[(2, leaf("/seen", second * 1_000_000, 0))]);
    let first = told(&[before.clone(), after(50)]);
    assert_eq!(of(&first, "/seen", "cpu.cores"), None);
    let then = told(&[before, after(50), after(60)]);
    assert_reading(
        of(&then, "/seen", "cpu.cores"),
        10.0 / 60.0,
        Quality::Partial,
    );
}

#[test]
fn a_cgroup_that_is_gone_keeps_its_path_and_what_it_did() {
    let short = |cpu_us| (9, leaf("/job/short", cpu_us, GIB));
    let told = told(&[
        counting(with(host(0), &[short(0)]), &[(9, forks(1))], 0),
        counting(with(host(1), &[short(800_000)]), &[(9, forks(5))], 0),
        counting(with(host(2), &[]), &[(9, forks(21))], 0),
    ]);
    let facts = &told.cgroups[0];
    assert_eq!(
        (facts.id, facts.path.as_str(), facts.leaf),
        (CgroupId(9), "/job/short", true)
    );
    assert_reading(of(&told, "/job/short", "cpu.cores"), 0.4, Quality::Partial);
    assert_reading(of(&told, "/job/short", "forks_per_s"), 10.0, Quality::Good);
    assert_eq!(
        of(&told, "/job/short", "mem.bytes"),
        None,
        "it holds nothing any more"
    );
}

#[test]
fn a_counter_that_goes_back_costs_its_window_and_the_quality() {
    let at = |second, cpu_us| with(host(second), &[(7, leaf("/web", cpu_us, 0))]);
    let told = told(&[
        at(0, 9_000_000),
        at(1, 10_000_000),
        at(2, 0),
        at(4, 2_000_000),
    ]);
    assert_reading(of(&told, "/web", "cpu.cores"), 0.75, Quality::Partial);
}

#[test]
fn without_a_probe_forks_are_shared_out_as_newcomers_were_seen() {
    let cgroups = || {
        [
            (1, leaf("/a", 0, 0)),
            (2, leaf("/b", 0, 0)),
            (3, leaf("/c", 0, 0)),
        ]
    };
    let mut after = with(host(2), &cgroups());
    after.newcomers.by_path = [("/a".to_owned(), 3), ("/b".to_owned(), 1)].into();
    let told = told(&[with(host(0), &cgroups()), after]);
    assert_reading(of(&told, "/a", "forks_per_s"), 7.5, Quality::Partial);
    assert_reading(of(&told, "/a", "forks.share"), 0.75, Quality::Partial);
    assert_reading(of(&told, "/c", "forks_per_s"), 0.0, Quality::Partial);
    assert_reading(told.host.get("forks_per_s").copied(), 10.0, Quality::Good);
}

#[test]
fn forks_that_nobody_was_seen_for_are_not_zero() {
    let at = |second| with(host(second), &[(1, leaf("/a", 0, 0))]);
    assert_eq!(of(&told(&[at(0), at(2)]), "/a", "forks_per_s"), None);
}

#[test]
fn lost_events_cost_the_quality_of_what_probes_count_and_nothing_else() {
    let at = |second, count, lost| {
        let sample = with(host(second), &[(1, leaf("/a", second, 0))]);
        counting(sample, &[(1, forks(count))], lost)
    };
    let few = told(&[at(0, 0, 0), at(1, 1000, 5)]);
    assert_reading(of(&few, "/a", "forks_per_s"), 1000.0, Quality::Good);
    let many = told(&[at(0, 0, 0), at(1, 1000, 500)]);
    assert_reading(of(&many, "/a", "forks_per_s"), 1000.0, Quality::Partial);
    assert_eq!(of(&many, "/a", "cpu.cores").unwrap().quality, Quality::Good);
    assert_eq!(many.host["execs_per_s"].quality, Quality::Partial);
    assert!(
        many.coverage
            .iter()
            .any(|c| c.source == "probe:fork" && !c.complete)
    );
}

#[test]
fn a_probe_that_begins_to_count_has_not_counted_before() {
    let plain = |second| with(host(second), &[(1, leaf("/a", 0, 0))]);
    let counted = |second, count| counting(plain(second), &[(1, forks(count))], 0);
    let told = told(&[plain(0), counted(1, 5000), counted(2, 5010)]);
    assert_reading(of(&told, "/a", "forks_per_s"), 5.0, Quality::Partial);
}

#[test]
fn less_than_half_of_what_was_asked_for_is_partial() {
    let at = |second| with(host(second), &[(1, leaf("/a", second * 1_000_000, 0))]);
    let short = told_of(&[at(0), at(2)], 64, 5);
    assert_reading(of(&short, "/a", "cpu.cores"), 1.0, Quality::Partial);
    assert_reading(short.host.get("cpu.busy").copied(), 0.5, Quality::Partial);
    assert_eq!(short.host["mem.available"].quality, Quality::Good);
    let enough = told_of(&[at(0), at(3)], 64, 5);
    assert_reading(enough.host.get("cpu.busy").copied(), 0.5, Quality::Good);
}

/// Five hundred busy leaves, one that becomes a hog only in the second half.
#[test]
fn a_late_hog_among_many_is_kept_and_good() {
    let at = |second: u64| {
        let small = (0..500).map(|n| (n, leaf(&format!("/pods/{n:03}"), second * (n + 1), 0)));
        let hog = second.saturating_sub(5) * 1_500_000;
        let all: Vec<_> = small.chain([(999, leaf("/pods/hog", hog, 0))]).collect();
        with(host(second), &all)
    };
    let samples: Vec<Sample> = (0..=10).map(at).collect();
    assert!(
        windows(&samples, 16)
            .iter()
            .all(|window| window.rows.len() == 16)
    );
    let told = told_of(&samples, 16, 10);
    assert_eq!(told.cgroups.len(), 16);
    assert_reading(of(&told, "/pods/hog", "cpu.cores"), 0.75, Quality::Good);
    assert_eq!(of(&told, "/pods/003", "cpu.cores"), None);
}

#[test]
fn what_windows_left_out_costs_the_quality_where_it_could_be_much() {
    let at = |second: u64| {
        // Everybody does the same, so somebody is always left out; 999 only shows for one second.
        let small = (0..40).map(|n| (n, leaf(&format!("/pods/{n:03}"), second * 1000, 0)));
        let flicker = if second >= 5 { 12_000 } else { 0 };
        let all: Vec<_> = small
            .chain([(999, leaf("/pods/flicker", flicker, 0))])
            .collect();
        with(host(second), &all)
    };
    let samples: Vec<Sample> = (0..=10).map(at).collect();
    let told = told_of(&samples, 16, 10);
    let flicker = of(&told, "/pods/flicker", "cpu.cores");
    assert_reading(flicker, 0.0012, Quality::Partial);
}

proptest! {
    /// However unevenly work is spread: what is told of a cgroup is never more than the truth, and
    /// what is good is never less than nine tenths of it.
    #[test]
    fn a_good_sum_is_nearly_the_truth(
        work in prop::collection::vec(prop::collection::vec(0u64..10_000, 30), 2..12),
    ) {
        let mut at = vec![0u64; 30];
        let mut samples = Vec::new();
        for (second, step) in std::iter::once(&vec![0; 30]).chain(&work).enumerate() {
            for (total, work) in at.iter_mut().zip(step) {
                *total += work;
            }
            let all: Vec<_> = at
                .iter()
                .enumerate()
                .map(|(n, total)| (n as u64, leaf(&format!("/{n:02}"), *total, 0)))
                .collect();
            samples.push(with(host(second as u64), &all));
        }
        let told = told_of(&samples, 16, work.len() as u64);
        for facts in &told.cgroups {
            let truth = at[usize::try_from(facts.id.0).unwrap()] as f64 / 1e6 / work.len() as f64;
            let Some(cores) = facts.readings.get("cpu.cores") else { continue };
            prop_assert!(cores.value <= truth + 1e-12);
            if cores.quality == Quality::Good {
                prop_assert!(cores.value >= truth * 0.9 - 1e-12, "{} of {truth}", cores.value);
            }
        }
    }
}
