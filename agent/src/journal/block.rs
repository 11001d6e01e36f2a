//! The disk behind a trait: files of one directory, with exactly the calls that the journal makes.
//!
//! Every method is one system call (or one and its unavoidable helper), so that a simulated disk
//! can fail, tear or lose each of them. Nothing here retries: whether a call may be repeated is
//! the caller's knowledge.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{Advice, AtFlags, FallocateFlags, StatxFlags};
use serde::Serialize;

use super::LaneId;
use super::engine::{Engine, Pwrite, Threads, Uring};
use super::format::{GRANULE_MAX, GRANULE_MIN};

#[cfg(test)]
pub(crate) mod sim;

/// How a file is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// Read only; for readers beside a running agent.
    Read,
    /// Page cache; durable after [`BlockFile::sync_data`].
    Buffered,
    /// `O_DIRECT | O_DSYNC`: durable when the write returns. Falls back to `O_DSYNC` alone where
    /// the filesystem refuses, and says so in [`BlockFile::direct`].
    Direct,
}

/// What became of the wish for direct I/O.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum DirectIo {
    /// This lane writes through the page cache and calls fdatasync.
    NotWanted,
    /// In use; writes must be aligned to this many bytes, in memory and in the file.
    Used {
        /// Alignment that the filesystem asks for, bytes.
        alignment: u32,
    },
    /// Refused by the filesystem; `O_DSYNC` through the page cache instead.
    Refused {
        /// The refusal, for people.
        reason: String,
    },
}

/// One open file.
pub(crate) trait BlockFile: Send + Sync {
    /// Reserves `len` bytes from the beginning. ENOSPC is an ordinary answer.
    fn allocate(&self, len: u64) -> io::Result<()>;
    /// One pwrite; may be short.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize>;
    /// One pread; 0 at the end of the file.
    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize>;
    /// fdatasync.
    fn sync_data(&self) -> io::Result<()>;
    /// fsync.
    fn sync_all(&self) -> io::Result<()>;
    /// Makes the next read come from the device: after a failed sync the cache may hold bytes
    /// that the disk never got, and a recovery that believes them acknowledges a phantom.
    fn drop_cache(&self) -> io::Result<()>;
    /// Length, bytes.
    fn len(&self) -> io::Result<u64>;
    /// What became of direct I/O on this handle.
    fn direct(&self) -> DirectIo;
    /// For io_uring; `None` where there is no descriptor. Valid as long as the file is.
    fn raw_fd(&self) -> Option<RawFd> {
        None
    }
}

/// A flat directory of files. Names are our own; no path ever comes from outside.
pub(crate) trait Disk: Send + Sync {
    /// Creates a file that must not exist, for buffered writing.
    fn create(&self, name: &str) -> io::Result<Box<dyn BlockFile>>;
    /// Opens an existing file.
    fn open(&self, name: &str, access: Access) -> io::Result<Box<dyn BlockFile>>;
    /// Renames within the directory, replacing nothing that matters.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// Unlinks.
    fn remove(&self, name: &str) -> io::Result<()>;
    /// All names.
    fn list(&self) -> io::Result<Vec<String>>;
    /// fsync of the directory: names are durable after it, not before.
    fn sync_dir(&self) -> io::Result<()>;
    /// The ways in which a lane's batches can be written here, at most `in_flight_max` of them at
    /// once; the one to be taken unless another is measured to be faster comes first.
    fn engines(&self, lane: LaneId, in_flight_max: u32) -> Vec<Box<dyn Engine>> {
        let _ = in_flight_max;
        vec![Box::new(Pwrite::new(lane))]
    }
}

/// The granule for new segments on a file like this one: never below a page.
pub(crate) fn granule_for(direct: &DirectIo) -> u32 {
    match direct {
        DirectIo::Used { alignment } => (*alignment).max(GRANULE_MIN),
        DirectIo::NotWanted | DirectIo::Refused { .. } => GRANULE_MIN,
    }
}

/// A directory of the real filesystem.
#[derive(Clone, Debug)]
pub(crate) struct RealDisk {
    dir: PathBuf,
}

impl RealDisk {
    pub(crate) fn new(dir: &Path) -> Self {
        Self {
            dir: dir.to_owned(),
        }
    }

    fn open_direct(path: &Path) -> io::Result<RealFile> {
        let flags = libc::O_DSYNC;
        let reason = match try_direct(path) {
            Ok((file, alignment)) => {
                return Ok(RealFile {
                    file,
                    direct: DirectIo::Used { alignment },
                });
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(error),
            Err(error) => error.to_string(),
        };
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(flags)
            .open(path)?;
        Ok(RealFile {
            file,
            direct: DirectIo::Refused { reason },
        })
    }
}

/// Opens for direct I/O and proves with one read that the filesystem means it: some accept the
/// flag and refuse the first transfer, which must not be the first commit.
fn try_direct(path: &Path) -> io::Result<(File, u32)> {
    let flags = libc::O_DSYNC | libc::O_DIRECT;
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(flags)
        .open(path)?;
    let stat = rustix::fs::statx(&file, "", AtFlags::EMPTY_PATH, StatxFlags::DIOALIGN)?;
    let known = stat.stx_mask & StatxFlags::DIOALIGN.bits() != 0;
    let alignment = match (known, stat.stx_dio_offset_align) {
        (true, 0) => return Err(io::Error::other("statx: no direct I/O on this file")),
        (true, offset) => offset.max(stat.stx_dio_mem_align),
        // Before Linux 6.1, or a filesystem that does not say: a page satisfies all of them.
        (false, _) => GRANULE_MIN,
    };
    if !alignment.is_power_of_two() || alignment > GRANULE_MAX {
        return Err(io::Error::other(format!("alignment of {alignment} bytes")));
    }
    let mut probe = AlignedBuf::new();
    let wanted = probe.zeroed(alignment.max(GRANULE_MIN) as usize);
    file.read_at(wanted, 0)?;
    Ok((file, alignment))
}

impl Disk for RealDisk {
    fn create(&self, name: &str) -> io::Result<Box<dyn BlockFile>> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create_new(true).mode(0o600);
        let file = options.open(self.dir.join(name))?;
        Ok(Box::new(RealFile {
            file,
            direct: DirectIo::NotWanted,
        }))
    }

    fn open(&self, name: &str, access: Access) -> io::Result<Box<dyn BlockFile>> {
        let path = self.dir.join(name);
        let file = match access {
            Access::Read => File::open(path)?,
            Access::Buffered => OpenOptions::new().read(true).write(true).open(path)?,
            Access::Direct => return Ok(Box::new(Self::open_direct(&path)?)),
        };
        Ok(Box::new(RealFile {
            file,
            direct: DirectIo::NotWanted,
        }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        std::fs::rename(self.dir.join(from), self.dir.join(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        std::fs::remove_file(self.dir.join(name))
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(&self.dir)? {
            // A name that is not UTF-8 is none of ours.
            if let Ok(name) = entry?.file_name().into_string() {
                names.push(name);
            }
        }
        Ok(names)
    }

    fn sync_dir(&self) -> io::Result<()> {
        File::open(&self.dir)?.sync_all()
    }

    fn engines(&self, lane: LaneId, in_flight_max: u32) -> Vec<Box<dyn Engine>> {
        // The fast lane needs its fdatasync between two batches.
        if lane.access() != Access::Direct || in_flight_max < 2 {
            return vec![Box::new(Pwrite::new(lane))];
        }
        match Uring::new(lane, in_flight_max) {
            Ok(ring) => {
                let faster = Some("not slower where it was measured".to_owned());
                let threads = Threads::new(lane, in_flight_max, faster);
                vec![Box::new(threads), Box::new(ring)]
            }
            Err(error) => {
                tracing::info!(%lane, %error, "no io_uring: the journal writes by threads");
                let refused = Some(error.to_string());
                vec![Box::new(Threads::new(lane, in_flight_max, refused))]
            }
        }
    }
}

struct RealFile {
    file: File,
    direct: DirectIo,
}

impl BlockFile for RealFile {
    fn allocate(&self, len: u64) -> io::Result<()> {
        // tmpfs gives up (EINTR) when a signal or the like is pending for the thread: that is seen to on
        // the way back, and is no reason not to start.
        let allocate = || rustix::fs::fallocate(&self.file, FallocateFlags::empty(), 0, len);
        match rustix::io::retry_on_intr(allocate) {
            // Not every filesystem can; writing the zeros reserves the space as well.
            Err(rustix::io::Errno::OPNOTSUPP) => self.file.set_len(len),
            other => Ok(other?),
        }
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        self.file.write_at(bytes, offset)
    }

    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
        self.file.read_at(bytes, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn sync_all(&self) -> io::Result<()> {
        self.file.sync_all()
    }

    fn drop_cache(&self) -> io::Result<()> {
        Ok(rustix::fs::fadvise(&self.file, 0, None, Advice::DontNeed)?)
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn direct(&self) -> DirectIo {
        self.direct.clone()
    }

    fn raw_fd(&self) -> Option<RawFd> {
        Some(self.file.as_raw_fd())
    }
}

/// A reusable buffer whose bytes begin on a boundary of [`GRANULE_MAX`]; grows, never shrinks.
///
/// Aligned by over-allocating, in safe code: the vector is not resized while a slice is out.
#[derive(Default)]
pub(crate) struct AlignedBuf {
    bytes: Vec<u8>,
}

impl AlignedBuf {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// The first `len` bytes, with whatever an earlier use left in them.
    pub(crate) fn slice(&mut self, len: usize) -> &mut [u8] {
        let alignment = GRANULE_MAX as usize;
        let want = len + alignment;
        if self.bytes.len() < want {
            // Exactly: what a lane may hold in memory is a promise.
            self.bytes.reserve_exact(want - self.bytes.len());
            self.bytes.resize(want, 0);
        }
        let start = self.bytes.as_ptr().align_offset(alignment);
        &mut self.bytes[start..start + len]
    }

    /// Bytes held.
    pub(crate) fn capacity(&self) -> usize {
        self.bytes.capacity()
    }

    /// The first `len` bytes, zeroed.
    pub(crate) fn zeroed(&mut self, len: usize) -> &mut [u8] {
        let slice = self.slice(len);
        slice.fill(0);
        slice
    }
}
