//! The journal's nouns: lanes, numbers, records, snapshots, and what an opening finds.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::block::{Access, BlockFile};
use super::error::Failure;
use super::recover::{Corruption, Cut, Scan};
use super::{fast, safe};

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
    pub(super) fn absorb(&mut self, scan: &Scan) {
        self.cuts.extend_from_slice(&scan.cuts);
        self.corruption.extend(scan.corruption.clone());
        self.bytes_verified += scan.bytes_verified;
    }
}
