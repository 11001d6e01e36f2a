//! Entries of a record as the agent writes it, for tests of the commands that read one.

use std::{collections::BTreeMap, sync::Arc};

use jiff::Timestamp;
use paramedic::incident::{
    Alert, AlertStatus, Diagnosis, Entry, Episode, EpisodeId, Fingerprint, Source, TraceContext,
    Verdict,
};

/// Of the `n`th episode.
pub fn id(n: u64) -> EpisodeId {
    EpisodeId::from_parts(1_700_000_000_000 + n, [0; 10])
}

/// The beginning of the `n`th episode, of an alert of this name.
pub fn opened(n: u64, alert: &str) -> Entry {
    Entry::Opened {
        episode: Episode {
            id: id(n),
            tenant: "default".parse().unwrap(),
            alert: Arc::new(Alert {
                status: AlertStatus::Firing,
                labels: BTreeMap::from([("alertname".to_owned(), alert.to_owned())]),
                annotations: BTreeMap::new(),
                starts_at: Timestamp::UNIX_EPOCH,
                ends_at: None,
                fingerprint: Fingerprint(n),
            }),
            source: Source::Alertmanager {
                receiver: "paramedic".to_owned(),
            },
            opened_at: Timestamp::now(),
            trace: TraceContext {
                trace_id: "4bf92f3577b34da6a3ce929d0e0e4736".to_owned(),
                span_id: "00f067aa0ba902b7".to_owned(),
                sampled: true,
                begun_here: false,
            },
        },
    }
}

/// A diagnosis of nothing, by the evidence at this place.
pub fn diagnosed(snapshot: String) -> Entry {
    Entry::Diagnosed {
        diagnosis: Diagnosis {
            top: Vec::new(),
            unknown: 1.0,
            excluded: Vec::new(),
            verdict: Verdict::Inconclusive("a test".to_owned()),
            took_us: 1,
        },
        snapshot: Some(snapshot),
        since_open_ms: 1,
    }
}
