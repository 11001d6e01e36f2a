//! One writer thread a lane: gathers whatever waits into one batch, commits, answers everybody.
//!
//! Group commit without a timer: while batches are on their way to the device the next gathers
//! behind them. The answer to each caller comes after the sync that covers its records, never
//! before, and in the order of the records; after a failure every waiting and every later call
//! fails.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::engine::Wait;
use super::error::{Failure, JournalError};
use super::format::BATCH_HEADER_LEN;
use super::lane::{CommitError, Committed, Lane, Pending};
use super::pool::Pool;
use super::stats::Shared;
use super::sync::Until;
use super::{LaneId, priority, sync, unix_ns};

mod gather;
mod handle;
pub(crate) mod queue;

pub(crate) use handle::{LaneHandle, Priority, QueueLimits};

use handle::{Placed, Request};
use queue::Queue;

/// A batch on its way, and when it was submitted.
struct Submitted {
    calls: Vec<Request>,
    at: Instant,
}

struct Writer {
    id: LaneId,
    lane: Lane,
    pool: Arc<Pool>,
    shared: Arc<Shared>,
    limits: QueueLimits,
    queue: Arc<Queue<Request>>,
    /// Taken from the queue, not yet in a batch.
    waiting: VecDeque<Request>,
    /// As many as the lane has outstanding, in the same order.
    pending: VecDeque<Submitted>,
    /// Calls answered since the last batch was begun.
    answered: usize,
    /// How many of those answered come back at once, 0 to 1, smoothed.
    returning: f64,
    rounds: u64,
    /// What the last batch took on the device.
    sync_time: Duration,
    /// Set once, by the first failure; every answer from then on.
    dead: Option<JournalError>,
}

/// Share of callers coming back from which it pays to wait for them.
const RETURNING_MIN: f64 = 0.5;
/// Otherwise it is tried once in so many batches whether they do.
const RETURNING_PROBE: u64 = 64;
/// The wait for them is this part of the device's time.
const WELCOME_PART: u32 = 3;
const WELCOME_MIN: Duration = Duration::from_micros(20);
const WELCOME_MAX: Duration = Duration::from_micros(300);

impl Drop for Writer {
    /// However the thread ends, nobody waits for an answer that won't come.
    fn drop(&mut self) {
        self.queue.abandon();
        self.pool.close();
    }
}

impl Writer {
    fn new(
        lane: Lane,
        pool: Arc<Pool>,
        shared: Arc<Shared>,
        limits: QueueLimits,
        queue: Arc<Queue<Request>>,
    ) -> Self {
        Self {
            id: lane.id(),
            lane,
            pool,
            shared,
            limits,
            queue,
            waiting: VecDeque::new(),
            pending: VecDeque::new(),
            answered: 0,
            returning: 1.0,
            rounds: 0,
            sync_time: Duration::ZERO,
            dead: None,
        }
    }

    fn run(mut self) {
        self.raise_priority();
        loop {
            if self.pending.is_empty() {
                self.welcome_back();
            }
            self.queue.take(&mut self.waiting);
            while self.goes_now() {
                let batch = self.gather();
                self.serve(batch);
            }
            if self.pending.is_empty() {
                if self.waiting.is_empty() && !self.queue.wait() {
                    return;
                }
            } else {
                self.reap();
            }
        }
    }

    /// Serves what waits, and returns: the writer of a journal without threads.
    #[cfg(test)]
    fn turn(&mut self) {
        loop {
            self.queue.take(&mut self.waiting);
            while self.goes_now() {
                let batch = self.gather();
                self.serve(batch);
            }
            if !self.pending.is_empty() {
                self.reap();
            } else if self.waiting.is_empty() {
                return;
            }
        }
    }

    /// Whether what waits is to be submitted now: one batch if nothing is on its way; another
    /// beside those that are only if it is large, because then bytes are the limit. Small ones
    /// gather instead, and share a flush.
    fn goes_now(&self) -> bool {
        !self.waiting.is_empty()
            && (self.dead.is_some()
                || self.pending.is_empty()
                || (self.has_room() && self.waiting_bytes() >= self.large()))
    }

    fn waiting_bytes(&self) -> usize {
        self.waiting.iter().map(|call| call.body).sum()
    }

    fn has_room(&self) -> bool {
        self.lane.outstanding() < self.lane.depth()
    }

    /// Bytes from which a batch is worth its own place on the device.
    fn large(&self) -> usize {
        self.limits.batch_bytes_max / 4 * 3
    }

    /// Lets the callers just answered come back, if such callers have been coming back: without
    /// it the first of them would have the next flush to itself. Never longer than a part of
    /// what the device took for the last batch, so what can be lost is bounded by that part.
    fn welcome_back(&mut self) {
        let expected = std::mem::take(&mut self.answered);
        if expected == 0 || self.dead.is_some() {
            return;
        }
        self.rounds += 1;
        if self.returning < RETURNING_MIN && !self.rounds.is_multiple_of(RETURNING_PROBE) {
            return;
        }
        let already = self.queue.len() + self.waiting.len();
        let limit = (self.sync_time / WELCOME_PART).clamp(WELCOME_MIN, WELCOME_MAX);
        let until = Until::after(limit);
        self.queue.wait_for(expected + self.queue.len(), &until);
        let came = (self.queue.len() + self.waiting.len()).saturating_sub(already);
        let share = came as f64 / expected as f64;
        self.returning += (share.min(1.0) - self.returning) / 8.0;
    }

    /// Waits for the oldest batch, or for more calls if there is room for them on the device.
    fn reap(&mut self) {
        // What waits already is too little for a batch beside those on their way.
        let missing = self.large().saturating_sub(self.waiting_bytes()).max(1);
        let dozing = self.has_room() && self.queue.doze(missing);
        let wait = match (dozing, self.has_room()) {
            (true, _) => Wait::DoneOrBell,
            // Enough waits already, and there is room: only see what is done.
            (false, true) => Wait::Not,
            (false, false) => Wait::Done,
        };
        let mut reaped = self.lane.reap(wait);
        if dozing {
            self.queue.rouse();
        }
        loop {
            match reaped {
                Ok(Some(committed)) => {
                    if let Some(batch) = self.pending.pop_front() {
                        self.acknowledge(batch, committed);
                    }
                }
                Ok(None) => return,
                Err(failure) => {
                    self.die(&failure);
                    return;
                }
            }
            reaped = self.lane.reap(Wait::Not);
        }
    }

    fn raise_priority(&self) {
        let nice = self.limits.nice;
        if let Err(error) = priority::nice(nice) {
            tracing::warn!(lane = %self.id, nice, %error, "journal writer keeps its niceness");
        }
        if self.limits.realtime
            && let Err(error) = priority::realtime()
        {
            tracing::warn!(lane = %self.id, %error, "journal writer is not real-time");
        }
    }

    /// Takes calls from the front until a batch is full; the first always.
    fn gather(&mut self) -> Vec<Request> {
        let waiting = &mut self.waiting;
        let mut batch = Vec::new();
        let mut bytes = BATCH_HEADER_LEN;
        while let Some(next) = waiting.front() {
            let full = bytes + next.body > self.limits.batch_bytes_max;
            if full && !batch.is_empty() {
                break;
            }
            bytes += next.body;
            batch.extend(waiting.pop_front());
        }
        batch
    }

    fn serve(&mut self, batch: Vec<Request>) {
        if batch.is_empty() {
            return;
        }
        if let (None, Some(failure)) = (&self.dead, self.pool.failure()) {
            self.die(&failure);
        }
        if let Some(dead) = self.dead.clone() {
            self.refuse(batch, &dead);
            return;
        }
        let mut batch = self.admit(batch);
        if batch.is_empty() {
            return;
        }
        let at = Instant::now();
        match self.submit(&mut batch, at) {
            Ok(()) => {
                if self.pending.is_empty() {
                    self.shared.begin(batch[0].enqueued);
                }
                self.pending.push_back(Submitted { calls: batch, at });
            }
            Err(CommitError::Full { free_bytes }) => self.refuse_full(batch, free_bytes),
            Err(CommitError::TooLarge { max_bytes }) => {
                let bytes = batch.iter().map(|r| r.body as u64).sum();
                let error = JournalError::TooLarge {
                    lane: self.id,
                    bytes,
                    max_bytes,
                };
                self.refuse(batch, &error);
            }
            Err(CommitError::Fatal(failure)) => {
                let dead = self.die(&failure);
                self.refuse(batch, &dead);
            }
        }
    }

    /// On a disk where no more can be prepared, keeps the reserve for outcomes.
    fn admit(&self, batch: Vec<Request>) -> Vec<Request> {
        if batch
            .iter()
            .all(|request| request.priority == Priority::Outcome)
        {
            return batch;
        }
        let body = batch.iter().map(|request| request.body).sum();
        let Err(free_bytes) = self.lane.admit(body, self.limits.reserve) else {
            self.shared.accepting();
            return batch;
        };
        let (outcomes, normal): (Vec<_>, Vec<_>) = batch
            .into_iter()
            .partition(|request| request.priority == Priority::Outcome);
        self.refuse_full(normal, free_bytes);
        outcomes
    }

    /// Takes the records out of the calls: they belong to the batch from here on.
    fn submit(&mut self, batch: &mut [Request], at: Instant) -> Result<(), CommitError> {
        let now = unix_ns();
        let mut records = Vec::with_capacity(batch.len());
        for request in &mut *batch {
            // The time of the call, by one reading of the clock for all.
            let age = at.saturating_duration_since(request.enqueued).as_nanos();
            let unix_ns = now.saturating_sub(u64::try_from(age).unwrap_or(u64::MAX));
            let own = std::mem::take(&mut request.records);
            records.extend(own.into_iter().map(|record| Pending {
                kind: record.kind,
                episode: record.episode,
                unix_ns,
                payload: record.payload,
            }));
        }
        // Nothing more will go before this one is back: then the call may do all of it, which
        // is quicker than through a ring.
        let bytes: usize = batch.iter().map(|call| call.body).sum();
        let alone = self.pending.is_empty() && self.waiting.is_empty() && bytes < self.large();
        self.lane.submit(records, now, alone)
    }

    fn acknowledge(&mut self, batch: Submitted, committed: Committed) {
        self.sync_time = batch.at.elapsed();
        self.answered += batch.calls.len();
        let oldest = self.pending.front().map(|next| next.calls[0].enqueued);
        self.shared.committed(
            batch.at,
            committed.bytes,
            self.lane.buffer_bytes(),
            batch.calls.iter().map(|call| (call.enqueued, call.size)),
            oldest,
        );
        let mut lsn = committed.first_lsn;
        let mut offset = committed.offset + BATCH_HEADER_LEN as u64;
        for request in batch.calls {
            let placed = Placed {
                lsn,
                segment: committed.segment,
                offset,
            };
            lsn += request.size.records;
            offset += request.body as u64;
            request.reply(Ok(placed));
        }
    }

    fn refuse_full(&self, batch: Vec<Request>, free_bytes: u64) {
        if batch.is_empty() {
            return;
        }
        let reserve_bytes = self.limits.reserve;
        self.shared.refusing(free_bytes, reserve_bytes);
        self.refuse(
            batch,
            &JournalError::Full {
                lane: self.id,
                free_bytes,
                reserve_bytes,
            },
        );
    }

    fn refuse(&self, batch: Vec<Request>, error: &JournalError) {
        for request in batch {
            request.refuse(&self.shared, error.clone());
        }
    }

    fn die(&mut self, failure: &Failure) -> JournalError {
        let error = failure.poisoned(self.id);
        tracing::error!(lane = %self.id, %error, "journal lane is finished until a restart");
        self.shared.poisoned(
            format!("{} {}", failure.operation, failure.object),
            failure.source.to_string(),
        );
        self.dead = Some(error.clone());
        // Durable or not, what is on its way is not acknowledged: nothing after a failure is.
        for batch in std::mem::take(&mut self.pending) {
            self.refuse(batch.calls, &error);
        }
        self.shared.end();
        error
    }
}
