//! Tests of the journal, on a simulated disk and on the real one.
//!
//! `PARAMEDIC_SEEDS` sets the number of random histories (10,000 unless told).

#![allow(
    clippy::cast_possible_truncation,
    reason = "small numbers that the tests themselves make"
)]

mod codec;
mod crash;
mod damage;
mod engines;
mod faults;
mod fuzz;
mod golden;
mod in_flight;
mod live;
mod model;
pub(crate) mod mutation;
mod real;
mod repair;

use std::sync::Arc;
use std::time::Duration;

use super::block::Disk;
use super::block::sim::{Call, Rng, SimDisk};
use super::error::Failure;
use super::lane::{CommitError, Committed, Lane, Pending};
use super::pool::PoolConfig;
use super::recover::Scan;
use super::{Bytes, JournalConfig, LaneId, Lsn, Record, store};

/// A payload and the LSN under which it was found.
type Seen = (u64, Vec<u8>);

struct Opened {
    scan: Scan,
    seen: Vec<Seen>,
    lane: Option<Lane>,
}

fn pool_config(segment_len: u64) -> PoolConfig {
    PoolConfig {
        segment_len,
        ahead: 1,
        patience: Duration::ZERO,
        space_retry: Duration::ZERO,
        in_flight_max: 4,
        realtime: false,
        inline: true,
    }
}

/// Recovers without writing.
fn look(disk: &SimDisk, id: LaneId) -> Result<(Scan, Vec<Seen>), Failure> {
    let mut seen = Vec::new();
    let scan = store::recover(disk, id, &mut |found| {
        seen.push((found.raw.header.lsn.get(), found.raw.payload.to_vec()));
    })?;
    Ok((scan, seen))
}

fn open(disk: &SimDisk, id: LaneId, segment_len: u64) -> Result<Opened, Failure> {
    let (scan, seen) = look(disk, id)?;
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    let lane = if scan.corruption.is_none() {
        let config = pool_config(segment_len);
        Some(store::writable(&shared, id, &config, [7; 16], &scan)?.0)
    } else {
        None
    };
    Ok(Opened { scan, seen, lane })
}

fn pending(payloads: &[Vec<u8>]) -> Vec<Pending> {
    let record = |payload: &Vec<u8>| Pending {
        kind: 1,
        episode: [3; 16],
        unix_ns: 5,
        payload: Bytes::from(payload.clone()),
    };
    payloads.iter().map(record).collect()
}

fn commit(lane: &mut Lane, payloads: &[Vec<u8>]) -> Result<Committed, CommitError> {
    lane.commit(pending(payloads), 6)
}

/// Puts a batch on its way without waiting for it.
fn submit(lane: &mut Lane, payloads: &[Vec<u8>]) -> Result<(), CommitError> {
    lane.submit(pending(payloads), 6, false)
}

fn random_payloads(rng: &mut Rng, count_max: usize, len_max: usize) -> Vec<Vec<u8>> {
    (0..=rng.below(count_max))
        .map(|_| random_payload(rng, len_max))
        .collect()
}

fn random_payload(rng: &mut Rng, len_max: usize) -> Vec<u8> {
    let mut payload = vec![0; rng.below(len_max)];
    payload.fill_with(|| (rng.next() & 0xFF) as u8);
    payload
}

fn record(payload: Vec<u8>) -> Record {
    Record {
        kind: 9,
        episode: [1; 16],
        payload: Bytes::from(payload),
    }
}

/// Small segments and short waits.
fn small_config() -> JournalConfig {
    JournalConfig {
        space_retry_ms: 2,
        writer_realtime: false,
        ..JournalConfig::small()
    }
}
