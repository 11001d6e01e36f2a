//! The gate over a real ledger: on the real disk, and on a simulated one that fails when told to.

use std::{collections::BTreeMap, path::Path, time::Instant};

use jiff::Timestamp;

use super::*;
use crate::{
    clock::ManualClock,
    incident::{AlertStatus, Entry, EpisodeId, Source, TraceContext},
    journal::{
        Journal, JournalConfig,
        sim::{Call, How, SimDisk},
    },
    ledger::Ledger,
    routing::{Handler, OnFailure, RoutingConfig},
};

mod late;

/// What the handler of the tests saw, and whether it may end.
#[derive(Clone, Default)]
struct Seen {
    begun: Arc<Mutex<Vec<Episode>>>,
    resolved: Arc<Mutex<Vec<EpisodeId>>>,
}

struct Desktop {
    gate: Gate,
    ledger: SharedLedger,
    router: Router,
    metrics: Arc<Metrics>,
    seen: Seen,
}

fn start() -> Timestamp {
    "2026-11-23T12:00:00Z".parse().unwrap()
}

fn small(dir: &Path) -> JournalConfig {
    JournalConfig {
        dir: dir.to_owned(),
        space_retry_ms: 2,
        ..JournalConfig::small()
    }
}

/// Episodes run until their alerts resolve.
fn desktop(ledger: Ledger, routing: &RoutingConfig, intake: &IntakeConfig) -> Desktop {
    desktop_of(ledger, routing, intake, None)
}

fn desktop_of(
    ledger: Ledger,
    routing: &RoutingConfig,
    intake: &IntakeConfig,
    kin: Option<Kin>,
) -> Desktop {
    let seen = Seen::default();
    let (begun, ended) = (seen.begun.clone(), seen.resolved.clone());
    let handler: Handler = Arc::new(move |episode, mut resolved| {
        let ended = ended.clone();
        begun.lock().unwrap().push(episode.clone());
        Box::pin(async move {
            resolved
                .wait_for(|now| *now)
                .await
                .map_err(|e| e.to_string())?;
            ended.lock().unwrap().push(episode.id);
            Ok(())
        })
    });
    let on_failure: OnFailure = Arc::new(|episode, failure| panic!("{}: {failure}", episode.id));
    let tenants = [tenant("a"), tenant("b")];
    let router = Router::new(routing, &tenants, handler, on_failure);
    let (ledger, metrics) = (Arc::new(ledger), Arc::new(Metrics::new()));
    let clock = Arc::new(ManualClock::at(start()));
    let gate = Gate::with_clock(
        intake,
        ledger.clone(),
        router.clone(),
        metrics.clone(),
        clock,
    );
    let gate = match kin {
        Some(kin) => gate.joining(kin),
        None => gate,
    };
    gate.restore_from_ledger();
    Desktop {
        gate,
        ledger,
        router,
        metrics,
        seen,
    }
}

fn real(dir: &Path) -> Desktop {
    let (ledger, found) = Ledger::open(&small(dir), 100).unwrap();
    assert!(
        found.corruption.is_empty() && found.unreadable.is_empty(),
        "{found:?}"
    );
    desktop(ledger, &RoutingConfig::default(), &IntakeConfig::default())
}

fn simulated(disk: &SimDisk, config: &JournalConfig, intake: &IntakeConfig) -> Desktop {
    let (journal, recovered) = Journal::open_on(config, Arc::new(disk.clone()), None).unwrap();
    let (ledger, _) = Ledger::over(journal, recovered, 100);
    desktop(ledger, &RoutingConfig::default(), intake)
}

fn tenant(name: &str) -> TenantId {
    name.parse().unwrap()
}

fn firing(n: u64, starts: &str) -> Alert {
    Alert {
        status: AlertStatus::Firing,
        labels: [("alertname".to_owned(), format!("Alert{n}"))].into(),
        annotations: BTreeMap::new(),
        starts_at: starts.parse().unwrap(),
        ends_at: None,
        fingerprint: Fingerprint(n),
    }
}

fn ended(n: u64, starts: &str, ends: &str) -> Alert {
    Alert {
        status: AlertStatus::Resolved,
        ends_at: Some(ends.parse().unwrap()),
        ..firing(n, starts)
    }
}

const T0: &str = "2026-11-23T10:00:00Z";
const T1: &str = "2026-11-23T10:01:00Z";
const T2: &str = "2026-11-23T10:02:00Z";
const T3: &str = "2026-11-23T10:03:00Z";

fn delivery(alerts: Vec<Alert>) -> Delivery {
    Delivery {
        groups: [(tenant("a"), alerts)].into(),
        source: Source::Alertmanager {
            receiver: "w".to_owned(),
        },
        trace: TraceContext::parse("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
            .unwrap(),
    }
}

#[allow(
    clippy::unnecessary_wraps,
    reason = "compared with what a request is answered"
)]
fn did(opened: u64, seen: u64, resolved: u64, ignored: u64) -> Result<Accepted, AcceptError> {
    Ok(Accepted {
        opened,
        seen,
        resolved,
        ignored,
    })
}

impl Gate {
    fn restore_from_ledger(&self) {
        self.restore(self.inner.ledger.take_heard());
    }
}

impl Desktop {
    async fn send(&self, alerts: Vec<Alert>) -> Result<Accepted, AcceptError> {
        self.gate.accept(delivery(alerts)).await
    }

    /// Every entry of the journal in the order of writing, by name, for one alert.
    fn entries(&self) -> Vec<&'static str> {
        let mut lines = self.ledger.with_index(|index| {
            let all = index.iter().flat_map(|incident| &incident.entries);
            all.map(|line| (line.lsn, line.entry.name()))
                .collect::<Vec<_>>()
        });
        lines.sort_unstable();
        lines.into_iter().map(|(_, name)| name).collect()
    }

    fn begun(&self) -> Vec<EpisodeId> {
        self.seen
            .begun
            .lock()
            .unwrap()
            .iter()
            .map(|e| e.id)
            .collect()
    }

    async fn stop(self) {
        self.gate.close().await;
        self.router.drain(Duration::ZERO).await;
        self.ledger.journal().clone().close().await.unwrap();
    }
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < Duration::from_secs(10), "never: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

#[tokio::test]
async fn an_episode_opens_is_seen_resolves_and_reopens() {
    let dir = tempfile::tempdir().unwrap();
    let desktop = real(dir.path());
    assert_eq!(
        desktop.send(vec![firing(1, T0), firing(2, T0)]).await,
        did(2, 0, 0, 0)
    );
    assert_eq!(
        desktop.entries(),
        ["opened", "opened"],
        "durable before the answer"
    );
    until("both begin", || desktop.begun().len() == 2).await;
    // Resends are seen, and journalled only if they move a start to later.
    assert_eq!(
        desktop.send(vec![firing(1, T0), firing(2, T0)]).await,
        did(0, 2, 0, 0)
    );
    assert_eq!(desktop.entries().len(), 2);
    assert_eq!(desktop.send(vec![firing(1, T1)]).await, did(0, 1, 0, 0));
    assert_eq!(desktop.send(vec![firing(1, T1)]).await, did(0, 1, 0, 0));
    assert_eq!(desktop.entries(), ["opened", "opened", "seen"]);
    // Resolved: journalled, and the running handler hears of it.
    assert_eq!(
        desktop.send(vec![ended(1, T1, T2), firing(2, T0)]).await,
        did(0, 1, 1, 0)
    );
    assert_eq!(desktop.send(vec![ended(1, T1, T2)]).await, did(0, 0, 0, 1));
    let first = desktop.begun()[0];
    until("the handler hears", || {
        *desktop.seen.resolved.lock().unwrap() == [first]
    })
    .await;
    // Late duplicates of the closed spell are nothing; a later start is a new episode.
    assert_eq!(desktop.send(vec![firing(1, T1)]).await, did(0, 0, 0, 1));
    assert_eq!(desktop.send(vec![firing(1, T3)]).await, did(1, 0, 0, 0));
    until("it begins", || desktop.begun().len() == 3).await;
    assert_eq!(
        desktop.entries(),
        ["opened", "opened", "seen", "resolved", "opened"]
    );
    let third = desktop.seen.begun.lock().unwrap()[2].clone();
    assert_eq!(third.trace.trace_id, "0af7651916cd43dd8448eb211c80319c");
    assert_eq!((third.opened_at, desktop.gate.open_count()), (start(), 2));
    let text = desktop
        .metrics
        .encode(&desktop.ledger, crate::report::Standing::default())
        .unwrap();
    for line in ["opened\"} 3", "seen\"} 5", "resolved\"} 1", "ignored\"} 2"] {
        assert!(
            text.contains(&format!("paramedic_alerts_total{{reason=\"{line}")),
            "{text}"
        );
    }
    desktop.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn duplicates_at_once_open_one_episode_and_all_are_answered_200() {
    let disk = SimDisk::new(1);
    disk.set_sync_time(Duration::from_millis(20));
    let desktop = simulated(&disk, &small(Path::new("")), &IntakeConfig::default());
    let sends = (0..8).map(|_| {
        desktop
            .gate
            .accept(delivery(vec![firing(1, T0), firing(2, T0)]))
    });
    let tasks: Vec<_> = sends.map(tokio::spawn).collect();
    let mut total = Accepted::default();
    for task in tasks {
        add(&mut total, task.await.unwrap().unwrap());
    }
    assert_eq!((total.opened, total.seen), (2, 14));
    assert_eq!(desktop.entries(), ["opened", "opened"]);
    until("both begin", || desktop.begun().len() == 2).await;
    // Different alerts share commits instead of queueing up for each other.
    let before = desktop.ledger.journal().stats().fast.unwrap().commits;
    let begun = Instant::now();
    let sends = (10..42).map(|n| desktop.gate.accept(delivery(vec![firing(n, T0)])));
    let tasks: Vec<_> = sends.map(tokio::spawn).collect();
    for task in tasks {
        assert_eq!(task.await.unwrap(), did(1, 0, 0, 0));
    }
    let commits = desktop.ledger.journal().stats().fast.unwrap().commits - before;
    assert!(commits < 16, "{commits} commits for 32 requests");
    assert!(
        begun.elapsed() < Duration::from_millis(32 * 20),
        "one by one"
    );
}

#[tokio::test]
async fn a_duplicate_waits_no_longer_than_it_may() {
    let disk = SimDisk::new(1);
    let intake = IntakeConfig {
        pending_wait_ms: 30,
        ..IntakeConfig::default()
    };
    let desktop = simulated(&disk, &small(Path::new("")), &intake);
    disk.set_sync_time(Duration::from_millis(500));
    let first = tokio::spawn(desktop.gate.accept(delivery(vec![firing(1, T0)])));
    tokio::time::sleep(Duration::from_millis(50)).await;
    let second = desktop.send(vec![firing(1, T0)]).await;
    assert_eq!(second, Err(AcceptError::Busy(refusal::PENDING.to_owned())));
    assert_eq!(first.await.unwrap(), did(1, 0, 0, 0));
    assert_eq!(desktop.send(vec![firing(1, T0)]).await, did(0, 1, 0, 0));
}

#[tokio::test]
async fn a_sender_that_hangs_up_loses_nothing() {
    let disk = SimDisk::new(1);
    let desktop = simulated(&disk, &small(Path::new("")), &IntakeConfig::default());
    disk.set_sync_time(Duration::from_millis(100));
    let request = desktop.gate.accept(delivery(vec![firing(1, T0)]));
    let hung_up = tokio::time::timeout(Duration::from_millis(10), request).await;
    assert!(hung_up.is_err(), "the journal was too fast for this test");
    until("it begins", || desktop.begun().len() == 1).await;
    assert_eq!(desktop.entries(), ["opened"]);
    assert_eq!(desktop.send(vec![firing(1, T0)]).await, did(0, 1, 0, 0));
}

#[tokio::test]
async fn a_full_queue_refuses_what_it_cannot_hold_and_takes_it_later() {
    let dir = tempfile::tempdir().unwrap();
    let (ledger, _) = Ledger::open(&small(dir.path()), 100).unwrap();
    let routing = RoutingConfig {
        queue_len_max: 2,
        concurrency_max: 1,
        tenant_concurrency_max: 1,
        ..RoutingConfig::default()
    };
    let desktop = desktop(ledger, &routing, &IntakeConfig::default());
    assert_eq!(desktop.send(vec![firing(1, T0)]).await, did(1, 0, 0, 0));
    until("it runs", || desktop.router.load()[0].running == 1).await;
    // Two of three fit: these are accepted for good, and the request is to be sent again.
    let group = vec![firing(2, T0), firing(3, T0), firing(4, T0)];
    let refused = desktop.send(group.clone()).await.unwrap_err();
    assert_eq!(
        refused.to_string(),
        "busy: the queue of tenant a is full (routing.queue_len_max); send it again later"
    );
    assert_eq!(desktop.entries(), ["opened"; 3]);
    assert_eq!(desktop.router.depth(), 2);
    // Another tenant has its own queue; resends and resolutions need no place.
    let mut other = delivery(vec![firing(2, T0)]);
    other.groups = [(tenant("b"), vec![firing(2, T0)])].into();
    assert_eq!(desktop.gate.accept(other).await, did(1, 0, 0, 0));
    assert_eq!(
        desktop.send(vec![firing(2, T0), firing(3, T0)]).await,
        did(0, 2, 0, 0)
    );
    assert_eq!(desktop.send(vec![ended(1, T0, T1)]).await, did(0, 0, 1, 0));
    // The first one ends, a place is free: now the rest of the group is taken.
    until("a place is free", || desktop.router.load()[0].depth == 1).await;
    assert_eq!(desktop.send(group).await, did(1, 2, 0, 0));
    desktop.stop().await;
}

#[tokio::test]
async fn a_restart_knows_what_was_open_and_what_was_closed() {
    let dir = tempfile::tempdir().unwrap();
    let desktop = real(dir.path());
    let group = vec![firing(1, T0), firing(2, T0), firing(3, T0)];
    assert_eq!(desktop.send(group).await, did(3, 0, 0, 0));
    // 1 is closed; 2 has a later start; 3 is open as it was.
    assert_eq!(
        desktop.send(vec![ended(1, T0, T2), firing(2, T2)]).await,
        did(0, 1, 1, 0)
    );
    until("all begin", || desktop.begun().len() == 3).await;
    let open = desktop.begun()[1];
    let book = desktop.gate.open_count();
    desktop.stop().await;

    let desktop = real(dir.path());
    assert_eq!((desktop.gate.open_count(), book), (2, 2));
    let resent = vec![firing(1, T1), firing(2, T2), firing(3, T0)];
    assert_eq!(desktop.send(resent).await, did(0, 2, 0, 1));
    // News of 2's older spell closes nothing: its later start is known after the restart.
    assert_eq!(desktop.send(vec![ended(2, T0, T1)]).await, did(0, 0, 0, 1));
    assert_eq!(desktop.send(vec![ended(2, T2, T3)]).await, did(0, 0, 1, 0));
    assert_eq!(desktop.send(vec![firing(1, T3)]).await, did(1, 0, 0, 0));
    let resolved = desktop
        .ledger
        .with_index(|index| index.get(open).unwrap().resolved());
    assert!(
        resolved,
        "the resolution belongs to the episode of the earlier life"
    );
    desktop.stop().await;
}

#[tokio::test]
async fn killed_without_a_word_nothing_accepted_is_lost() {
    let disk = SimDisk::new(3);
    let desktop = simulated(&disk, &small(Path::new("")), &IntakeConfig::default());
    for n in 0..20 {
        assert_eq!(desktop.send(vec![firing(n, T0)]).await, did(1, 0, 0, 0));
    }
    assert_eq!(desktop.send(vec![ended(7, T0, T1)]).await, did(0, 0, 1, 0));
    disk.crash_after(1);
    drop(desktop);
    disk.power_cycle();
    let desktop = simulated(&disk, &small(Path::new("")), &IntakeConfig::default());
    assert_eq!(desktop.gate.open_count(), 19);
    let again: Vec<_> = (0..20).map(|n| firing(n, T0)).collect();
    assert_eq!(desktop.send(again).await, did(0, 19, 0, 1));
}

#[tokio::test]
async fn a_failed_sync_is_answered_503_with_nothing_half_done() {
    let disk = SimDisk::new(1);
    let desktop = simulated(&disk, &small(Path::new("")), &IntakeConfig::default());
    assert_eq!(desktop.send(vec![firing(1, T0)]).await, did(1, 0, 0, 0));
    until("it begins", || desktop.begun().len() == 1).await;
    assert_eq!(desktop.gate.ready(), Ok(()));
    disk.fail(Call::SyncData, 1, How::Errno(libc::EIO));
    let request = || vec![firing(2, T0), ended(1, T0, T1)];
    for _ in 0..2 {
        let refused = desktop.send(request()).await.unwrap_err();
        assert!(matches!(refused, AcceptError::Journal(_)), "{refused}");
        let text = refused.to_string();
        assert!(
            text.starts_with("not recorded, so not accepted: fast lane is closed"),
            "{text}"
        );
    }
    assert!(disk.faulted());
    assert_eq!(desktop.entries(), ["opened"]);
    assert_eq!((desktop.gate.open_count(), desktop.router.depth()), (1, 0));
    assert_eq!(
        desktop.begun().len(),
        1,
        "nothing is handled that is not recorded"
    );
    assert!(desktop.seen.resolved.lock().unwrap().is_empty());
    let why = desktop.gate.ready().unwrap_err();
    assert!(
        why.starts_with("the journal is read-only: its fast lane failed to"),
        "{why}"
    );
    // What needs no record is answered as ever.
    assert_eq!(desktop.send(vec![firing(1, T0)]).await, did(0, 1, 0, 0));
    drop(desktop);
    disk.power_cycle();
    // The disk is well again: the sender's next attempt is taken, in whatever state the failed
    // records are.
    let desktop = simulated(&disk, &small(Path::new("")), &IntakeConfig::default());
    let accepted = desktop.send(request()).await.unwrap();
    assert_eq!(accepted.opened + accepted.seen, 1);
    assert_eq!(accepted.resolved + accepted.ignored, 1);
    assert_eq!(desktop.gate.open_count(), 1);
}

#[tokio::test]
async fn a_full_disk_is_answered_503_until_there_is_room() {
    let disk = SimDisk::new(1);
    let desktop = simulated(&disk, &small(Path::new("")), &IntakeConfig::default());
    disk.set_capacity(5 * (128 << 10));
    let mut taken = 0;
    let refused = loop {
        match desktop.send(vec![firing(taken, T0)]).await {
            Ok(_) => taken += 1,
            Err(refused) => break refused,
        }
        assert!(taken < 500, "never full");
    };
    assert!(
        refused.to_string().contains("fast lane is full"),
        "{refused}"
    );
    let why = desktop.gate.ready().unwrap_err();
    assert!(why.contains("free space on the disk of state_dir"), "{why}");
    assert_eq!(desktop.gate.open_count() as u64, taken);
    disk.set_capacity(u64::MAX);
    let begun = Instant::now();
    while desktop.send(vec![firing(taken, T0)]).await.is_err() {
        assert!(begun.elapsed() < Duration::from_secs(5), "never recovers");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(desktop.gate.open_count() as u64, taken + 1);
    assert_eq!(desktop.gate.ready(), Ok(()));
}

#[tokio::test]
async fn a_journal_that_was_late_does_not_make_two_episodes_of_one() {
    let disk = SimDisk::new(1);
    let config = JournalConfig {
        deadline_ms: 300,
        ..small(Path::new(""))
    };
    let desktop = simulated(&disk, &config, &IntakeConfig::default());
    disk.set_sync_time(Duration::from_millis(900));
    let refused = desktop.send(vec![firing(1, T0)]).await.unwrap_err();
    assert!(
        refused.to_string().contains("not durable within 300 ms"),
        "{refused}"
    );
    assert_eq!((desktop.begun().len(), desktop.gate.open_count()), (0, 0));
    disk.set_sync_time(Duration::ZERO);
    // Meanwhile the late record becomes durable all the same.
    let fast = || desktop.ledger.journal().stats().fast.unwrap();
    until("it is durable", || fast().records == 1).await;
    assert_eq!(desktop.send(vec![firing(1, T0)]).await, did(1, 0, 0, 0));
    assert_eq!(fast().records, 2);
    until("it begins", || desktop.begun().len() == 1).await;
    let id = desktop.begun()[0];
    desktop.stop().await;
    disk.power_cycle();
    let desktop = simulated(&disk, &config, &IntakeConfig::default());
    let found = desktop
        .ledger
        .with_index(|index| index.iter().map(|incident| incident.id).collect::<Vec<_>>());
    assert_eq!(found, [id], "both records are of one episode");
    assert_eq!(desktop.gate.open_count(), 1);
}

#[tokio::test]
async fn closing_refuses_and_waits_for_what_was_begun() {
    let disk = SimDisk::new(1);
    let desktop = simulated(&disk, &small(Path::new("")), &IntakeConfig::default());
    disk.set_sync_time(Duration::from_millis(100));
    let begun = tokio::spawn(desktop.gate.accept(delivery(vec![firing(1, T0)])));
    tokio::time::sleep(Duration::from_millis(20)).await;
    desktop.gate.close().await;
    assert_eq!(desktop.entries(), ["opened"], "what was begun is durable");
    assert_eq!(begun.await.unwrap(), did(1, 0, 0, 0));
    let refused = desktop.send(vec![firing(2, T0)]).await;
    assert_eq!(refused, Err(AcceptError::ShuttingDown));
    assert_eq!(
        desktop.gate.ready(),
        Err("the agent is shutting down".to_owned())
    );
    // A router that drains refuses too, whoever asks.
    let disk = SimDisk::new(1);
    let desktop = simulated(&disk, &small(Path::new("")), &IntakeConfig::default());
    desktop.router.drain(Duration::ZERO).await;
    let refused = desktop.send(vec![firing(2, T0)]).await;
    assert_eq!(refused, Err(AcceptError::ShuttingDown));
    let mut unknown = delivery(Vec::new());
    unknown.groups = [(tenant("x"), vec![firing(1, T0)])].into();
    let refused = desktop.gate.accept(unknown).await;
    assert_eq!(refused, Err(AcceptError::UnknownTenant(tenant("x"))));
}
