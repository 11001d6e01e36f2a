//! The episodes' record: typed entries in the journal's fast lane, evidence in its safe lane, and
//! an index of recent incidents in memory for those who read.
//!
//! An entry is visible to readers only once it is durable. The format on disk is JSON, one record
//! an entry, with the time beside it; the journal itself looks at none of it.

mod heard;
mod index;
mod retain;

use std::{
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

pub use heard::{Event, Heard};
pub use index::{Answer, Incident, Index, Line, Proposal, State, Summary};
pub use retain::Retained;

use retain::Carried;

use crate::{
    incident::{Entry, EpisodeId, Evidence},
    journal::{
        Corruption, Cut, Journal, JournalConfig, JournalError, Lsn, Reader, Record, Recovered,
        SnapshotMeta, SnapshotRef, read_snapshot,
    },
};

/// `kind` of a fast-lane record that holds one JSON [`Entry`].
pub const KIND_ENTRY_JSON: u16 = 1;
/// `kind` of a fast-lane record that holds all entries of one episode again, as JSON, and stands for
/// the earlier ones.
pub const KIND_CARRIED_JSON: u16 = 2;
/// `kind` of a safe-lane snapshot that holds one JSON [`Evidence`].
pub const KIND_EVIDENCE_JSON: u16 = 1;

/// What can go wrong with the record.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// The journal refused or failed.
    #[error("cannot record {what} for {episode}")]
    Journal {
        /// Entries, by name.
        what: String,
        /// Whose.
        episode: EpisodeId,
        /// Why.
        #[source]
        source: JournalError,
    },
    /// An entry could not be encoded.
    #[error("cannot encode an entry of {episode}")]
    Encode {
        /// Whose.
        episode: EpisodeId,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
}

/// What an entry looks like on disk.
#[derive(Serialize, Deserialize)]
struct Stored {
    at: Timestamp,
    #[serde(flatten)]
    entry: Entry,
}

/// The record, open for writing.
pub struct Ledger {
    journal: Journal,
    index: Mutex<Index>,
    /// What an earlier life was told, until it is taken.
    heard: Mutex<Vec<Heard>>,
    /// Read by whoever appends, until the index has it; written by whoever must know that the
    /// index has all that is durable.
    gate: tokio::sync::RwLock<()>,
}

/// What opening found that people should know.
#[derive(Debug, Default)]
pub struct Found {
    /// Torn tails that were cut.
    pub cuts: Vec<Cut>,
    /// Damage that made the journal read-only.
    pub corruption: Vec<Corruption>,
    /// Records that could not be decoded: `(lsn, why)`; kept on disk.
    pub unreadable: Vec<(Lsn, String)>,
    /// What intake was told, in the order of writing.
    heard: Vec<Heard>,
}

impl Ledger {
    /// Opens the journal and rebuilds the index. Blocking.
    ///
    /// # Errors
    /// Those of [`Journal::open`].
    pub fn open(
        config: &JournalConfig,
        incidents_max: usize,
    ) -> Result<(Self, Found), JournalError> {
        let (journal, recovered) = Journal::open(config)?;
        Ok(Self::over(journal, recovered, incidents_max))
    }

    /// A ledger over an open journal.
    pub(crate) fn over(
        journal: Journal,
        recovered: Recovered,
        incidents_max: usize,
    ) -> (Self, Found) {
        let (index, mut found) = index_of(recovered, incidents_max);
        let heard = std::mem::take(&mut found.heard);
        let ledger = Self {
            journal,
            index: Mutex::new(index),
            heard: Mutex::new(heard),
            gate: tokio::sync::RwLock::new(()),
        };
        (ledger, found)
    }

    /// Appends entries of any episodes as one atomic batch; they are durable when this returns.
    pub async fn append_all(&self, entries: Vec<(EpisodeId, Entry)>) -> Result<(), LedgerError> {
        self.write(entries, false).await
    }

    /// Appends one entry.
    pub async fn append(&self, episode: EpisodeId, entry: Entry) -> Result<(), LedgerError> {
        self.write(vec![(episode, entry)], false).await
    }

    /// Appends entries that record an effect already made or undone: these may use the reserve of a
    /// full disk.
    pub async fn append_outcome(
        &self,
        episode: EpisodeId,
        entries: Vec<Entry>,
    ) -> Result<(), LedgerError> {
        self.write(
            entries.into_iter().map(|entry| (episode, entry)).collect(),
            true,
        )
        .await
    }

    async fn write(
        &self,
        entries: Vec<(EpisodeId, Entry)>,
        outcome: bool,
    ) -> Result<(), LedgerError> {
        let Some(&(first, _)) = entries.first() else {
            return Ok(());
        };
        let at = Timestamp::now();
        let mut records = Vec::with_capacity(entries.len());
        let mut lines = Vec::with_capacity(entries.len());
        for (episode, entry) in entries {
            let stored = Stored { at, entry };
            let payload = serde_json::to_vec(&stored)
                .map_err(|source| LedgerError::Encode { episode, source })?;
            records.push(Record {
                kind: KIND_ENTRY_JSON,
                episode: episode.0,
                payload: payload.into(),
            });
            lines.push((episode, stored.entry));
        }
        let _writing = self.gate.read().await;
        let appended = if outcome {
            self.journal.append_outcome(records).await
        } else {
            self.journal.append(records).await
        };
        let lsn = appended.map_err(|source| LedgerError::Journal {
            what: lines
                .iter()
                .map(|(_, entry)| entry.name())
                .collect::<Vec<_>>()
                .join(", "),
            episode: first,
            source,
        })?;
        let mut index = self.index.lock().unwrap_or_else(PoisonError::into_inner);
        for (offset, (episode, entry)) in (0..).zip(lines) {
            index.push(
                episode,
                Line {
                    lsn: lsn.0 + offset,
                    at,
                    entry,
                },
            );
        }
        Ok(())
    }

    /// Stores the evidence of a diagnosis in the safe lane; returns its reference as text.
    pub async fn store_evidence(
        &self,
        episode: EpisodeId,
        evidence: &Evidence,
    ) -> Result<String, LedgerError> {
        let bytes = serde_json::to_vec(evidence)
            .map_err(|source| LedgerError::Encode { episode, source })?;
        let meta = SnapshotMeta {
            kind: KIND_EVIDENCE_JSON,
            episode: episode.0,
        };
        let wrap = |source| LedgerError::Journal {
            what: "evidence".into(),
            episode,
            source,
        };
        let reference = self
            .journal
            .store_snapshot(meta, Bytes::from(bytes))
            .await
            .map_err(wrap)?;
        serde_json::to_string(&reference).map_err(|source| LedgerError::Encode { episode, source })
    }

    /// Runs `read` over the index. Keep it short: appends wait meanwhile.
    pub fn with_index<T>(&self, read: impl FnOnce(&Index) -> T) -> T {
        read(&self.index.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// What an earlier life was told, in the order of writing; empty the second time.
    pub fn take_heard(&self) -> Vec<Heard> {
        std::mem::take(&mut *self.heard.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn with_index_mut<T>(&self, change: impl FnOnce(&mut Index) -> T) -> T {
        change(&mut self.index.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The evidence that an entry names. Blocking: reads from disk.
    ///
    /// # Errors
    /// As [`read_evidence`].
    pub fn evidence(&self, reference: &str) -> Result<Evidence, String> {
        decode_evidence(reference, |reference| self.journal.read_snapshot(reference))
    }

    /// The journal beneath, for its health and figures.
    pub fn journal(&self) -> &Journal {
        &self.journal
    }
}

/// Opens a shared ledger's record for reading only: beside a running agent or of a stopped one.
///
/// # Errors
/// Those of [`Reader::open`].
pub fn read(dir: &Path, incidents_max: usize) -> Result<(Index, Found), JournalError> {
    Ok(index_of(Reader::open(dir)?.into_recovered(), incidents_max))
}

/// The evidence that a `Diagnosed` entry names.
///
/// # Errors
/// A sentence: the reference is not one, or the snapshot is not there or not intact.
pub fn read_evidence(dir: &Path, reference: &str) -> Result<Evidence, String> {
    decode_evidence(reference, |reference| read_snapshot(dir, reference))
}

fn decode_evidence(
    reference: &str,
    read: impl FnOnce(&SnapshotRef) -> Result<Bytes, JournalError>,
) -> Result<Evidence, String> {
    let reference: SnapshotRef = serde_json::from_str(reference)
        .map_err(|e| format!("snapshot reference {reference}: {e}"))?;
    let bytes = read(&reference).map_err(|e| e.to_string())?;
    serde_json::from_slice(&bytes).map_err(|e| format!("snapshot {}: {e}", reference.lsn.0))
}

fn index_of(recovered: Recovered, incidents_max: usize) -> (Index, Found) {
    let mut index = Index::new(incidents_max);
    let mut found = Found {
        cuts: recovered.cuts,
        corruption: recovered.corruption,
        unreadable: Vec::new(),
        heard: Vec::new(),
    };
    for (lsn, _, record) in recovered.records {
        if record.kind == KIND_CARRIED_JSON {
            match serde_json::from_slice::<Carried>(&record.payload) {
                Ok(Carried { lines }) => {
                    let id = EpisodeId(record.episode);
                    found
                        .heard
                        .extend(lines.iter().filter_map(|line| Heard::of(id, line)));
                    index.restore(id, lines, lsn.0);
                }
                Err(error) => found.unreadable.push((lsn, error.to_string())),
            }
            continue;
        }
        if record.kind != KIND_ENTRY_JSON {
            found.unreadable.push((
                lsn,
                format!("kind {} is not known to this version", record.kind),
            ));
            continue;
        }
        match serde_json::from_slice::<Stored>(&record.payload) {
            Ok(Stored { at, entry }) => {
                let id = EpisodeId(record.episode);
                let line = Line {
                    lsn: lsn.0,
                    at,
                    entry,
                };
                found.heard.extend(Heard::of(id, &line));
                index.push(id, line);
            }
            Err(error) => found.unreadable.push((lsn, error.to_string())),
        }
    }
    // A carried line stands later than it was written.
    found.heard.sort_by_key(|heard| heard.lsn);
    (index, found)
}

/// A ledger shared by the pipeline, intake and the readers.
pub type SharedLedger = Arc<Ledger>;

#[cfg(test)]
mod tests;
