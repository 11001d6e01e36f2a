//! Which segments a lane has, which may go, and how they go without a crash ever mattering.
//!
//! The header of the newest segment is the one authority: it names the oldest segment that
//! belongs to the log (`base_seq`). So old segments go in two steps: the next segment to be begun
//! says so in its header, durably; only then are their files removed. A crash in between leaves
//! files below the base, which recovery ignores and the next opening removes.
//!
//! What may go is the caller's knowledge (an open episode must stay readable); this file knows
//! bytes and ages.

use std::collections::VecDeque;
use std::sync::Mutex;

use serde::Serialize;
use zerocopy::FromBytes;

use super::block::{Access, Disk};
use super::error::Failure;
use super::format::{Damage, GRANULE_MAX, SEGMENT_HEADER_LEN, SegmentHeader, SegmentState};
use super::left_out::{Check, left_out};
use super::{LaneId, Lsn, lock, store};

/// Begun segments that are never removed: the one being filled and the one before it, so that
/// what was written a moment ago is there whatever the limits say.
const KEPT_ALWAYS: usize = 2;

/// One begun segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Span {
    /// Its number.
    pub segment: u64,
    /// LSN of the first record in it.
    pub first_lsn: Lsn,
    /// When it was begun, nanoseconds since the Unix epoch.
    pub begun_unix_ns: u64,
    /// Length of the file, bytes.
    pub bytes: u64,
    /// The writer's epoch when it was begun.
    pub epoch: u64,
}

/// How much history a lane keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Keep {
    pub(crate) bytes: u64,
    /// 0 for no limit.
    pub(crate) age_ns: u64,
}

struct State {
    /// Oldest first.
    spans: VecDeque<Span>,
    /// The base that the next header is to name.
    wanted: u64,
    /// The base of a header that is being written.
    announced: u64,
    /// Files below the durable base that are still there.
    removable: Vec<u64>,
}

/// The segments of one lane that is open for writing.
pub(crate) struct Retention {
    lane: LaneId,
    state: Mutex<State>,
}

impl Retention {
    /// `spans` as recovery found them, oldest first.
    pub(crate) fn new(lane: LaneId, spans: &[Span]) -> Self {
        let base = spans.first().map_or(0, |span| span.segment);
        let state = State {
            spans: spans.iter().copied().collect(),
            wanted: base,
            announced: base,
            removable: Vec::new(),
        };
        Self {
            lane,
            state: Mutex::new(state),
        }
    }

    /// The base for the header of segment `seq`, which is about to be written.
    pub(crate) fn announce(&self, seq: u64) -> u64 {
        let mut state = lock(&self.state);
        if state.spans.is_empty() {
            state.wanted = seq;
        }
        state.announced = state.wanted;
        state.announced
    }

    /// The header is durable, and with it the base that it names.
    pub(crate) fn begun(&self, span: Span) {
        let mut state = lock(&self.state);
        let base = state.announced;
        while let Some(oldest) = state.spans.front().filter(|oldest| oldest.segment < base) {
            let segment = oldest.segment;
            state.removable.push(segment);
            state.spans.pop_front();
        }
        state.spans.push_back(span);
    }

    pub(crate) fn spans(&self) -> Vec<Span> {
        lock(&self.state).spans.iter().copied().collect()
    }

    /// The LSN below which everything is beyond the limits, if that is more than has been given
    /// up already.
    pub(crate) fn overdue(&self, keep: Keep, now_unix_ns: u64) -> Option<Lsn> {
        let state = lock(&self.state);
        let mut bytes: u64 = state.spans.iter().map(|span| span.bytes).sum();
        let mut overdue = None;
        for i in 0..state.spans.len().saturating_sub(KEPT_ALWAYS) {
            // A segment is as old as its last record, which is older than the next one's header.
            let next = state.spans[i + 1];
            let age = now_unix_ns.saturating_sub(next.begun_unix_ns);
            if bytes <= keep.bytes && (keep.age_ns == 0 || age <= keep.age_ns) {
                break;
            }
            bytes -= state.spans[i].bytes;
            overdue = (next.segment > state.wanted).then_some(next.first_lsn);
        }
        overdue
    }

    /// Gives up every segment whose records are all below `keep_from`; from the next segment on
    /// they don't belong to the log.
    pub(crate) fn retain(&self, keep_from: Lsn) {
        let mut state = lock(&self.state);
        let limit = state.spans.len().saturating_sub(KEPT_ALWAYS);
        let base = (0..=limit)
            .filter_map(|i| state.spans.get(i))
            .rfind(|span| span.first_lsn <= keep_from)
            .map(|span| span.segment);
        if let Some(base) = base {
            state.wanted = state.wanted.max(base);
        }
        if left_out(Check::BaseDurable) {
            let wanted = state.wanted;
            let gone = state.spans.iter().map(|span| span.segment);
            let gone: Vec<u64> = gone.filter(|segment| *segment < wanted).collect();
            state.removable.extend(gone);
        }
    }

    /// Removes the files of segments that don't belong to the log any more; their number.
    pub(crate) fn remove(&self, disk: &dyn Disk) -> Result<usize, Failure> {
        let gone = std::mem::take(&mut lock(&self.state).removable);
        let mut failed = None;
        let mut left = Vec::new();
        for seq in &gone {
            let name = store::segment_name(self.lane, *seq);
            match disk.remove(&name) {
                Ok(()) => {}
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => {
                    failed = Some(Failure::of("remove", &name)(error));
                    left.push(*seq);
                }
            }
        }
        let removed = gone.len() - left.len();
        lock(&self.state).removable.extend(left);
        // No sync of the directory: a name that comes back is below the base.
        failed.map_or(Ok(removed), Err)
    }
}

/// Where a lane begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Base {
    /// There is no valid header.
    None,
    /// The oldest segment of the log, as the newest valid header names it.
    Segment(u64),
    /// The header of this segment can't be read: an older one must not be believed in its place.
    Unreadable(u64, Damage),
}

/// Looks for the newest valid header among `seqs` (ascending).
pub(crate) fn base_of(disk: &dyn Disk, lane: LaneId, seqs: &[u64]) -> Result<Base, Failure> {
    for seq in seqs.iter().rev() {
        let name = store::segment_name(lane, *seq);
        let file = disk
            .open(&name, Access::Read)
            .map_err(Failure::of("open", &name))?;
        let mut block = vec![0; GRANULE_MAX as usize];
        let mut done = 0;
        loop {
            match file.read_at(&mut block[done..], done as u64) {
                Ok(0) => break,
                Ok(read) => done += read,
                Err(error) => {
                    let errno = error.raw_os_error().unwrap_or(0);
                    return Ok(Base::Unreadable(*seq, Damage::Unreadable(errno)));
                }
            }
        }
        let claimed = block.get(..SEGMENT_HEADER_LEN.min(done));
        let granule = claimed.and_then(|prefix| SegmentHeader::read_from_bytes(prefix).ok());
        let granule = granule.map_or(0, |header| header.granule.get() as usize);
        let Some(block) = block.get(..granule.min(done)) else {
            continue;
        };
        if let SegmentState::Valid(header) = SegmentHeader::decode(block)
            && header.lane == lane.code()
            && header.seq.get() == *seq
        {
            return Ok(Base::Segment(header.base_seq.get()));
        }
    }
    Ok(Base::None)
}
