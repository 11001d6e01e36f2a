//! A read-only view of a journal: beside a running agent, or of a stopped one's directory.
//!
//! Takes no lock and writes nothing, not even a sync, so what it shows of a running agent's tail
//! may not be durable yet.

use std::path::{Path, PathBuf};

use bytes::Bytes;

use super::block::{Access, Disk, RealDisk};
use super::error::{Failure, JournalError};
use super::format::{Damage, RECORD_HEADER_LEN, decode_record};
use super::recover::{Found, Scan, scan};
use super::{LaneId, Lsn, Record, Recovered, SnapshotMeta, SnapshotRef, store};

/// How often a lane is scanned again when the writer beside us was in the middle of something.
const ATTEMPTS: usize = 4;

/// A read-only view of a journal directory, as of the moment of opening.
#[derive(Debug)]
pub struct Reader {
    dir: PathBuf,
    recovered: Recovered,
}

impl Reader {
    /// Scans the journal in `dir`. Blocking.
    ///
    /// A last batch that the agent is just writing is listed among `cuts`.
    ///
    /// # Errors
    /// [`JournalError::Io`] if the directory or a file in it can't be opened.
    pub fn open(dir: &Path) -> Result<Self, JournalError> {
        let disk = RealDisk::new(dir);
        let mut recovered = Recovered::default();
        let fast = settled(&disk, LaneId::Fast, Vec::new, |records, found| {
            records.push(record_of(&found));
        })?;
        let safe = settled(&disk, LaneId::Safe, Vec::new, |snapshots, found| {
            snapshots.push(snapshot_of(&found));
        })?;
        recovered.records = fast.1;
        recovered.snapshots = safe.1;
        recovered.absorb(&fast.0);
        recovered.absorb(&safe.0);
        Ok(Self {
            dir: dir.to_owned(),
            recovered,
        })
    }

    /// Everything that was found.
    pub fn recovered(&self) -> &Recovered {
        &self.recovered
    }

    /// The same, by value.
    pub fn into_recovered(self) -> Recovered {
        self.recovered
    }

    /// Reads one snapshot and verifies it. Blocking.
    pub fn snapshot(&self, reference: &SnapshotRef) -> Result<Bytes, JournalError> {
        read_snapshot(&RealDisk::new(&self.dir), reference)
    }
}

/// Scans until two facts agree: a scan that shows corruption is repeated, because the writer may
/// have gone on between our reading a place and our reading the next.
pub(crate) fn settled<T>(
    disk: &dyn Disk,
    lane: LaneId,
    empty: impl Fn() -> T,
    mut visit: impl FnMut(&mut T, Found<'_>),
) -> Result<(Scan, T), Failure> {
    let mut attempt = 0;
    let mut before = None;
    loop {
        attempt += 1;
        let names = disk
            .list()
            .map_err(Failure::of("list directory of", lane.name()))?;
        let mut out = empty();
        let seqs = store::segments(lane, &names);
        let found = scan(disk, lane, &seqs, &mut |found| visit(&mut out, found));
        match found {
            Ok(scan) => {
                // The same corruption twice stands still: it is none of the writer's motion.
                if scan.corruption.is_none() || scan.corruption == before || attempt >= ATTEMPTS {
                    return Ok((scan, out));
                }
                before.clone_from(&scan.corruption);
            }
            // Retention removed a segment between the listing and the opening.
            Err(failure)
                if failure.source.kind() == std::io::ErrorKind::NotFound && attempt < ATTEMPTS => {}
            Err(failure) => return Err(failure),
        }
    }
}

pub(crate) fn record_of(found: &Found<'_>) -> (Lsn, u64, Record) {
    let header = &found.raw.header;
    let record = Record {
        kind: header.kind.get(),
        episode: header.episode,
        payload: Bytes::copy_from_slice(found.raw.payload),
    };
    (Lsn(header.lsn.get()), header.unix_ns.get(), record)
}

pub(crate) fn snapshot_of(found: &Found<'_>) -> (SnapshotRef, SnapshotMeta) {
    let header = &found.raw.header;
    let reference = SnapshotRef {
        lsn: Lsn(header.lsn.get()),
        segment: found.segment,
        offset: found.offset,
        len: header.len.get(),
        unix_ns: header.unix_ns.get(),
    };
    (
        reference,
        SnapshotMeta {
            kind: header.kind.get(),
            episode: header.episode,
        },
    )
}

/// Reads the record that `reference` names; believes it only if LSN, length and CRC agree.
pub(crate) fn read_snapshot(
    disk: &dyn Disk,
    reference: &SnapshotRef,
) -> Result<Bytes, JournalError> {
    let SnapshotRef {
        segment,
        offset,
        len,
        ..
    } = *reference;
    let damaged = |damage| JournalError::Snapshot {
        segment,
        offset,
        damage,
    };
    let name = store::segment_name(LaneId::Safe, segment);
    let file = match disk.open(&name, Access::Read) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err(damaged(Damage::MissingSegment));
        }
        Err(error) => return Err(Failure::of("open", &name)(error).into()),
    };
    let want = RECORD_HEADER_LEN as u64 + u64::from(len);
    let size = file.len().map_err(Failure::of("measure", &name))?;
    // Compared before anything is allocated: a reference is input like any other.
    if offset.checked_add(want).is_none_or(|end| end > size) {
        return Err(damaged(Damage::Short));
    }
    let mut bytes = vec![0; RECORD_HEADER_LEN + len as usize];
    let mut done = 0;
    while done < bytes.len() {
        let read = file
            .read_at(&mut bytes[done..], offset + done as u64)
            .map_err(Failure::of("read", &name))?;
        if read == 0 {
            return Err(damaged(Damage::Short));
        }
        done += read;
    }
    let record = decode_record(&bytes, 0).map_err(damaged)?;
    if record.header.lsn.get() != reference.lsn.0 || record.header.len.get() != len {
        return Err(damaged(Damage::Misplaced));
    }
    Ok(Bytes::from(bytes).slice(RECORD_HEADER_LEN..))
}
