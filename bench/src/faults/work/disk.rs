//! Work for disks.

use std::{
    alloc::Layout,
    fs::File,
    io::{Seek, SeekFrom, Write},
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::Path,
    thread,
    time::Duration,
};

use anyhow::Context;
use paramedic_parts::chance::Rng;

use super::in_threads;

/// What direct I/O must be aligned to, whatever the device.
const BLOCK: usize = 4096;
/// Of a file that is written to.
const FILE_BYTES: u64 = 64 << 20;
/// After an error: a device that fails at once must not cost a whole CPU.
const AFTER_ERROR: Duration = Duration::from_millis(20);

/// Bytes at an address that direct I/O takes.
struct Aligned {
    memory: *mut u8,
    layout: Layout,
}

impl Aligned {
    fn new(bytes: usize) -> anyhow::Result<Self> {
        let layout = Layout::from_size_align(bytes.max(BLOCK), BLOCK)?;
        // SAFETY: the size is not zero.
        let memory = unsafe { std::alloc::alloc_zeroed(layout) };
        anyhow::ensure!(!memory.is_null(), "no memory for {bytes} bytes");
        Ok(Self { memory, layout })
    }

    fn bytes(&mut self) -> &mut [u8] {
        // SAFETY: allocated with this size and initialised to zero; `&mut self` keeps it ours alone.
        unsafe { std::slice::from_raw_parts_mut(self.memory, self.layout.size()) }
    }
}

impl Drop for Aligned {
    fn drop(&mut self) {
        // SAFETY: allocated with this layout, and nobody else has the address.
        unsafe { std::alloc::dealloc(self.memory, self.layout) }
    }
}

pub(super) fn write(file: &Path, threads: usize, kib: usize) -> anyhow::Result<()> {
    let mut made = File::create(file).with_context(|| format!("cannot make {}", file.display()))?;
    // Where there is nothing yet, writers take turns to give it a place.
    let piece = vec![1; 1 << 20];
    for _ in 0..FILE_BYTES / piece.len() as u64 {
        made.write_all(&piece)?;
    }
    made.sync_all()?;
    let path = file.to_owned();
    in_threads(threads, move |number| {
        let done = writing(&path, number, kib << 10);
        eprintln!("write: {done:?}");
    });
    Ok(())
}

fn writing(file: &Path, number: usize, bytes: usize) -> anyhow::Result<()> {
    let file = File::options()
        .write(true)
        .custom_flags(libc::O_DIRECT)
        .open(file)?;
    let mut buffer = Aligned::new(bytes.next_multiple_of(BLOCK))?;
    let places = FILE_BYTES / buffer.layout.size() as u64;
    let mut rng = Rng(number as u64);
    loop {
        let place = rng.below(places) * buffer.layout.size() as u64;
        file.write_all_at(buffer.bytes(), place)?;
    }
}

pub(super) fn read(device: &Path, threads: usize, rest_ms: u64) {
    let device = device.to_owned();
    in_threads(threads, move |number| {
        let done = reading(&device, number, rest_ms);
        eprintln!("read: {done:?}");
    });
}

fn reading(device: &Path, number: usize, rest_ms: u64) -> anyhow::Result<()> {
    let mut file = File::options()
        .read(true)
        .custom_flags(libc::O_DIRECT)
        .open(device)?;
    let blocks = file.seek(SeekFrom::End(0))? / BLOCK as u64;
    let mut buffer = Aligned::new(BLOCK)?;
    let mut rng = Rng(number as u64);
    loop {
        let place = rng.below(blocks) * BLOCK as u64;
        if file.read_exact_at(buffer.bytes(), place).is_err() {
            thread::sleep(AFTER_ERROR);
        }
        if rest_ms > 0 {
            thread::sleep(Duration::from_millis(rest_ms));
        }
    }
}

pub(super) fn fsync(folder: &Path, threads: usize) {
    let folder = folder.to_owned();
    in_threads(threads, move |number| {
        let file = folder.join(format!("fsync-{number}"));
        let done = flushing(&file);
        eprintln!("fsync: {done:?}");
    });
}

fn flushing(file: &Path) -> anyhow::Result<()> {
    let mut file = File::create(file)?;
    loop {
        for _ in 0..256 {
            file.write_all(&[1; 512])?;
            file.sync_all()?;
        }
        file.seek(SeekFrom::Start(0))?;
    }
}

pub(super) fn reread(file: &Path) -> anyhow::Result<()> {
    let mut file = File::open(file).with_context(|| format!("cannot open {}", file.display()))?;
    // Once as a whole: the memory is full soon, and what is read again is.
    std::io::copy(&mut file, &mut std::io::sink())?;
    // Read ahead would bring in what nobody asked for.
    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::Random)?;
    let pages = file.metadata()?.len() / BLOCK as u64;
    let mut rng = Rng(u64::from(std::process::id()));
    let mut page = [0; BLOCK];
    loop {
        file.read_exact_at(&mut page, rng.below(pages) * BLOCK as u64)?;
    }
}
