use std::{collections::BTreeMap, path::Path};

use super::*;
use crate::{
    clock::SystemClock,
    evidence::{EvidenceConfig, NoKernel, Recorder},
    incident::{
        ActionKind, Alert, AlertStatus, CgroupId, Culprit, Diagnosis, Episode, Fingerprint,
        Hypothesis, KnobChange, Level, Source, TraceContext, Verdict,
    },
    journal::JournalConfig,
    ledger::{Ledger, State},
    pipeline::resume,
    remedy::{Remedies, RemedyConfig},
};

const ID: EpisodeId = EpisodeId([7; 16]);

fn stages(dir: &Path) -> Arc<Stages> {
    crate::secret::choose_crypto();
    let clock = SystemClock::shared();
    let journal = JournalConfig {
        dir: dir.join("journal"),
        writer_realtime: false,
        writer_nice: 0,
        ..JournalConfig::default()
    };
    let begun = std::time::Instant::now();
    let ledger = loop {
        // The threads of an earlier life's journal may still be ending.
        match Ledger::open(&journal, 16) {
            Ok((ledger, _)) => break ledger,
            Err(error) if begun.elapsed() > Duration::from_secs(30) => panic!("{error}"),
            Err(_) => std::thread::sleep(Duration::from_millis(10)),
        }
    };
    let evidence = EvidenceConfig {
        syscall_watch_ms: 0,
        ..EvidenceConfig::default()
    };
    let remedy = RemedyConfig {
        level: Level::Approve,
        ..RemedyConfig::default()
    };
    // A plain folder is no hierarchy: an action that gets as far as its target is refused there.
    let recorder = Arc::new(Recorder::start(&evidence, Arc::new(NoKernel)).unwrap());
    let remedies = Remedies::at(&remedy, clock.clone(), dir);
    Arc::new(Stages::bare(ledger, clock, recorder, remedies, dir))
}

fn alert(status: AlertStatus) -> Alert {
    let labels = BTreeMap::from([("alertname".to_owned(), "Hot".to_owned())]);
    Alert {
        status,
        fingerprint: Fingerprint::of(&labels),
        labels,
        annotations: BTreeMap::new(),
        starts_at: Timestamp::now(),
        ends_at: None,
    }
}

fn intent() -> Intent {
    Intent {
        episode: ID,
        action: Action {
            kind: ActionKind::ThrottleCpu,
            cgroup: CgroupId(42),
            path: "/app".to_owned(),
            amount: None,
        },
        changes: vec![KnobChange {
            of: crate::incident::Holder::Cgroup,
            file: "cpu.max".to_owned(),
            prior: "max 100000".to_owned(),
            value: "50000 100000".to_owned(),
        }],
        lease_until: Timestamp::now(),
    }
}

/// An episode that was diagnosed and proposes an action, for so long.
async fn proposed(stages: &Stages, lasts_s: i64) {
    let episode = Episode {
        id: ID,
        tenant: "default".parse().unwrap(),
        alert: alert(AlertStatus::Firing).into(),
        source: Source::Manual,
        opened_at: Timestamp::now(),
        trace: TraceContext {
            trace_id: "1".repeat(32),
            span_id: "2".repeat(16),
            sampled: false,
            begun_here: false,
        },
    };
    let diagnosis = Diagnosis {
        top: vec![Hypothesis {
            id: "cpu-hog".to_owned(),
            title: "a hog".to_owned(),
            posterior: 0.95,
            interval: None,
            prior: 0.1,
            culprit: Some(Culprit {
                cgroup: CgroupId(42),
                path: "/app".to_owned(),
                chosen_by: "cpu.cores".to_owned(),
                value: 2.0,
            }),
            features: Vec::new(),
            notes: Vec::new(),
            recovery: Vec::new(),
            remedies: Vec::new(),
        }],
        unknown: 0.05,
        excluded: Vec::new(),
        verdict: Verdict::Conclusive,
        took_us: 1,
    };
    let expires = Timestamp::now() + SignedDuration::from_secs(lasts_s);
    let entries = [
        Entry::Opened { episode },
        Entry::Diagnosed {
            diagnosis,
            snapshot: None,
            since_open_ms: 1,
        },
        Entry::Proposed {
            intent: intent(),
            expires,
        },
    ];
    let entries = entries.into_iter().map(|entry| (ID, entry)).collect();
    stages.ledger.append_all(entries).await.unwrap();
}

/// As a stop leaves it.
async fn end(stages: Arc<Stages>) {
    stages.keeper.close().await;
    stages.ledger.journal().clone().close().await.unwrap();
}

fn incident(stages: &Stages) -> Incident {
    stages
        .ledger
        .with_index(|index| index.get(ID).cloned())
        .unwrap()
}

fn names(stages: &Stages) -> Vec<&'static str> {
    let entries = incident(stages).entries;
    entries
        .iter()
        .skip(3)
        .map(|line| line.entry.name())
        .collect()
}

async fn closed(stages: &Stages) {
    let all = async {
        while !incident(stages).closed() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_mins(1), all)
        .await
        .unwrap();
}

#[tokio::test]
async fn one_answer_counts_and_no_means_nothing_is_done() {
    let dir = tempfile::tempdir().unwrap();
    let stages = stages(dir.path());
    let unknown = answer(&stages, ID, Word::Approve, "ana").await;
    assert!(matches!(unknown, Err(AnswerError::Unknown(ID))));
    proposed(&stages, 60).await;
    assert_eq!(incident(&stages).state(), State::Proposed);
    let (first, second) = tokio::join!(
        answer(&stages, ID, Word::Reject, "ana"),
        answer(&stages, ID, Word::Approve, "ben"),
    );
    assert!(first.is_ok() && matches!(second, Err(AnswerError::Answered(ID, "rejected"))));
    assert_eq!(names(&stages), ["rejected", "closed"]);
    assert_eq!(incident(&stages).state(), State::Reported);
}

#[tokio::test]
async fn what_the_evidence_of_now_does_not_say_any_more_is_not_done() {
    let dir = tempfile::tempdir().unwrap();
    let stages = stages(dir.path());
    proposed(&stages, 60).await;
    answer(&stages, ID, Word::Approve, "ana").await.unwrap();
    let again = answer(&stages, ID, Word::Approve, "ana").await;
    assert!(matches!(again, Err(AnswerError::Answered(ID, "approved"))));
    closed(&stages).await;
    // Without rules nothing is blamed.
    assert_eq!(
        names(&stages),
        ["approved", "diagnosed", "refused", "closed"]
    );
    assert_eq!(incident(&stages).state(), State::Reported);
    assert!(incident(&stages).intent().is_none());
}

#[tokio::test]
async fn a_proposal_lapses_with_its_time_or_its_alert() {
    let dir = tempfile::tempdir().unwrap();
    let own = stages(dir.path());
    proposed(&own, -1).await;
    let late = answer(&own, ID, Word::Approve, "ana").await;
    assert!(matches!(late, Err(AnswerError::Lapsed { id: ID, .. })));
    assert_eq!(names(&own), ["lapsed", "closed"]);

    let dir = tempfile::tempdir().unwrap();
    let own = stages(dir.path());
    proposed(&own, 3600).await;
    let expires = incident(&own).proposal().unwrap().expires;
    wait_for_word(&own, ID, expires);
    let resolved = Entry::Resolved {
        alert: alert(AlertStatus::Resolved),
    };
    own.ledger.append(ID, resolved).await.unwrap();
    closed(&own).await;
    assert_eq!(names(&own), ["resolved", "lapsed", "closed"]);
    let late = answer(&own, ID, Word::Approve, "ana").await;
    assert!(matches!(late, Err(AnswerError::Answered(ID, "given up"))));
    own.keeper.close().await;
    assert_eq!(own.keeper.turns.waiting.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn a_restart_lets_it_wait_on_or_says_why_not() {
    // Still in time: it waits on, and is not handled again.
    let dir = tempfile::tempdir().unwrap();
    let own = stages(dir.path());
    proposed(&own, 3600).await;
    end(own).await;
    let own = stages(dir.path());
    let resumed = resume(&own).await.unwrap();
    assert_eq!((resumed.proposed, resumed.again.len()), (1, 0));
    assert_eq!(names(&own), ["taken_over"]);
    answer(&own, ID, Word::Reject, "ana").await.unwrap();
    own.keeper.close().await;
    let stopped = answer(&own, ID, Word::Approve, "ana").await;
    assert!(matches!(stopped, Err(AnswerError::Stopping)));

    // Over meanwhile; or approved, and the agent ended before anything was done.
    for (lasts_s, approved) in [(-1, false), (3600, true)] {
        let dir = tempfile::tempdir().unwrap();
        let own = stages(dir.path());
        proposed(&own, lasts_s).await;
        if approved {
            let by = "ana".to_owned();
            own.ledger.append(ID, Entry::Approved { by }).await.unwrap();
        }
        end(own).await;
        let own = stages(dir.path());
        let resumed = resume(&own).await.unwrap();
        assert_eq!((resumed.proposed, resumed.again.len()), (0, 0));
        assert_eq!(names(&own).last_chunk(), Some(&["lapsed", "closed"]));
    }
}
