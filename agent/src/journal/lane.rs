//! One lane's log: batches appended to the active segment, segments begun one after another.
//!
//! Single-threaded; who calls it, and for how many callers at once, is `writer.rs`'s business.
//! Several batches may be on their way to the device: they get their places and are chained in the
//! order of [`Lane::submit`], may reach the device in any, and come out of [`Lane::reap`] in the
//! first again. A segment is begun only when none is on its way, because its header says where the
//! one before ended. After an error of kind [`CommitError::Fatal`] it must not be called again.

use std::sync::Arc;

use super::LaneId;
use super::engine::{Content, Engine, Wait, Write};
use super::error::Failure;
use super::format::{BatchHeader, GRANULE_MIN, batch_size, record_size};
use super::pool::Pool;
use super::recover::Link;
use super::retain::Retention;

mod batch;
mod in_flight;
mod segment;

pub(crate) use batch::{Batch, Chain, Pending};
pub(crate) use in_flight::KEPT_BYTES_MAX;
pub(crate) use segment::Active;

use in_flight::InFlight;
use segment::Open;

/// A durable batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Committed {
    pub(crate) segment: u64,
    /// Offset of the batch in it; the first record's header is `BATCH_HEADER_LEN` behind.
    pub(crate) offset: u64,
    pub(crate) first_lsn: u64,
    /// Bytes written, padding included.
    pub(crate) bytes: u64,
}

/// Why a batch was not committed.
#[derive(Debug)]
pub(crate) enum CommitError {
    /// No room, and nothing was written.
    Full { free_bytes: u64 },
    /// Larger than any segment.
    TooLarge { max_bytes: u64 },
    /// The lane is finished.
    Fatal(Failure),
}

impl From<Failure> for CommitError {
    fn from(failure: Failure) -> Self {
        Self::Fatal(failure)
    }
}

/// A lane open for writing.
pub(crate) struct Lane {
    id: LaneId,
    pool: Arc<Pool>,
    uuid: [u8; 16],
    retention: Arc<Retention>,
    /// Where the next batch goes on; its check stands in `chain`.
    link: Link,
    chain: Chain,
    active: Option<Open>,
    /// Opened but not fenced: the first thing written must open a new epoch.
    unfenced: bool,
    in_flight: InFlight,
}

impl Lane {
    /// A lane that continues `link` in a new segment.
    pub(crate) fn new(
        id: LaneId,
        pool: Arc<Pool>,
        uuid: [u8; 16],
        link: Link,
        retention: Arc<Retention>,
    ) -> Self {
        let engine = pool.engine();
        Self {
            id,
            pool,
            uuid,
            retention,
            link,
            chain: Chain::known(link.check),
            active: None,
            unfenced: true,
            in_flight: InFlight::new(engine),
        }
    }

    /// The lane's segments; shared with whoever decides what may go.
    pub(crate) fn retention(&self) -> &Arc<Retention> {
        &self.retention
    }

    pub(crate) fn id(&self) -> LaneId {
        self.id
    }

    pub(crate) fn engine(&self) -> &dyn Engine {
        self.in_flight.engine()
    }

    /// Batches that may be in flight now.
    pub(crate) fn depth(&self) -> usize {
        let window = self.active.as_ref().map_or(usize::MAX, |a| a.window);
        self.engine().depth().min(window)
    }

    /// Submitted and not yet handed out.
    pub(crate) fn outstanding(&self) -> usize {
        self.in_flight.len()
    }

    /// Bytes of all buffers, those on their way to the device included.
    pub(crate) fn buffer_bytes(&self) -> u64 {
        self.in_flight.buffer_bytes() as u64
    }

    /// Bytes left in prepared segments and the active one.
    pub(crate) fn free_bytes(&self) -> u64 {
        let active = self.active.as_ref().map_or(0, |a| a.len - a.pos);
        active + self.pool.space().ready_bytes
    }

    /// Whether a batch with `body` bytes of records leaves `reserve` bytes prepared; `Err` holds
    /// what is left. Waits for the preparer where its answer decides: a reserve that a burst
    /// can use up before the disk is known to be full would be none.
    pub(crate) fn admit(&self, body: usize, reserve: u64) -> Result<(), u64> {
        let granule = self.active.as_ref().map_or(GRANULE_MIN, |a| a.granule);
        let need = batch_size(body, granule) as u64;
        let rest = self.active.as_ref().map_or(0, |a| a.len - a.pos);
        loop {
            let space = self.pool.space();
            // What does not fit the active segment gives the rest of it up.
            let usable = if need <= rest {
                rest + space.ready_bytes
            } else {
                space.ready_bytes
            };
            if usable >= need + reserve {
                return Ok(());
            }
            if space.full {
                return Err(usable);
            }
            if space.ready_segments >= space.ahead || self.pool.failure().is_some() {
                return Ok(());
            }
            if !self.pool.wait_for_more(space.ready_segments) {
                return Err(usable);
            }
        }
    }

    /// Writes `records` as one batch and returns once it is durable; with others outstanding
    /// they are waited for and dropped out of sight.
    pub(crate) fn commit(
        &mut self,
        records: Vec<Pending>,
        now_unix_ns: u64,
    ) -> Result<Committed, CommitError> {
        self.submit(records, now_unix_ns, true)?;
        let mut last = None;
        while let Some(committed) = self.reap(Wait::Done)? {
            last = Some(committed);
        }
        last.ok_or(CommitError::Full { free_bytes: 0 })
    }

    /// Puts `records` on their way as one batch. At most [`Lane::depth`] may be; if a
    /// new segment must be begun, waits for those that are. `alone`: the caller submits nothing
    /// more before this one is handed out.
    pub(crate) fn submit(
        &mut self,
        records: Vec<Pending>,
        now_unix_ns: u64,
        alone: bool,
    ) -> Result<(), CommitError> {
        let body = body_of(&records);
        while self.begins_segment(body) {
            if let Some(active) = &self.active {
                let size = batch_size(body, active.granule) as u64;
                let capacity = active.len - u64::from(active.granule);
                // Segments of one run are of one size, so one test answers for the next too;
                // a smaller one left by an earlier configuration is simply passed over.
                if size > capacity.max(self.pool.segment_len() - u64::from(active.granule)) {
                    return Err(CommitError::TooLarge {
                        max_bytes: capacity,
                    });
                }
            }
            self.begin_segment()?;
        }
        Ok(self.write_batch(records, 0, now_unix_ns, alone)?)
    }

    /// The oldest outstanding batch, if it is durable; waits as told. `None` if there is none
    /// or it is still on its way.
    pub(crate) fn reap(&mut self, wait: Wait) -> Result<Option<Committed>, Failure> {
        self.in_flight.reap(wait)
    }

    /// Gives `records` their place in the active segment, which has room for them, and puts them
    /// on their way as one batch.
    fn write_batch(
        &mut self,
        records: Vec<Pending>,
        flags: u16,
        now_unix_ns: u64,
        alone: bool,
    ) -> Result<(), Failure> {
        let id = self.id;
        let no_segment = || {
            let error = std::io::Error::other("no active segment");
            Failure::of("write", id.name())(error)
        };
        let granule = self.active.as_ref().ok_or_else(no_segment)?.granule;
        let body = body_of(&records);
        let size = batch_size(body, granule);
        let buf = self.in_flight.buffer(size);
        let active = self.active.as_mut().ok_or_else(no_segment)?;
        let name = active.name.clone();
        let too_long = |_| Failure::of("encode", &name)(std::io::ErrorKind::InvalidInput.into());
        let count = u32::try_from(records.len()).map_err(too_long)?;
        let header = BatchHeader {
            magic: [0; 8],
            check: 0.into(),
            body_check: 0.into(),
            prev_check: 0.into(),
            version: 0.into(),
            flags: flags.into(),
            count: count.into(),
            total_len: u32::try_from(size).map_err(too_long)?.into(),
            body_len: u32::try_from(body).map_err(too_long)?.into(),
            log_uuid: self.uuid,
            seq: active.seq.into(),
            offset: active.pos.into(),
            epoch: self.link.epoch.into(),
            first_lsn: self.link.next_lsn.into(),
            batch_no: self.link.next_batch.into(),
            unix_ns: now_unix_ns.into(),
            reserved: [0; 16],
        };
        let batch = Batch::new(header, records, self.chain.clone());
        let committed = Committed {
            segment: active.seq,
            offset: active.pos,
            first_lsn: self.link.next_lsn,
            bytes: size as u64,
        };
        self.chain = batch.chain();
        let write = Write {
            file: active.file.clone(),
            name,
            offset: active.pos,
            buf,
            len: size,
            content: Content::Batch(batch),
        };
        active.pos += size as u64;
        self.link = Link {
            end: active.pos,
            next_lsn: self.link.next_lsn + u64::from(count),
            next_batch: self.link.next_batch + 1,
            ..self.link
        };
        self.in_flight.submit(committed, write, alone);
        Ok(())
    }
}

/// Bytes that `records` take in a batch.
fn body_of(records: &[Pending]) -> usize {
    records.iter().map(|r| record_size(r.payload.len())).sum()
}
