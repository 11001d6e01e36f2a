//! News that comes late or from another side: joined episodes, resolutions of openings in doubt,
//! senders that never say that it ended, and a start with a past longer than the index.

use super::*;
use crate::intake::PressureConfig;

fn local(status: AlertStatus, starts: &str) -> Delivery {
    let mut alert = firing(99, starts);
    alert.status = status;
    alert.labels = [("alertname".to_owned(), "LocalCpuPressure".to_owned())].into();
    alert.ends_at = (status == AlertStatus::Resolved).then(|| T3.parse().unwrap());
    let resource = "cpu".to_owned();
    Delivery {
        source: Source::Pressure { resource },
        ..delivery(vec![alert])
    }
}

fn named(n: u64, name: &str, starts: &str) -> Alert {
    Alert {
        labels: [("alertname".to_owned(), name.to_owned())].into(),
        ..firing(n, starts)
    }
}

/// A desk that knows kin, from the start.
fn joining(dir: &Path) -> Desktop {
    let (ledger, _) = Ledger::open(&small(dir), 100).unwrap();
    let kin: Kin = Arc::new(PressureConfig::default().kin());
    desktop_of(
        ledger,
        &RoutingConfig::default(),
        &IntakeConfig::default(),
        Some(kin),
    )
}

#[tokio::test]
async fn an_alert_joins_the_episode_of_a_local_trigger_and_ends_it() {
    let dir = tempfile::tempdir().unwrap();
    let desktop = joining(dir.path());
    let send = |delivery| desktop.gate.accept(delivery);
    assert_eq!(send(local(AlertStatus::Firing, T0)).await, did(1, 0, 0, 0));
    // Another kind of trouble is another episode.
    let memory = named(1, "HostOutOfMemory", T1);
    assert_eq!(desktop.send(vec![memory]).await, did(1, 0, 0, 0));
    // The same is the same episode, and the alert is its own from now on.
    let cpu = || named(2, "HostHighCpu", T1);
    assert_eq!(desktop.send(vec![cpu()]).await, did(0, 1, 0, 0));
    assert_eq!(desktop.entries(), ["opened", "opened", "seen"]);
    assert_eq!(desktop.send(vec![cpu()]).await, did(0, 1, 0, 0), "a resend");
    assert_eq!(desktop.entries().len(), 3);
    assert_eq!(desktop.gate.open_count(), 2);
    // A second alert about CPUs is an episode of its own: alerts don't join each other.
    let load = named(3, "HostHighLoad", T1);
    assert_eq!(desktop.send(vec![load]).await, did(1, 0, 0, 0));
    // The trigger is quiet, but the alert fires: it stays open, and the trigger opens nothing new.
    assert_eq!(
        send(local(AlertStatus::Resolved, T0)).await,
        did(0, 0, 0, 1)
    );
    let again = "2026-11-23T12:01:00Z";
    assert_eq!(
        send(local(AlertStatus::Firing, again)).await,
        did(0, 1, 0, 0)
    );
    assert_eq!(desktop.gate.open_count(), 3);
    until("all begin", || desktop.begun().len() == 3).await;
    let first = desktop.begun()[0];
    let book = desktop.gate.open_count();
    desktop.stop().await;

    // All of that is known after a restart.
    let desktop = joining(dir.path());
    assert_eq!(desktop.gate.open_count(), book);
    assert_eq!(desktop.send(vec![cpu()]).await, did(0, 1, 0, 0));
    let end = Alert {
        status: AlertStatus::Resolved,
        ends_at: Some(T3.parse().unwrap()),
        ..cpu()
    };
    assert_eq!(desktop.send(vec![end]).await, did(0, 0, 1, 0));
    let resolved = desktop
        .ledger
        .with_index(|index| index.get(first).unwrap().resolved());
    assert!(resolved, "the trigger's episode ended with the alert");
    desktop.stop().await;
}

#[tokio::test]
async fn an_alert_that_comes_first_keeps_the_trigger_from_opening_another() {
    let dir = tempfile::tempdir().unwrap();
    let desktop = joining(dir.path());
    let cpu = named(2, "HostHighCpu", T0);
    assert_eq!(desktop.send(vec![cpu]).await, did(1, 0, 0, 0));
    let trigger = desktop.gate.accept(local(AlertStatus::Firing, T1)).await;
    assert_eq!(trigger, did(0, 1, 0, 0));
    assert_eq!(desktop.entries(), ["opened"]);
    desktop.stop().await;
}

#[tokio::test]
async fn a_join_that_is_not_durable_is_undone() {
    let disk = SimDisk::new(1);
    let desktop = simulated(&disk, &small(Path::new("")), &IntakeConfig::default());
    let kin: Kin = Arc::new(PressureConfig::default().kin());
    let gate = desktop.gate.clone().joining(kin);
    assert_eq!(
        gate.accept(local(AlertStatus::Firing, T0)).await,
        did(1, 0, 0, 0)
    );
    disk.fail(Call::SyncData, 1, How::Errno(libc::EIO));
    let cpu = || delivery(vec![named(2, "HostHighCpu", T1)]);
    assert!(gate.accept(cpu()).await.is_err());
    let open = gate.inner.desk().book.open_ids().next().unwrap();
    let key = gate.inner.desk().book.key_of(open).cloned().unwrap();
    assert_eq!(key.1, Fingerprint(99), "the trigger's own again");
    assert_eq!(gate.open_count(), 1);
}

#[tokio::test]
async fn a_resolution_of_an_opening_in_doubt_is_recorded() {
    let disk = SimDisk::new(1);
    let config = JournalConfig {
        deadline_ms: 300,
        ..small(Path::new(""))
    };
    let desktop = simulated(&disk, &config, &IntakeConfig::default());
    disk.set_sync_time(Duration::from_millis(900));
    assert!(desktop.send(vec![firing(1, T0)]).await.is_err());
    disk.set_sync_time(Duration::ZERO);
    let fast = || desktop.ledger.journal().stats().fast.unwrap();
    until("the late record is durable", || fast().records == 1).await;
    assert_eq!(desktop.send(vec![ended(1, T0, T1)]).await, did(0, 0, 1, 0));
    assert_eq!(
        desktop.send(vec![ended(1, T0, T1)]).await,
        did(0, 0, 0, 1),
        "once"
    );
    desktop.stop().await;
    disk.power_cycle();
    let desktop = simulated(&disk, &config, &IntakeConfig::default());
    assert_eq!(desktop.gate.open_count(), 0, "it is known that it ended");
    assert_eq!(desktop.send(vec![firing(1, T0)]).await, did(0, 0, 0, 1));
}

#[tokio::test]
async fn an_episode_of_which_nothing_is_heard_ends() {
    let dir = tempfile::tempdir().unwrap();
    let desktop = real(dir.path());
    assert_eq!(
        desktop.send(vec![firing(1, T0), firing(2, T0)]).await,
        did(2, 0, 0, 0)
    );
    assert!(desktop.gate.quiet_for(Duration::ZERO).is_empty());
    // The clock of these tests stands still: an earlier look stands for a later now.
    let book = || {
        desktop
            .gate
            .inner
            .desk()
            .book
            .quiet_since(start() + Duration::from_secs(1))
            .len()
    };
    assert_eq!(book(), 2);
    let alert = firing(2, T0);
    assert_eq!(
        desktop.gate.expire(tenant("a"), alert).await,
        did(0, 0, 1, 0)
    );
    assert_eq!((book(), desktop.gate.open_count()), (1, 1));
    let names = desktop.entries();
    assert_eq!(names, ["opened", "opened", "resolved"]);
    // The same spell, told again by somebody late, is old news; a new one is not.
    assert_eq!(desktop.send(vec![firing(2, T0)]).await, did(0, 0, 0, 1));
    desktop.stop().await;
}

/// The index of readers holds ten incidents; what was open or closed before is known all the same.
#[tokio::test]
async fn a_restart_knows_more_than_the_index_shows() {
    let dir = tempfile::tempdir().unwrap();
    let begin = || {
        let (ledger, _) = Ledger::open(&small(dir.path()), 10).unwrap();
        let routing = RoutingConfig {
            concurrency_max: 128,
            tenant_concurrency_max: 128,
            ..RoutingConfig::default()
        };
        desktop(ledger, &routing, &IntakeConfig::default())
    };
    let desktop = begin();
    for n in 0..60 {
        assert_eq!(desktop.send(vec![firing(n, T0)]).await, did(1, 0, 0, 0));
        if n % 2 == 0 {
            assert_eq!(desktop.send(vec![ended(n, T0, T1)]).await, did(0, 0, 1, 0));
        }
    }
    until("all begin", || desktop.begun().len() == 60).await;
    // Handled, one and all; those with odd numbers still fire.
    let closed = desktop
        .begun()
        .into_iter()
        .map(|id| (id, Entry::Closed))
        .collect();
    desktop.ledger.append_all(closed).await.unwrap();
    assert_eq!(desktop.send(vec![firing(100, T0)]).await, did(1, 0, 0, 0));
    let shown = desktop.ledger.with_index(|index| index.iter().count());
    assert!(shown <= 11, "{shown}");
    desktop.stop().await;

    let desktop = begin();
    assert_eq!(desktop.gate.open_count(), 31);
    let all: Vec<_> = (0..60).map(|n| firing(n, T0)).collect();
    assert_eq!(desktop.send(all).await, did(0, 30, 0, 30));
    let rest = (0..60)
        .filter(|n| n % 2 == 1)
        .map(|n| ended(n, T0, T1))
        .collect();
    assert_eq!(desktop.send(rest).await, did(0, 0, 30, 0));
    desktop.stop().await;
}
