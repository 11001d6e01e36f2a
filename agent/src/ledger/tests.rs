//! What is written can be read: every kind of entry, through the form that it has on disk.

use jiff::Timestamp;

use super::Stored;
use crate::incident::{
    Action, ActionKind, Alert, AlertStatus, CgroupId, Diagnosis, Entry, Episode, EpisodeId,
    Fingerprint, Intent, KnobChange, Outcome, OutcomeKind, Refusal, Source, TraceContext, Verdict,
};

fn alert() -> Alert {
    let labels = [("alertname".to_owned(), "at \"entry\"".to_owned())].into();
    Alert {
        status: AlertStatus::Firing,
        fingerprint: Fingerprint::of(&labels),
        labels,
        annotations: [].into(),
        starts_at: Timestamp::UNIX_EPOCH,
        ends_at: None,
    }
}

fn every_entry() -> Vec<Entry> {
    let action = Action {
        kind: ActionKind::ThrottleCpu,
        cgroup: CgroupId(7),
        path: "/a b\n".to_owned(),
        amount: Some(0.5),
    };
    let refusal = Refusal {
        reason: "policy".to_owned(),
        detail: String::new(),
    };
    vec![
        Entry::Opened {
            episode: Episode {
                id: EpisodeId([1; 16]),
                tenant: "default".parse().unwrap(),
                alert: alert().into(),
                source: Source::Manual,
                opened_at: Timestamp::UNIX_EPOCH,
                trace: TraceContext {
                    trace_id: "0".repeat(32),
                    span_id: "0".repeat(16),
                    sampled: true,
                    begun_here: false,
                },
            },
        },
        Entry::Seen { alert: alert() },
        Entry::Resolved { alert: alert() },
        Entry::Diagnosed {
            diagnosis: Diagnosis {
                top: Vec::new(),
                unknown: 1.0,
                excluded: vec![("a".to_owned(), "b".to_owned())],
                verdict: Verdict::Inconclusive("nothing stands out".to_owned()),
                took_us: 3,
            },
            snapshot: Some("{}".to_owned()),
            since_open_ms: 4,
        },
        Entry::Refused {
            action: Some(action.clone()),
            refusal,
        },
        Entry::Intended {
            intent: Intent {
                episode: EpisodeId([1; 16]),
                action,
                changes: vec![KnobChange {
                    of: crate::incident::Holder::Cgroup,
                    file: "cpu.max".to_owned(),
                    prior: "max 100000\n".to_owned(),
                    value: "50000 100000".to_owned(),
                }],
                lease_until: Timestamp::UNIX_EPOCH,
            },
        },
        Entry::Applied { took_us: 5 },
        Entry::Collected {
            command: "processes".to_owned(),
            status: "0".to_owned(),
            output: "\u{0}\u{1b}[31m".to_owned(),
        },
        Entry::Verified {
            outcome: Outcome {
                kind: OutcomeKind::Healed,
                checks: Vec::new(),
                after_s: 1.5,
            },
            snapshot: None,
        },
        Entry::RolledBack {
            reason: "lease_ended".to_owned(),
            by_guardian: Some(Timestamp::UNIX_EPOCH),
            left_alone: vec!["cpu.max".to_owned()],
        },
        Entry::TakenOver {
            detail: String::new(),
        },
        Entry::Failed {
            error: String::new(),
        },
        Entry::Closed,
    ]
}

#[test]
fn every_entry_is_read_back_as_it_was_written() {
    for entry in every_entry() {
        let name = entry.name();
        let written = serde_json::to_vec(&Stored {
            at: Timestamp::UNIX_EPOCH,
            entry: entry.clone(),
        })
        .unwrap();
        let read: Stored =
            serde_json::from_slice(&written).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(read.entry, entry);
        let json: serde_json::Value = serde_json::from_slice(&written).unwrap();
        assert_eq!(json["entry"], name);
    }
}
