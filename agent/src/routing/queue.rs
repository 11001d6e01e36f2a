//! A tenant's queue: places first, episodes later.
//!
//! The lanes themselves have no bound; the count of places is the bound. A place is taken by a
//! reservation, goes over to the episode that is submitted, and is free again when the episode is
//! taken out to be handled, or when the reservation is dropped unused.
//!
//! What is severe goes first. One in four goes to the episode that has waited longest, whatever it is:
//! a storm of severe ones slows the others down, but never starves them.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use super::{Shared, TenantLoad};
use crate::incident::{Episode, TenantId};
use tokio::sync::{Notify, watch};

/// An episode that waits, with its place.
pub(super) struct Queued {
    pub(super) episode: Episode,
    pub(super) resolved: watch::Receiver<bool>,
    pub(super) place: Place,
}

/// One in so many goes to whoever has waited longest.
const OLDEST_EVERY: u64 = 4;

/// Most severe first.
#[derive(Default)]
struct Lanes {
    by_severity: [VecDeque<(u64, Queued)>; 3],
    put: u64,
    taken: u64,
    closed: bool,
}

impl Lanes {
    fn pop(&mut self) -> Option<Queued> {
        self.taken += 1;
        let waiting = self.by_severity.iter().enumerate();
        let heads = waiting.filter_map(|(at, lane)| Some((at, lane.front()?.0)));
        let (lane, _) = if self.taken.is_multiple_of(OLDEST_EVERY) {
            heads.min_by_key(|(_, seq)| *seq)?
        } else {
            heads.min_by_key(|(at, _)| *at)?
        };
        self.by_severity[lane].pop_front().map(|(_, queued)| queued)
    }
}

/// Which lane: by the `severity` label as it is commonly set; without one in the middle.
fn lane(episode: &Episode) -> usize {
    let severity = episode.alert.labels.get("severity").map(String::as_str);
    match severity.unwrap_or_default().to_ascii_lowercase().as_str() {
        "critical" | "page" | "emergency" | "fatal" => 0,
        "info" | "none" | "low" | "debug" => 2,
        _ => 1,
    }
}

/// One tenant's places and figures.
pub(super) struct Queue {
    tenant: TenantId,
    len_max: usize,
    taken: AtomicUsize,
    high_water: AtomicUsize,
    running: AtomicUsize,
    lanes: Mutex<Lanes>,
    /// Something was put in.
    news: Notify,
}

impl Queue {
    pub(super) fn new(tenant: TenantId, len_max: usize) -> Arc<Self> {
        Arc::new(Self {
            tenant,
            len_max,
            taken: AtomicUsize::new(0),
            high_water: AtomicUsize::new(0),
            running: AtomicUsize::new(0),
            lanes: Mutex::default(),
            news: Notify::new(),
        })
    }

    fn lanes(&self) -> MutexGuard<'_, Lanes> {
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives it back if the queue is closed.
    fn push(&self, queued: Box<Queued>) -> Result<(), Box<Queued>> {
        let mut lanes = self.lanes();
        if lanes.closed {
            return Err(queued);
        }
        lanes.put += 1;
        let (seq, lane) = (lanes.put, lane(&queued.episode));
        lanes.by_severity[lane].push_back((seq, *queued));
        drop(lanes);
        self.news.notify_one();
        Ok(())
    }

    /// What goes next.
    pub(super) fn pop(&self) -> Option<Queued> {
        self.lanes().pop()
    }

    /// Waits until something is there. For one waiter at a time.
    pub(super) async fn filled(&self) {
        while self.lanes().by_severity.iter().all(VecDeque::is_empty) {
            self.news.notified().await;
        }
    }

    /// Takes nothing more; what is there still comes out.
    pub(super) fn close(&self) {
        self.lanes().closed = true;
    }

    pub(super) fn tenant(&self) -> &TenantId {
        &self.tenant
    }

    pub(super) fn depth(&self) -> usize {
        self.taken.load(Ordering::Acquire)
    }

    pub(super) fn load(&self) -> TenantLoad {
        TenantLoad {
            tenant: self.tenant.clone(),
            depth: self.depth(),
            high_water: self.high_water.load(Ordering::Relaxed),
            running: self.running.load(Ordering::Relaxed),
        }
    }

    /// Takes up to `n` places, or `n` whatever the bound.
    fn take(self: &Arc<Self>, n: usize, force: bool) -> Vec<Place> {
        let mut taken = self.taken.load(Ordering::Acquire);
        let granted = loop {
            let free = self.len_max.saturating_sub(taken);
            let granted = if force { n } else { n.min(free) };
            match self.taken.compare_exchange_weak(
                taken,
                taken + granted,
                Ordering::AcqRel,
                Ordering::Acquire,
            ) {
                Ok(_) => break granted,
                Err(now) => taken = now,
            }
        };
        self.high_water
            .fetch_max(taken + granted, Ordering::Relaxed);
        (0..granted).map(|_| Place(self.clone())).collect()
    }

    /// Counts a running episode until the guard is dropped.
    pub(super) fn running(self: &Arc<Self>) -> Running {
        self.running.fetch_add(1, Ordering::Relaxed);
        Running(self.clone())
    }
}

/// One place in a queue; free again when dropped.
pub(super) struct Place(Arc<Queue>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.taken.fetch_sub(1, Ordering::AcqRel);
    }
}

pub(super) struct Running(Arc<Queue>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Reserved places in one tenant's queue. Those not used are free again when it is dropped.
#[must_use = "dropping it gives the places back"]
pub struct Permit {
    shared: Arc<Shared>,
    queue: Arc<Queue>,
    places: Vec<Place>,
}

impl Permit {
    pub(super) fn take(shared: Arc<Shared>, queue: Arc<Queue>, n: usize) -> Self {
        let places = queue.take(n, false);
        Self {
            shared,
            queue,
            places,
        }
    }

    pub(super) fn force(shared: Arc<Shared>, queue: Arc<Queue>) -> Self {
        let places = queue.take(1, true);
        Self {
            shared,
            queue,
            places,
        }
    }

    /// Places left.
    pub fn places(&self) -> usize {
        self.places.len()
    }

    /// All places of the queue, taken ones included.
    pub fn queue_len_max(&self) -> usize {
        self.queue.len_max
    }

    /// Gives places back until `n` are left.
    pub fn shrink_to(&mut self, n: usize) {
        self.places.truncate(n);
    }

    /// Queues an episode on one of the places. It cannot fail: the episode is durable by now. A
    /// caller that submits more than it reserved exceeds the bound rather than losing one.
    ///
    /// After [`super::Router::drain`] has begun the episode is not handled in this life; the
    /// journal has it for the next.
    pub fn submit(&mut self, episode: Episode) {
        debug_assert!(!self.places.is_empty(), "submitted more than was reserved");
        let place = self
            .places
            .pop()
            .or_else(|| self.queue.take(1, true).pop())
            .unwrap_or_else(|| unreachable!("a forced place is always granted"));
        let (sender, resolved) = watch::channel(false);
        let id = episode.id;
        self.shared.watches().insert(id, sender);
        let queued = Queued {
            episode,
            resolved,
            place,
        };
        if let Err(queued) = self.queue.push(Box::new(queued)) {
            self.shared.leave(&queued);
        }
    }
}
