//! The segment that a lane fills: begun, resumed after an opening, fenced.

use std::sync::Arc;

use super::super::block::BlockFile;
use super::super::engine::Wait;
use super::super::error::Failure;
use super::super::format::{FLAG_FENCE, SegmentHeader, SegmentState, batch_size};
use super::super::left_out::{Check, left_out};
use super::super::pool::NoSegment;
use super::super::recover::Link;
use super::super::retain::Span;
use super::super::{Lsn, store, unix_ns};
use super::{Chain, CommitError, Lane};

/// A segment to be filled further.
pub(crate) struct Active {
    pub(crate) seq: u64,
    pub(crate) file: Box<dyn BlockFile>,
    pub(crate) granule: u32,
    /// Where the next batch goes.
    pub(crate) pos: u64,
    pub(crate) len: u64,
}

/// The active segment as this lane holds it.
pub(super) struct Open {
    pub(super) seq: u64,
    pub(super) file: Arc<dyn BlockFile>,
    pub(super) name: Arc<str>,
    pub(super) granule: u32,
    pub(super) pos: u64,
    pub(super) len: u64,
    /// Batches that its header allows in flight: recovery takes that number for granted.
    pub(super) window: usize,
}

impl Lane {
    /// Continues in a segment whose rest is verified to be zero.
    pub(crate) fn resume(&mut self, active: Active) {
        let Active {
            seq,
            file,
            granule,
            pos,
            len,
        } = active;
        let mut buf = self.in_flight.buffer(granule as usize);
        // Verified by recovery a moment ago; if it can't be read now, one at a time is right.
        let block = buf.slice(granule as usize);
        let window = match (file.read_at(block, 0), SegmentHeader::decode(block)) {
            (Ok(read), SegmentState::Valid(header)) if read == granule as usize => {
                header.in_flight_max.get() as usize
            }
            _ => 1,
        };
        let window = if left_out(Check::WindowKept) {
            usize::MAX
        } else {
            window
        };
        self.in_flight.give_back(buf);
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
            self.write_batch(Vec::new(), FLAG_FENCE, unix_ns(), true)?;
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

    /// Whether a batch with `body` bytes of records begins a new segment.
    pub(crate) fn begins_segment(&self, body: usize) -> bool {
        self.active
            .as_ref()
            .is_none_or(|active| active.pos + batch_size(body, active.granule) as u64 > active.len)
    }

    pub(super) fn begin_segment(&mut self) -> Result<(), CommitError> {
        self.in_flight.settle(self.id.name())?;
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
        let window = u32::try_from(self.engine().depth()).unwrap_or(u32::MAX);
        let told = if left_out(Check::Window) { 1 } else { window };
        let header = SegmentHeader {
            magic: [0; 8],
            check: 0.into(),
            version: 0.into(),
            lane: self.id.code(),
            reserved: 0,
            granule: prepared.granule.into(),
            in_flight_max: told.into(),
            reserved2: 0.into(),
            log_uuid: self.uuid,
            seq: prepared.seq.into(),
            epoch: self.link.epoch.into(),
            first_lsn: self.link.next_lsn.into(),
            first_batch: self.link.next_batch.into(),
            prev_seq: self.link.seq.into(),
            prev_end: self.link.end.into(),
            prev_check: self.chain.wait(self.id.name())?.into(),
            base_seq: self.retention.announce(prepared.seq).into(),
            segment_len: prepared.len.into(),
            created_unix_ns: begun_unix_ns.into(),
        };
        let mut buf = self.in_flight.buffer(prepared.granule as usize);
        let block = buf.slice(prepared.granule as usize);
        let check = header.encode(block);
        // Durable before the first batch: a batch behind a lost header could not be found.
        let name: Arc<str> = store::segment_name(self.id, prepared.seq).into();
        let file: Arc<dyn BlockFile> = prepared.file.into();
        self.id.commit(file.as_ref(), &name, block, 0)?;
        self.in_flight.give_back(buf);
        self.retention.begun(Span {
            segment: prepared.seq,
            first_lsn: Lsn(self.link.next_lsn),
            begun_unix_ns,
            bytes: prepared.len,
            epoch: self.link.epoch,
        });
        let pos = u64::from(prepared.granule);
        self.chain = Chain::known(check);
        self.link = Link {
            seq: prepared.seq,
            end: pos,
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
}
