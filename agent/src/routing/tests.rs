use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicUsize, Ordering::SeqCst},
    time::Instant,
};

use jiff::Timestamp;
use tokio::sync::Notify;

use super::*;
use crate::incident::{Alert, AlertStatus, Fingerprint, Source, TraceContext};

fn tenant(name: &str) -> TenantId {
    name.parse().unwrap()
}

fn episode(tenant_name: &str, n: u64) -> Episode {
    Episode {
        id: EpisodeId::from_parts(n, [0; 10]),
        tenant: tenant(tenant_name),
        alert: Alert {
            status: AlertStatus::Firing,
            labels: BTreeMap::new(),
            annotations: BTreeMap::new(),
            starts_at: Timestamp::UNIX_EPOCH,
            ends_at: None,
            fingerprint: Fingerprint(n),
        }
        .into(),
        source: Source::Manual,
        opened_at: Timestamp::UNIX_EPOCH,
        trace: TraceContext::parse("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
            .unwrap(),
    }
}

fn number(id: EpisodeId) -> u64 {
    u64::from_be_bytes([0, 0, id.0[0], id.0[1], id.0[2], id.0[3], id.0[4], id.0[5]])
}

type Failures = Arc<Mutex<Vec<(u64, Failure)>>>;

/// A router and the failures that it told of.
fn router<F, R>(config: &RoutingConfig, tenants: &[&str], handle: F) -> (Router, Failures)
where
    F: Fn(u64, watch::Receiver<bool>) -> R + Send + Sync + 'static,
    R: Future<Output = Result<(), String>> + Send + 'static,
{
    let failures = Failures::default();
    let told = failures.clone();
    let tenants: Vec<_> = tenants.iter().map(|name| tenant(name)).collect();
    let handler: Handler =
        Arc::new(move |episode, resolved| Box::pin(handle(number(episode.id), resolved)));
    let on_failure: OnFailure = Arc::new(move |episode, failure| {
        told.lock().unwrap().push((number(episode.id), failure));
        Box::pin(async {})
    });
    (Router::new(config, &tenants, handler, on_failure), failures)
}

fn submit(router: &Router, tenant_name: &str, n: u64) {
    let mut permit = router.reserve(&tenant(tenant_name), 1).unwrap();
    permit.submit(episode(tenant_name, n));
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < Duration::from_secs(10), "never: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

#[tokio::test]
async fn a_panic_an_error_and_an_overrun_end_one_episode_each() {
    let done = Arc::new(Mutex::new(Vec::new()));
    let ended = done.clone();
    let config = RoutingConfig {
        episode_deadline_s: 1,
        tenant_concurrency_max: 1,
        ..RoutingConfig::default()
    };
    let (router, failures) = router(&config, &["a"], move |n, _| {
        assert!(n != 1, "while the future is made: {n}");
        let ended = ended.clone();
        async move {
            assert!(n != 2, "while it runs: {n}");
            match n {
                3 => return Err("no luck".to_owned()),
                4 => std::future::pending().await,
                5 => std::panic::panic_any(7),
                _ => {}
            }
            ended.lock().unwrap().push(n);
            Ok(())
        }
    });
    for n in 0..=6 {
        submit(&router, "a", n);
    }
    until("all end", || done.lock().unwrap().len() == 2).await;
    assert_eq!(
        *done.lock().unwrap(),
        [0, 6],
        "in order, and the worker goes on"
    );
    let failures = failures.lock().unwrap().clone();
    assert_eq!(
        failures,
        [
            (1, Failure::Panicked("while the future is made: 1".into())),
            (2, Failure::Panicked("while it runs: 2".into())),
            (3, Failure::Error("no luck".into())),
            (4, Failure::Deadline(Duration::from_secs(1))),
            (5, Failure::Panicked("no message".into())),
        ]
    );
    until("nothing runs", || router.load()[0].running == 0).await;
    assert_eq!(
        router.shared.watches().len(),
        0,
        "no channel is left behind"
    );
    let later = router.drain(Duration::from_secs(1)).await;
    assert_eq!(later, Drained::default());
}

#[tokio::test]
async fn a_failure_that_cannot_be_told_does_not_stop_the_worker() {
    let ended = Arc::new(AtomicUsize::new(0));
    let count = ended.clone();
    let handler: Handler = Arc::new(move |episode, _| {
        let count = count.clone();
        Box::pin(async move {
            match number(episode.id) {
                0 | 1 => Err("no".to_owned()),
                _ => {
                    count.fetch_add(1, SeqCst);
                    Ok(())
                }
            }
        })
    });
    let on_failure: OnFailure = Arc::new(|episode, _| match number(episode.id) {
        0 => panic!("telling panics"),
        _ => Box::pin(std::future::pending()),
    });
    let config = RoutingConfig {
        tenant_concurrency_max: 1,
        failure_ms_max: 100,
        ..RoutingConfig::default()
    };
    let router = Router::new(&config, &[tenant("a")], handler, on_failure);
    for n in 0..3 {
        submit(&router, "a", n);
    }
    until("the third ends", || ended.load(SeqCst) == 1).await;
}

#[tokio::test]
async fn places_are_bounded_returned_and_counted() {
    let gate = Arc::new(Notify::new());
    let open = gate.clone();
    let config = RoutingConfig {
        queue_len_max: 4,
        concurrency_max: 1,
        tenant_concurrency_max: 1,
        ..RoutingConfig::default()
    };
    let (router, _) = router(&config, &["a"], move |_, _| {
        let open = open.clone();
        async move {
            open.notified().await;
            Ok(())
        }
    });
    let a = tenant("a");
    submit(&router, "a", 0);
    until("the first runs", || router.load()[0].running == 1).await;
    assert_eq!(router.depth(), 0, "a running episode has no place");
    let mut permit = router.reserve(&a, 3).unwrap();
    let refused = router.reserve(&a, 2).err().unwrap();
    assert_eq!(
        refused.to_string(),
        "the queue of tenant a is full: 1 of 4 places are free, 2 wanted"
    );
    assert_eq!(router.depth(), 3, "a refused reservation keeps nothing");
    assert_eq!(router.reserve_up_to(&a, 9).unwrap().places(), 1);
    permit.shrink_to(2);
    assert_eq!(router.depth(), 2);
    permit.submit(episode("a", 1));
    drop(permit);
    assert_eq!(router.depth(), 1, "unused places come back");
    // The head waits for its slot, and keeps its place meanwhile.
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert_eq!(router.depth(), 1);
    drop(router.reserve(&a, 3).unwrap());
    gate.notify_one();
    until("the second runs", || router.depth() == 0).await;
    let load = router.load();
    assert_eq!((load[0].high_water, load[0].running), (4, 1));
    let unknown = router.reserve(&tenant("b"), 1).err().unwrap();
    assert_eq!(unknown.to_string(), "no queue for tenant b");
    // An earlier life's episodes get places whatever the bound, and whoever's they were.
    for n in 10..20 {
        router.readmit(episode("gone", n), true);
    }
    assert!(router.depth() >= 9, "{}", router.depth());
    assert!(matches!(
        router.reserve(&a, 1),
        Err(SubmitError::Full { .. })
    ));
    for _ in 0..11 {
        gate.notify_one();
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    until("all end", || router.depth() == 0).await;
    assert!(router.reserve(&a, 4).is_ok());
}

#[tokio::test]
async fn reservations_never_exceed_the_bound_under_contention() {
    let config = RoutingConfig {
        queue_len_max: 7,
        ..RoutingConfig::default()
    };
    let (router, _) = router(&config, &["a"], |_, _| async { Ok(()) });
    let threads: Vec<_> = (0..4)
        .map(|_| {
            let router = router.clone();
            std::thread::spawn(move || {
                for i in 0..2000 {
                    let permit = router.reserve_up_to(&tenant("a"), 1 + i % 5).unwrap();
                    assert!(router.depth() <= 7);
                    drop(permit);
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
    let load = &router.load()[0];
    assert_eq!((load.depth, load.high_water <= 7), (0, true));
}

#[tokio::test]
async fn resolve_reaches_queued_and_running_episodes() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let ended = seen.clone();
    let config = RoutingConfig {
        concurrency_max: 1,
        tenant_concurrency_max: 1,
        ..RoutingConfig::default()
    };
    let (router, _) = router(&config, &["a"], move |n, mut resolved| {
        let ended = ended.clone();
        async move {
            resolved
                .wait_for(|now| *now)
                .await
                .map_err(|e| e.to_string())?;
            ended.lock().unwrap().push(n);
            Ok(())
        }
    });
    submit(&router, "a", 0);
    submit(&router, "a", 1);
    until("the first runs", || router.load()[0].running == 1).await;
    assert!(router.resolve(EpisodeId::from_parts(1, [0; 10])), "queued");
    assert!(router.resolve(EpisodeId::from_parts(0, [0; 10])), "running");
    until("both end", || *seen.lock().unwrap() == [0, 1]).await;
    until("forgotten", || {
        !router.resolve(EpisodeId::from_parts(0, [0; 10]))
    })
    .await;
    router.readmit(episode("a", 2), true);
    until("resolved from the start", || {
        seen.lock().unwrap().len() == 3
    })
    .await;
}

#[tokio::test]
async fn a_flooding_tenant_does_not_delay_another() {
    let order = Arc::new(Mutex::new(Vec::new()));
    let begun = order.clone();
    let config = RoutingConfig {
        concurrency_max: 4,
        tenant_concurrency_max: 4,
        ..RoutingConfig::default()
    };
    // Numbers from 1000 are the flood's; each of these takes long.
    let running = Arc::new(AtomicUsize::new(0));
    let most = Arc::new(AtomicUsize::new(0));
    let (now, peak) = (running.clone(), most.clone());
    let (router, _) = router(&config, &["flood", "quiet"], move |n, _| {
        let (begun, now, peak) = (begun.clone(), now.clone(), peak.clone());
        async move {
            begun.lock().unwrap().push((n, Instant::now()));
            peak.fetch_max(now.fetch_add(1, SeqCst) + 1, SeqCst);
            let takes_ms = if n >= 1000 { 400 } else { 10 };
            tokio::time::sleep(Duration::from_millis(takes_ms)).await;
            now.fetch_sub(1, SeqCst);
            Ok(())
        }
    });
    for n in 1000..1200 {
        submit(&router, "flood", n);
    }
    until("the flood runs", || running.load(SeqCst) == 3).await;
    let mut waits = Vec::new();
    for n in 0..10 {
        let submitted = Instant::now();
        submit(&router, "quiet", n);
        let started = || {
            let order = order.lock().unwrap();
            order
                .iter()
                .find(|(found, _)| *found == n)
                .map(|(_, at)| *at)
        };
        until("it begins", || started().is_some()).await;
        waits.push(started().unwrap() - submitted);
        // Its own slot is free again.
        until("it ends", || router.load()[1].running == 0).await;
    }
    waits.sort();
    let worst = waits[waits.len() - 1];
    // Behind the flood it would be 27 s of waiting; behind one of its episodes, up to 400 ms.
    let median = waits[waits.len() / 2];
    assert!(median < Duration::from_millis(50), "{waits:?}");
    assert!(worst < Duration::from_millis(300), "{waits:?}");
    assert!(
        router.load()[0].depth > 50,
        "the flood was still there: {:?}",
        router.load()
    );
    assert_eq!(
        most.load(SeqCst),
        4,
        "the bound of all together holds and is used"
    );
}

#[tokio::test]
async fn draining_finishes_what_runs_and_leaves_the_rest() {
    let config = RoutingConfig {
        concurrency_max: 1,
        tenant_concurrency_max: 1,
        ..RoutingConfig::default()
    };
    let finished = Arc::new(AtomicUsize::new(0));
    let count = finished.clone();
    let (patient, failures) = router(&config, &["a"], move |_, _| {
        let count = count.clone();
        async move {
            tokio::time::sleep(Duration::from_millis(100)).await;
            count.fetch_add(1, SeqCst);
            Ok(())
        }
    });
    let mut late = patient.reserve(&tenant("a"), 2).unwrap();
    for n in 0..4 {
        submit(&patient, "a", n);
    }
    until("it runs", || patient.load()[0].running == 1).await;
    let drained = patient.drain(Duration::from_secs(5)).await;
    assert_eq!(drained, Drained { queued: 3, cut: 0 });
    assert_eq!(finished.load(SeqCst), 1, "what ran was finished");
    assert!(matches!(
        patient.reserve(&tenant("a"), 1),
        Err(SubmitError::Closed)
    ));
    // A request that was journalling meanwhile: its episode is the next life's.
    late.submit(episode("a", 9));
    let drained = patient.drain(Duration::ZERO).await;
    assert_eq!(drained, Drained { queued: 4, cut: 0 });
    assert!(failures.lock().unwrap().is_empty());

    let (endless, failures) = router(&config, &["a"], |_, _| std::future::pending());
    submit(&endless, "a", 0);
    until("it runs", || endless.load()[0].running == 1).await;
    let begun = Instant::now();
    let drained = endless.drain(Duration::from_millis(100)).await;
    assert_eq!(drained, Drained { queued: 0, cut: 1 });
    assert!(
        begun.elapsed() < Duration::from_secs(2),
        "{:?}",
        begun.elapsed()
    );
    assert!(failures.lock().unwrap().is_empty(), "cut off is not failed");
}

#[tokio::test]
async fn what_is_severe_goes_first_and_nothing_starves() {
    let order = Arc::new(Mutex::new(Vec::new()));
    let seen = order.clone();
    let config = RoutingConfig {
        concurrency_max: 1,
        tenant_concurrency_max: 1,
        ..RoutingConfig::default()
    };
    let hold = Arc::new(Notify::new());
    let waits = hold.clone();
    let (router, _) = router(&config, &["a"], move |n, _| {
        let (seen, waits) = (seen.clone(), waits.clone());
        async move {
            if n == 0 {
                waits.notified().await;
            } else {
                seen.lock().unwrap().push(n);
            }
            Ok(())
        }
    });
    submit(&router, "a", 0);
    until("the first runs", || router.load()[0].running == 1).await;
    let mut permit = router.reserve(&tenant("a"), 12).unwrap();
    // 1 to 3 are of no severity, 10s informative, 100s critical.
    let waiting = [(10, "info"), (1, ""), (2, "warning"), (3, "odd")];
    let critical = (100..108).map(|n| (n, "critical"));
    for (n, severity) in waiting.into_iter().chain(critical) {
        let mut episode = episode("a", n);
        Arc::make_mut(&mut episode.alert)
            .labels
            .insert("severity".to_owned(), severity.to_owned());
        permit.submit(episode);
    }
    hold.notify_one();
    until("all ran", || order.lock().unwrap().len() == 12).await;
    // The first that ran was the first taken; each fourth taken is the oldest.
    assert_eq!(
        *order.lock().unwrap(),
        [100, 101, 10, 102, 103, 104, 1, 105, 106, 107, 2, 3]
    );
}

/// The longest that 99 of 100 episodes of `quiet` wait, one after another.
async fn p99_wait(
    router: &Router,
    begun: &Arc<Mutex<HashMap<u64, Instant>>>,
    from: u64,
) -> Duration {
    let mut waits = Vec::new();
    for n in from..from + 300 {
        let submitted = Instant::now();
        submit(router, "quiet", n);
        until("it begins", || begun.lock().unwrap().contains_key(&n)).await;
        waits.push(begun.lock().unwrap()[&n].saturating_duration_since(submitted));
        until("it ends", || router.load()[1].running == 0).await;
    }
    waits.sort();
    waits[waits.len() * 99 / 100]
}

/// The bound that is promised: a flood raises the p99 of another tenant's waits to at most twice what
/// it is without one, and 10 ms.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_raises_anothers_p99_wait_by_little() {
    // What else runs on this machine is in both figures, but not evenly.
    const ATTEMPTS: usize = 4;
    let mut told = Vec::new();
    for _ in 0..ATTEMPTS {
        let begun: Arc<Mutex<HashMap<u64, Instant>>> = Arc::default();
        let noted = begun.clone();
        let config = RoutingConfig::default();
        let (router, _) = router(&config, &["flood", "quiet"], move |n, _| {
            let noted = noted.clone();
            async move {
                if n < 10_000 {
                    noted.lock().unwrap().insert(n, Instant::now());
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
                Ok(())
            }
        });
        let idle = p99_wait(&router, &begun, 0).await;
        let (flooding, stop) = (router.clone(), tokio_util::sync::CancellationToken::new());
        let stopped = stop.clone();
        let flood = tokio::spawn(async move {
            let mut n = 10_000;
            while !stopped.is_cancelled() {
                if let Ok(mut permit) = flooding.reserve_up_to(&tenant("flood"), 64) {
                    while permit.places() > 0 {
                        permit.submit(episode("flood", n));
                        n += 1;
                    }
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            n - 10_000
        });
        until("the flood stands", || router.load()[0].depth > 900).await;
        let flooded = p99_wait(&router, &begun, 1000).await;
        stop.cancel();
        let sent = flood.await.unwrap();
        assert!(sent > 1000, "{sent}");
        told.push(format!(
            "idle p99 {idle:?}, beside a flood of {sent} p99 {flooded:?}"
        ));
        println!("{}", told[told.len() - 1]);
        if flooded <= 2 * idle + Duration::from_millis(10) {
            return;
        }
    }
    panic!("more than twice as long and 10 ms: {told:?}");
}
