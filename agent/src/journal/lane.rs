//! One lane's log: batches appended to the active segment, segments begun one after another.
//!
//! Single-threaded; who calls it, and for how many callers at once, is `writer.rs`'s business.
//! Several batches may be on their way to the device: they are encoded and chained in the order
//! of [`Lane::submit`], may reach the device in any, and come out of [`Lane::reap`] in the first
//! again. A segment is begun only when none is on its way, because its header says where the one
//! before ended. After an error of kind [`CommitError::Fatal`] it must not be called again.

use std::collections::VecDeque;
use std::sync::Arc;

use super::block::{AlignedBuf, BlockFile};
use super::engine::{Engine, Wait, Write};
use super::error::Failure;
use super::format::{
    BATCH_HEADER_LEN, BatchHeader, FLAG_FENCE, GRANULE_MIN, RecordHeader, SegmentHeader,
    SegmentState, batch_size, encode_record, record_size,
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
    active: Option<Open>,
    /// Opened but not fenced: the first thing written must open a new epoch.
    unfenced: bool,
    engine: Box<dyn Engine>,
    /// Submitted and not yet handed out by [`Lane::reap`], oldest first.
    outstanding: VecDeque<Outstanding>,
    next_ticket: u64,
    /// Buffers between two uses.
    spare: Vec<AlignedBuf>,
    buffer_bytes: usize,
}

/// The active segment as this lane holds it.
struct Open {
    seq: u64,
    file: Arc<dyn BlockFile>,
    name: Arc<str>,
    granule: u32,
    pos: u64,
    len: u64,
    /// Batches that its header allows in flight: recovery takes that number for granted.
    window: usize,
}

struct Outstanding {
    ticket: u64,
    committed: Committed,
    /// What became of it, once known.
    result: Option<Result<(), Failure>>,
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
            active: None,
            unfenced: true,
            engine,
            outstanding: VecDeque::new(),
            next_ticket: 0,
            spare: Vec::new(),
            buffer_bytes: 0,
        }
    }

    /// The lane's segments; shared with whoever decides what may go.
    pub(crate) fn retention(&self) -> &Arc<Retention> {
        &self.retention
    }

    /// Continues in a segment whose rest is verified to be zero.
    pub(crate) fn resume(&mut self, active: Active) {
        let Active {
            seq,
            file,
            granule,
            pos,
            len,
        } = active;
        let mut buf = self.buffer(granule as usize);
        // Verified by recovery a moment ago; if it can't be read now, one at a time is right.
        let block = buf.slice(granule as usize);
        let window = match (file.read_at(block, 0), SegmentHeader::decode(block)) {
            (Ok(read), SegmentState::Valid(header)) if read == granule as usize => {
                header.in_flight_max.get() as usize
            }
            _ => 1,
        };
        self.spare.push(buf);
        self.active = Some(Open {
            seq,
            file: file.into(),
            name: store::segment_name(self.id, seq).into(),
            granule,
            pos,
            len,
            window: window.max(1),
        });
    }

    pub(crate) fn id(&self) -> LaneId {
        self.id
    }

    pub(crate) fn engine(&self) -> &dyn Engine {
        self.engine.as_ref()
    }

    /// Batches that may be in flight now.
    pub(crate) fn depth(&self) -> usize {
        let window = self.active.as_ref().map_or(usize::MAX, |a| a.window);
        self.engine.depth().min(window)
    }

    /// Submitted and not yet handed out.
    pub(crate) fn outstanding(&self) -> usize {
        self.outstanding.len()
    }

    /// Bytes of all buffers, those on their way to the device included.
    pub(crate) fn buffer_bytes(&self) -> u64 {
        self.buffer_bytes as u64
    }

    /// A buffer of at least `len` bytes: one from between two uses, or a new one. There are never
    /// more than may be in flight and one.
    fn buffer(&mut self, len: usize) -> AlignedBuf {
        let mut buf = self.spare.pop().unwrap_or_default();
        let before = buf.capacity();
        buf.slice(len);
        self.buffer_bytes += buf.capacity() - before;
        buf
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
            self.write_batch(&[], FLAG_FENCE, unix_ns(), true)?;
            while self.reap(Wait::Done)?.is_some() {}
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

    /// Writes `records` as one batch and returns once it is durable; with others outstanding
    /// they are waited for and dropped out of sight.
    pub(crate) fn commit(
        &mut self,
        records: &[Pending<'_>],
        now_unix_ns: u64,
    ) -> Result<Committed, CommitError> {
        self.submit(records, now_unix_ns, true)?;
        let mut last = None;
        while let Some(committed) = self.reap(Wait::Done)? {
            last = Some(committed);
        }
        last.ok_or(CommitError::Full { free_bytes: 0 })
    }

    /// Whether a batch with `body` bytes of records begins a new segment.
    pub(crate) fn begins_segment(&self, body: usize) -> bool {
        self.active
            .as_ref()
            .is_none_or(|active| active.pos + batch_size(body, active.granule) as u64 > active.len)
    }

    /// Encodes `records` as one batch and puts it on its way. At most [`Lane::depth`] may be; if a
    /// new segment must be begun, waits for those that are. `alone`: the caller submits nothing
    /// more before this one is handed out.
    pub(crate) fn submit(
        &mut self,
        records: &[Pending<'_>],
        now_unix_ns: u64,
        alone: bool,
    ) -> Result<(), CommitError> {
        let body: usize = records.iter().map(|r| record_size(r.payload.len())).sum();
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
        while let Some(oldest) = self.outstanding.front_mut() {
            if let Some(result) = oldest.result.take() {
                result?;
                let durable = self.outstanding.pop_front();
                return Ok(durable.map(|durable| durable.committed));
            }
            if !self.note(wait) {
                return Ok(None);
            }
        }
        Ok(None)
    }

    /// Takes one outcome from the engine; `false` if there was none.
    fn note(&mut self, wait: Wait) -> bool {
        let Some(done) = self.engine.reap(wait) else {
            return false;
        };
        self.spare.push(done.buf);
        let mut all = self.outstanding.iter_mut();
        if let Some(batch) = all.find(|batch| batch.ticket == done.ticket) {
            batch.result = Some(done.result);
        }
        true
    }

    /// Waits until every outstanding batch is durable.
    fn settle(&mut self) -> Result<(), Failure> {
        loop {
            let mut known = self.outstanding.iter().filter_map(|b| b.result.as_ref());
            if let Some(Err(failure)) = known.find(|result| result.is_err()) {
                return Err(failure.clone());
            }
            if self.outstanding.iter().all(|batch| batch.result.is_some()) {
                return Ok(());
            }
            if !self.note(Wait::Done) {
                let error = std::io::Error::other("the engine lost a batch");
                return Err(Failure::of("wait for", self.id.name())(error));
            }
        }
    }

    fn begin_segment(&mut self) -> Result<(), CommitError> {
        self.settle()?;
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
        let window = u32::try_from(self.engine.depth()).unwrap_or(u32::MAX);
        let header = SegmentHeader {
            magic: [0; 8],
            check: 0.into(),
            version: 0.into(),
            lane: self.id.code(),
            reserved: 0,
            granule: prepared.granule.into(),
            in_flight_max: window.into(),
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
        let mut buf = self.buffer(prepared.granule as usize);
        let block = buf.slice(prepared.granule as usize);
        let check = header.encode(block);
        // Durable before the first batch: a batch behind a lost header could not be found.
        let name: Arc<str> = store::segment_name(self.id, prepared.seq).into();
        let file: Arc<dyn BlockFile> = prepared.file.into();
        self.id.commit(file.as_ref(), &name, block, 0)?;
        self.spare.push(buf);
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
        self.active = Some(Open {
            seq: prepared.seq,
            file,
            name,
            granule: prepared.granule,
            pos,
            len: prepared.len,
            window: window as usize,
        });
        Ok(())
    }

    /// Encodes one batch for the active segment, which has room for it, and submits it.
    fn write_batch(
        &mut self,
        records: &[Pending<'_>],
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
        let body: usize = records.iter().map(|r| record_size(r.payload.len())).sum();
        let size = batch_size(body, granule);
        let mut buf = self.buffer(size);
        let Some(active) = &mut self.active else {
            return Err(no_segment());
        };
        let name = active.name.clone();
        let too_long = |_| Failure::of("encode", &name)(std::io::ErrorKind::InvalidInput.into());
        let total_len = u32::try_from(size).map_err(too_long)?;
        let body_len = u32::try_from(body).map_err(too_long)?;
        let count = u32::try_from(records.len()).map_err(too_long)?;
        let batch = buf.slice(size);
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
        let committed = Committed {
            segment: active.seq,
            offset: active.pos,
            first_lsn: self.link.next_lsn,
            bytes: size as u64,
        };
        let write = Write {
            file: active.file.clone(),
            name,
            offset: active.pos,
            buf,
            len: size,
        };
        active.pos += size as u64;
        self.link = Link {
            end: active.pos,
            check,
            next_lsn: self.link.next_lsn + u64::from(count),
            next_batch: self.link.next_batch + 1,
            ..self.link
        };
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        self.outstanding.push_back(Outstanding {
            ticket,
            committed,
            result: None,
        });
        self.engine.submit(ticket, write, alone);
        Ok(())
    }
}
