//! Where intake's alerts become durable episodes: the book decides, the queue has a place, the
//! journal has it, then the answer is 200.
//!
//! The book is locked for deciding and for confirming, never while the journal works: requests
//! share commits. What a request does it does in a task of its own, so that a sender that hangs up
//! cannot leave an episode durable but not queued.
//!
//! A journal that missed its deadline may have the records after all. The id of such an opening is
//! kept and used again when the alert comes back, firing or resolved: the record of it may then be
//! there twice, the episode is there once.
//!
//! A local trigger and an alert that tell of the same trouble share an episode: whichever comes
//! second joins (see [`troubles`]).

mod past;
mod refusal;
mod round;
pub mod troubles;

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::sync::watch;
use tokio_util::task::TaskTracker;
use tracing::{error, warn};

use round::{Desk, Round, add};
use troubles::{Kin, Troubles};

use crate::{
    clock::{Clock, SystemClock},
    incident::{Alert, Episode, Fingerprint, TenantId},
    intake::{AcceptError, Accepted, Delivery, EpisodeBook, IntakeConfig, Sink, Txn, trace_of_one},
    ledger::{LedgerError, SharedLedger},
    report::Metrics,
    resilience::{Boxed, Deadline},
    routing::{Permit, Router},
};

/// Openings remembered whose durability is unknown. More at once than a journal's queue holds
/// cannot be in doubt.
const DOUBTS_MAX: usize = 65_536;

type Key = (TenantId, Fingerprint);

/// Alerts to be decided, by tenant.
type Groups = Vec<(TenantId, Vec<Alert>)>;

/// The sink that intake delivers to. Clones share it.
#[derive(Clone)]
pub struct Gate {
    inner: Arc<Inner>,
}

struct Inner {
    desk: Mutex<Desk>,
    /// Counts confirmed and reverted transactions: what a request with a pending alert waits for.
    changes: watch::Sender<u64>,
    ledger: SharedLedger,
    router: Router,
    metrics: Arc<Metrics>,
    clock: Arc<dyn Clock>,
    pending_wait: Duration,
    closing: AtomicBool,
    tasks: TaskTracker,
}

impl Gate {
    /// A gate with an empty book; see [`Self::restore`].
    pub fn new(
        config: &IntakeConfig,
        ledger: SharedLedger,
        router: Router,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self::with_clock(config, ledger, router, metrics, SystemClock::shared())
    }

    /// The same with alerts recognised as kin of local triggers.
    #[must_use]
    pub fn joining(self, kin: Kin) -> Self {
        self.inner.desk().troubles = Troubles::new(kin);
        self
    }

    /// The same by another clock.
    pub(crate) fn with_clock(
        config: &IntakeConfig,
        ledger: SharedLedger,
        router: Router,
        metrics: Arc<Metrics>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let desk = Desk {
            book: EpisodeBook::new(config.episodes_max),
            doubts: HashMap::new(),
            troubles: Troubles::default(),
        };
        let inner = Inner {
            desk: Mutex::new(desk),
            changes: watch::Sender::new(0),
            ledger,
            router,
            metrics,
            clock,
            pending_wait: Duration::from_millis(config.pending_wait_ms),
            closing: AtomicBool::new(false),
            tasks: TaskTracker::new(),
        };
        Self {
            inner: Arc::new(inner),
        }
    }

    /// Refuses what comes from now on, and waits for what was begun: the journal's deadline bounds
    /// it. To be called after the server has stopped and before the router drains.
    pub async fn close(&self) {
        self.inner.closing.store(true, Ordering::Release);
        self.inner.tasks.close();
        self.inner.tasks.wait().await;
    }

    /// Episodes that are open: their alerts fire.
    pub fn open_count(&self) -> usize {
        self.inner.desk().book.open_count()
    }
}

impl Sink for Gate {
    fn accept(&self, delivery: Delivery) -> Boxed<Result<Accepted, AcceptError>> {
        if self.inner.closing.load(Ordering::Acquire) {
            return Box::pin(async { Err(AcceptError::ShuttingDown) });
        }
        let inner = self.inner.clone();
        let task = self
            .inner
            .tasks
            .spawn(async move { inner.take(delivery).await });
        Box::pin(async move {
            task.await.unwrap_or_else(|failed| {
                error!(%failed, "accepting alerts failed");
                Err(AcceptError::Internal(failed.to_string()))
            })
        })
    }

    fn ready(&self) -> Result<(), String> {
        if self.inner.closing.load(Ordering::Acquire) {
            return Err("the agent is shutting down".to_owned());
        }
        refusal::journal_ready(&self.inner.ledger.journal().health())
    }

    fn refused(&self, reason: &'static str) {
        self.inner.metrics.request_refused(reason);
    }
}

impl Inner {
    fn desk(&self) -> MutexGuard<'_, Desk> {
        self.desk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A request from its first decision to its answer. Alerts that another request is just making
    /// durable are decided again once that is over.
    async fn take(&self, delivery: Delivery) -> Result<Accepted, AcceptError> {
        let deadline = Deadline::after(self.pending_wait);
        let Delivery {
            groups,
            source,
            trace,
        } = delivery;
        let template = |tenant: &TenantId, alert: Alert, id, opened_at| Episode {
            id,
            tenant: tenant.clone(),
            alert: Arc::new(alert),
            source: source.clone(),
            opened_at,
            trace: trace_of_one(&trace),
        };
        let mut left: Groups = groups.into_iter().collect();
        let mut accepted = Accepted::default();
        loop {
            let mut changes = self.changes.subscribe();
            let mut round = self.decide(left, &source, template)?;
            left = std::mem::take(&mut round.pending);
            let refused = round.refused.take();
            add(&mut accepted, self.write(round).await?);
            if let Some(why) = refused {
                return Err(AcceptError::Busy(why));
            }
            if left.is_empty() {
                return Ok(accepted);
            }
            let news = tokio::time::timeout_at(deadline.at(), changes.changed()).await;
            if news.is_err() || deadline.passed() {
                return Err(AcceptError::Busy(refusal::PENDING.to_owned()));
            }
        }
    }

    /// Makes a round durable, then lets it take effect; or undoes it whole.
    async fn write(&self, round: Round) -> Result<Accepted, AcceptError> {
        let Round {
            entries,
            txns,
            opened,
            resolved,
            joined,
            mut settled,
            counts,
            ..
        } = round;
        let changes = !entries.is_empty();
        if let Err(failed) = self.ledger.append_all(entries).await {
            self.undo(txns, &opened, &failed);
            return Err(refusal::not_recorded(&failed));
        }
        // Under the lock: only what is queued may be resolved by others, its channel is there then.
        let mut desk = self.desk();
        for (mut permit, episodes) in opened {
            for episode in episodes {
                desk.troubles.opened(&episode);
                if !desk.doubts.is_empty() {
                    settled.push((episode.tenant.clone(), episode.alert.fingerprint));
                }
                permit.submit(episode);
            }
        }
        for txn in txns {
            desk.book.confirm(txn);
        }
        for key in settled {
            desk.doubts.remove(&key);
        }
        for id in joined {
            desk.troubles.joined(id);
        }
        for id in &resolved {
            desk.troubles.ended(*id);
        }
        drop(desk);
        if changes {
            // Without this condition, requests that wait would wake themselves.
            self.changes.send_modify(|n| *n = n.wrapping_add(1));
        }
        for id in resolved {
            self.router.resolve(id);
        }
        self.count(counts);
        Ok(counts)
    }

    /// Takes back what was decided; remembers openings that may be durable all the same.
    fn undo(&self, txns: Vec<Txn>, opened: &[(Permit, Vec<Episode>)], failed: &LedgerError) {
        let mut desk = self.desk();
        for txn in txns {
            desk.book.revert(txn);
        }
        if refusal::in_doubt(failed) {
            for episode in opened.iter().flat_map(|(_, episodes)| episodes) {
                if desk.doubts.len() >= DOUBTS_MAX {
                    warn!(episode = %episode.id, "too many openings in doubt; this one may come twice");
                    continue;
                }
                let key = (episode.tenant.clone(), episode.alert.fingerprint);
                desk.doubts.insert(key, episode.id);
            }
        }
        drop(desk);
        self.changes.send_modify(|n| *n = n.wrapping_add(1));
    }

    fn count(&self, counts: Accepted) {
        let Accepted {
            opened,
            seen,
            resolved,
            ignored,
        } = counts;
        for (did, count) in [
            ("opened", opened),
            ("seen", seen),
            ("resolved", resolved),
            ("ignored", ignored),
        ] {
            if count > 0 {
                self.metrics.accepted(did, count);
            }
        }
    }
}

#[cfg(test)]
mod tests;
