//! Which engine is the fastest here: measured at opening, in space that is prepared and unused.
//!
//! What is written are zeros over zeros, so that nothing changes however it ends.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Content, Engine, Wait, Write};
use crate::journal::block::{AlignedBuf, BlockFile};

/// Of one write, bytes: a large batch.
const WRITE_BYTES: usize = 512 << 10;
/// Smallest segment that is measured in: below it, the first engine is taken unseen.
const SEGMENT_MIN: u64 = 4 << 20;
/// Writes an engine; the first few are not counted.
const WRITES: u64 = 32;
const UNCOUNTED: u64 = 8;
/// An engine must be this much faster to be taken before an earlier one.
const GAIN_MIN: f64 = 1.1;

/// Takes the fastest of `engines` on `file`, a prepared segment of `len` bytes.
///
/// The writes come from the calling thread, which should have the writer's priority.
pub(crate) fn fastest(
    engines: Vec<Box<dyn Engine>>,
    file: &Arc<dyn BlockFile>,
    len: u64,
) -> Option<Box<dyn Engine>> {
    let several = engines.len() > 1 && len >= SEGMENT_MIN;
    let mut best: Option<(Box<dyn Engine>, Duration)> = None;
    for mut engine in engines {
        let took = if several {
            match measure(engine.as_mut(), file) {
                Some(took) => took,
                // It failed where the next may not.
                None => continue,
            }
        } else {
            Duration::ZERO
        };
        tracing::debug!(engine = ?engine.kind(), ?took, "measured");
        let faster = best
            .as_ref()
            .is_none_or(|(_, other)| took.mul_f64(GAIN_MIN) < *other);
        if faster {
            best = Some((engine, took));
        }
    }
    best.map(|(engine, _)| engine)
}

/// Time for the counted writes, as many in flight as may be; `None` if one failed.
fn measure(engine: &mut dyn Engine, file: &Arc<dyn BlockFile>) -> Option<Duration> {
    let name: Arc<str> = "a prepared segment".into();
    let mut spare: Vec<AlignedBuf> = Vec::new();
    let mut begun = Instant::now();
    let (mut submitted, mut done) = (0, 0);
    while done < WRITES {
        while submitted < WRITES && submitted - done < engine.depth() as u64 {
            let mut buf = spare.pop().unwrap_or_default();
            buf.slice(WRITE_BYTES);
            let write = Write {
                file: file.clone(),
                name: name.clone(),
                offset: submitted % 8 * WRITE_BYTES as u64,
                buf,
                len: WRITE_BYTES,
                content: Content::Trial,
            };
            engine.submit(submitted, write, false);
            submitted += 1;
        }
        let finished = engine.reap(Wait::Done)?;
        finished.result.ok()?;
        spare.push(finished.buf);
        done += 1;
        if done == UNCOUNTED {
            begun = Instant::now();
        }
    }
    Some(begun.elapsed())
}
