//! Stage: routing. One owner task and one bounded queue a tenant; what handling means is a function
//! given from outside.
//!
//! Places are reserved before an episode is made durable, so that what was accepted always has one:
//! full queues refuse, they never drop. A panic or an overrun ends its own episode only. A storm of
//! one tenant does not delay another: each tenant has one slot to itself, and the shared ones are
//! given out in turn.

mod config;
mod queue;
mod tenant;
mod worker;

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::sync::{Semaphore, watch};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{debug, warn};

pub use config::RoutingConfig;
pub use queue::Permit;
pub use tenant::TenantLoad;

use crate::{
    incident::{Episode, EpisodeId, TenantId},
    resilience::Boxed,
};
use queue::{Queue, Queued};
use tenant::Owner;

/// Handles one episode; the receiver turns true when its alert resolves. An error is a sentence.
pub type Handler =
    Arc<dyn Fn(Episode, watch::Receiver<bool>) -> Boxed<Result<(), String>> + Send + Sync>;
/// Told of each episode that ended badly, before its slot is given on.
pub type OnFailure = Arc<dyn Fn(Episode, Failure) -> Boxed<()> + Send + Sync>;

/// How the handling of an episode ended badly.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// The handler said so.
    #[error("{0}")]
    Error(String),
    /// The handler panicked, with this message.
    #[error("the handler panicked: {0}")]
    Panicked(String),
    /// It was stopped because it took too long. What it had begun is as it was left.
    #[error("not done within {} s (routing.episode_deadline_s)", .0.as_secs())]
    Deadline(Duration),
}

/// Why no place could be reserved.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SubmitError {
    /// The queue has fewer places than asked for.
    #[error(
        "the queue of tenant {tenant} is full: {free} of {max} places are free, {wanted} wanted"
    )]
    Full {
        /// Whose.
        tenant: TenantId,
        /// Free places.
        free: usize,
        /// All places.
        max: usize,
        /// Asked for.
        wanted: usize,
    },
    /// No such tenant.
    #[error("no queue for tenant {0}")]
    UnknownTenant(TenantId),
    /// [`Router::drain`] has begun.
    #[error("the queues are closed for a shutdown")]
    Closed,
}

/// What a shutdown left.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Drained {
    /// Episodes still queued: the journal has them for the next start.
    pub queued: u64,
    /// Episodes cut off at the end of the grace time, likewise.
    pub cut: u64,
}

/// The queues of all tenants. Clones share them.
#[derive(Clone)]
pub struct Router {
    shared: Arc<Shared>,
    queues: Arc<HashMap<TenantId, Arc<Queue>>>,
    /// Takes the episodes of tenants that the configuration no longer names.
    fallback: Arc<Queue>,
}

/// What the owners and their workers share.
struct Shared {
    handler: Handler,
    on_failure: OnFailure,
    deadline: Duration,
    failure_limit: Duration,
    /// Slots beyond each tenant's own; first come, first served, and an owner waits for one at a
    /// time: with many waiting, tenants take turns.
    slots: Arc<Semaphore>,
    resolved: Mutex<HashMap<EpisodeId, watch::Sender<bool>>>,
    tasks: TaskTracker,
    /// Take no more out of the queues.
    stop: CancellationToken,
    /// Cut off what runs.
    kill: CancellationToken,
    left: AtomicU64,
    cut: AtomicU64,
}

impl Router {
    /// Starts an owner task a tenant; needs a runtime. `tenants` must not be empty: its first is
    /// given the unfinished episodes of tenants that are gone from the configuration.
    ///
    /// # Panics
    /// If there is no tenant.
    pub fn new(
        config: &RoutingConfig,
        tenants: &[TenantId],
        handler: Handler,
        on_failure: OnFailure,
    ) -> Self {
        assert!(!tenants.is_empty(), "a router needs a tenant");
        let shared_slots = config.concurrency_max.saturating_sub(tenants.len());
        let shared = Arc::new(Shared {
            handler,
            on_failure,
            deadline: Duration::from_secs(config.episode_deadline_s),
            failure_limit: Duration::from_millis(config.failure_ms_max),
            slots: Arc::new(Semaphore::new(shared_slots)),
            resolved: Mutex::default(),
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
            kill: CancellationToken::new(),
            left: AtomicU64::new(0),
            cut: AtomicU64::new(0),
        });
        let mut queues = HashMap::new();
        for tenant in tenants {
            queues.entry(tenant.clone()).or_insert_with(|| {
                let queue = Queue::new(tenant.clone(), config.queue_len_max);
                let owner = Owner::new(shared.clone(), queue.clone(), config);
                shared.tasks.spawn(owner.run());
                queue
            });
        }
        let fallback = queues[&tenants[0]].clone();
        Self {
            shared,
            queues: Arc::new(queues),
            fallback,
        }
    }

    /// Reserves exactly `n` places in a tenant's queue, or none.
    ///
    /// # Errors
    /// [`SubmitError`].
    pub fn reserve(&self, tenant: &TenantId, n: usize) -> Result<Permit, SubmitError> {
        let permit = self.reserve_up_to(tenant, n)?;
        if permit.places() < n {
            let (free, max) = (permit.places(), permit.queue_len_max());
            return Err(SubmitError::Full {
                tenant: tenant.clone(),
                free,
                max,
                wanted: n,
            });
        }
        Ok(permit)
    }

    /// Reserves as many as there are free, at most `n`.
    ///
    /// # Errors
    /// [`SubmitError::UnknownTenant`], [`SubmitError::Closed`].
    pub fn reserve_up_to(&self, tenant: &TenantId, n: usize) -> Result<Permit, SubmitError> {
        let queue = self
            .queues
            .get(tenant)
            .ok_or_else(|| SubmitError::UnknownTenant(tenant.clone()))?;
        if self.shared.stop.is_cancelled() {
            return Err(SubmitError::Closed);
        }
        Ok(Permit::take(self.shared.clone(), queue.clone(), n))
    }

    /// Queues an episode that an earlier life accepted. It gets a place even if the queue is full
    /// or its tenant is gone from the configuration: accepted is accepted. `resolved` says whether
    /// its alert has resolved already.
    pub fn readmit(&self, episode: Episode, resolved: bool) {
        let queue = self.queues.get(&episode.tenant).unwrap_or_else(|| {
            warn!(episode = %episode.id, tenant = %episode.tenant,
                "the tenant is gone from the configuration; tenant {} handles its episode",
                self.fallback.tenant());
            &self.fallback
        });
        let id = episode.id;
        Permit::force(self.shared.clone(), queue.clone()).submit(episode);
        if resolved {
            self.resolve(id);
        }
    }

    /// Tells the handler of an episode, queued or running, that its alert has resolved. False if
    /// there is none: it has ended.
    pub fn resolve(&self, id: EpisodeId) -> bool {
        match self.shared.watches().get(&id) {
            Some(sender) => {
                sender.send_replace(true);
                true
            }
            None => false,
        }
    }

    /// Places taken in all queues: reserved and queued, not running.
    pub fn depth(&self) -> usize {
        self.queues.values().map(|queue| queue.depth()).sum()
    }

    /// Figures of every tenant, by name.
    pub fn load(&self) -> Vec<TenantLoad> {
        let mut load: Vec<_> = self.queues.values().map(|queue| queue.load()).collect();
        load.sort_by(|a, b| a.tenant.cmp(&b.tenant));
        load
    }

    /// Takes no more, gives what runs `grace` to end, then cuts it off. What is queued or cut is
    /// unfinished in the journal: the next start has it.
    pub async fn drain(&self, grace: Duration) -> Drained {
        self.shared.stop.cancel();
        self.shared.tasks.close();
        if tokio::time::timeout(grace, self.shared.tasks.wait())
            .await
            .is_err()
        {
            self.shared.kill.cancel();
            self.shared.tasks.wait().await;
        }
        Drained {
            queued: self.shared.left.load(Ordering::Relaxed),
            cut: self.shared.cut.load(Ordering::Relaxed),
        }
    }
}

impl Shared {
    /// An episode that is not begun in this life.
    fn leave(&self, queued: &Queued) {
        debug!(episode = %queued.episode.id, "left to the next start");
        self.left.fetch_add(1, Ordering::Relaxed);
        self.watches().remove(&queued.episode.id);
    }

    fn watches(&self) -> std::sync::MutexGuard<'_, HashMap<EpisodeId, watch::Sender<bool>>> {
        self.resolved.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
