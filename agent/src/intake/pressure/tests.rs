//! Against this machine's own pressure files; without them the triggers' test says so and the
//! thresholds' test remains.

use std::{path::Path, sync::Mutex};

use super::super::{AcceptError, Accepted};
use super::*;
use crate::resilience::Boxed;

/// Keeps what it is given; refuses the first.
#[derive(Default)]
struct Fake {
    given: Mutex<Vec<(AlertStatus, Source, Alert)>>,
    refusals: Mutex<Vec<&'static str>>,
}

impl Sink for Fake {
    fn accept(&self, delivery: Delivery) -> Boxed<Result<Accepted, AcceptError>> {
        let alert = delivery.groups.into_values().flatten().next().unwrap();
        if self.refusals.lock().unwrap().is_empty() {
            return Box::pin(async { Err(AcceptError::Busy("first".to_owned())) });
        }
        let given = (alert.status, delivery.source, alert);
        self.given.lock().unwrap().push(given);
        Box::pin(async { Ok(Accepted::default()) })
    }
    fn ready(&self) -> Result<(), String> {
        Ok(())
    }
    fn refused(&self, reason: &'static str) {
        self.refusals.lock().unwrap().push(reason);
    }
}

#[test]
fn the_defaults_are_within_their_bounds_and_what_is_not_is_named() {
    assert_eq!(PressureConfig::default().problems(), Vec::<String>::new());
    let config = PressureConfig {
        window_ms: 100,
        cgroups: vec!["a/../../etc".to_owned()],
        cpu_alerts: "(".to_owned(),
        ..PressureConfig::default()
    };
    let problems = config.problems();
    assert!(
        problems[0].starts_with("pressure.window_ms: 100"),
        "{problems:?}"
    );
    assert!(problems.iter().any(|p| p.contains("/../")), "{problems:?}");
    assert!(
        problems.iter().any(|p| p.contains("cpu_alerts")),
        "{problems:?}"
    );
}

#[test]
fn names_of_alerts_are_matched_to_resources() {
    let kin = PressureConfig::default().kin();
    for (alert, resource) in [
        ("HostHighCpu", "cpu"),
        ("NodeLoadHigh", "cpu"),
        ("HostOutOfMemory", "memory"),
        ("HostOomKillDetected", "memory"),
        ("NodeDiskIOSaturation", "io"),
    ] {
        let about: Vec<_> = ["cpu", "memory", "io"]
            .into_iter()
            .filter(|resource| kin(alert, resource))
            .collect();
        assert_eq!(about, [resource], "{alert}");
    }
    assert!(!kin("Watchdog", "cpu") && !kin("HighCpu", "gpu"));
}

/// Time stands still but for what the test waits for, so seconds cost nothing.
#[tokio::test(start_paused = true)]
async fn a_reading_beyond_its_threshold_opens_and_resolves() {
    let value = Arc::new(Mutex::new(0.5));
    let config = PressureConfig {
        cpu: None,
        memory: None,
        io: None,
        ..PressureConfig::default()
    };
    let sink = Arc::new(Fake::default());
    let stop = CancellationToken::new();
    let shown = value.clone();
    let readings: Readings =
        Arc::new(move || [("mem.available".to_owned(), *shown.lock().unwrap())].into());
    let tenant: TenantId = "default".parse().unwrap();
    let running = tokio::spawn(run(config, tenant, sink.clone(), readings, stop.clone()));
    let wait = |seconds| tokio::time::sleep(Duration::from_secs(seconds));
    wait(60).await;
    assert!(sink.given.lock().unwrap().is_empty());
    *value.lock().unwrap() = 0.02;
    wait(20).await;
    *value.lock().unwrap() = 0.5;
    wait(60).await;
    stop.cancel();
    running.await.unwrap();
    let given = sink.given.lock().unwrap();
    let [(firing, source, alert), (resolved, _, end)] = &given[..] else {
        panic!("{given:?}");
    };
    assert_eq!(
        (*firing, *resolved),
        (AlertStatus::Firing, AlertStatus::Resolved)
    );
    assert_eq!(
        *sink.refusals.lock().unwrap(),
        ["busy"],
        "told again after that"
    );
    let resource = "memory".to_owned();
    assert_eq!(*source, Source::Pressure { resource });
    assert_eq!(
        (alert.name(), &*alert.labels["reading"]),
        ("LocalThreshold", "mem.available")
    );
    assert_eq!(
        (alert.fingerprint, alert.starts_at),
        (end.fingerprint, end.starts_at)
    );
    assert!(end.ends_at.is_some_and(|ends| ends >= end.starts_at));
}

/// Two busy threads a CPU make tasks wait; the kernel must say so within seconds.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_kernel_wakes_us_when_tasks_wait_for_a_cpu() {
    assert!(
        Path::new("/proc/pressure/cpu").exists(),
        "this kernel has no PSI (psi=1): run this test in the VM"
    );
    let config = PressureConfig {
        cpu: Some(Stall {
            stalled_ms: 200,
            full: false,
        }),
        memory: None,
        io: None,
        thresholds: Vec::new(),
        hold_s: 2,
        ..PressureConfig::default()
    };
    let sink = Arc::new(Fake::default());
    sink.refused("none");
    let stop = CancellationToken::new();
    let tenant: TenantId = "default".parse().unwrap();
    let readings: Readings = Arc::new(BTreeMap::new);
    let running = tokio::spawn(run(config, tenant, sink.clone(), readings, stop.clone()));
    let until = std::time::Instant::now() + Duration::from_secs(20);
    let burners = 3 * std::thread::available_parallelism().unwrap().get();
    let done = CancellationToken::new();
    for _ in 0..burners {
        let done = done.clone();
        std::thread::spawn(move || {
            while !done.is_cancelled() && std::time::Instant::now() < until {
                std::hint::black_box((0..10_000).sum::<u64>());
            }
        });
    }
    while sink.given.lock().unwrap().is_empty() && std::time::Instant::now() < until {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    done.cancel();
    stop.cancel();
    running.await.unwrap();
    let given = sink.given.lock().unwrap();
    let (status, source, alert) = given.first().expect("no trigger fired within 20 s");
    let resource = "cpu".to_owned();
    assert_eq!(
        (*status, source),
        (AlertStatus::Firing, &Source::Pressure { resource })
    );
    assert_eq!(alert.name(), "LocalCpuPressure");
    assert!(
        alert.annotations["summary"].contains("waited for cpu"),
        "{alert:?}"
    );
}
