//! A recording of a block device's writes, as QEMU's `blklogwrites` driver makes it (the format of
//! Linux' dm-log-writes): a superblock, then for each request a header sector and its data.

use std::{fs::File, os::unix::fs::FileExt, path::Path};

use anyhow::{Context, ensure};

const MAGIC: u64 = 0x006a_7366_7773_6872;
const FLUSH: u64 = 1;
const FUA: u64 = 2;
const DISCARD: u64 = 4;

/// One request, in the order of submission.
#[derive(Clone, Copy, Debug)]
pub struct Request {
    /// Byte offset on the device.
    pub offset: u64,
    /// Length, bytes.
    pub len: u64,
    /// Where its data is in the recording; `None` for a flush or a discard.
    pub data_at: Option<u64>,
    /// All that was complete before is durable when this is.
    pub flush: bool,
    /// Durable itself when complete.
    pub fua: bool,
}

/// An open recording.
pub struct Recording {
    file: File,
    pub requests: Vec<Request>,
}

impl Recording {
    pub fn open(path: &Path) -> anyhow::Result<Self> {
        let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
        let len = file.metadata()?.len();
        let word = |at: u64| -> anyhow::Result<u64> {
            let mut bytes = [0; 8];
            file.read_exact_at(&mut bytes, at)?;
            Ok(u64::from_le_bytes(bytes))
        };
        ensure!(word(0)? == MAGIC, "{} is no recording", path.display());
        ensure!(word(8)? == 1, "a recording of version {}", word(8)?);
        let count = word(16)?;
        let sector = word(24)? & 0xFFFF_FFFF;
        ensure!(
            sector >= 512 && sector.is_power_of_two(),
            "sector size {sector}"
        );
        let mut requests = Vec::new();
        let mut at = sector;
        for _ in 0..count {
            ensure!(at + sector <= len, "the recording ends in the middle");
            let (first, sectors, flags) = (word(at)?, word(at + 8)?, word(at + 16)?);
            at += sector;
            let bytes = sectors * sector;
            let data = flags & DISCARD == 0 && bytes > 0;
            requests.push(Request {
                offset: first * sector,
                len: bytes,
                data_at: data.then_some(at),
                flush: flags & FLUSH != 0,
                fua: flags & FUA != 0,
            });
            if data {
                at += bytes;
            }
        }
        Ok(Self { file, requests })
    }

    /// The data of a request; empty if it has none.
    pub fn data(&self, request: &Request) -> anyhow::Result<Vec<u8>> {
        let Some(at) = request.data_at else {
            return Ok(Vec::new());
        };
        let mut bytes = vec![0; usize::try_from(request.len)?];
        self.file.read_exact_at(&mut bytes, at)?;
        Ok(bytes)
    }
}
