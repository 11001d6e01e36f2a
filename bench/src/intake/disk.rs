//! What one sync costs on this disk when nobody else asks for one.

use std::{
    fs::File,
    os::unix::fs::FileExt,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::Context;
use hdrhistogram::Histogram;
use serde::Serialize;

/// Percentiles of write + fdatasync of one block, microseconds.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Sync {
    pub(super) count: u64,
    pub(super) p50_us: f64,
    pub(super) p99_us: f64,
}

const BLOCK: usize = 4096;
const BLOCKS: u64 = 2048;

/// Overwrites blocks that were written before, one sync each: what a log costs at the least.
pub(super) fn syncs(dir: &Path, slice_ms: u64) -> anyhow::Result<Sync> {
    let path = dir.join("sync");
    let file = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .open(&path)
        .with_context(|| format!("cannot make {}", path.display()))?;
    let block = [1; BLOCK];
    for at in 0..BLOCKS {
        file.write_all_at(&block, at * BLOCK as u64)?;
    }
    file.sync_all()?;
    let mut took_ns: Histogram<u64> = Histogram::new_with_max(10_000_000_000, 3)?;
    let until = Instant::now() + Duration::from_millis(slice_ms);
    let mut at = 0;
    while Instant::now() < until {
        let begun = Instant::now();
        file.write_all_at(&block, (at % BLOCKS) * BLOCK as u64)?;
        file.sync_data()?;
        took_ns.saturating_record(u64::try_from(begun.elapsed().as_nanos())?);
        at += 1;
    }
    std::fs::remove_file(&path)?;
    Ok(Sync {
        count: at,
        p50_us: took_ns.value_at_quantile(0.5) as f64 / 1e3,
        p99_us: took_ns.value_at_quantile(0.99) as f64 / 1e3,
    })
}
