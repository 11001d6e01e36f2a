//! Batches on their way to the device: done in any order, handed out in that of their submission.

use std::collections::VecDeque;
use std::io;

use super::super::block::AlignedBuf;
use super::super::engine::{Engine, Wait, Write};
use super::super::error::Failure;
use super::super::format::GRANULE_MAX;
use super::super::left_out::{Check, left_out};
use super::Committed;

struct Outstanding {
    ticket: u64,
    committed: Committed,
    /// What became of it, once known.
    result: Option<Result<(), Failure>>,
}

/// The engine, and what it has not yet been asked for.
pub(super) struct InFlight {
    engine: Box<dyn Engine>,
    /// Submitted and not yet handed out, oldest first.
    outstanding: VecDeque<Outstanding>,
    next_ticket: u64,
    /// Buffers between two uses.
    spare: Vec<AlignedBuf>,
    /// Of all buffers, those on their way included.
    buffer_bytes: usize,
}

/// Larger buffers are freed after their use: a rare large snapshot must not stay in memory for
/// good, once for each batch in flight.
pub(crate) const KEPT_BYTES_MAX: usize = 2 << 20;

impl InFlight {
    pub(super) fn new(engine: Box<dyn Engine>) -> Self {
        Self {
            engine,
            outstanding: VecDeque::new(),
            next_ticket: 0,
            spare: Vec::new(),
            buffer_bytes: 0,
        }
    }

    pub(super) fn engine(&self) -> &dyn Engine {
        self.engine.as_ref()
    }

    /// Submitted and not yet handed out.
    pub(super) fn len(&self) -> usize {
        self.outstanding.len()
    }

    pub(super) fn buffer_bytes(&self) -> usize {
        self.buffer_bytes
    }

    /// A buffer of at least `len` bytes: one from between two uses, or a new one. There are never
    /// more than may be in flight and one.
    pub(super) fn buffer(&mut self, len: usize) -> AlignedBuf {
        let mut buf = self.spare.pop().unwrap_or_default();
        let before = buf.capacity();
        buf.slice(len);
        self.buffer_bytes += buf.capacity() - before;
        buf
    }

    pub(super) fn give_back(&mut self, buf: AlignedBuf) {
        if buf.capacity() <= KEPT_BYTES_MAX + GRANULE_MAX as usize {
            self.spare.push(buf);
        } else {
            self.buffer_bytes -= buf.capacity();
        }
    }

    pub(super) fn submit(&mut self, committed: Committed, write: Write, alone: bool) {
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        self.outstanding.push_back(Outstanding {
            ticket,
            committed,
            result: None,
        });
        self.engine.submit(ticket, write, alone);
    }

    /// The oldest, if it is durable; waits as told. `None` if there is none or it is still on its
    /// way. An error is the end: what came before it has been handed out, nothing after it is.
    pub(super) fn reap(&mut self, wait: Wait) -> Result<Option<Committed>, Failure> {
        loop {
            let known = |batch: &Outstanding| batch.result.is_some();
            let next = if left_out(Check::InOrder) {
                self.outstanding.iter().position(known)
            } else {
                self.outstanding
                    .front()
                    .filter(|batch| known(batch))
                    .map(|_| 0)
            };
            if let Some(batch) = next.and_then(|at| self.outstanding.remove(at)) {
                let failed = batch.result.and_then(Result::err);
                return match failed.filter(|_| !left_out(Check::Succeeded)) {
                    Some(failure) => Err(failure),
                    None => Ok(Some(batch.committed)),
                };
            }
            if self.outstanding.is_empty() || !self.note(wait) {
                return Ok(None);
            }
        }
    }

    /// Takes one outcome from the engine; `false` if there was none.
    fn note(&mut self, wait: Wait) -> bool {
        let Some(done) = self.engine.reap(wait) else {
            return false;
        };
        self.give_back(done.buf);
        let mut all = self.outstanding.iter_mut();
        if let Some(batch) = all.find(|batch| batch.ticket == done.ticket) {
            batch.result = Some(done.result);
        }
        true
    }

    /// Waits until every one is durable, without handing any out.
    pub(super) fn settle(&mut self, lane: &str) -> Result<(), Failure> {
        if left_out(Check::Settled) {
            return Ok(());
        }
        loop {
            let mut known = self.outstanding.iter().filter_map(|b| b.result.as_ref());
            if let Some(Err(failure)) = known.find(|result| result.is_err()) {
                return Err(failure.clone());
            }
            if self.outstanding.iter().all(|batch| batch.result.is_some()) {
                return Ok(());
            }
            if !self.note(Wait::Done) {
                let error = io::Error::other("the engine lost a batch");
                return Err(Failure::of("wait for", lane)(error));
            }
        }
    }
}
