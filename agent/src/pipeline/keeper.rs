//! Effects that helped, held until their leases end, then undone; and the tasks of what waits for a
//! person.

use std::sync::Arc;

use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{error, warn};

use super::{Stages, approval::Turns, undo};
use crate::incident::{Entry, Intent};

/// Holds leases. One sleeping task an effect, and one a proposal; the budgets bound how many there are.
#[derive(Clone, Default)]
pub struct Keeper {
    pub(super) tasks: TaskTracker,
    pub(super) stop: CancellationToken,
    /// Of what waits for a person.
    pub(super) turns: Arc<Turns>,
}

impl Keeper {
    /// Keeps an effect until `lease_until`, then undoes it and closes the incident. When the agent
    /// ends first, the lease stays in the journal: [`super::leave`] ends it, or the next life does.
    pub fn hold(&self, stages: &Arc<Stages>, intent: Intent) {
        let (stages, stop) = (stages.clone(), self.stop.clone());
        self.tasks.spawn(async move {
            let left = intent.lease_until.duration_since(stages.remedies.now());
            let left = std::time::Duration::try_from(left).unwrap_or_default();
            tokio::select! {
                () = tokio::time::sleep(left) => {}
                () = stop.cancelled() => return,
            }
            let undone = undo(&stages, &intent, "lease_ended").await;
            let entries = vec![undone, Entry::Closed];
            if let Err(error) = stages.ledger.append_outcome(intent.episode, entries).await {
                error!(
                    episode = %intent.episode,
                    error = &error as &dyn std::error::Error,
                    "the end of a lease was not recorded; the next start will find nothing to undo"
                );
                return;
            }
            if let Some(Err(error)) = stages
                .remedies
                .warden()
                .map(|warden| warden.forget(intent.episode))
            {
                let error = &error as &dyn std::error::Error;
                warn!(error, "the guardian's notes stay until the next start");
            }
        });
    }

    /// Stops waiting for leases; what is being undone is finished.
    pub async fn close(&self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}
