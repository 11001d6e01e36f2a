//! Opening a log of history: every byte verified, at what share of the disk's read rate.

use std::path::Path;
use std::time::{Duration, Instant};

#[cfg(feature = "peers")]
use anyhow::Context;
use anyhow::bail;
use paramedic::journal::Journal;

use super::load::Load;
use super::ours::{Callers, Lane, Ours, config};
use super::report::Target;
use super::{Bench, Sample, fio, target};

const PART: &str = "recovery";
const SEGMENT: u64 = 64 << 20;
const ROW: fio::Row = fio::Row {
    name: "fio 4M read",
    block: 4 << 20,
    in_flight: 1,
};

pub(crate) fn run(bench: &mut Bench) -> anyhow::Result<()> {
    let bytes: u64 = if bench.quick { 256 << 20 } else { 1 << 30 };
    let ours = bench.dir.join("recovered");
    fill(bench, &ours, bytes)?;
    let peer = bench.dir.join("recovered-peer");
    fill_peer(&peer, bytes)?;
    let mut against_fio = Vec::new();
    let mut against_peer = Vec::new();
    for round in 0..bench.rounds {
        if round > 0 && !bench.has_time(Duration::from_secs(4)) {
            break;
        }
        let file = bench.dir.join("fio.dat");
        let read = fio::read(&file, bytes.min(512 << 20), ROW)?;
        bench.report.sample(PART, ROW.name, round, read);
        let opened = open(bench, &ours)?;
        bench
            .report
            .sample(PART, "journal, opened for writing", round, opened);
        against_fio.push(opened.bytes_per_s / read.bytes_per_s);
        if let Some(verified) = open_peer(&peer)? {
            let name = "raft-engine, opened and read";
            bench.report.sample(PART, name, round, verified);
            against_peer.push(opened.bytes_per_s / verified.bytes_per_s);
        }
    }
    let targets: [Target; 2] = [
        target("recovery_vs_fio_4M_read", against_fio, 0.95),
        target("recovery_vs_raft-engine_verified", against_peer, 1.5),
    ];
    for target in targets {
        bench.report.target(target);
    }
    bench.report.end_of(PART);
    for dir in [ours, peer].iter().filter(|dir| dir.exists()) {
        std::fs::remove_dir_all(dir)?;
    }
    Ok(())
}

/// A closed journal with `bytes` of snapshots.
fn fill(bench: &Bench, dir: &Path, bytes: u64) -> anyhow::Result<()> {
    let journal = Ours::open(&bench.runtime, dir, Lane::Safe, SEGMENT)?;
    let load = Load {
        writers: 16,
        bytes: 64 << 10,
    };
    let slice = Duration::from_secs(40);
    journal.load(&bench.runtime, load, slice, bytes, Callers::Tasks)?;
    let stats = journal.stats()?;
    journal.close(&bench.runtime)?;
    if stats.payload_bytes < bytes / 2 {
        bail!("only {} bytes of history in {slice:?}", stats.payload_bytes);
    }
    Ok(())
}

fn open(bench: &Bench, dir: &Path) -> anyhow::Result<Sample> {
    let config = config(dir, Lane::Safe, SEGMENT)?;
    let begun = Instant::now();
    let (journal, recovered) = Journal::open(&config)?;
    let took = begun.elapsed();
    if !recovered.corruption.is_empty() || !recovered.cuts.is_empty() {
        bail!("{recovered:?}");
    }
    let sample = rate(
        recovered.snapshots.len() as u64,
        recovered.bytes_verified,
        took,
    );
    bench.runtime.block_on(journal.close())?;
    Ok(sample)
}

fn rate(ops: u64, bytes: u64, took: Duration) -> Sample {
    let seconds = took.as_secs_f64().max(1e-9);
    Sample {
        ops,
        per_s: ops as f64 / seconds,
        bytes_per_s: bytes as f64 / seconds,
        p50_us: seconds * 1e6,
        p99_us: seconds * 1e6,
        rotated: false,
        memory: 0.0,
    }
}

#[cfg(feature = "peers")]
fn fill_peer(dir: &Path, bytes: u64) -> anyhow::Result<()> {
    std::fs::create_dir(dir)?;
    super::peers::raft_fill(dir, bytes, 64 << 10)
}

/// The peer does not drop the page cache itself, as our opening does; so it is done for it.
#[cfg(feature = "peers")]
fn open_peer(dir: &Path) -> anyhow::Result<Option<Sample>> {
    for entry in std::fs::read_dir(dir)? {
        let file = std::fs::File::open(entry?.path())?;
        file.sync_all()?;
        rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed)
            .context("cannot drop the page cache")?;
    }
    let (bytes, took) = super::peers::raft_verified_open(dir)?;
    Ok(Some(rate(bytes >> 16, bytes, took)))
}

#[cfg(not(feature = "peers"))]
#[allow(clippy::unnecessary_wraps, reason = "the shape of its sibling")]
fn fill_peer(_: &Path, _: u64) -> anyhow::Result<()> {
    Ok(())
}

#[cfg(not(feature = "peers"))]
#[allow(clippy::unnecessary_wraps, reason = "the shape of its sibling")]
fn open_peer(_: &Path) -> anyhow::Result<Option<Sample>> {
    Ok(None)
}
