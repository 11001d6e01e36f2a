//! The write-ahead journal: what was accepted, intended and done, durable before anyone is told.
//!
//! Two lanes in one directory, with one format and one recovery:
//!
//! - **fast**: small records (alerts, transitions, intents, outcomes) through the page cache and
//!   fdatasync, concurrent callers sharing one commit;
//! - **safe**: snapshots (evidence, series, diagnosis), one aligned `O_DIRECT | O_DSYNC` write.
//!
//! What holds, and where it is enforced:
//!
//! - a call returns `Ok` only after the sync that covers all its records (`writer.rs`);
//! - the records of one call are all there after a crash, or none (`format.rs`: one batch);
//! - what is recovered is the longest valid prefix; a torn tail is cut and reported; damage that
//!   no crash explains makes the journal read-only and nothing is changed (`recover.rs`);
//! - a failed write or sync ends the lane until a restart; nothing is ever retried (`lane.rs`);
//! - old segments go whole, and only when a durable header says so (`retain.rs`);
//! - a full disk refuses records before data is lost, and keeps a reserve for outcomes (`pool.rs`).
//!
//! Open first: `format.rs` for the bytes, `lane.rs` for the order of writes, `recover.rs` for what
//! is believed afterwards. This module knows nothing of episodes or alerts: payloads are opaque.

use std::path::Path;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;

mod block;
mod config;
mod engine;
mod error;
mod fast;
mod format;
mod inspect;
mod lane;
mod left_out;
mod pool;
mod priority;
mod reader;
mod recover;
mod repair;
mod retain;
mod safe;
mod stats;
mod store;
mod sync;
#[cfg(test)]
mod tests;
mod types;
mod writer;

pub use block::DirectIo;
pub use config::JournalConfig;
pub use engine::WriteEngine;
pub use error::JournalError;
pub use format::Damage;
pub use inspect::{Inspection, LaneReport, SegmentReport, SegmentUse, inspect};
pub use reader::Reader;
pub use recover::{Corruption, Cut};
pub use repair::{Repaired, repair};
pub use retain::Span;
pub use stats::{JournalHealth, JournalStats, LaneStats, Latency};
pub use types::{LaneId, Lsn, Record, Recovered, SnapshotMeta, SnapshotRef};

#[cfg(test)]
pub(crate) use block::sim;
use block::{Disk, RealDisk};
use error::Failure;
use recover::Scan;
use retain::{Keep, Retention};
use sync::lock;
use writer::{LaneHandle, Priority};

/// A journal open for writing. Clones share it.
#[derive(Clone)]
pub struct Journal {
    inner: Arc<Inner>,
}

struct Inner {
    disk: Arc<dyn Disk>,
    lanes: Lanes,
}

enum Lanes {
    Writable {
        fast: Box<LaneHandle>,
        safe: Box<LaneHandle>,
        history: [History; 2],
    },
    /// The lock is kept: whoever repairs must not find a second agent doing the same.
    ReadOnly(
        Corruption,
        #[allow(dead_code, reason = "held, not read")] Option<Arc<store::Lock>>,
    ),
}

/// What one lane keeps, and how much it should.
struct History {
    retention: Arc<Retention>,
    keep: Keep,
}

impl std::fmt::Debug for Journal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Journal")
            .field("health", &self.health())
            .finish_non_exhaustive()
    }
}

impl Journal {
    /// Opens the journal in `config.dir`, which is created if absent: locks it, makes durable
    /// what can be read, recovers, and fences both tails. Blocking.
    ///
    /// # Errors
    /// [`JournalError::Config`], [`JournalError::Locked`] if another agent has it,
    /// [`JournalError::Io`] for a failed call. Corruption is no error: the journal is then
    /// read-only, see [`Self::health`].
    pub fn open(config: &JournalConfig) -> Result<(Self, Recovered), JournalError> {
        config
            .validate()
            .map_err(|problems| JournalError::Config { problems })?;
        store::create_dir(&config.dir)?;
        let directory = Arc::new(store::Lock::acquire(&config.dir)?);
        let disk: Arc<dyn Disk> = Arc::new(RealDisk::new(&config.dir));
        Self::open_on(config, disk, Some(&directory))
    }

    /// Opens on any disk: for tests, on one that fails when told to.
    pub(crate) fn open_on(
        config: &JournalConfig,
        disk: Arc<dyn Disk>,
        directory: Option<&Arc<store::Lock>>,
    ) -> Result<(Self, Recovered), JournalError> {
        let mut out = Recovered::default();
        let fast = store::recover(disk.as_ref(), LaneId::Fast, &mut |found| {
            out.records.push(reader::record_of(&found));
        })?;
        let safe = store::recover(disk.as_ref(), LaneId::Safe, &mut |found| {
            out.snapshots.push(reader::snapshot_of(&found));
        })?;
        out.absorb(&fast);
        out.absorb(&safe);
        // Both lanes are judged before either is written.
        let lanes = if let Some(corruption) = out.corruption.first() {
            Lanes::ReadOnly(corruption.clone(), directory.cloned())
        } else {
            let (fast, kept) = start(config, &disk, LaneId::Fast, &fast, directory)?;
            let (safe, kept_safe) = start(config, &disk, LaneId::Safe, &safe, directory)?;
            Lanes::Writable {
                fast: Box::new(fast),
                safe: Box::new(safe),
                history: [kept, kept_safe],
            }
        };
        Ok((
            Self {
                inner: Arc::new(Inner { disk, lanes }),
            },
            out,
        ))
    }

    fn lane(&self, id: LaneId) -> Result<&LaneHandle, JournalError> {
        match (&self.inner.lanes, id) {
            (Lanes::ReadOnly(corruption, _), _) => Err(JournalError::ReadOnly(corruption.clone())),
            (Lanes::Writable { fast, .. }, LaneId::Fast) => Ok(fast),
            (Lanes::Writable { safe, .. }, LaneId::Safe) => Ok(safe),
        }
    }

    /// Appends `records` to the fast lane and returns once all are durable: the LSN of the first,
    /// the others follow it without gaps. After a crash all of them are there or none.
    ///
    /// Needs a tokio runtime with a timer. If the future is dropped the records may still become
    /// durable.
    ///
    /// # Errors
    /// [`JournalError::Full`]: nothing was written, try later. [`JournalError::Poisoned`],
    /// [`JournalError::Deadline`]: not acknowledged, durable or not.
    pub async fn append(&self, records: Vec<Record>) -> Result<Lsn, JournalError> {
        let placed = self
            .lane(LaneId::Fast)?
            .append(records, Priority::Normal)
            .await?;
        Ok(Lsn(placed.lsn))
    }

    /// Like [`Self::append`], but may use the reserve of a full disk: for outcomes and undoings
    /// of actions already taken, nothing else.
    pub async fn append_outcome(&self, records: Vec<Record>) -> Result<Lsn, JournalError> {
        let placed = self
            .lane(LaneId::Fast)?
            .append(records, Priority::Outcome)
            .await?;
        Ok(Lsn(placed.lsn))
    }

    /// Stores a snapshot in the safe lane and returns once it is durable.
    ///
    /// # Errors
    /// As [`Self::append`].
    pub async fn store_snapshot(
        &self,
        meta: SnapshotMeta,
        bytes: Bytes,
    ) -> Result<SnapshotRef, JournalError> {
        let SnapshotMeta { kind, episode } = meta;
        let len = u32::try_from(bytes.len()).map_err(|_| JournalError::TooLarge {
            lane: LaneId::Safe,
            bytes: bytes.len() as u64,
            max_bytes: u64::from(u32::MAX),
        })?;
        let record = Record {
            kind,
            episode,
            payload: bytes,
        };
        let placed = self
            .lane(LaneId::Safe)?
            .append(vec![record], Priority::Normal)
            .await?;
        Ok(SnapshotRef {
            lsn: Lsn(placed.lsn),
            segment: placed.segment,
            offset: placed.offset,
            len,
            unix_ns: 0,
        })
    }

    /// Reads a snapshot and verifies it. Blocking.
    ///
    /// # Errors
    /// [`JournalError::Snapshot`] if it is not there or not intact.
    pub fn read_snapshot(&self, reference: &SnapshotRef) -> Result<Bytes, JournalError> {
        reader::read_snapshot(self.inner.disk.as_ref(), reference)
    }

    /// The LSN of `lane` below which all records are beyond the configured bytes or age, in whole
    /// segments; `None` if nothing is, or if that much has been given up already. The caller
    /// carries forward what it still needs, durably, and then calls [`Self::retain`].
    pub fn overdue(&self, lane: LaneId) -> Option<Lsn> {
        let history = self.history(lane).ok()?;
        history.retention.overdue(history.keep, unix_ns())
    }

    /// Gives up the segments of `lane` whose records are all below `keep_from`, and removes the
    /// files of those given up before. Blocking: it unlinks files.
    ///
    /// The next segment that is begun says in its header, durably, where the log now begins; the
    /// files go at the first call after that. So it is safe to lose power anywhere, and to call
    /// this rarely. Returns the number of files removed. The segment being filled and the one
    /// before it always stay.
    ///
    /// # Errors
    /// [`JournalError::ReadOnly`]; [`JournalError::Io`] if a file could not be removed: harmless,
    /// the next call tries again.
    pub fn retain(&self, lane: LaneId, keep_from: Lsn) -> Result<usize, JournalError> {
        let retention = &self.history(lane)?.retention;
        retention.retain(keep_from);
        Ok(retention.remove(self.inner.disk.as_ref())?)
    }

    /// The begun segments of `lane`, oldest first.
    pub fn spans(&self, lane: LaneId) -> Vec<Span> {
        self.history(lane)
            .map_or_else(|_| Vec::new(), |history| history.retention.spans())
    }

    fn history(&self, id: LaneId) -> Result<&History, JournalError> {
        match (&self.inner.lanes, id) {
            (Lanes::ReadOnly(corruption, _), _) => Err(JournalError::ReadOnly(corruption.clone())),
            (Lanes::Writable { history, .. }, LaneId::Fast) => Ok(&history[0]),
            (Lanes::Writable { history, .. }, LaneId::Safe) => Ok(&history[1]),
        }
    }

    /// Whether records are taken: the worse of both lanes.
    pub fn health(&self) -> JournalHealth {
        let (fast, safe) = match &self.inner.lanes {
            Lanes::ReadOnly(corruption, _) => {
                return JournalHealth::Corrupt {
                    corruption: corruption.clone(),
                };
            }
            Lanes::Writable { fast, safe, .. } => (lane_health(fast), lane_health(safe)),
        };
        match (&fast, &safe) {
            (JournalHealth::Poisoned { .. }, _) | (_, JournalHealth::Writable) => fast,
            (_, JournalHealth::Poisoned { .. }) | (JournalHealth::Writable, _) => safe,
            _ => fast,
        }
    }

    /// Counters and latencies since opening.
    pub fn stats(&self) -> JournalStats {
        let of = |id| self.lane(id).ok().map(lane_stats);
        JournalStats {
            fast: of(LaneId::Fast),
            safe: of(LaneId::Safe),
        }
    }

    /// Commits what is queued, refuses what comes later from any clone, ends the threads, and
    /// gives the directory free.
    ///
    /// # Errors
    /// [`JournalError::Deadline`] if the disk hangs.
    pub async fn close(self) -> Result<(), JournalError> {
        if let Lanes::Writable { fast, safe, .. } = &self.inner.lanes {
            let (fast, safe) = tokio::join!(fast.close(), safe.close());
            fast.and(safe)?;
        }
        Ok(())
    }
}

/// Reads a snapshot of the journal in `dir`, whether or not an agent runs there. Blocking.
///
/// # Errors
/// As [`Journal::read_snapshot`].
pub fn read_snapshot(dir: &Path, reference: &SnapshotRef) -> Result<Bytes, JournalError> {
    reader::read_snapshot(&RealDisk::new(dir), reference)
}

/// Fences a recovered lane and starts its threads.
fn start(
    config: &JournalConfig,
    disk: &Arc<dyn Disk>,
    id: LaneId,
    scan: &Scan,
    directory: Option<&Arc<store::Lock>>,
) -> Result<(LaneHandle, History), Failure> {
    let keep_bytes = match id {
        LaneId::Fast => config.fast_keep_bytes,
        LaneId::Safe => config.safe_keep_bytes,
    };
    let pool = config.pool(id);
    let (lane, pool) = store::writable(disk, id, &pool, store::random_uuid()?, scan)?;
    let history = History {
        retention: lane.retention().clone(),
        keep: Keep {
            bytes: keep_bytes,
            age_ns: config.keep_age_s.saturating_mul(1_000_000_000),
        },
    };
    let handle = LaneHandle::start(id, lane, pool, config.queue(id), directory)?;
    Ok((handle, history))
}

fn lane_health(lane: &LaneHandle) -> JournalHealth {
    lane.health()
}

fn lane_stats(lane: &LaneHandle) -> LaneStats {
    let space = lane.pool.space();
    LaneStats {
        segments_ready: space.ready_segments as u64,
        space_low: space.full,
        direct_io: lane.pool.direct(),
        engine: lane.engine.clone(),
        buffer_bytes_max: lane.buffer_bytes_max(),
        ..lane.shared.stats()
    }
}

/// Nanoseconds since the Unix epoch; 0 before it.
fn unix_ns() -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}
