//! Finds the longest valid prefix of a lane, and tells a torn tail from corruption.
//!
//! Reads only. Every byte that is believed is verified first, every segment to its end. The rule:
//! a crash can tear the batches that were in flight and nothing else. So an invalid batch with
//! nothing valid beyond it is the *tail*, and is cut and reported; anything valid beyond the
//! in-flight window, or anything else that our own order of writes can't produce, is
//! *corruption*, and the caller must not write to this log.

use serde::Serialize;

use super::block::{Access, Disk};
use super::error::Failure;
use super::format::{Damage, RawRecord};
use super::retain::{Base, Span, base_of};
use super::{LaneId, store};
use walk::Walk;
use window::Window;

mod walk;
mod window;

/// The torn end of a lane: reported, and sealed off before anything new is written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Cut {
    /// Which lane.
    pub lane: LaneId,
    /// Segment number.
    pub segment: u64,
    /// Where the valid prefix ends, bytes from the beginning of the segment.
    pub offset: u64,
    /// From there to the last byte that is not zero.
    pub bytes_lost: u64,
    /// What was wrong with the first batch cut.
    pub reason: Damage,
}

/// Damage that no crash of ours can have made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Corruption {
    /// Which lane.
    pub lane: LaneId,
    /// Segment number.
    pub segment: u64,
    /// Where the valid prefix ends, bytes from the beginning of the segment.
    pub offset: u64,
    /// What was wrong there.
    pub reason: Damage,
    /// Segment and offset of the first valid thing found beyond, if that is what gave it away.
    pub valid_beyond: Option<(u64, u64)>,
}

impl std::fmt::Display for Corruption {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            lane,
            segment,
            offset,
            reason,
            valid_beyond,
        } = self;
        write!(
            f,
            "{lane} lane is corrupt at segment {segment}, offset {offset}: {reason}"
        )?;
        match valid_beyond {
            Some((segment, offset)) => write!(f, "; valid data at segment {segment}+{offset}"),
            None => Ok(()),
        }
    }
}

/// Where the valid log ends and what the next batch must continue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Link {
    /// Segment with the last valid batch (or header); 0 for an empty log.
    pub(crate) seq: u64,
    /// Offset behind it.
    pub(crate) end: u64,
    /// Its checksum.
    pub(crate) check: u64,
    pub(crate) next_lsn: u64,
    pub(crate) next_batch: u64,
    pub(crate) epoch: u64,
}

/// Facts about the last begun segment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tail {
    pub(crate) granule: u32,
    pub(crate) segment_len: u64,
    /// Nothing but zeros behind the link: it can be written on.
    pub(crate) clean: bool,
}

/// What a scan of one lane found.
#[derive(Debug)]
pub(crate) struct Scan {
    pub(crate) uuid: Option<[u8; 16]>,
    /// The begun segments of the log, oldest first.
    pub(crate) spans: Vec<Span>,
    /// Files below the oldest segment of the log: retention has given them up.
    pub(crate) obsolete: Vec<u64>,
    pub(crate) link: Link,
    pub(crate) tail: Option<Tail>,
    pub(crate) cuts: Vec<Cut>,
    pub(crate) corruption: Option<Corruption>,
    /// Prepared segments, verified to be zero, by number and length.
    pub(crate) unused: Vec<(u64, u64)>,
    /// Segments whose header was torn while they were begun; nothing was ever in them.
    pub(crate) torn_headers: Vec<u64>,
    pub(crate) bytes_verified: u64,
}

/// One record with its place; the payload is borrowed from the read buffer.
pub(crate) struct Found<'a> {
    pub(crate) raw: RawRecord<'a>,
    pub(crate) segment: u64,
    /// Of the record header, bytes from the beginning of the segment.
    pub(crate) offset: u64,
}

/// Scans the segments `seqs` (ascending) of `lane`, handing every record of the valid prefix to
/// `visit` in LSN order.
///
/// # Errors
/// Only for files that can't be opened; unreadable bytes are reported as corruption.
pub(crate) fn scan(
    disk: &dyn Disk,
    lane: LaneId,
    seqs: &[u64],
    visit: &mut dyn FnMut(Found<'_>),
) -> Result<Scan, Failure> {
    let base = base_of(disk, lane, seqs)?;
    let oldest = match base {
        Base::Segment(oldest) => oldest,
        Base::None | Base::Unreadable(..) => 0,
    };
    let (obsolete, seqs) = seqs.split_at(seqs.partition_point(|seq| *seq < oldest));
    if let Base::Unreadable(seq, damage) = base {
        let mut walk = Walk::new(lane, oldest);
        walk.corrupt((seq, 0), damage, None);
        return Ok(walk.out);
    }
    let mut scan = scan_from(disk, lane, seqs, oldest, visit)?;
    scan.obsolete = obsolete.to_vec();
    Ok(scan)
}

/// The same for a log that begins with segment `oldest`, whatever its headers say.
pub(crate) fn scan_from(
    disk: &dyn Disk,
    lane: LaneId,
    seqs: &[u64],
    oldest: u64,
    visit: &mut dyn FnMut(Found<'_>),
) -> Result<Scan, Failure> {
    let mut walk = Walk::new(lane, oldest);
    for seq in seqs {
        let name = store::segment_name(lane, *seq);
        let file = disk
            .open(&name, Access::Read)
            .map_err(Failure::of("open", &name))?;
        let len = file.len().map_err(Failure::of("measure", &name))?;
        let window = Window::new(file, len);
        let step = walk.segment(*seq, window, visit);
        if let Err((at, reason, valid_beyond)) = step {
            walk.corrupt(at, reason, valid_beyond);
            return Ok(walk.out);
        }
    }
    if let Err((at, reason, valid_beyond)) = walk.finish(visit) {
        walk.corrupt(at, reason, valid_beyond);
    }
    Ok(walk.out)
}
