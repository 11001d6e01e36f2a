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
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

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

#[cfg(test)]
pub(crate) use block::sim;
use block::{Access, BlockFile, Disk, RealDisk};
use error::Failure;
use format::{BATCH_HEADER_LEN, GRANULE_MAX};
use pool::PoolConfig;
use recover::Scan;
use retain::{Keep, Retention};
use sync::lock;
use writer::{LaneHandle, Priority, QueueLimits};

/// One of the two logs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LaneId {
    /// Small records.
    Fast,
    /// Snapshots.
    Safe,
}

impl LaneId {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Fast => "fast",
            Self::Safe => "safe",
        }
    }

    /// As it stands in a segment header.
    pub(crate) fn code(self) -> u8 {
        match self {
            Self::Fast => 0,
            Self::Safe => 1,
        }
    }

    pub(crate) fn access(self) -> Access {
        match self {
            Self::Fast => Access::Buffered,
            Self::Safe => Access::Direct,
        }
    }

    /// Makes `bytes` durable at `offset`, the lane's own way.
    pub(crate) fn commit(
        self,
        file: &dyn BlockFile,
        name: &str,
        bytes: &[u8],
        offset: u64,
    ) -> Result<(), Failure> {
        match self {
            Self::Fast => fast::commit(file, name, bytes, offset),
            Self::Safe => safe::commit(file, name, bytes, offset),
        }
    }
}

impl std::fmt::Display for LaneId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// Log sequence number: 1, 2, 3, … for the records of one lane, without gaps.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Lsn(pub u64);

/// One record of the fast lane. The journal looks at none of its fields.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// What the payload is; the caller's own numbering.
    pub kind: u16,
    /// The episode that it belongs to.
    pub episode: [u8; 16],
    /// Opaque bytes.
    pub payload: Bytes,
}

/// What a snapshot is and belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotMeta {
    /// What the bytes are; the caller's own numbering.
    pub kind: u16,
    /// The episode that it belongs to.
    pub episode: [u8; 16],
}

/// Where a snapshot is. Small enough to be put into a fast-lane record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotRef {
    /// Its LSN in the safe lane.
    pub lsn: Lsn,
    /// Segment number.
    pub segment: u64,
    /// Offset of its record header in the segment, bytes.
    pub offset: u64,
    /// Length, bytes.
    pub len: u32,
    /// When it was handed to the journal, nanoseconds since the Unix epoch; 0 in a reference just
    /// returned by `store_snapshot`.
    #[serde(default)]
    pub unix_ns: u64,
}

/// What was found at opening.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    /// The fast lane in LSN order: LSN, nanoseconds since the Unix epoch, record.
    pub records: Vec<(Lsn, u64, Record)>,
    /// The safe lane in LSN order, without the bytes.
    pub snapshots: Vec<(SnapshotRef, SnapshotMeta)>,
    /// Torn tails: never acknowledged, or lost at the very end.
    pub cuts: Vec<Cut>,
    /// Damage that no crash explains; the journal is read-only if there is any.
    pub corruption: Vec<Corruption>,
    /// Bytes read and verified.
    pub bytes_verified: u64,
}

impl Recovered {
    fn absorb(&mut self, scan: &Scan) {
        self.cuts.extend_from_slice(&scan.cuts);
        self.corruption.extend(scan.corruption.clone());
        self.bytes_verified += scan.bytes_verified;
    }
}

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
    let (segment_len, keep_bytes) = match id {
        LaneId::Fast => (config.fast_segment_bytes, config.fast_keep_bytes),
        LaneId::Safe => (config.safe_segment_bytes, config.safe_keep_bytes),
    };
    let pool = pool_config(config, segment_len);
    let (lane, pool) = store::writable(disk, id, &pool, store::random_uuid()?, scan)?;
    let history = History {
        retention: lane.retention().clone(),
        keep: Keep {
            bytes: keep_bytes,
            age_ns: config.keep_age_s.saturating_mul(1_000_000_000),
        },
    };
    let handle = LaneHandle::start(id, lane, pool, limits(config, id), directory)?;
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

fn pool_config(config: &JournalConfig, segment_len: u64) -> PoolConfig {
    PoolConfig {
        segment_len,
        ahead: config.segments_ahead as usize,
        patience: Duration::from_millis(config.deadline_ms),
        space_retry: Duration::from_millis(config.space_retry_ms),
        in_flight_max: config.in_flight_max,
        realtime: config.writer_realtime,
        inline: false,
    }
}

fn limits(config: &JournalConfig, lane: LaneId) -> QueueLimits {
    let (segment, payload, reserve) = match lane {
        LaneId::Fast => (
            config.fast_segment_bytes,
            config.record_bytes_max,
            config.outcome_reserve_bytes,
        ),
        // Outcomes go through the fast lane only.
        LaneId::Safe => (config.safe_segment_bytes, config.snapshot_bytes_max, 0),
    };
    let bytes = |n: u64| usize::try_from(n).unwrap_or(usize::MAX);
    // What fits a segment beside both headers, whatever granule the device asks for.
    let room = bytes(segment) - GRANULE_MAX as usize - BATCH_HEADER_LEN;
    QueueLimits {
        calls_max: config.queue_calls_max as usize,
        bytes_max: bytes(config.queue_bytes_max),
        payload_max: bytes(payload),
        call_bytes_max: room,
        batch_bytes_max: bytes(config.batch_bytes_max).min(room),
        reserve,
        deadline: Duration::from_millis(config.deadline_ms),
        realtime: config.writer_realtime,
        nice: config.writer_nice,
    }
}

/// Nanoseconds since the Unix epoch; 0 before it.
fn unix_ns() -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}
