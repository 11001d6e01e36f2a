//! One writer thread a lane: gathers whatever waits into one batch, commits, answers everybody.
//!
//! Group commit without a timer: while batches are on their way to the device the next gathers
//! behind them. The answer to each caller comes after the sync that covers its records, never
//! before, and in the order of the records; after a failure every waiting and every later call
//! fails.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use super::engine::{Wait, WriteEngine};
use super::error::{Failure, JournalError};
use super::format::{BATCH_HEADER_LEN, record_size};
use super::lane::{CommitError, Committed, Lane, Pending};
use super::pool::Pool;
use super::stats::{JournalHealth, Shared};
use super::store::Lock;
use super::{LaneId, Record, lock, unix_ns};
use queue::Queue;

mod queue;

/// Who may use the reserve.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Priority {
    Normal,
    /// Outcomes of actions already taken.
    Outcome,
}

/// Where the first record of a call is, durably.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Placed {
    pub(crate) lsn: u64,
    pub(crate) segment: u64,
    /// Of the record header in the segment.
    pub(crate) offset: u64,
}

type Answer = Result<Placed, JournalError>;

struct Request {
    records: Vec<Record>,
    body: usize,
    priority: Priority,
    enqueued: Instant,
    unix_ns: u64,
    reply: oneshot::Sender<Answer>,
    /// This call's share of the queue's bytes and its place among the calls, until it is answered.
    _share: OwnedSemaphorePermit,
    _place: OwnedSemaphorePermit,
}

impl Request {
    fn refuse(self, shared: &Shared, error: JournalError) {
        shared.refused();
        self.reply(Err(error));
    }

    fn reply(self, answer: Answer) {
        if self.reply.send(answer).is_err() {
            tracing::debug!("a caller of the journal did not wait for its answer");
        }
    }
}

/// Limits of one lane's queue.
#[derive(Clone, Copy, Debug)]
pub(crate) struct QueueLimits {
    pub(crate) calls_max: usize,
    pub(crate) bytes_max: usize,
    pub(crate) payload_max: usize,
    /// Of one call, records with their headers.
    pub(crate) call_bytes_max: usize,
    pub(crate) batch_bytes_max: usize,
    pub(crate) reserve: u64,
    pub(crate) deadline: Duration,
    pub(crate) nice: i32,
}

/// The callers' side of a lane.
pub(crate) struct LaneHandle {
    id: LaneId,
    queue: Arc<Queue<Request>>,
    share: Arc<Semaphore>,
    places: Arc<Semaphore>,
    limits: QueueLimits,
    pub(crate) shared: Arc<Shared>,
    pub(crate) pool: Arc<Pool>,
    pub(crate) engine: WriteEngine,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl LaneHandle {
    /// Starts the lane's writer and its preparer.
    pub(crate) fn start(
        id: LaneId,
        lane: Lane,
        pool: Arc<Pool>,
        limits: QueueLimits,
        directory: Option<&Arc<Lock>>,
    ) -> Result<Self, Failure> {
        let queue = Arc::new(Queue::new(lane.engine().bell()));
        let shared = Arc::new(Shared::new(id)?);
        let handle = Self {
            id,
            queue: queue.clone(),
            share: Arc::new(Semaphore::new(limits.bytes_max)),
            places: Arc::new(Semaphore::new(limits.calls_max)),
            limits,
            shared: shared.clone(),
            pool: pool.clone(),
            engine: lane.engine().kind(),
            threads: Mutex::new(Vec::new()),
        };
        let writer = Writer {
            id,
            lane,
            pool: pool.clone(),
            shared,
            limits,
            queue,
            waiting: VecDeque::new(),
            pending: VecDeque::new(),
            dead: None,
        };
        // Each thread keeps the directory's lock: it is free only when both have ended.
        let held = directory.cloned();
        let preparer = spawn(&format!("journal-{id}-prep"), move || {
            pool.run();
            drop(held);
        })?;
        lock(&handle.threads).push(preparer);
        let held = directory.cloned();
        let writer = spawn(&format!("journal-{id}"), move || {
            writer.run();
            drop(held);
        })?;
        lock(&handle.threads).push(writer);
        Ok(handle)
    }

    /// Whether the lane takes records. A preparer that failed will end it at the next commit.
    pub(crate) fn health(&self) -> JournalHealth {
        if let Some(failure) = self.pool.failure() {
            let operation = format!("{} {}", failure.operation, failure.object);
            self.shared.poisoned(operation, failure.source.to_string());
        }
        self.shared.health(self.pool.space().full)
    }

    /// Queues `records` and returns when they are durable.
    pub(crate) async fn append(&self, records: Vec<Record>, priority: Priority) -> Answer {
        let lane = self.id;
        let deadline = self.limits.deadline;
        match tokio::time::timeout(deadline, self.append_unbounded(records, priority)).await {
            Ok(answer) => answer,
            Err(_) => Err(JournalError::Deadline {
                lane,
                after_ms: u64::try_from(deadline.as_millis()).unwrap_or(u64::MAX),
            }),
        }
    }

    async fn append_unbounded(&self, records: Vec<Record>, priority: Priority) -> Answer {
        let lane = self.id;
        let closed = || JournalError::Closed { lane };
        if records.is_empty() {
            return Err(JournalError::Empty);
        }
        let too_large = |bytes: usize, max: usize| JournalError::TooLarge {
            lane,
            bytes: bytes as u64,
            max_bytes: max as u64,
        };
        let largest = records.iter().map(|r| r.payload.len()).max().unwrap_or(0);
        if largest > self.limits.payload_max {
            return Err(too_large(largest, self.limits.payload_max));
        }
        let body: usize = records.iter().map(|r| record_size(r.payload.len())).sum();
        let max = self.limits.call_bytes_max.min(self.limits.bytes_max);
        if body > max {
            return Err(too_large(body, max));
        }
        let bytes = u32::try_from(body).map_err(|_| too_large(body, max))?;
        let unix_ns = unix_ns();
        let enqueued = Instant::now();
        let share = self
            .share
            .clone()
            .acquire_many_owned(bytes)
            .await
            .map_err(|_| closed())?;
        let place = self
            .places
            .clone()
            .acquire_owned()
            .await
            .map_err(|_| closed())?;
        let (reply, answer) = oneshot::channel();
        self.shared.enqueued();
        let request = Request {
            records,
            body,
            priority,
            enqueued,
            unix_ns,
            reply,
            _share: share,
            _place: place,
        };
        if let Err(request) = self.queue.push(request) {
            request.refuse(&self.shared, closed());
        }
        answer.await.map_err(|_| closed())?
    }

    /// Commits what is queued, refuses what comes later, and ends both threads.
    pub(crate) async fn close(&self) -> Result<(), JournalError> {
        let lane = self.id;
        let deadline = self.limits.deadline;
        let expired = |_| JournalError::Deadline {
            lane,
            after_ms: u64::try_from(deadline.as_millis()).unwrap_or(u64::MAX),
        };
        self.queue.close();
        let threads: Vec<_> = lock(&self.threads).drain(..).collect();
        let join = tokio::task::spawn_blocking(move || {
            threads
                .into_iter()
                .filter_map(|thread| thread.join().err())
                .count()
        });
        match tokio::time::timeout(deadline, join)
            .await
            .map_err(expired)?
        {
            Ok(0) => Ok(()),
            Ok(_) | Err(_) => Err(JournalError::Poisoned {
                lane,
                operation: "end its threads".to_owned(),
                error: "a thread panicked".to_owned(),
            }),
        }
    }
}

impl Drop for LaneHandle {
    fn drop(&mut self) {
        self.queue.close();
    }
}

fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, Failure> {
    let builder = std::thread::Builder::new().name(name.to_owned());
    builder
        .spawn(body)
        .map_err(Failure::of("start thread", name))
}

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
    /// Set once, by the first failure; every answer from then on.
    dead: Option<JournalError>,
}

impl Drop for Writer {
    /// However the thread ends, nobody waits for an answer that won't come.
    fn drop(&mut self) {
        self.queue.abandon();
        self.pool.close();
    }
}

impl Writer {
    fn run(mut self) {
        self.raise_priority();
        loop {
            self.queue.take(&mut self.waiting);
            while !self.waiting.is_empty() && self.has_room() {
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

    fn has_room(&self) -> bool {
        self.dead.is_some() || self.lane.outstanding() < self.lane.depth()
    }

    /// Waits for the oldest batch, or for more calls if there is room for them on the device.
    fn reap(&mut self) {
        let dozing = self.has_room() && self.queue.doze();
        let wait = match (dozing, self.has_room()) {
            (true, _) => Wait::DoneOrBell,
            // Something waits already, and there is room: only see what is done.
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
        // On Linux the call with the thread's own id moves this thread alone.
        let own = rustix::thread::gettid();
        if let Err(error) = rustix::process::setpriority_process(Some(own), nice) {
            tracing::warn!(lane = %self.id, nice, %error, "journal writer keeps its priority");
        }
    }

    /// Takes calls from the front until a batch is full; the first always.
    fn gather(&mut self) -> Vec<Request> {
        let waiting = &mut self.waiting;
        let mut batch = Vec::new();
        let mut bytes = BATCH_HEADER_LEN;
        while let Some(next) = waiting.front() {
            if !batch.is_empty() && bytes + next.body > self.limits.batch_bytes_max {
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
        let batch = self.admit(batch);
        if batch.is_empty() {
            return;
        }
        let at = Instant::now();
        match self.submit(&batch) {
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

    fn submit(&mut self, batch: &[Request]) -> Result<(), CommitError> {
        let records: Vec<Pending<'_>> = batch
            .iter()
            .flat_map(|request| {
                request
                    .records
                    .iter()
                    .map(|record| (request.unix_ns, record))
            })
            .map(|(unix_ns, record)| Pending {
                kind: record.kind,
                episode: record.episode,
                unix_ns,
                payload: &record.payload,
            })
            .collect();
        let alone = self.lane.depth() == 1;
        self.lane.submit(&records, unix_ns(), alone)
    }

    fn acknowledge(&self, batch: Submitted, committed: Committed) {
        let oldest = self.pending.front().map(|next| next.calls[0].enqueued);
        self.shared.committed(
            batch.at,
            committed.bytes,
            batch.calls.iter().map(|call| (call.enqueued, &call.records[..])),
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
            lsn += request.records.len() as u64;
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
