//! Retention never cuts an open episode, whatever is appended meanwhile.

use std::{collections::BTreeMap, path::Path, sync::Arc};

use jiff::Timestamp;

use super::Retained;
use crate::{
    incident::{
        Alert, AlertStatus, Diagnosis, Entry, Episode, EpisodeId, Evidence, Fingerprint, Source,
        TraceContext, Verdict,
    },
    journal::{JournalConfig, LaneId, Lsn},
    ledger::{Incident, Index, Ledger, read, read_evidence},
};

fn config(dir: &Path) -> JournalConfig {
    JournalConfig {
        dir: dir.join("journal"),
        fast_keep_bytes: 512 << 10,
        safe_keep_bytes: 512 << 10,
        ..JournalConfig::small()
    }
}

fn id(n: u64) -> EpisodeId {
    EpisodeId::from_parts(1_700_000_000_000 + n, [0; 10])
}

fn alert(n: u64) -> Alert {
    Alert {
        status: AlertStatus::Firing,
        labels: BTreeMap::from([("alertname".to_owned(), format!("Alert{n}"))]),
        annotations: BTreeMap::new(),
        starts_at: Timestamp::UNIX_EPOCH,
        ends_at: None,
        fingerprint: Fingerprint(n),
    }
}

fn opened(n: u64) -> Entry {
    Entry::Opened {
        episode: Episode {
            id: id(n),
            tenant: "default".parse().expect("valid"),
            alert: alert(n).into(),
            source: Source::Alertmanager {
                receiver: "paramedic".into(),
            },
            opened_at: Timestamp::now(),
            trace: TraceContext {
                trace_id: "4bf92f3577b34da6a3ce929d0e0e4736".into(),
                span_id: "00f067aa0ba902b7".into(),
                sampled: true,
                begun_here: false,
            },
        },
    }
}

fn diagnosed(snapshot: String) -> Entry {
    Entry::Diagnosed {
        diagnosis: Diagnosis {
            top: Vec::new(),
            unknown: 1.0,
            excluded: Vec::new(),
            verdict: Verdict::Inconclusive("a test".into()),
            took_us: 1,
        },
        snapshot: Some(snapshot),
        since_open_ms: 1,
    }
}

fn evidence(n: u64) -> Evidence {
    Evidence {
        window_s: n as f64,
        ..Evidence::nothing(Timestamp::UNIX_EPOCH)
    }
}

/// Everything about an episode but the place of its evidence.
fn story(index: &Index, n: u64) -> Vec<(Timestamp, &'static str)> {
    let incident = index.get(id(n)).expect("known");
    let lines = incident.entries.iter();
    lines.map(|line| (line.at, line.entry.name())).collect()
}

async fn finished_episode(ledger: &Ledger, n: u64) {
    ledger.append(id(n), opened(n)).await.expect("appends");
    let place = ledger
        .store_evidence(id(n), &evidence(n))
        .await
        .expect("stores");
    let rest = [
        diagnosed(place),
        Entry::Collected {
            command: "ps".into(),
            status: "0".into(),
            output: "x".repeat(6000),
        },
        Entry::Resolved { alert: alert(n) },
        Entry::Closed,
    ];
    let rest = rest.into_iter().map(|entry| (id(n), entry)).collect();
    ledger.append_all(rest).await.expect("appends");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn retention_never_cuts_an_open_episode() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let config = config(dir.path());
    let (ledger, _) = Ledger::open(&config, 1000).expect("opens");
    let ledger = Arc::new(ledger);
    for n in [1, 2] {
        ledger.append(id(n), opened(n)).await.expect("appends");
        let place = ledger
            .store_evidence(id(n), &evidence(n))
            .await
            .expect("stores");
        ledger
            .append(id(n), diagnosed(place))
            .await
            .expect("appends");
    }
    // One of the two goes on being written to while history is given up behind it.
    let busy = tokio::spawn({
        let ledger = ledger.clone();
        async move {
            for _ in 0..40 {
                let entry = Entry::Seen { alert: alert(2) };
                ledger.append(id(2), entry).await.expect("appends");
                tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            }
        }
    });
    let mut total = Retained::default();
    for n in 10..210 {
        finished_episode(&ledger, n).await;
        if n % 5 == 0 {
            let done = ledger.retain().await.expect("retains");
            total.carried += done.carried;
            total.snapshots += done.snapshots;
            total.forgotten += done.forgotten;
            total.files_removed += done.files_removed;
        }
    }
    busy.await.expect("ends");
    println!("{total:?}");
    assert!(total.carried > 4 && total.snapshots >= 2 && total.files_removed > 5);
    assert!(total.forgotten > 50);
    for lane in [LaneId::Fast, LaneId::Safe] {
        let bytes: u64 = ledger
            .journal()
            .spans(lane)
            .iter()
            .map(|span| span.bytes)
            .sum();
        // A round every five episodes lets one or two segments more gather.
        assert!(bytes <= 6 * (128 << 10), "{lane}: {bytes} bytes kept");
    }
    let before = ledger.with_index(|index| [story(index, 1), story(index, 2)]);
    assert_eq!((before[0].len(), before[1].len()), (2, 42));
    let ledger = Arc::into_inner(ledger).expect("nobody else has it");
    ledger.journal.clone().close().await.expect("closes");
    drop(ledger);

    let (index, found) = read(&config.dir, 1000).expect("reads");
    assert!(
        found.corruption.is_empty() && found.unreadable.is_empty() && found.cuts.is_empty(),
        "{found:?}"
    );
    assert_eq!([story(&index, 1), story(&index, 2)], before);
    for n in [1, 2] {
        let incident = index.get(id(n)).expect("known");
        let Entry::Diagnosed {
            snapshot: Some(place),
            ..
        } = &incident.entries[1].entry
        else {
            panic!("{:?}", incident.entries[1])
        };
        let read = read_evidence(&config.dir, place).expect("its evidence is there");
        assert!((read.window_s - n as f64).abs() < f64::EPSILON);
    }
    assert!(
        index.get(id(10)).is_none(),
        "the oldest finished one is gone"
    );
    assert!(index.get(id(209)).is_some_and(Incident::finished));
}

#[tokio::test]
async fn an_episode_too_large_to_be_carried_holds_history_back() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let config = config(dir.path());
    let (ledger, _) = Ledger::open(&config, 1000).expect("opens");
    ledger.append(id(1), opened(1)).await.expect("appends");
    for _ in 0..4 {
        let entry = Entry::Collected {
            command: "ps".into(),
            status: "0".into(),
            output: "x".repeat(6000),
        };
        ledger.append(id(1), entry).await.expect("appends");
    }
    for n in 10..160 {
        finished_episode(&ledger, n).await;
        if n % 10 == 0 {
            ledger.retain().await.expect("retains");
        }
    }
    let spans = ledger.journal().spans(LaneId::Fast);
    assert_eq!((spans[0].segment, spans[0].first_lsn), (1, Lsn(1)));
    ledger.journal.clone().close().await.expect("closes");
    let (index, _) = read(&config.dir, 1000).expect("reads");
    assert_eq!(story(&index, 1).len(), 5);
}

#[tokio::test]
async fn an_alert_that_outlives_its_incident_in_the_list_is_carried() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let config = config(dir.path());
    let known = |ledger: &Ledger| {
        ledger.with_index(|index| (index.get(id(1)).is_some(), index.episode(id(1)).is_some()))
    };
    let (ledger, _) = Ledger::open(&config, 5).expect("opens");
    let handled = vec![(id(1), opened(1)), (id(1), Entry::Closed)];
    ledger.append_all(handled).await.expect("appends");
    let mut files_removed = 0;
    for n in 10..160 {
        finished_episode(&ledger, n).await;
        if n % 5 == 0 {
            files_removed += ledger.retain().await.expect("retains").files_removed;
        }
    }
    assert!(files_removed > 0);
    assert_eq!(known(&ledger), (false, true), "not listed, not forgotten");
    ledger.journal.clone().close().await.expect("closes");
    drop(ledger);

    let (ledger, _) = Ledger::open(&config, 5).expect("opens");
    let heard = ledger.take_heard();
    let openings = |n| {
        let of = heard.iter().filter(|heard| heard.id == id(n));
        of.filter(|heard| matches!(heard.event, super::super::Event::Opened { .. }))
            .count()
    };
    assert_eq!(
        (openings(1), openings(10)),
        (1, 0),
        "the segment of both is gone"
    );
    assert_eq!(known(&ledger), (false, true));
    let resolved = Entry::Resolved { alert: alert(1) };
    ledger.append(id(1), resolved).await.expect("appends");
    assert_eq!(
        known(&ledger),
        (false, false),
        "nothing more can come of it"
    );
}
