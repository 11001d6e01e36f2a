//! A tenant's owner: takes its episodes out in order and gives each a slot to run in.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use super::{
    RoutingConfig, Shared,
    queue::{Queue, Queued},
    worker,
};
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

    pub(super) async fn run(self, mut items: mpsc::UnboundedReceiver<Queued>) {
        let stop = self.shared.stop.clone();
        loop {
            let queued = tokio::select! {
                biased;
                () = stop.cancelled() => break,
                queued = items.recv() => queued,
            };
            let Some(queued) = queued else { break };
            // The episode at the head keeps its place in the queue while it waits for a slot.
            let slot = tokio::select! {
                biased;
                () = stop.cancelled() => {
                    self.shared.leave(&queued);
                    break;
                }
                slot = self.slot() => slot,
            };
            let running = self.queue.running();
            let work = worker::run(self.shared.clone(), queued, slot, running);
            self.shared.tasks.spawn(work);
        }
        items.close();
        while let Ok(queued) = items.try_recv() {
            self.shared.leave(&queued);
        }
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
