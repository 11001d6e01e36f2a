//! Changes to a log: of bytes, of fields, of blocks, of whole files; and checksums made right again.

use zerocopy::FromBytes;

use super::super::super::block::sim::Rng;
use super::super::super::format::{BatchHeader, RecordHeader, SegmentHeader, encode_record};
use super::oracle::Files;

const BLOCK: usize = 4096;

/// One change, most times with valid checksums after it.
pub(super) fn mutate(files: &mut Files, other: &Files, rng: &mut Rng) {
    if rng.below(8) == 0 {
        whole_files(files, other, rng);
        return;
    }
    let Some(bytes) = pick(files, rng) else {
        return;
    };
    let blocks = bytes.len() / BLOCK;
    if blocks == 0 {
        return;
    }
    let block = rng.below(blocks) * BLOCK;
    match rng.below(10) {
        0 => {
            let at = rng.below(bytes.len());
            bytes[at] ^= 1 << rng.below(8);
        }
        1..=4 => field(&mut bytes[block..], rng),
        5 => record(&mut bytes[block..], rng),
        6 => {
            let from = rng.below(blocks) * BLOCK;
            let len = (1 + rng.below(2)) * BLOCK;
            let len = len.min(bytes.len() - from.max(block));
            bytes.copy_within(from..from + len, block);
        }
        7 => bytes[block..block + BLOCK].fill(0),
        8 => {
            let len = rng.below(bytes.len());
            let whole = rng.below(2) == 0;
            bytes.truncate(if whole { len / BLOCK * BLOCK } else { len });
        }
        _ => bytes.resize(bytes.len() + BLOCK, 0),
    }
    match rng.below(4) {
        0 => {}
        1 => reseal(bytes, block),
        _ => reseal_all(bytes),
    }
}

fn pick<'a>(files: &'a mut Files, rng: &mut Rng) -> Option<&'a mut Vec<u8>> {
    let nth = rng.below(files.len().max(1));
    files.values_mut().nth(nth)
}

fn whole_files(files: &mut Files, other: &Files, rng: &mut Rng) {
    let seqs: Vec<u64> = files.keys().copied().collect();
    if seqs.is_empty() {
        files.clone_from(other);
        return;
    }
    let seq = seqs[rng.below(seqs.len())];
    match rng.below(4) {
        0 => {
            files.remove(&seq);
        }
        1 => {
            let copy = files[&seq].clone();
            files.insert(seq + rng.below(3) as u64, copy);
        }
        2 => {
            if let Some((seq, bytes)) = other.iter().nth(rng.below(other.len().max(1))) {
                files.insert(*seq, bytes.clone());
            }
        }
        _ => {
            let last = seqs[seqs.len() - 1] + 1;
            files.insert(last, vec![0; 4 * BLOCK]);
        }
    }
}

/// Sets one of the first sixteen words to a value that is apt to be wrong, or nearly right.
fn field(block: &mut [u8], rng: &mut Rng) {
    let width = [1, 2, 4, 8][rng.below(4)];
    let at = 8 + rng.below(120 / width) * width;
    let mut old = [0; 8];
    old[..width].copy_from_slice(&block[at..at + width]);
    let old = u64::from_le_bytes(old);
    let value = match rng.below(8) {
        0 => 0,
        1 => 1,
        2 => u64::MAX,
        3 => old.wrapping_add(1),
        4 => old.wrapping_sub(1),
        5 => old ^ 1 << rng.below(width * 8),
        6 => BLOCK as u64 * rng.below(6) as u64,
        _ => rng.next(),
    };
    block[at..at + width].copy_from_slice(&value.to_le_bytes()[..width]);
}

/// Changes a record's length, kind or number, and gives it a valid checksum or none.
fn record(block: &mut [u8], rng: &mut Rng) {
    let at = 128 + [0, 48, 152][rng.below(3)];
    let Ok((header, _)) = RecordHeader::read_from_prefix(&block[at..]) else {
        return;
    };
    let mut header = header;
    match rng.below(4) {
        0 => header.lsn = (header.lsn.get() ^ 1).into(),
        1 => header.len = (rng.below(300) as u32).into(),
        2 => header.crc = (header.crc.get() ^ 1).into(),
        _ => header.kind = 7.into(),
    }
    let len = header.len.get() as usize;
    if rng.below(4) > 0 && at + 56 + len <= block.len() {
        let data = block[at + 48..at + 48 + len].to_vec();
        encode_record(block, at, header, &data);
    } else {
        zerocopy::IntoBytes::write_to_prefix(&header, &mut block[at..]).expect("fits");
    }
}

/// Gives every header in the file valid checksums, and chains the batches that follow one another.
pub(super) fn reseal_all(bytes: &mut [u8]) {
    let granule = SegmentHeader::claimed_granule(bytes).map_or(BLOCK, |granule| granule as usize);
    reseal(bytes, 0);
    let Some(check) = bytes.get(8..16) else {
        return;
    };
    let mut check = u64::from_le_bytes(check.try_into().unwrap());
    let mut at = granule;
    while let Some(rest) = bytes.get_mut(at..) {
        let Ok((mut header, _)) = BatchHeader::read_from_prefix(rest) else {
            return;
        };
        let total = header.total_len.get() as usize;
        let body = header.body_len.get() as usize;
        let whole = header.magic == *b"PMDC-BAT" && total >= 128 && body <= total - 128;
        match rest.get_mut(..total).filter(|_| whole) {
            Some(batch) => {
                header.prev_check = check.into();
                check = header.seal(batch);
                at += total.next_multiple_of(granule);
            }
            None => at += granule,
        }
    }
}

/// Gives the header at `at` valid checksums, and leaves the chain as it is.
fn reseal(bytes: &mut [u8], at: usize) {
    let Some(rest) = bytes.get_mut(at..) else {
        return;
    };
    if at == 0 {
        let granule = SegmentHeader::claimed_granule(rest).unwrap_or(4096) as usize;
        if let Ok((header, _)) = SegmentHeader::read_from_prefix(rest)
            && let Some(block) = rest.get_mut(..granule)
            && header.magic == *b"PMDC-SEG"
        {
            header.encode(block);
        }
    } else if let Ok((header, _)) = BatchHeader::read_from_prefix(rest) {
        let total = header.total_len.get() as usize;
        let body = header.body_len.get() as usize;
        if total >= 128
            && body <= total - 128
            && header.magic == *b"PMDC-BAT"
            && let Some(batch) = rest.get_mut(..total)
        {
            header.seal(batch);
        }
    }
}
