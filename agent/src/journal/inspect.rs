//! What lies in a journal's directory, for people: reads only, beside a running agent too.

use std::path::Path;

use serde::Serialize;

use super::block::{Access, Disk, RealDisk};
use super::error::{Failure, JournalError};
use super::recover::{Corruption, Cut, Scan};
use super::{LaneId, Lsn, reader, store};

/// What a segment file is to the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum SegmentUse {
    /// Part of the log.
    Begun,
    /// All zeros, ready to be begun.
    Prepared,
    /// Its header was torn while it was begun; nothing was ever in it.
    TornHeader,
    /// Below the oldest segment of the log; its file will be removed.
    GivenUp,
    /// At or beyond damage: not believed.
    Unread,
}

/// One segment file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SegmentReport {
    /// File name.
    pub file: String,
    /// Number.
    pub segment: u64,
    /// What it is to the log.
    #[serde(rename = "use")]
    pub usage: SegmentUse,
    /// Length, bytes.
    pub bytes: u64,
    /// LSN of its first record, if it is part of the log.
    pub first_lsn: Option<Lsn>,
    /// The writer's epoch when it was begun.
    pub epoch: Option<u64>,
    /// When it was begun, nanoseconds since the Unix epoch.
    pub begun_unix_ns: Option<u64>,
}

/// One lane.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LaneReport {
    /// Which.
    pub lane: LaneId,
    /// Every segment file, in order.
    pub segments: Vec<SegmentReport>,
    /// Bytes of all of them.
    pub bytes: u64,
    /// Records that can be read.
    pub records: u64,
    /// Their payload, bytes.
    pub payload_bytes: u64,
    /// LSN of the first of them.
    pub first_lsn: Option<Lsn>,
    /// LSN that the next record will have.
    pub next_lsn: Lsn,
    /// The writer's epoch: how often the lane has been opened for writing.
    pub epoch: u64,
    /// Torn tails.
    pub cuts: Vec<Cut>,
    /// The first damage that no crash explains.
    pub corruption: Option<Corruption>,
    /// Bytes read and verified.
    pub bytes_verified: u64,
}

/// Both lanes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Inspection {
    /// Fast, then safe.
    pub lanes: [LaneReport; 2],
    /// The agent that has the journal open, if one has: its process number, 0 if it is unknown.
    pub held_by: Option<u32>,
    /// Files that an earlier repair has moved aside.
    pub aside: Vec<String>,
}

impl Inspection {
    /// All damage found, at most one a lane.
    pub fn corruption(&self) -> impl Iterator<Item = &Corruption> {
        self.lanes
            .iter()
            .filter_map(|lane| lane.corruption.as_ref())
    }
}

/// Reads and verifies every byte of the journal in `dir`. Blocking.
///
/// # Errors
/// [`JournalError::Io`] if the directory or a file in it can't be opened.
pub fn inspect(dir: &Path) -> Result<Inspection, JournalError> {
    let disk = RealDisk::new(dir);
    let names = list(&disk)?;
    let aside = names.into_iter().filter(|name| store::is_aside(name));
    Ok(Inspection {
        lanes: [lane(&disk, LaneId::Fast)?, lane(&disk, LaneId::Safe)?],
        held_by: store::holder(dir),
        aside: aside.collect(),
    })
}

fn list(disk: &dyn Disk) -> Result<Vec<String>, Failure> {
    let mut names = disk
        .list()
        .map_err(Failure::of("list", "journal directory"))?;
    names.sort_unstable();
    Ok(names)
}

#[derive(Clone, Copy, Default)]
struct Sum {
    records: u64,
    payload_bytes: u64,
    first_lsn: Option<Lsn>,
}

fn lane(disk: &dyn Disk, id: LaneId) -> Result<LaneReport, Failure> {
    let (scan, sum) = reader::settled(disk, id, Sum::default, |sum, found| {
        let header = &found.raw.header;
        sum.records += 1;
        sum.payload_bytes += u64::from(header.len.get());
        sum.first_lsn.get_or_insert(Lsn(header.lsn.get()));
    })?;
    let names = list(disk)?;
    let mut segments = Vec::new();
    for seq in store::segments(id, &names) {
        segments.extend(segment(disk, id, seq, &scan)?);
    }
    Ok(LaneReport {
        lane: id,
        bytes: segments.iter().map(|segment| segment.bytes).sum(),
        segments,
        records: sum.records,
        payload_bytes: sum.payload_bytes,
        first_lsn: sum.first_lsn,
        next_lsn: Lsn(scan.link.next_lsn),
        epoch: scan.link.epoch,
        cuts: scan.cuts,
        corruption: scan.corruption,
        bytes_verified: scan.bytes_verified,
    })
}

/// `None` for a file that a running agent has removed meanwhile.
fn segment(
    disk: &dyn Disk,
    id: LaneId,
    seq: u64,
    scan: &Scan,
) -> Result<Option<SegmentReport>, Failure> {
    let file = store::segment_name(id, seq);
    let opened = match disk.open(&file, Access::Read) {
        Ok(opened) => opened,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Failure::of("open", &file)(error)),
    };
    let bytes = opened.len().map_err(Failure::of("measure", &file))?;
    let begun = scan.spans.iter().find(|span| span.segment == seq);
    let usage = match begun {
        Some(_) => SegmentUse::Begun,
        None if scan.obsolete.contains(&seq) => SegmentUse::GivenUp,
        None if scan.torn_headers.contains(&seq) => SegmentUse::TornHeader,
        None if scan.unused.iter().any(|(unused, _)| *unused == seq) => SegmentUse::Prepared,
        None => SegmentUse::Unread,
    };
    Ok(Some(SegmentReport {
        file,
        segment: seq,
        usage,
        bytes,
        first_lsn: begun.map(|span| span.first_lsn),
        epoch: begun.map(|span| span.epoch),
        begun_unix_ns: begun.map(|span| span.begun_unix_ns),
    }))
}
