//! raft-engine and okaywal under the same load: a thread a writer, every write synced.
//!
//! raft-engine: a raft group a writer, entries without compression (the payload is noise).
//! okaywal: one file, larger than the slice needs, so that it never checkpoints in between.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context;
use okaywal::{Configuration, LogVoid};
use protobuf::well_known_types::BytesValue;
use raft_engine::{Config, Engine, LogBatch, MessageExt, ReadableSize};

use super::Sample;
use super::load::{Load, noise, threads};

/// An entry whose first eight bytes are its index.
struct Entry;

impl MessageExt for Entry {
    type Entry = BytesValue;

    fn index(entry: &Self::Entry) -> u64 {
        let mut index = [0; 8];
        index.copy_from_slice(&entry.value[..8]);
        u64::from_le_bytes(index)
    }
}

fn raft_config(dir: &Path) -> Config {
    Config {
        dir: dir.display().to_string(),
        batch_compression_threshold: ReadableSize(0),
        ..Config::default()
    }
}

fn raft_write(engine: &Engine, payload: &[u8], writer: usize, nth: u64) -> anyhow::Result<()> {
    let mut value = payload.to_vec();
    value[..8].copy_from_slice(&nth.to_le_bytes());
    let mut entry = BytesValue::new();
    entry.set_value(value);
    let mut batch = LogBatch::with_capacity(1);
    batch.add_entries::<Entry>(writer as u64 + 1, &[entry])?;
    engine.write(&mut batch, true)?;
    Ok(())
}

/// One slice of raft-engine in a new directory.
pub(crate) fn raft(
    dir: &Path,
    load: Load,
    slice: Duration,
    bytes_max: u64,
) -> anyhow::Result<Sample> {
    let engine = Engine::open(raft_config(dir)).context("cannot open raft-engine")?;
    let payload = noise(load.bytes.max(8));
    threads(load, slice, bytes_max, |writer, nth| {
        raft_write(&engine, &payload, writer, nth)
    })
}

/// Fills a new raft-engine with `bytes` of payload, unsynced but for the last.
pub(crate) fn raft_fill(dir: &Path, bytes: u64, each: usize) -> anyhow::Result<()> {
    let engine = Engine::open(raft_config(dir)).context("cannot open raft-engine")?;
    let payload = noise(each);
    for nth in 1..=bytes / each as u64 {
        let mut value = payload.clone();
        value[..8].copy_from_slice(&nth.to_le_bytes());
        let mut entry = BytesValue::new();
        entry.set_value(value);
        let mut batch = LogBatch::with_capacity(1);
        batch.add_entries::<Entry>(1, &[entry])?;
        engine.write(&mut batch, false)?;
    }
    engine.sync()?;
    Ok(())
}

/// Opens a filled raft-engine and reads every entry, which is what verifies it; the bytes and
/// the time.
pub(crate) fn raft_verified_open(dir: &Path) -> anyhow::Result<(u64, Duration)> {
    let begun = Instant::now();
    let engine = Engine::open(raft_config(dir)).context("cannot open raft-engine")?;
    let mut bytes = 0;
    for group in engine.raft_groups() {
        let (Some(first), Some(last)) = (engine.first_index(group), engine.last_index(group))
        else {
            continue;
        };
        let mut from = first;
        while from <= last {
            let to = (from + 256).min(last + 1);
            let mut entries: Vec<BytesValue> = Vec::new();
            engine.fetch_entries_to::<Entry>(group, from, to, None, &mut entries)?;
            bytes += entries.iter().map(|e| e.value.len() as u64).sum::<u64>();
            from = to;
        }
    }
    Ok((bytes, begun.elapsed()))
}

/// One slice of okaywal in a new directory.
pub(crate) fn okaywal(
    dir: &Path,
    load: Load,
    slice: Duration,
    bytes_max: u64,
) -> anyhow::Result<Sample> {
    let log = Configuration::default_for(dir)
        .preallocate_bytes(512 << 20)
        .checkpoint_after_bytes(4 << 30)
        .buffer_bytes(256 << 10)
        .open(LogVoid)
        .context("cannot open okaywal")?;
    let payload = noise(load.bytes);
    let sample = threads(load, slice, bytes_max, |_, _| {
        let mut entry = log.begin_entry()?;
        entry.write_chunk(&payload)?;
        entry.commit()?;
        Ok(())
    })?;
    log.shutdown().context("cannot close okaywal")?;
    Ok(sample)
}
