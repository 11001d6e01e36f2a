//! Reading beside a running writer: what was read first is older than what is read later.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};

use super::super::LaneId;
use super::super::block::sim::SimDisk;
use super::super::block::{Access, BlockFile, DirectIo, Disk};
use super::{Seen, commit, open, store};

const BLOCK: usize = 4096;

/// A file that shows its former content at the first reading, and its present one from then on.
struct Aging {
    now: Box<dyn BlockFile>,
    then: Vec<u8>,
    young: AtomicBool,
}

impl BlockFile for Aging {
    fn allocate(&self, len: u64) -> io::Result<()> {
        self.now.allocate(len)
    }
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        self.now.write_at(bytes, offset)
    }
    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
        if !self.young.swap(false, Ordering::Relaxed) {
            return self.now.read_at(bytes, offset);
        }
        let rest = &self.then[offset as usize..];
        let count = rest.len().min(bytes.len());
        bytes[..count].copy_from_slice(&rest[..count]);
        Ok(count)
    }
    fn sync_data(&self) -> io::Result<()> {
        self.now.sync_data()
    }
    fn sync_all(&self) -> io::Result<()> {
        self.now.sync_all()
    }
    fn drop_cache(&self) -> io::Result<()> {
        self.now.drop_cache()
    }
    fn len(&self) -> io::Result<u64> {
        self.now.len()
    }
    fn direct(&self) -> DirectIo {
        self.now.direct()
    }
}

/// A disk with one such file.
struct AgingDisk {
    disk: SimDisk,
    name: String,
    then: Vec<u8>,
}

impl Disk for AgingDisk {
    fn create(&self, name: &str) -> io::Result<Box<dyn BlockFile>> {
        self.disk.create(name)
    }
    fn open(&self, name: &str, access: Access) -> io::Result<Box<dyn BlockFile>> {
        let now = self.disk.open(name, access)?;
        if name != self.name {
            return Ok(now);
        }
        Ok(Box::new(Aging {
            now,
            then: self.then.clone(),
            young: AtomicBool::new(true),
        }))
    }
    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.disk.rename(from, to)
    }
    fn remove(&self, name: &str) -> io::Result<()> {
        self.disk.remove(name)
    }
    fn list(&self) -> io::Result<Vec<String>> {
        self.disk.list()
    }
    fn sync_dir(&self) -> io::Result<()> {
        self.disk.sync_dir()
    }
}

/// Commits `before` batches, remembers the first segment, commits `after` more, and reads them all.
fn read_while_written(id: LaneId, segment_len: u64, before: usize, after: usize) {
    let disk = SimDisk::new(11);
    let mut lane = open(&disk, id, segment_len).unwrap().lane.unwrap();
    let mut write = |batches: usize| {
        for _ in 0..batches {
            commit(&mut lane, &[vec![7; BLOCK - 200]]).unwrap();
        }
    };
    write(before);
    let name = store::segment_name(id, 1);
    let then = disk.peek(&name);
    write(after);
    let reader = AgingDisk { disk, name, then };
    let mut seen: Vec<Seen> = Vec::new();
    let scan = store::recover(&reader, id, &mut |found| {
        seen.push((found.raw.header.lsn.get(), found.raw.payload.to_vec()));
    })
    .unwrap();
    assert_eq!(scan.corruption, None, "{id} {before} {after}");
    assert!(scan.cuts.is_empty(), "{:?}", scan.cuts);
    let lsns: Vec<u64> = seen.iter().map(|(lsn, _)| *lsn).collect();
    let all: Vec<u64> = (1..).take(before + after).collect();
    assert_eq!(lsns, all, "{id} {before} {after}");
}

#[test]
fn what_is_written_while_it_is_read_is_no_corruption() {
    for id in [LaneId::Fast, LaneId::Safe] {
        // Within a segment of several readings, and beyond it into the next ones.
        read_while_written(id, 4 << 20, 100, 400);
        read_while_written(id, 64 << 10, 5, 40);
        // The segment was prepared and not begun.
        read_while_written(id, 4 << 20, 0, 400);
    }
}
