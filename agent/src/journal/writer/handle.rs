//! The callers' side of a lane: what is asked, the queue's bounds, the deadline, the answer.

use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use super::super::engine::WriteEngine;
use super::super::error::{Failure, JournalError};
use super::super::format::{GRANULE_MAX, record_size};
use super::super::lane::{KEPT_BYTES_MAX, Lane};
use super::super::pool::Pool;
use super::super::stats::{JournalHealth, Shared, Size};
use super::super::store::Lock;
use super::super::{LaneId, Record, lock};
use super::Writer;
use super::gather::Gather;
use super::queue::Queue;

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

pub(crate) type Answer = Result<Placed, JournalError>;

/// One call, from the queue to its answer.
pub(crate) struct Request {
    /// Until they are in a batch.
    pub(crate) records: Vec<Record>,
    pub(crate) size: Size,
    /// Bytes of the records with their headers.
    pub(crate) body: usize,
    pub(crate) priority: Priority,
    pub(crate) enqueued: Instant,
    reply: oneshot::Sender<Answer>,
    /// This call's share of the queue, until it is answered.
    _share: OwnedSemaphorePermit,
}

impl Request {
    pub(crate) fn refuse(self, shared: &Shared, error: JournalError) {
        shared.refused();
        self.reply(Err(error));
    }

    pub(crate) fn reply(self, answer: Answer) {
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
    pub(crate) realtime: bool,
    pub(crate) nice: i32,
}

/// The callers' side of a lane.
pub(crate) struct LaneHandle {
    id: LaneId,
    queue: Arc<Queue<Request>>,
    gather: Gather<Request>,
    /// In bytes; a call takes at least the share that bounds the number of calls.
    share: Arc<Semaphore>,
    limits: QueueLimits,
    pub(crate) shared: Arc<Shared>,
    pub(crate) pool: Arc<Pool>,
    pub(crate) engine: WriteEngine,
    threads: Mutex<Vec<JoinHandle<()>>>,
    /// Of a journal without threads.
    #[cfg(test)]
    inline: Option<Mutex<Writer>>,
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
        #[cfg(test)]
        if pool.is_inline() {
            return Ok(Self::inline(id, lane, pool, limits, queue, shared));
        }
        let handle = Self {
            id,
            queue: queue.clone(),
            gather: Gather::new(),
            share: Arc::new(Semaphore::new(limits.bytes_max)),
            limits,
            shared: shared.clone(),
            pool: pool.clone(),
            engine: lane.engine().kind(),
            threads: Mutex::new(Vec::new()),
            #[cfg(test)]
            inline: None,
        };
        let writer = Writer::new(lane, pool.clone(), shared, limits, queue);
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

    /// Carries out every call in the thread of its caller.
    #[cfg(test)]
    fn inline(
        id: LaneId,
        lane: Lane,
        pool: Arc<Pool>,
        limits: QueueLimits,
        queue: Arc<Queue<Request>>,
        shared: Arc<Shared>,
    ) -> Self {
        let engine = lane.engine().kind();
        let writer = Writer::new(lane, pool.clone(), shared.clone(), limits, queue.clone());
        Self {
            id,
            queue,
            gather: Gather::new(),
            share: Arc::new(Semaphore::new(limits.bytes_max)),
            limits,
            shared,
            pool,
            engine,
            threads: Mutex::new(Vec::new()),
            inline: Some(Mutex::new(writer)),
        }
    }

    /// Most bytes that the lane's buffers may take: those kept between two uses, and what a few
    /// larger calls, all of them in the queue, may need beyond.
    pub(crate) fn buffer_bytes_max(&self) -> u64 {
        let depth = match self.engine {
            WriteEngine::Pwrite => 1,
            WriteEngine::Threads { in_flight_max, .. } | WriteEngine::IoUring { in_flight_max } => {
                u64::from(in_flight_max)
            }
        };
        // Each begins on a boundary of the largest granule, wherever its memory begins, and each
        // batch ends on one.
        let kept = KEPT_BYTES_MAX as u64 + 2 * u64::from(GRANULE_MAX);
        (depth + 1) * kept + self.limits.bytes_max as u64
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
        // The clock is read once a call: on some machines that costs more than the rest of it.
        let enqueued = Instant::now();
        let work = self.append_unbounded(records, priority, enqueued);
        match tokio::time::timeout_at((enqueued + deadline).into(), work).await {
            Ok(answer) => answer,
            Err(_) => Err(JournalError::Deadline {
                lane,
                after_ms: u64::try_from(deadline.as_millis()).unwrap_or(u64::MAX),
            }),
        }
    }

    async fn append_unbounded(
        &self,
        records: Vec<Record>,
        priority: Priority,
        enqueued: Instant,
    ) -> Answer {
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
        let least = self.limits.bytes_max / self.limits.calls_max.max(1);
        let bytes = u32::try_from(body.max(least)).map_err(|_| too_large(body, max))?;
        // Fewer could hardly share anything, and each would pay for the detour.
        let few = few_under_way(&self.share, self.limits.bytes_max, least);
        let share = self
            .share
            .clone()
            .acquire_many_owned(bytes)
            .await
            .map_err(|_| closed())?;
        let size = Size {
            records: records.len() as u64,
            payload_bytes: records.iter().map(|r| r.payload.len() as u64).sum(),
        };
        let (reply, answer) = oneshot::channel();
        self.shared.enqueued();
        let request = Request {
            records,
            size,
            body,
            priority,
            enqueued,
            reply,
            _share: share,
        };
        let push = |calls: Vec<(Request, usize)>| {
            for request in self.queue.push_all(calls).err().unwrap_or_default() {
                request.refuse(&self.shared, closed());
            }
        };
        if few {
            if let Err(request) = self.queue.push(request, body) {
                request.refuse(&self.shared, closed());
            }
        } else if let Some(duty) = self.gather.add(request, body, push) {
            tokio::task::yield_now().await;
            drop(duty);
        }
        #[cfg(test)]
        if let Some(writer) = &self.inline {
            lock(writer).turn();
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

/// Calls on their way up to which a new one goes straight to the queue.
const FEW: usize = 2;

/// Whether at most [`FEW`] calls, each of the least share, are on their way.
fn few_under_way(share: &Semaphore, bytes_max: usize, least: usize) -> bool {
    bytes_max - share.available_permits().min(bytes_max) <= FEW * least
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
