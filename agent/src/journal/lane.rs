//! One lane's log: batches appended to the active segment, segments begun one after another.
//!
//! Synchronous and single-threaded; who calls it, and for how many callers at once, is
//! `writer.rs`'s business. After an error of kind [`CommitError::Fatal`] it must not be called
//! again.

use std::sync::Arc;

use super::block::{AlignedBuf, BlockFile};
use super::error::Failure;
use super::format::{
    BATCH_HEADER_LEN, BatchHeader, FLAG_FENCE, GRANULE_MIN, RecordHeader, SegmentHeader,
    batch_size, encode_record, record_size,
};
use super::pool::{NoSegment, Pool};
use super::recover::Link;
use super::retain::{Retention, Span};
use super::{LaneId, Lsn, store, unix_ns};

/// The segment that is being filled.
pub(crate) struct Active {
    pub(crate) seq: u64,
    pub(crate) file: Box<dyn BlockFile>,
    pub(crate) granule: u32,
    /// Where the next batch goes.
    pub(crate) pos: u64,
    pub(crate) len: u64,
}

/// One record to be written.
#[derive(Clone, Copy)]
pub(crate) struct Pending<'a> {
    pub(crate) kind: u16,
    pub(crate) episode: [u8; 16],
    pub(crate) unix_ns: u64,
    pub(crate) payload: &'a [u8],
}

/// A durable batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Committed {
    pub(crate) segment: u64,
    /// Offset of the batch in it; the first record's header is [`BATCH_HEADER_LEN`] behind.
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
    link: Link,
    active: Option<Active>,
    /// Opened but not fenced: the first thing written must open a new epoch.
    unfenced: bool,
    buf: AlignedBuf,
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
        let buf = AlignedBuf::new();
        Self {
            id,
            pool,
            uuid,
            retention,
            link,
            active: None,
            unfenced: true,
            buf,
        }
    }

    /// The lane's segments; shared with whoever decides what may go.
    pub(crate) fn retention(&self) -> &Arc<Retention> {
        &self.retention
    }

    /// Continues in a segment whose rest is verified to be zero.
    pub(crate) fn resume(&mut self, active: Active) {
        self.active = Some(active);
    }

    /// Opens a new epoch, durably. On a full disk with no room left it is put off to the segment
    /// that the first commit will have to begin.
    pub(crate) fn fence(&mut self) -> Result<(), Failure> {
        let fits = self
            .active
            .as_ref()
            .is_some_and(|a| a.pos + u64::from(a.granule) <= a.len);
        if fits {
            self.link.epoch += 1;
            self.unfenced = false;
            self.write_batch(&[], FLAG_FENCE, unix_ns())?;
            return Ok(());
        }
        if self.pool.space().ready_segments == 0 {
            self.active = None;
            return Ok(());
        }
        match self.begin_segment() {
            Ok(()) | Err(CommitError::Full { .. } | CommitError::TooLarge { .. }) => Ok(()),
            Err(CommitError::Fatal(failure)) => Err(failure),
        }
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

    /// Writes `records` as one batch and returns once it is durable.
    pub(crate) fn commit(
        &mut self,
        records: &[Pending<'_>],
        now_unix_ns: u64,
    ) -> Result<Committed, CommitError> {
        let body: usize = records.iter().map(|r| record_size(r.payload.len())).sum();
        loop {
            if let Some(active) = &self.active {
                let size = batch_size(body, active.granule) as u64;
                let capacity = active.len - u64::from(active.granule);
                if active.pos + size <= active.len {
                    break;
                }
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
        Ok(self.write_batch(records, 0, now_unix_ns)?)
    }

    fn begin_segment(&mut self) -> Result<(), CommitError> {
        let prepared = self.pool.take().map_err(|reason| match reason {
            NoSegment::NoSpace => CommitError::Full {
                free_bytes: self.free_bytes(),
            },
            NoSegment::Failed(failure) => CommitError::Fatal(failure),
        })?;
        if self.unfenced {
            self.link.epoch += 1;
            self.unfenced = false;
        }
        let begun_unix_ns = unix_ns();
        let header = SegmentHeader {
            magic: [0; 8],
            check: 0.into(),
            version: 0.into(),
            lane: self.id.code(),
            reserved: 0,
            granule: prepared.granule.into(),
            in_flight_max: 1.into(),
            reserved2: 0.into(),
            log_uuid: self.uuid,
            seq: prepared.seq.into(),
            epoch: self.link.epoch.into(),
            first_lsn: self.link.next_lsn.into(),
            first_batch: self.link.next_batch.into(),
            prev_seq: self.link.seq.into(),
            prev_end: self.link.end.into(),
            prev_check: self.link.check.into(),
            base_seq: self.retention.announce(prepared.seq).into(),
            segment_len: prepared.len.into(),
            created_unix_ns: begun_unix_ns.into(),
        };
        let block = self.buf.slice(prepared.granule as usize);
        let check = header.encode(block);
        // Durable before the first batch: a batch behind a lost header could not be found.
        let name = store::segment_name(self.id, prepared.seq);
        self.id.commit(prepared.file.as_ref(), &name, block, 0)?;
        self.retention.begun(Span {
            segment: prepared.seq,
            first_lsn: Lsn(self.link.next_lsn),
            begun_unix_ns,
            bytes: prepared.len,
            epoch: self.link.epoch,
        });
        let pos = u64::from(prepared.granule);
        self.link = Link {
            seq: prepared.seq,
            end: pos,
            check,
            ..self.link
        };
        self.active = Some(Active {
            seq: prepared.seq,
            file: prepared.file,
            granule: prepared.granule,
            pos,
            len: prepared.len,
        });
        Ok(())
    }

    /// Encodes and commits one batch into the active segment, which has room for it.
    fn write_batch(
        &mut self,
        records: &[Pending<'_>],
        flags: u16,
        now_unix_ns: u64,
    ) -> Result<Committed, Failure> {
        let name = store::segment_name(self.id, self.link.seq);
        let Some(active) = &mut self.active else {
            let error = std::io::Error::other("no active segment");
            return Err(Failure::of("write", &name)(error));
        };
        let body: usize = records.iter().map(|r| record_size(r.payload.len())).sum();
        let size = batch_size(body, active.granule);
        let too_long = |_| Failure::of("encode", &name)(std::io::ErrorKind::InvalidInput.into());
        let total_len = u32::try_from(size).map_err(too_long)?;
        let body_len = u32::try_from(body).map_err(too_long)?;
        let count = u32::try_from(records.len()).map_err(too_long)?;
        let batch = self.buf.slice(size);
        let mut at = BATCH_HEADER_LEN;
        for (lsn, record) in (self.link.next_lsn..).zip(records) {
            let header = RecordHeader {
                crc: 0.into(),
                len: u32::try_from(record.payload.len())
                    .map_err(too_long)?
                    .into(),
                kind: record.kind.into(),
                flags: 0.into(),
                reserved: 0.into(),
                lsn: lsn.into(),
                unix_ns: record.unix_ns.into(),
                episode: record.episode,
            };
            at = encode_record(batch, at, header, record.payload);
        }
        let header = BatchHeader {
            magic: [0; 8],
            check: 0.into(),
            body_check: 0.into(),
            prev_check: self.link.check.into(),
            version: 0.into(),
            flags: flags.into(),
            count: count.into(),
            total_len: total_len.into(),
            body_len: body_len.into(),
            log_uuid: self.uuid,
            seq: active.seq.into(),
            offset: active.pos.into(),
            epoch: self.link.epoch.into(),
            first_lsn: self.link.next_lsn.into(),
            batch_no: self.link.next_batch.into(),
            unix_ns: now_unix_ns.into(),
            reserved: [0; 16],
        };
        let check = header.seal(batch);
        self.id
            .commit(active.file.as_ref(), &name, batch, active.pos)?;
        let committed = Committed {
            segment: active.seq,
            offset: active.pos,
            first_lsn: self.link.next_lsn,
            bytes: size as u64,
        };
        active.pos += size as u64;
        self.link = Link {
            end: active.pos,
            check,
            next_lsn: self.link.next_lsn + u64::from(count),
            next_batch: self.link.next_batch + 1,
            ..self.link
        };
        Ok(committed)
    }
}
