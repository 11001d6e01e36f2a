//! The load: writers that each wait for their record to be durable, then write the next.

use std::sync::Barrier;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use super::Sample;
use super::sample::{histogram, nanos};

/// Writers of one size.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Load {
    pub(crate) writers: usize,
    /// Payload of one record.
    pub(crate) bytes: usize,
}

/// Bytes that no device and no log compresses; the same in every run.
pub(crate) fn noise(len: usize) -> Vec<u8> {
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

/// Ends a slice when its time is over or its prepared space is used up.
pub(crate) struct Limit {
    until: Instant,
    left: AtomicU64,
}

impl Limit {
    pub(crate) fn new(slice: Duration, load: Load, bytes_max: u64) -> Self {
        Self {
            until: Instant::now() + slice,
            left: AtomicU64::new(bytes_max / load.bytes.max(1) as u64),
        }
    }

    /// Whether one more may be written, at this time.
    pub(crate) fn go(&self, now: Instant) -> bool {
        let one = |left: u64| left.checked_sub(1);
        now < self.until
            && self
                .left
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, one)
                .is_ok()
    }
}

/// Runs `write` in one thread a writer: the shape of a blocking API. `write` is given the
/// writer's number and the record's number among that writer's.
#[cfg_attr(not(feature = "peers"), allow(dead_code, reason = "the peers' shape"))]
pub(crate) fn threads<F>(
    load: Load,
    slice: Duration,
    bytes_max: u64,
    write: F,
) -> anyhow::Result<Sample>
where
    F: Fn(usize, u64) -> anyhow::Result<()> + Sync,
{
    let barrier = Barrier::new(load.writers + 1);
    let mut all = histogram()?;
    let mut took = Duration::ZERO;
    std::thread::scope(|scope| -> anyhow::Result<()> {
        let run = |writer: usize| -> anyhow::Result<Histogram<u64>> {
            let mut own = histogram()?;
            let mut next = 1;
            // Once each, unmeasured: files are opened and threads are up.
            let first = write(writer, next);
            barrier.wait();
            barrier.wait();
            first?;
            // Everyone's limit ends at the same time; each has its share of the bytes.
            let limit = Limit::new(slice, load, bytes_max / load.writers as u64);
            // One reading of the clock ends one operation and begins the next.
            let mut begun = Instant::now();
            while limit.go(begun) {
                next += 1;
                write(writer, next)?;
                let ended = Instant::now();
                own.saturating_record(nanos(ended - begun));
                begun = ended;
            }
            Ok(own)
        };
        let handles: Vec<_> = (0..load.writers)
            .map(|writer| scope.spawn(move || run(writer)))
            .collect();
        barrier.wait();
        let begun = Instant::now();
        barrier.wait();
        for handle in handles {
            let own = handle
                .join()
                .map_err(|_| anyhow::anyhow!("a writer panicked"))??;
            all.add(own)?;
        }
        took = begun.elapsed();
        Ok(())
    })?;
    Ok(Sample::of(&all, load.bytes, took))
}
