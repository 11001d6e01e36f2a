//! A tenant's owner: takes its episodes out in order and gives each a slot to run in.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{RoutingConfig, Shared, queue::Queue, worker};
use crate::incident::TenantId;

/// Figures of one tenant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TenantLoad {
    /// Whose.
    pub tenant: TenantId,
    /// Places taken: reserved and queued.
    pub depth: usize,
    /// Most places ever taken since the start.
    pub high_water: usize,
    /// Episodes being handled.
    pub running: usize,
}

/// Leave to run one episode; given back when dropped.
pub(super) struct Slot {
    _tenants: Option<OwnedSemaphorePermit>,
    _global: Option<OwnedSemaphorePermit>,
}

/// The one task that takes episodes out of a tenant's queue. It runs no foreign code itself.
pub(super) struct Owner {
    shared: Arc<Shared>,
    queue: Arc<Queue>,
    /// The slot that no other tenant can take.
    own: Arc<Semaphore>,
    /// How many slots the tenant may have in all.
    cap: Arc<Semaphore>,
}

impl Owner {
    pub(super) fn new(shared: Arc<Shared>, queue: Arc<Queue>, config: &RoutingConfig) -> Self {
        Self {
            shared,
            queue,
            own: Arc::new(Semaphore::new(1)),
            cap: Arc::new(Semaphore::new(config.tenant_concurrency_max)),
        }
    }

    pub(super) async fn run(self) {
        let stop = self.shared.stop.clone();
        while let Some(slot) = stop.run_until_cancelled(self.next()).await {
            if let Some(queued) = self.queue.pop() {
                let running = self.queue.running();
                let work = worker::run(self.shared.clone(), queued, slot, running);
                self.shared.tasks.spawn(work);
            }
        }
        self.queue.close();
        while let Some(queued) = self.queue.pop() {
            self.shared.leave(&queued);
        }
    }

    /// A slot, once there is something to run. What runs is chosen after that: what came meanwhile
    /// may be more severe.
    async fn next(&self) -> Slot {
        self.queue.filled().await;
        self.slot().await
    }

    async fn slot(&self) -> Slot {
        // The semaphores are never closed, so the errors do not happen.
        let tenants = self.cap.clone().acquire_owned().await.ok();
        let global = tokio::select! {
            biased;
            own = self.own.clone().acquire_owned() => own.ok(),
            shared = self.shared.slots.clone().acquire_owned() => shared.ok(),
        };
        Slot {
            _tenants: tenants,
            _global: global,
        }
    }
}
