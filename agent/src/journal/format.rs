//! The bytes on disk: segment header, batch header, record header, and their checks.
//!
//! Owns the layout and nothing else: no file is opened here, and no decoder panics whatever the
//! input. All integers are little-endian. Both lanes have this one format.
//!
//! ```text
//! segment   | header block (1 granule) | batch | batch | … | zeros to the end |
//! batch     | BatchHeader 128 | RecordHeader 48 | payload, padded to 8 | RecordHeader … | zeros |
//! ```
//!
//! A batch starts and ends on a granule (4 KiB, or more where the device demands it), so that
//! no write ever touches a block that holds an acknowledged batch. The granule, the lane's UUID
//! and the position are in the checked headers: a block of another life, of another file or of
//! another place can't be taken for this one.

use crc_fast::CrcAlgorithm::{Crc32Iscsi, Crc64Nvme};
use crc_fast::Digest;
use serde::{Deserialize, Serialize};
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::left_out::{Check, left_out};

/// The version that this program writes; it reads every version up to it.
pub(crate) const VERSION: u16 = 1;
/// Smallest granule, bytes: a page, and the sector of every device in use.
pub(crate) const GRANULE_MIN: u32 = 4096;
/// Largest granule, bytes: above it the direct path costs more than it gains.
pub(crate) const GRANULE_MAX: u32 = 65536;
/// A batch with no records that opens a new epoch in a segment already begun.
pub(crate) const FLAG_FENCE: u16 = 1;

const SEGMENT_MAGIC: [u8; 8] = *b"PMDC-SEG";
const BATCH_MAGIC: [u8; 8] = *b"PMDC-BAT";
/// Bytes before the part that a header's own check covers: magic and the check itself.
const CHECKED_FROM: usize = 16;

/// The first block of a segment; the rest of the block is zeros and checked too.
///
/// Magic and check come first so that the checked part is one run of bytes.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct SegmentHeader {
    pub(crate) magic: [u8; 8],
    /// CRC-64/NVME of the header block from byte 16 to its end.
    pub(crate) check: U64,
    pub(crate) version: U16,
    /// 0 fast, 1 safe.
    pub(crate) lane: u8,
    pub(crate) reserved: u8,
    /// Batches are aligned to this, bytes; a power of two.
    pub(crate) granule: U32,
    /// How many batches the writer lets be in flight at once: so many, counted from the first
    /// invalid one, may have been torn by one crash; a valid batch beyond them is corruption.
    pub(crate) in_flight_max: U32,
    pub(crate) reserved2: U32,
    pub(crate) log_uuid: [u8; 16],
    /// This segment's number: also in its file name.
    pub(crate) seq: U64,
    /// Writer's epoch: raised at every opening for writing.
    pub(crate) epoch: U64,
    /// LSN that the first record here gets.
    pub(crate) first_lsn: U64,
    /// Number that the first batch here gets.
    pub(crate) first_batch: U64,
    /// The segment before this one, 0 for none. This and the next two seal it: whatever lies
    /// beyond `prev_end` there was cut by recovery and is never read again.
    pub(crate) prev_seq: U64,
    /// Offset at which the previous segment's last batch ends.
    pub(crate) prev_end: U64,
    /// The chain up to here: `check` of the previous segment's last batch (or header).
    pub(crate) prev_check: U64,
    /// Oldest segment that retention had kept when this one was begun.
    pub(crate) base_seq: U64,
    /// Length of the file, bytes.
    pub(crate) segment_len: U64,
    pub(crate) created_unix_ns: U64,
}

/// Begins every batch. A batch is whole or absent: nothing in it is believed before both checks.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct BatchHeader {
    pub(crate) magic: [u8; 8],
    /// CRC-64/NVME of this header from byte 16 to its end; covers `body_check`, so it stands
    /// for the whole batch in the chain.
    pub(crate) check: U64,
    /// CRC-64/NVME of the batch from the end of this header to `total_len`, padding included.
    pub(crate) body_check: U64,
    /// `check` of the batch (or segment header) before this one.
    pub(crate) prev_check: U64,
    pub(crate) version: U16,
    pub(crate) flags: U16,
    /// Number of records.
    pub(crate) count: U32,
    /// Length on disk, bytes, a multiple of the granule.
    pub(crate) total_len: U32,
    /// Bytes of records after this header, before the padding.
    pub(crate) body_len: U32,
    pub(crate) log_uuid: [u8; 16],
    pub(crate) seq: U64,
    /// Offset of this header in its segment.
    pub(crate) offset: U64,
    pub(crate) epoch: U64,
    pub(crate) first_lsn: U64,
    pub(crate) batch_no: U64,
    pub(crate) unix_ns: U64,
    pub(crate) reserved: [u8; 16],
}

/// Before every payload.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct RecordHeader {
    /// CRC32C of this header from byte 4 and of the payload: lets one record be read alone.
    pub(crate) crc: U32,
    /// Payload, bytes.
    pub(crate) len: U32,
    pub(crate) kind: U16,
    pub(crate) flags: U16,
    pub(crate) reserved: U32,
    pub(crate) lsn: U64,
    /// When the record was handed to the journal, nanoseconds since the Unix epoch.
    pub(crate) unix_ns: U64,
    pub(crate) episode: [u8; 16],
}

pub(crate) const SEGMENT_HEADER_LEN: usize = size_of::<SegmentHeader>();
pub(crate) const BATCH_HEADER_LEN: usize = size_of::<BatchHeader>();
pub(crate) const RECORD_HEADER_LEN: usize = size_of::<RecordHeader>();

const _: () = assert!(SEGMENT_HEADER_LEN == 128);
const _: () = assert!(BATCH_HEADER_LEN == 128);
const _: () = assert!(RECORD_HEADER_LEN == 48);

/// Why bytes were not accepted. The words are for people; match on the variant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
pub enum Damage {
    /// No magic number where a header belongs.
    #[error("no header here")]
    NoHeader,
    /// A header whose own checksum does not match.
    #[error("header checksum mismatch")]
    HeaderChecksum,
    /// A batch whose body does not match its checksum: the usual torn write.
    #[error("body checksum mismatch (torn write)")]
    BodyChecksum,
    /// The file ends before the bytes that its header promises.
    #[error("file is shorter than its header says")]
    Short,
    /// Lengths or counts that contradict each other.
    #[error("malformed lengths")]
    Malformed,
    /// Written by a newer program.
    #[error("format version {0} is newer than this program's {VERSION}")]
    Version(u16),
    /// Checks are right, but it belongs to another log, segment, place or epoch.
    #[error("valid, but belongs to another place or an earlier life of the log")]
    Misplaced,
    /// Does not continue the chain of checksums, LSNs and batch numbers.
    #[error("does not continue the chain")]
    Chain,
    /// A record's own checksum does not match.
    #[error("record checksum mismatch")]
    RecordChecksum,
    /// A segment that the log continues from is missing.
    #[error("a segment before this one is missing")]
    MissingSegment,
    /// The device could not read the bytes (raw OS error).
    #[error("cannot be read (os error {0})")]
    Unreadable(i32),
}

/// What stands in a segment's first block.
#[derive(Debug)]
pub(crate) enum SegmentState {
    Valid(Box<SegmentHeader>),
    /// All zeros: prepared, never begun.
    Zero,
    Invalid(Damage),
}

/// Bytes that a payload of `len` takes inside a batch.
pub(crate) fn record_size(len: usize) -> usize {
    RECORD_HEADER_LEN + len.next_multiple_of(8)
}

/// Bytes that a batch with `body` bytes of records takes on disk.
pub(crate) fn batch_size(body: usize, granule: u32) -> usize {
    (BATCH_HEADER_LEN + body).next_multiple_of(granule as usize)
}

/// CRC32C of a record header behind its own field, and of the payload.
fn crc32c(header: &RecordHeader, payload: &[u8]) -> u32 {
    let mut digest = Digest::new(Crc32Iscsi);
    digest.update(&header.as_bytes()[4..]);
    digest.update(payload);
    #[allow(
        clippy::cast_possible_truncation,
        reason = "a 32-bit checksum, handed out in 64"
    )]
    let crc = digest.finalize() as u32;
    crc
}

fn crc64(bytes: &[u8]) -> u64 {
    crc_fast::checksum(Crc64Nvme, bytes)
}

/// Fills `bytes` with zeros at the cost of a batch: one copy and both checksums.
pub(crate) fn trial(bytes: &mut [u8]) {
    bytes.fill(0);
    std::hint::black_box(crc_fast::checksum(Crc32Iscsi, bytes) ^ crc64(bytes));
}

impl SegmentHeader {
    /// Fills `block` (one granule) with this header; sets and returns its check.
    pub(crate) fn encode(mut self, block: &mut [u8]) -> u64 {
        self.magic = SEGMENT_MAGIC;
        self.version = VERSION.into();
        block.fill(0);
        block[..SEGMENT_HEADER_LEN].copy_from_slice(self.as_bytes());
        let check = crc64(&block[CHECKED_FROM..]);
        block[8..16].copy_from_slice(&check.to_le_bytes());
        check
    }

    /// Reads the granule that a header block claims, without believing anything else of it.
    pub(crate) fn claimed_granule(prefix: &[u8]) -> Option<u32> {
        let (header, _) = Self::read_from_prefix(prefix).ok()?;
        let granule = header.granule.get();
        let sane = granule.is_power_of_two() && (GRANULE_MIN..=GRANULE_MAX).contains(&granule);
        (header.magic == SEGMENT_MAGIC && sane).then_some(granule)
    }

    /// Decodes a header block; `block` is the claimed granule long, or [`GRANULE_MIN`] when none
    /// is claimed.
    pub(crate) fn decode(block: &[u8]) -> SegmentState {
        if block.iter().all(|b| *b == 0) {
            return SegmentState::Zero;
        }
        let Some(granule) = Self::claimed_granule(block) else {
            return SegmentState::Invalid(Damage::NoHeader);
        };
        let Ok((header, _)) = Self::read_from_prefix(block) else {
            return SegmentState::Invalid(Damage::Short);
        };
        if block.len() != granule as usize {
            return SegmentState::Invalid(Damage::Short);
        }
        if header.check.get() != crc64(&block[CHECKED_FROM..]) {
            return SegmentState::Invalid(Damage::HeaderChecksum);
        }
        match header.version.get() {
            VERSION => SegmentState::Valid(Box::new(header)),
            other => SegmentState::Invalid(Damage::Version(other)),
        }
    }
}

impl BatchHeader {
    /// Zeroes the padding of a batch whose records stand in `batch[128..128 + body_len]` and
    /// checks everything behind the header: all of the sealing that does not hang on the chain.
    pub(crate) fn check_body(&mut self, batch: &mut [u8]) {
        batch[BATCH_HEADER_LEN + self.body_len.get() as usize..].fill(0);
        self.body_check = crc64(&batch[BATCH_HEADER_LEN..]).into();
    }

    /// Writes this header, whose body is checked, and returns its check: the next batch's
    /// `prev_check`.
    pub(crate) fn seal_header(&mut self, batch: &mut [u8]) -> u64 {
        self.magic = BATCH_MAGIC;
        self.version = VERSION.into();
        self.check = 0.into();
        self.check = crc64(&self.as_bytes()[CHECKED_FROM..]).into();
        batch[..BATCH_HEADER_LEN].copy_from_slice(self.as_bytes());
        self.check.get()
    }

    /// Both, for whoever has the whole batch before him.
    #[cfg(test)]
    pub(crate) fn seal(mut self, batch: &mut [u8]) -> u64 {
        self.check_body(batch);
        self.seal_header(batch)
    }

    /// Checks the header alone: its bytes are what was written, whatever became of the body.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, Damage> {
        let (header, _) = Self::read_from_prefix(bytes).map_err(|_| Damage::Short)?;
        if header.magic != BATCH_MAGIC {
            return Err(Damage::NoHeader);
        }
        if header.check.get() != crc64(&header.as_bytes()[CHECKED_FROM..]) {
            return Err(Damage::HeaderChecksum);
        }
        if header.version.get() != VERSION {
            return Err(Damage::Version(header.version.get()));
        }
        let body = header.body_len.get() as usize;
        if BATCH_HEADER_LEN + body > header.total_len.get() as usize {
            return Err(Damage::Malformed);
        }
        Ok(header)
    }
}

/// One record found in a batch; `at` is the offset of its header from the batch's beginning.
#[derive(Debug)]
pub(crate) struct RawRecord<'a> {
    pub(crate) header: RecordHeader,
    pub(crate) payload: &'a [u8],
    pub(crate) at: usize,
}

/// Writes one record at `at` in `batch`; returns the offset behind it.
pub(crate) fn encode_record(batch: &mut [u8], at: usize, h: RecordHeader, data: &[u8]) -> usize {
    let end = at + record_size(data.len());
    let (head, rest) = batch[at..end].split_at_mut(RECORD_HEADER_LEN);
    rest[..data.len()].copy_from_slice(data);
    rest[data.len()..].fill(0);
    let crc = crc32c(&h, data);
    head.copy_from_slice(h.as_bytes());
    head[..4].copy_from_slice(&crc.to_le_bytes());
    end
}

/// Checks and decodes the record whose header begins at `at` in `bytes`.
pub(crate) fn decode_record(bytes: &[u8], at: usize) -> Result<RawRecord<'_>, Damage> {
    let tail = bytes.get(at..).ok_or(Damage::Malformed)?;
    let (header, rest) = RecordHeader::read_from_prefix(tail).map_err(|_| Damage::Malformed)?;
    let payload = rest
        .get(..header.len.get() as usize)
        .ok_or(Damage::Malformed)?;
    let crc = crc32c(&header, payload);
    if crc != header.crc.get() && !left_out(Check::Record) {
        return Err(Damage::RecordChecksum);
    }
    Ok(RawRecord {
        header,
        payload,
        at,
    })
}

/// Checks a whole batch (`bytes` is exactly `total_len`) and decodes its records.
pub(crate) fn decode_batch<'a>(
    header: &BatchHeader,
    bytes: &'a [u8],
) -> Result<Vec<RawRecord<'a>>, Damage> {
    let body = bytes.get(BATCH_HEADER_LEN..).ok_or(Damage::Short)?;
    if bytes.len() != header.total_len.get() as usize {
        return Err(Damage::Short);
    }
    if crc64(body) != header.body_check.get() && !left_out(Check::Body) {
        return Err(Damage::BodyChecksum);
    }
    let end = BATCH_HEADER_LEN + header.body_len.get() as usize;
    let records = bytes.get(..end).ok_or(Damage::Malformed)?;
    // A count is believed only as far as the bytes can hold it: no allocation by a forged one.
    let count = header.count.get() as usize;
    let most = header.body_len.get() as usize / RECORD_HEADER_LEN;
    if count > most {
        return Err(Damage::Malformed);
    }
    let mut found = Vec::with_capacity(count);
    let mut at = BATCH_HEADER_LEN;
    for lsn in header.first_lsn.get()..header.first_lsn.get().saturating_add(count as u64) {
        let record = decode_record(records, at)?;
        if record.header.lsn.get() != lsn && !left_out(Check::RecordLsn) {
            return Err(Damage::Malformed);
        }
        at += record_size(record.payload.len());
        found.push(record);
    }
    if at == end || left_out(Check::Filled) {
        Ok(found)
    } else {
        Err(Damage::Malformed)
    }
}
