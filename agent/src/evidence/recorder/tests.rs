//! The recorder on this very host.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use super::{
    super::{
        EvidenceConfig, EvidenceError, KernelCounts, KernelProbes, NoKernel, ProbeStatus,
        SyscallMode, SyscallPlan,
    },
    Recorder,
};
use crate::incident::{Evidence, Quality};

fn quick() -> EvidenceConfig {
    EvidenceConfig {
        period_ms: 250,
        history_s: 10,
        ..EvidenceConfig::default()
    }
}

/// No sample but those that are asked for, within a test.
fn rare() -> EvidenceConfig {
    EvidenceConfig {
        period_ms: 10_000,
        ..EvidenceConfig::default()
    }
}

fn started(config: &EvidenceConfig) -> Recorder {
    Recorder::start(config, Arc::new(NoKernel)).unwrap()
}

fn busy(evidence: &Evidence) -> Option<Quality> {
    evidence.host.get("cpu.busy").map(|reading| reading.quality)
}

#[test]
fn a_marked_moment_is_never_looked_behind() {
    let recorder = started(&quick());
    thread::sleep(Duration::from_millis(600));
    let mark = recorder.mark();
    let at_once = recorder.evidence_since(mark);
    assert!(at_once.window_s < 0.1, "{}", at_once.window_s);
    assert_ne!(busy(&at_once), Some(Quality::Good));
    assert!(at_once.host.contains_key("mem.available"));
    thread::sleep(Duration::from_millis(600));
    let later = recorder.evidence_since(mark);
    let passed = mark.elapsed().as_secs_f64();
    assert!(
        later.window_s > passed - 0.3 && later.window_s <= passed,
        "{}",
        later.window_s
    );
    assert_eq!(busy(&later), Some(Quality::Good));
}

#[test]
fn without_a_mark_a_window_that_began_before_does_not_count() {
    let recorder = started(&rare());
    thread::sleep(Duration::from_millis(300));
    let since = recorder.evidence_since(Instant::now());
    assert!(since.window_s.abs() < f64::EPSILON);
    assert_eq!(busy(&since), None);
    // The same moment, asked as a length of time: something is better than nothing.
    let window = recorder.evidence(Duration::from_millis(1));
    assert!(window.window_s >= 0.3);
}

#[test]
fn where_samples_come_late_what_an_action_does_is_still_seen() {
    let recorder = started(&rare());
    thread::sleep(Duration::from_millis(300));
    let mark = recorder.mark();
    thread::sleep(Duration::from_millis(300));
    // No boundary lies within the last tenth of a second; the one at the mark is taken.
    let after = recorder.evidence_after(mark, Duration::from_millis(100));
    let passed = mark.elapsed().as_secs_f64();
    assert!(
        (0.3..=passed).contains(&after.window_s),
        "{}",
        after.window_s
    );
    assert_eq!(busy(&after), Some(Quality::Good));
}

#[test]
fn a_window_that_is_not_filled_yet_is_partial_and_tells_its_length() {
    let recorder = started(&quick());
    thread::sleep(Duration::from_millis(700));
    let young = recorder.evidence(Duration::from_secs(8));
    assert!((0.6..4.0).contains(&young.window_s), "{}", young.window_s);
    assert_eq!(busy(&young), Some(Quality::Partial));
    let note = young
        .coverage
        .iter()
        .find(|c| c.source == "recorder")
        .unwrap();
    assert!(
        !note.complete && note.note.contains("of 8.0 s"),
        "{}",
        note.note
    );
    assert_eq!(
        busy(&recorder.evidence(Duration::from_millis(500))),
        Some(Quality::Good)
    );
}

#[test]
fn windows_and_their_memory_are_bounded() {
    let config = quick();
    let recorder = started(&config);
    for _ in 0..3 * config.windows_max() {
        recorder.mark();
    }
    let stats = recorder.stats();
    assert_eq!(stats.windows, config.windows_max());
    assert!(stats.bytes <= stats.windows * config.cgroups_kept * 512);
}

#[test]
fn asking_does_not_push_the_past_out() {
    let recorder = started(&rare());
    for _ in 0..5 {
        thread::sleep(Duration::from_millis(25));
        recorder.evidence(Duration::from_secs(5));
    }
    assert_eq!(recorder.stats().windows, 0);
}

#[test]
fn dropping_it_does_not_wait_for_the_period() {
    let recorder = started(&rare());
    let begun = Instant::now();
    drop(recorder);
    assert!(begun.elapsed() < Duration::from_secs(2));
}

#[test]
fn settings_out_of_bounds_are_refused_by_name() {
    let config = EvidenceConfig {
        period_ms: 1,
        ..EvidenceConfig::default()
    };
    let error = Recorder::start(&config, Arc::new(NoKernel)).unwrap_err();
    assert!(matches!(&error, EvidenceError::Config(_)));
    assert!(
        error
            .to_string()
            .contains("evidence.period_ms: 1 is not within"),
        "{error}"
    );
}

#[derive(Debug, Default)]
struct Pair(AtomicBool);

impl KernelProbes for Pair {
    fn counts(&self) -> KernelCounts {
        KernelCounts::default()
    }
    fn statuses(&self) -> Vec<ProbeStatus> {
        Vec::new()
    }
    fn watch(&self, plan: &SyscallPlan) -> bool {
        let on = plan.mode != SyscallMode::Off;
        self.0.store(on, Ordering::SeqCst);
        on
    }
}

#[test]
fn watching_syscalls_is_passed_on() {
    let pair = Arc::new(Pair::default());
    let recorder = Recorder::start(&quick(), pair.clone()).unwrap();
    assert!(recorder.watch_syscalls(true) && pair.0.load(Ordering::SeqCst));
    assert!(!recorder.watch_syscalls(false) && !pair.0.load(Ordering::SeqCst));
}
