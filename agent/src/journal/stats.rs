//! What a lane tells about itself: health, counters, latencies.

use std::io;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use serde::Serialize;

use super::block::DirectIo;
use super::engine::WriteEngine;
use super::error::Failure;
use super::recover::Corruption;
use super::{LaneId, lock};

/// Whether the journal takes records.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "state")]
pub enum JournalHealth {
    /// It does.
    Writable,
    /// It refuses all but outcomes until space can be prepared again.
    Full {
        /// Which lane.
        lane: LaneId,
        /// Prepared space left, bytes.
        free_bytes: u64,
        /// Of it, kept for outcomes.
        reserve_bytes: u64,
    },
    /// A write or sync failed; nothing is taken until a restart.
    Poisoned {
        /// Which lane.
        lane: LaneId,
        /// What failed, in words, with its object.
        operation: String,
        /// The system's answer.
        error: String,
    },
    /// Opened read-only because of corruption.
    Corrupt {
        /// The first found.
        corruption: Corruption,
    },
}

/// Percentiles of a latency, microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Latency {
    /// Number of measurements.
    pub count: u64,
    /// Median.
    pub p50_us: u64,
    /// 99th percentile.
    pub p99_us: u64,
    /// Largest.
    pub max_us: u64,
}

/// Counters of one lane since the journal was opened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LaneStats {
    /// Durable batches.
    pub commits: u64,
    /// Durable records.
    pub records: u64,
    /// Their payload, bytes.
    pub payload_bytes: u64,
    /// Written for them, headers and padding included, bytes.
    pub written_bytes: u64,
    /// Calls refused or failed.
    pub refused: u64,
    /// Write and sync of one batch.
    pub sync: Latency,
    /// From the call to its acknowledgement, queueing included.
    pub append: Latency,
    /// Calls waiting or being written.
    pub queue_depth: u64,
    /// Age of the batch being written, microseconds; 0 when idle.
    pub lag_us: u64,
    /// Prepared segments beyond the active one.
    pub segments_ready: u64,
    /// The last attempt to prepare a segment found no space.
    pub space_low: bool,
    /// What became of direct I/O.
    pub direct_io: DirectIo,
    /// How batches are written.
    pub engine: WriteEngine,
    /// Buffers that batches are gathered in, bytes.
    pub buffer_bytes: u64,
    /// What they may grow to: one more than may be in flight, each of the largest batch.
    pub buffer_bytes_max: u64,
}

/// Counters of both lanes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct JournalStats {
    /// Fast lane; `None` when the journal is read-only.
    pub fast: Option<LaneStats>,
    /// Safe lane; `None` when the journal is read-only.
    pub safe: Option<LaneStats>,
}

/// What is in a call.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Size {
    pub(crate) records: u64,
    pub(crate) payload_bytes: u64,
}

struct Counters {
    health: JournalHealth,
    commits: u64,
    records: u64,
    payload_bytes: u64,
    written_bytes: u64,
    buffer_bytes: u64,
    refused: u64,
    since: Option<Instant>,
    sync: Histogram<u64>,
    append: Histogram<u64>,
}

/// State of one lane that the writer updates and everybody reads.
pub(crate) struct Shared {
    lane: LaneId,
    /// Calls waiting or being written.
    queued: AtomicU64,
    counters: Mutex<Counters>,
}

/// Longest latency that is told apart, microseconds: ten minutes, the largest deadline.
const LATENCY_MAX_US: u64 = 600_000_000;

fn histogram() -> Result<Histogram<u64>, Failure> {
    Histogram::new_with_max(LATENCY_MAX_US, 2)
        .map_err(io::Error::other)
        .map_err(Failure::of("create", "latency histogram"))
}

fn micros(elapsed: Duration) -> u64 {
    u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX)
}

impl Shared {
    pub(crate) fn new(lane: LaneId) -> Result<Self, Failure> {
        let counters = Counters {
            health: JournalHealth::Writable,
            commits: 0,
            records: 0,
            payload_bytes: 0,
            written_bytes: 0,
            buffer_bytes: 0,
            refused: 0,
            since: None,
            sync: histogram()?,
            append: histogram()?,
        };
        Ok(Self {
            lane,
            queued: AtomicU64::new(0),
            counters: Mutex::new(counters),
        })
    }

    pub(crate) fn enqueued(&self) {
        self.queued.fetch_add(1, Ordering::Relaxed);
    }

    /// One call was answered with an error.
    pub(crate) fn refused(&self) {
        self.queued.fetch_sub(1, Ordering::Relaxed);
        lock(&self.counters).refused += 1;
    }

    pub(crate) fn begin(&self, oldest: Instant) {
        lock(&self.counters).since = Some(oldest);
    }

    pub(crate) fn end(&self) {
        lock(&self.counters).since = None;
    }

    /// A batch of `bytes` submitted at `at` is durable: its calls, each with the time that it came
    /// and what is in it, and when the oldest call that is still being written came.
    pub(crate) fn committed(
        &self,
        at: Instant,
        bytes: u64,
        buffer_bytes: u64,
        calls: impl Iterator<Item = (Instant, Size)>,
        oldest: Option<Instant>,
    ) {
        let now = Instant::now();
        let mut answered = 0;
        let mut counters = lock(&self.counters);
        counters.commits += 1;
        counters.written_bytes += bytes;
        counters.buffer_bytes = buffer_bytes;
        counters.since = oldest;
        let since = |begun| micros(now.saturating_duration_since(begun));
        counters.sync.saturating_record(since(at));
        for (enqueued, size) in calls {
            answered += 1;
            counters.append.saturating_record(since(enqueued));
            counters.records += size.records;
            counters.payload_bytes += size.payload_bytes;
        }
        drop(counters);
        self.queued.fetch_sub(answered, Ordering::Relaxed);
    }

    pub(crate) fn accepting(&self) {
        let mut counters = lock(&self.counters);
        if matches!(counters.health, JournalHealth::Full { .. }) {
            counters.health = JournalHealth::Writable;
        }
    }

    pub(crate) fn refusing(&self, free_bytes: u64, reserve_bytes: u64) {
        let lane = self.lane;
        lock(&self.counters).health = JournalHealth::Full {
            lane,
            free_bytes,
            reserve_bytes,
        };
    }

    pub(crate) fn poisoned(&self, operation: String, error: String) {
        let lane = self.lane;
        let mut counters = lock(&self.counters);
        // The first failure is the one that matters.
        if !matches!(counters.health, JournalHealth::Poisoned { .. }) {
            counters.health = JournalHealth::Poisoned {
                lane,
                operation,
                error,
            };
        }
    }

    /// Health as of the last call; `full` says whether preparing still fails.
    pub(crate) fn health(&self, full: bool) -> JournalHealth {
        let health = lock(&self.counters).health.clone();
        match health {
            JournalHealth::Full { .. } if !full => JournalHealth::Writable,
            other => other,
        }
    }

    /// Everything but what the pool knows.
    pub(crate) fn stats(&self) -> LaneStats {
        let counters = lock(&self.counters);
        LaneStats {
            commits: counters.commits,
            records: counters.records,
            payload_bytes: counters.payload_bytes,
            written_bytes: counters.written_bytes,
            refused: counters.refused,
            sync: latency(&counters.sync),
            append: latency(&counters.append),
            queue_depth: self.queued.load(Ordering::Relaxed),
            lag_us: counters.since.map_or(0, |since| micros(since.elapsed())),
            segments_ready: 0,
            space_low: false,
            direct_io: DirectIo::NotWanted,
            engine: WriteEngine::Pwrite,
            buffer_bytes: counters.buffer_bytes,
            buffer_bytes_max: 0,
        }
    }
}

fn latency(histogram: &Histogram<u64>) -> Latency {
    Latency {
        count: histogram.len(),
        p50_us: histogram.value_at_quantile(0.5),
        p99_us: histogram.value_at_quantile(0.99),
        max_us: histogram.max(),
    }
}
