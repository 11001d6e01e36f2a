//! A second reader of the format, written from `docs/journal.md` alone: slow, plain, by byte
//! offsets, sharing no line with the real one but the two checksum functions. Where both disagree
//! about a log, one of them is wrong.

use std::collections::BTreeMap;

use crc_fast::CrcAlgorithm::{Crc32Iscsi, Crc64Nvme};

/// A lane's files by segment number.
pub(in super::super) type Files = BTreeMap<u64, Vec<u8>>;

/// What a log holds and how it ends.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in super::super) struct Verdict {
    /// LSN and payload.
    pub(in super::super) records: Vec<(u64, Vec<u8>)>,
    pub(in super::super) corrupt: bool,
    /// A torn tail, or the torn header of a segment that was being begun.
    pub(in super::super) cut: bool,
}

const NUMBER_MAX: u64 = 1 << 62;
const SEGMENT_MAX: u64 = 1 << 30;

fn word(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

fn half(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

fn zeros(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| *byte == 0)
}

fn crc64(bytes: &[u8]) -> u64 {
    crc_fast::checksum(Crc64Nvme, bytes)
}

enum Block<'a> {
    /// The file is too short for it.
    Short,
    Zero,
    Newer,
    Torn,
    Begun(&'a [u8]),
}

/// The granule that the first block claims, if it claims a sane one.
fn claimed(file: &[u8]) -> Option<usize> {
    let granule = half(file.get(..128)?, 20) as usize;
    let sane = granule.is_power_of_two() && (4096..=65536).contains(&granule);
    (&file[..8] == b"PMDC-SEG" && sane).then_some(granule)
}

fn first_block(file: &[u8]) -> Block<'_> {
    let granule = claimed(file).unwrap_or(4096);
    if file.len() < 4096 || file.len() < granule {
        return Block::Short;
    }
    let block = &file[..granule];
    if zeros(block) {
        Block::Zero
    } else if claimed(file).is_none() || word(block, 8) != crc64(&block[16..]) {
        Block::Torn
    } else if block[16..18] != [1, 0] {
        Block::Newer
    } else {
        Block::Begun(block)
    }
}

/// Step 1: the newest valid header names the oldest segment; 0 if there is none.
fn base(files: &Files) -> u64 {
    let newest = files
        .iter()
        .rev()
        .find_map(|(seq, file)| match first_block(file) {
            Block::Begun(block) if block[18] == 0 && word(block, 48) == *seq => {
                Some(word(block, 104))
            }
            _ => None,
        });
    newest.unwrap_or(0)
}

#[derive(Default)]
struct Log {
    uuid: Option<[u8; 16]>,
    seq: u64,
    end: usize,
    check: u64,
    lsn: u64,
    batch: u64,
    epoch: u64,
    window: u64,
    granule: usize,
    segment_len: usize,
    /// The last batch looked at is of a newer version.
    newer: bool,
}

/// Reads the fast lane.
pub(in super::super) fn read(files: &Files) -> Verdict {
    let mut verdict = Verdict::default();
    let mut log = Log::default();
    let oldest = base(files);
    // A prepared or torn segment may only come last.
    let mut closed = false;
    for (seq, file) in files.range(oldest..) {
        let fine = match first_block(file) {
            Block::Short | Block::Newer => false,
            Block::Zero => {
                closed = true;
                zeros(file)
            }
            Block::Torn => {
                closed = true;
                verdict.cut = true;
                zeros(&file[claimed(file).unwrap_or(4096)..])
            }
            Block::Begun(block) => {
                !closed && log.begin(*seq, block, oldest) && {
                    log.batches(file, &mut verdict.records);
                    true
                }
            }
        };
        if !fine {
            verdict.corrupt = true;
            return verdict;
        }
    }
    if let Some(file) = files.get(&log.seq).filter(|_| log.uuid.is_some()) {
        log.judge_end(file, &mut verdict);
    }
    verdict
}

impl Log {
    /// Step 2.
    fn begin(&mut self, seq: u64, block: &[u8], oldest: u64) -> bool {
        let uuid: [u8; 16] = block[32..48].try_into().unwrap();
        let first = self.uuid.is_none();
        let ours = block[18] == 0 && word(block, 48) == seq;
        let continues = if first {
            seq == oldest
        } else {
            self.uuid == Some(uuid)
                && word(block, 80) == self.seq
                && word(block, 88) == self.end as u64
                && word(block, 96) == self.check
                && word(block, 64) == self.lsn
                && word(block, 72) == self.batch
                && word(block, 56) >= self.epoch
        };
        let sane = [48, 56, 64, 72]
            .iter()
            .all(|at| word(block, *at) <= NUMBER_MAX);
        let len = word(block, 112);
        if !ours || !continues || !sane || len > SEGMENT_MAX || len < block.len() as u64 {
            return false;
        }
        *self = Self {
            uuid: Some(uuid),
            seq,
            end: block.len(),
            check: word(block, 8),
            lsn: word(block, 64),
            batch: word(block, 72),
            epoch: word(block, 56),
            window: u64::from(half(block, 24)),
            granule: block.len(),
            segment_len: usize::try_from(len).unwrap(),
            newer: false,
        };
        true
    }

    /// Step 3.
    fn batches(&mut self, file: &[u8], records: &mut Vec<(u64, Vec<u8>)>) {
        while self.end < self.segment_len {
            match self.batch_at(file) {
                Some(found) => records.extend(found),
                None => return,
            }
        }
    }

    fn batch_at(&mut self, file: &[u8]) -> Option<Vec<(u64, Vec<u8>)>> {
        let header = header(file, self.end)?;
        if header[32..34] != [1, 0] {
            self.newer = true;
            return None;
        }
        let (total, body) = (half(header, 40) as usize, half(header, 44) as usize);
        let epoch = word(header, 80);
        let fence = header[34] & 1 == 1 && epoch > self.epoch && epoch <= NUMBER_MAX;
        let fits = 128 + body <= total
            && total.is_multiple_of(self.granule)
            && self.end + total <= self.segment_len;
        let here = Some(&header[48..64]) == self.uuid.as_ref().map(|uuid| &uuid[..])
            && word(header, 64) == self.seq
            && word(header, 72) == self.end as u64
            && (epoch == self.epoch || fence);
        let continues = word(header, 24) == self.check
            && word(header, 88) == self.lsn
            && word(header, 96) == self.batch;
        if !fits || !here || !continues {
            return None;
        }
        let batch = file.get(self.end..self.end + total)?;
        if word(header, 16) != crc64(&batch[128..]) {
            return None;
        }
        let found = records(&batch[128..128 + body], half(header, 36), self.lsn)?;
        self.end += total;
        self.check = word(header, 8);
        self.lsn += found.len() as u64;
        self.batch += 1;
        self.epoch = epoch;
        Some(found)
    }

    /// Steps 4 and 5.
    fn judge_end(&self, file: &[u8], verdict: &mut Verdict) {
        let short = file.len() < self.segment_len;
        if short || self.newer {
            verdict.corrupt = true;
            return;
        }
        if zeros(&file[self.end..]) {
            return;
        }
        verdict.cut = true;
        let mut at = self.end + self.granule;
        while at + 128 <= file.len() {
            if let Some(header) = header(file, at) {
                let later = header[32..34] == [1, 0]
                    && 128 + half(header, 44) as usize <= half(header, 40) as usize
                    && Some(&header[48..64]) == self.uuid.as_ref().map(|uuid| &uuid[..])
                    && word(header, 64) == self.seq
                    && word(header, 72) == at as u64
                    && word(header, 80) >= self.epoch
                    && word(header, 96) >= self.batch.saturating_add(self.window);
                if later {
                    verdict.corrupt = true;
                    verdict.cut = false;
                    return;
                }
            }
            at += self.granule;
        }
    }
}

/// A batch header with its own check right.
fn header(file: &[u8], at: usize) -> Option<&[u8]> {
    let header = file.get(at..at + 128)?;
    (&header[..8] == b"PMDC-BAT" && word(header, 8) == crc64(&header[16..])).then_some(header)
}

fn records(body: &[u8], count: u32, first: u64) -> Option<Vec<(u64, Vec<u8>)>> {
    let mut found = Vec::new();
    let mut at = 0;
    for lsn in (first..).take(count as usize) {
        let header = body.get(at..at + 48)?;
        let len = half(header, 4) as usize;
        let payload = body.get(at + 48..(at + 48).checked_add(len)?)?;
        let crc = crc_fast::checksum(Crc32Iscsi, &body[at + 4..at + 48 + len]);
        if u64::from(half(header, 0)) != crc || word(header, 16) != lsn {
            return None;
        }
        found.push((lsn, payload.to_vec()));
        at += 48 + len.next_multiple_of(8);
    }
    (at == body.len()).then_some(found)
}
