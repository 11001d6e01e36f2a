//! What one slice measured.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

/// One slice of one subject.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Sample {
    /// Operations made durable.
    pub ops: u64,
    /// Of them a second.
    pub per_s: f64,
    /// Payload bytes a second.
    pub bytes_per_s: f64,
    /// Median time to durable, microseconds.
    pub p50_us: f64,
    /// 99th percentile, microseconds.
    pub p99_us: f64,
    /// The log had to begin a new segment in the middle.
    pub rotated: bool,
    /// The journal's buffers as a share of what they may grow to; 0 for others.
    pub memory: f64,
}

impl Sample {
    /// From the latencies of all writers and the time that they took together.
    pub(crate) fn of(latencies_ns: &Histogram<u64>, bytes_each: usize, took: Duration) -> Self {
        let seconds = took.as_secs_f64().max(1e-9);
        let ops = latencies_ns.len();
        Self {
            ops,
            per_s: ops as f64 / seconds,
            bytes_per_s: ops as f64 * bytes_each as f64 / seconds,
            p50_us: latencies_ns.value_at_quantile(0.5) as f64 / 1e3,
            p99_us: latencies_ns.value_at_quantile(0.99) as f64 / 1e3,
            rotated: false,
            memory: 0.0,
        }
    }
}

/// Nanoseconds up to ten seconds, two digits.
pub(crate) fn histogram() -> anyhow::Result<Histogram<u64>> {
    Ok(Histogram::new_with_max(10_000_000_000, 2)?)
}

pub(crate) fn nanos(elapsed: Duration) -> u64 {
    u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX)
}
