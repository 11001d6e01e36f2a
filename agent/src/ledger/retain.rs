//! Bounds the history without cutting an open episode: what open episodes have in segments that
//! are to go is written again at the log's end, then the segments are given up.
//!
//! One record carries all lines of one episode and stands for all of them, so whether a crash
//! falls before, in or after it, replay gives the same lines once. Evidence that an open episode
//! names is stored again too, and the carried lines name the new place.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use tracing::warn;

use super::{Incident, KIND_CARRIED_JSON, KIND_EVIDENCE_JSON, Ledger, LedgerError, Line};
use crate::{
    incident::{Entry, EpisodeId},
    journal::{JournalError, LaneId, Lsn, Record, SnapshotMeta, SnapshotRef},
};

/// What one round did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Retained {
    /// Open episodes whose lines were written again.
    pub carried: usize,
    /// Snapshots stored again for them.
    pub snapshots: usize,
    /// Finished incidents dropped from memory, because their records go.
    pub forgotten: usize,
    /// Segment files removed: those given up in earlier rounds.
    pub files_removed: usize,
}

/// A record that stands for all earlier ones of its episode.
#[derive(Serialize, Deserialize)]
pub(super) struct Carried {
    pub(super) lines: Vec<Line>,
}

/// What is to be carried of one episode.
struct Burden {
    id: EpisodeId,
    lines: Vec<Line>,
    anchor: u64,
}

impl Ledger {
    /// Gives up history beyond the configured bytes and age. To be called now and then, once a
    /// minute for instance: it is cheap when there is nothing to do.
    ///
    /// # Errors
    /// What could not be carried stays: an error leaves the log longer, never shorter.
    pub async fn retain(&self) -> Result<Retained, LedgerError> {
        let mut done = Retained::default();
        let (fast, safe, burdens) = self.survey().await;
        // What must stay is at or above these; they only come down from here.
        let mut keep = [fast, safe];
        for mut burden in burdens {
            if let Some(below) = safe {
                match self.save_snapshots(&mut burden, below).await {
                    Ok(saved) => done.snapshots += saved,
                    Err(error) => {
                        warn!(episode = %burden.id, error = %error, "its evidence cannot be carried forward");
                        keep[1] = lower(keep[1], oldest_snapshot(&burden.lines));
                    }
                }
            }
            match self.carry(&burden).await {
                Ok(()) => done.carried += 1,
                Err(LedgerError::Journal {
                    source: JournalError::TooLarge { .. },
                    ..
                }) => {
                    warn!(episode = %burden.id, "too large to be carried forward: older history stays");
                    keep[0] = lower(keep[0], Some(burden.anchor));
                    keep[1] = lower(keep[1], oldest_snapshot(&burden.lines));
                }
                Err(error) => return Err(error),
            }
        }
        if let Some(below) = keep[0] {
            done.forgotten = self.with_index_mut(|index| index.forget_finished(below.0));
        }
        done.files_removed = self.give_up(keep).await;
        Ok(done)
    }

    /// What is overdue in both lanes, and what open episodes have in it. No append is under way
    /// meanwhile: all that is durable below the limits is in the index, all that comes later is
    /// above them.
    async fn survey(&self) -> (Option<Lsn>, Option<Lsn>, Vec<Burden>) {
        let _quiet = self.gate.write().await;
        let fast = self.journal.overdue(LaneId::Fast);
        let safe = self.journal.overdue(LaneId::Safe);
        if fast.is_none() && safe.is_none() {
            return (None, None, Vec::new());
        }
        let burdens = self.with_index(|index| {
            index
                .unfinished()
                .filter(|incident| {
                    let anchor = fast.is_some_and(|below| incident.anchor < below.0);
                    let snapshot = oldest_snapshot(&incident.entries);
                    anchor || snapshot.is_some_and(|lsn| safe.is_some_and(|below| lsn < below.0))
                })
                .map(Burden::of)
                .collect()
        });
        (fast, safe, burdens)
    }

    /// Stores the episode's snapshots below `below` again and changes the references to them.
    async fn save_snapshots(&self, burden: &mut Burden, below: Lsn) -> Result<usize, JournalError> {
        let mut saved = BTreeMap::new();
        let id = burden.id;
        for text in burden.lines.iter_mut().filter_map(snapshot_text) {
            let Some(reference) = reference(text).filter(|reference| reference.lsn < below) else {
                continue;
            };
            if !saved.contains_key(text) {
                let journal = self.journal.clone();
                let reading =
                    tokio::task::spawn_blocking(move || journal.read_snapshot(&reference));
                let bytes = match reading.await {
                    Ok(Ok(bytes)) => bytes,
                    // Not there or not intact any more: carrying cannot make it worse.
                    Ok(Err(JournalError::Snapshot { .. })) | Err(_) => continue,
                    Ok(Err(error)) => return Err(error),
                };
                let meta = SnapshotMeta {
                    kind: KIND_EVIDENCE_JSON,
                    episode: id.0,
                };
                let again = self.journal.store_snapshot(meta, bytes).await?;
                let Ok(again) = serde_json::to_string(&again) else {
                    continue;
                };
                saved.insert(text.clone(), again);
            }
            if let Some(again) = saved.get(text) {
                text.clone_from(again);
            }
        }
        Ok(saved.len())
    }

    async fn carry(&self, burden: &Burden) -> Result<(), LedgerError> {
        let _writing = self.gate.read().await;
        let episode = burden.id;
        let carried = Carried {
            lines: burden.lines.clone(),
        };
        let payload = serde_json::to_vec(&carried)
            .map_err(|source| LedgerError::Encode { episode, source })?;
        let record = Record {
            kind: KIND_CARRIED_JSON,
            episode: episode.0,
            payload: payload.into(),
        };
        let lsn =
            self.journal
                .append(vec![record])
                .await
                .map_err(|source| LedgerError::Journal {
                    what: "carried entries".into(),
                    episode,
                    source,
                })?;
        self.with_index_mut(|index| index.restore(episode, carried.lines, lsn.0));
        Ok(())
    }

    /// Unlinking takes milliseconds, so not on a thread that others wait for. A file that can't be
    /// removed is harmless, and tried again in the next round.
    async fn give_up(&self, keep: [Option<Lsn>; 2]) -> usize {
        let journal = self.journal.clone();
        let removing = tokio::task::spawn_blocking(move || {
            let lanes = [LaneId::Fast, LaneId::Safe].into_iter().zip(keep);
            // Even with nothing new to give up: files of earlier rounds may be waiting.
            let counts = lanes.map(|(lane, below)| {
                journal
                    .retain(lane, below.unwrap_or_default())
                    .unwrap_or_else(|error| {
                        warn!(%lane, %error, "a journal segment that was given up is still there");
                        0
                    })
            });
            counts.sum()
        });
        removing.await.unwrap_or_default()
    }
}

impl Burden {
    fn of(incident: &Incident) -> Self {
        Self {
            id: incident.id,
            lines: incident.entries.clone(),
            anchor: incident.anchor,
        }
    }
}

fn lower(keep: Option<Lsn>, needed: Option<u64>) -> Option<Lsn> {
    let needed = needed.map_or(Lsn(u64::MAX), Lsn);
    keep.map(|keep| keep.min(needed))
}

/// The reference to evidence that an entry bears.
fn snapshot_text(line: &mut Line) -> Option<&mut String> {
    match &mut line.entry {
        Entry::Diagnosed { snapshot, .. } | Entry::Verified { snapshot, .. } => snapshot.as_mut(),
        _ => None,
    }
}

fn reference(text: &str) -> Option<SnapshotRef> {
    serde_json::from_str(text).ok()
}

fn oldest_snapshot(lines: &[Line]) -> Option<u64> {
    let snapshots = lines.iter().filter_map(|line| match &line.entry {
        Entry::Diagnosed { snapshot, .. } | Entry::Verified { snapshot, .. } => snapshot.as_deref(),
        _ => None,
    });
    snapshots
        .filter_map(reference)
        .map(|reference| reference.lsn.0)
        .min()
}
