//! Makes a corrupt journal writable again without deleting anything.
//!
//! The valid prefix stays. Every later file is renamed aside, and of a segment that is valid up to
//! the damage a copy is put aside too; then a new segment is begun whose header seals the prefix,
//! as after a torn tail. What is intact beyond the damage is appended again to the fast lane, in
//! order, because an episode's later entries (a cure that was undone, a case that was closed) are
//! worth as much as its earlier ones. Snapshots beyond the damage are not: entries name them by
//! their place, which is lost; they stay readable in the files aside.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde::Serialize;

use super::block::{Access, Disk, RealDisk};
use super::error::{Failure, JournalError};
use super::format::{
    BATCH_HEADER_LEN, BatchHeader, GRANULE_MIN, SEGMENT_HEADER_LEN, SegmentHeader, SegmentState,
    decode_batch,
};
use super::lane::{CommitError, Lane, Pending};
use super::pool::{Pool, PoolConfig};
use super::recover::{Corruption, Scan, scan_from};
use super::retain::Retention;
use super::{JournalConfig, LaneId, store, unix_ns};

/// What was (or would be) done for one lane.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Repaired {
    /// Which.
    pub lane: LaneId,
    /// The damage.
    pub corruption: Corruption,
    /// Records before it, which stay.
    pub records_kept: u64,
    /// Intact records beyond it. In the fast lane they are appended again; in the safe lane they
    /// are in the files aside only.
    pub records_beyond: u64,
    /// Whether `records_beyond` are in the log again.
    pub appended_again: bool,
    /// Records between those, by their missing numbers: lost. What was lost before the first and
    /// after the last intact one can't be counted.
    pub records_lost: u64,
    /// Files renamed or copied aside: from, to.
    pub aside: Vec<(String, String)>,
}

/// Repairs the journal in `dir`, or with `dry` only says what it would do. Blocking. Empty if
/// nothing is corrupt.
///
/// # Errors
/// [`JournalError::Locked`] while an agent has it (also when `dry`: a moving log can't be judged),
/// [`JournalError::Io`]. Whatever failed, nothing is deleted, and it may be called again; records
/// beyond the damage may then be in the files aside only: give those their names back, and repeat.
pub fn repair(dir: &Path, dry: bool) -> Result<Vec<Repaired>, JournalError> {
    let _lock = store::Lock::acquire(dir)?;
    let disk: Arc<dyn Disk> = Arc::new(RealDisk::new(dir));
    let mut done = Vec::new();
    for lane in [LaneId::Fast, LaneId::Safe] {
        done.extend(repair_lane(&disk, lane, dry)?);
    }
    Ok(done)
}

pub(crate) fn repair_lane(
    disk: &Arc<dyn Disk>,
    id: LaneId,
    dry: bool,
) -> Result<Option<Repaired>, JournalError> {
    let scan = store::recover(disk.as_ref(), id, &mut |_| {})?;
    let Some(corruption) = scan.corruption.clone() else {
        return Ok(None);
    };
    let names = disk
        .list()
        .map_err(Failure::of("list directory of", id.name()))?;
    let seqs: Vec<u64> = store::segments(id, &names)
        .into_iter()
        .filter(|seq| !scan.obsolete.contains(seq))
        .collect();
    let (scan, records_kept) = best_prefix(disk.as_ref(), id, &seqs, scan)?;
    let kept: Vec<u64> = scan.spans.iter().map(|span| span.segment).collect();
    let beyond: Vec<u64> = seqs
        .iter()
        .copied()
        .filter(|seq| !kept.contains(seq))
        .collect();
    let mut sources: Vec<u64> = kept.last().copied().into_iter().collect();
    sources.extend(&beyond);
    let salvage = Salvage::of(disk.as_ref(), id, &scan, &sources)?;
    let stamp = unix_ns();
    let aside = sources
        .iter()
        .map(|seq| {
            (
                store::segment_name(id, *seq),
                store::aside_name(id, *seq, stamp),
            )
        })
        .collect();
    let repaired = Repaired {
        lane: id,
        corruption,
        records_kept,
        records_beyond: salvage.batches.iter().map(|batch| batch.len() as u64).sum(),
        appended_again: id == LaneId::Fast,
        records_lost: salvage.lost,
        aside,
    };
    if dry {
        return Ok(Some(repaired));
    }
    // First what only adds, then the renames, then the new segment: broken off anywhere, all
    // bytes are still there.
    if let Some(tail) = kept.last() {
        copy(disk.as_ref(), id, *tail, stamp)?;
    }
    for seq in &beyond {
        let name = store::segment_name(id, *seq);
        disk.rename(&name, &store::aside_name(id, *seq, stamp))
            .map_err(Failure::of("rename", &name))?;
    }
    disk.sync_dir()
        .map_err(Failure::of("sync directory of", id.name()))?;
    let next_seq = seqs.iter().max().copied().unwrap_or(0).saturating_add(1);
    let mut lane = begin_anew(disk, id, &scan, next_seq)?;
    for batch in salvage.batches.iter().filter(|_| repaired.appended_again) {
        let pending = batch.iter().map(Saved::pending).collect();
        match lane.commit(pending, unix_ns()) {
            Ok(_) => {}
            Err(CommitError::Fatal(failure)) => return Err(failure.into()),
            Err(CommitError::Full { free_bytes }) => {
                let reserve_bytes = 0;
                return Err(JournalError::Full {
                    lane: id,
                    free_bytes,
                    reserve_bytes,
                });
            }
            Err(CommitError::TooLarge { max_bytes }) => {
                let bytes = batch.iter().map(|saved| saved.payload.len() as u64).sum();
                return Err(JournalError::TooLarge {
                    lane: id,
                    bytes,
                    max_bytes,
                });
            }
        }
    }
    Ok(Some(repaired))
}

/// The longest prefix that can stay, and its number of records. Where only the beginning of the
/// log is in doubt (the header that names it is damaged, or the oldest segment is) the log is
/// taken to begin with what is there: in the fast lane only if that loses no order.
fn best_prefix(
    disk: &dyn Disk,
    id: LaneId,
    seqs: &[u64],
    found: Scan,
) -> Result<(Scan, u64), Failure> {
    let starts = match id {
        LaneId::Fast => 1,
        LaneId::Safe => seqs.len(),
    };
    let known = found.link.seq != 0;
    let begins = found.spans.first().map(|span| span.segment);
    let candidates = seqs.iter().take(starts).copied();
    for oldest in candidates.filter(|seq| !known || Some(*seq) == begins) {
        let at = seqs.partition_point(|seq| *seq < oldest);
        let mut records = 0;
        let scan = scan_from(disk, id, &seqs[at..], oldest, &mut |_| records += 1)?;
        if scan.link.seq != 0 {
            return Ok((scan, records));
        }
    }
    Ok((found, 0))
}

/// A lane that seals `scan`'s prefix with a new segment, numbered `next_seq` or above.
fn begin_anew(
    disk: &Arc<dyn Disk>,
    id: LaneId,
    scan: &Scan,
    next_seq: u64,
) -> Result<Lane, JournalError> {
    let defaults = JournalConfig::default();
    let segment_len = scan.tail.map_or(
        match id {
            LaneId::Fast => defaults.fast_segment_bytes,
            LaneId::Safe => defaults.safe_segment_bytes,
        },
        |tail| tail.segment_len,
    );
    let config = PoolConfig {
        segment_len,
        ahead: 1,
        patience: Duration::ZERO,
        space_retry: Duration::ZERO,
        in_flight_max: 1,
        realtime: false,
        inline: true,
    };
    let uuid = match scan.uuid {
        Some(uuid) => uuid,
        None => store::random_uuid()?,
    };
    let pool = Arc::new(Pool::new(disk.clone(), id, config, next_seq));
    let retention = Arc::new(Retention::new(id, &scan.spans));
    let mut lane = Lane::new(id, pool.clone(), uuid, scan.link, retention);
    pool.prepare_if_empty()?;
    if pool.space().ready_segments == 0 {
        let free_bytes = 0;
        let reserve_bytes = segment_len;
        return Err(JournalError::Full {
            lane: id,
            free_bytes,
            reserve_bytes,
        });
    }
    lane.fence()?;
    Ok(lane)
}

/// Copies a segment that stays to its name aside, durably.
fn copy(disk: &dyn Disk, id: LaneId, seq: u64, stamp: u64) -> Result<(), Failure> {
    let bytes = read_leniently(disk, id, seq)?;
    let name = store::aside_name(id, seq, stamp);
    let file = disk.create(&name).map_err(Failure::of("create", &name))?;
    let mut done = 0;
    while done < bytes.len() {
        let written = file
            .write_at(&bytes[done..], done as u64)
            .map_err(Failure::of("write", &name))?;
        if written == 0 {
            return Err(Failure::of("write", &name)(
                std::io::ErrorKind::WriteZero.into(),
            ));
        }
        done += written;
    }
    file.sync_all().map_err(Failure::of("sync", &name))
}

/// The whole file; blocks that can't be read are zeros.
fn read_leniently(disk: &dyn Disk, id: LaneId, seq: u64) -> Result<Vec<u8>, Failure> {
    let name = store::segment_name(id, seq);
    let file = disk
        .open(&name, Access::Read)
        .map_err(Failure::of("open", &name))?;
    let len = file.len().map_err(Failure::of("measure", &name))?;
    let mut bytes = vec![0; usize::try_from(len).unwrap_or(usize::MAX)];
    for (block, offset) in bytes
        .chunks_mut(GRANULE_MIN as usize)
        .zip((0..).step_by(GRANULE_MIN as usize))
    {
        let mut done = 0;
        while done < block.len() {
            match file.read_at(&mut block[done..], offset + done as u64) {
                Ok(0) | Err(_) => break,
                Ok(read) => done += read,
            }
        }
    }
    Ok(bytes)
}

struct Saved {
    kind: u16,
    episode: [u8; 16],
    unix_ns: u64,
    payload: Bytes,
}

impl Saved {
    fn pending(&self) -> Pending {
        Pending {
            kind: self.kind,
            episode: self.episode,
            unix_ns: self.unix_ns,
            payload: self.payload.clone(),
        }
    }
}

/// Intact batches beyond the prefix, in order.
struct Salvage {
    batches: Vec<Vec<Saved>>,
    lost: u64,
    uuid: Option<[u8; 16]>,
    /// LSN that the next batch has if nothing is missing; `None` before the first.
    next_lsn: Option<u64>,
}

impl Salvage {
    fn of(disk: &dyn Disk, id: LaneId, scan: &Scan, seqs: &[u64]) -> Result<Self, Failure> {
        let mut salvage = Self {
            batches: Vec::new(),
            lost: 0,
            uuid: scan.uuid,
            next_lsn: (scan.link.seq != 0).then_some(scan.link.next_lsn),
        };
        let mut images = BTreeMap::new();
        for seq in seqs {
            images.insert(*seq, read_leniently(disk, id, *seq)?);
        }
        // Where a segment was sealed: what lies beyond was cut once, and stays cut.
        let sealed: BTreeMap<u64, u64> = images
            .values()
            .filter_map(|image| sealed_by(image))
            .collect();
        for (seq, image) in &images {
            let start = if *seq == scan.link.seq {
                scan.link.end
            } else {
                0
            };
            let end = sealed.get(seq).copied().unwrap_or(u64::MAX);
            salvage.segment(*seq, image, start, end);
        }
        Ok(salvage)
    }

    fn segment(&mut self, seq: u64, image: &[u8], start: u64, end: u64) {
        let clamp = |n: u64| usize::try_from(n).unwrap_or(usize::MAX).min(image.len());
        let image = &image[..clamp(end)];
        let mut at = clamp(start);
        while at + BATCH_HEADER_LEN <= image.len() {
            at += match self.batch(seq, image, at) {
                Some(taken) => taken,
                None => GRANULE_MIN as usize,
            };
        }
    }

    /// Takes the batch at `at` if it is whole, of this place and not older than what was taken.
    fn batch(&mut self, seq: u64, image: &[u8], at: usize) -> Option<usize> {
        let header = BatchHeader::decode(&image[at..]).ok()?;
        let len = header.total_len.get() as usize;
        let first = header.first_lsn.get();
        let ours = header.seq.get() == seq
            && header.offset.get() == at as u64
            && self.uuid.is_none_or(|uuid| uuid == header.log_uuid)
            && self.next_lsn.is_none_or(|next| first >= next);
        if !ours || len == 0 {
            return None;
        }
        let records = decode_batch(&header, image.get(at..at + len)?).ok()?;
        self.uuid = Some(header.log_uuid);
        self.lost += self.next_lsn.map_or(0, |next| first - next);
        self.next_lsn = Some(first.checked_add(records.len() as u64)?);
        if !records.is_empty() {
            let saved = records.iter().map(|record| Saved {
                kind: record.header.kind.get(),
                episode: record.header.episode,
                unix_ns: record.header.unix_ns.get(),
                payload: Bytes::copy_from_slice(record.payload),
            });
            self.batches.push(saved.collect());
        }
        Some(len)
    }
}

/// The segment that this one's valid header seals, and where.
fn sealed_by(image: &[u8]) -> Option<(u64, u64)> {
    let granule = SegmentHeader::claimed_granule(image.get(..SEGMENT_HEADER_LEN)?)?;
    match SegmentHeader::decode(image.get(..granule as usize)?) {
        SegmentState::Valid(header) => Some((header.prev_seq.get(), header.prev_end.get())),
        SegmentState::Zero | SegmentState::Invalid(_) => None,
    }
}
