//! Where intake's alerts become durable episodes: the book decides, the queue has a place, the
//! journal has it, then the answer is 200.
//!
//! The book is locked for deciding and for confirming, never while the journal works: requests
//! share commits. What a request does it does in a task of its own, so that a sender that hangs up
//! cannot leave an episode durable but not queued.
//!
//! A journal that missed its deadline may have the records after all. The id of such an opening is
//! kept and used again when the alert comes back: the record of it may then be there twice, the
//! episode is there once.

mod refusal;

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use jiff::Timestamp;
use tokio::sync::watch;
use tokio_util::task::TaskTracker;
use tracing::{error, warn};

use crate::{
    clock::{Clock, SystemClock},
    incident::{Alert, AlertStatus, Entry, Episode, EpisodeId, Fingerprint, TenantId},
    intake::{
        AcceptError, Accepted, Boxed, Deferred, Delivery, EpisodeBook, IntakeConfig, Restored,
        Sink, Step, Txn,
    },
    ledger::{Index, LedgerError, Line, SharedLedger},
    report::Metrics,
    resilience::{Deadline, random},
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

/// What is decided under one short lock.
struct Desk {
    book: EpisodeBook,
    doubts: HashMap<Key, EpisodeId>,
}

/// One pass over a request's alerts: what to write, what follows once it is written.
struct Round {
    entries: Vec<(EpisodeId, Entry)>,
    txns: Vec<Txn>,
    /// Episodes opened, with the places to put them.
    opened: Vec<(Permit, Vec<Episode>)>,
    resolved: Vec<EpisodeId>,
    counts: Accepted,
    /// Alerts that wait for another request's transaction.
    pending: Groups,
    /// Why others could not be taken.
    refused: Option<String>,
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

    fn with_clock(
        config: &IntakeConfig,
        ledger: SharedLedger,
        router: Router,
        metrics: Arc<Metrics>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let desk = Desk {
            book: EpisodeBook::new(config.episodes_max),
            doubts: HashMap::new(),
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

    /// Rebuilds the book from what the journal held at the start. Run once, before intake opens.
    pub fn restore(&self, index: &Index) {
        let mut events: Vec<(&Line, EpisodeId)> = index
            .iter()
            .flat_map(|incident| incident.entries.iter().map(|line| (line, incident.id)))
            .collect();
        events.sort_unstable_by_key(|(line, _)| line.lsn);
        let mut desk = self.inner.desk();
        for (line, id) in events {
            let event = match &line.entry {
                Entry::Opened { episode } => Restored::Opened {
                    tenant: &episode.tenant,
                    alert: &episode.alert,
                },
                Entry::Seen { alert } => Restored::Seen { alert },
                Entry::Resolved { alert } => Restored::Resolved { alert },
                _ => continue,
            };
            desk.book.restore(id, event);
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
        let template = |tenant: &TenantId, alert: &Alert, id, opened_at| Episode {
            id,
            tenant: tenant.clone(),
            alert: alert.clone(),
            source: source.clone(),
            opened_at,
            trace: trace.clone(),
        };
        let mut left: Groups = groups.into_iter().collect();
        let mut accepted = Accepted::default();
        loop {
            let mut changes = self.changes.subscribe();
            let mut round = self.decide(&left, template)?;
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

    /// Decides every alert and reserves places for those that open an episode.
    fn decide(
        &self,
        groups: &Groups,
        template: impl Fn(&TenantId, &Alert, EpisodeId, Timestamp) -> Episode,
    ) -> Result<Round, AcceptError> {
        let now = self.clock.now();
        let mut round = Round::new();
        let mut desk = self.desk();
        // Under the lock, so that places taken for resends, which need none, are not missed by
        // others before they are given back below.
        let mut permits = Vec::with_capacity(groups.len());
        for (tenant, alerts) in groups {
            let firing = alerts.iter().filter(|a| a.status == AlertStatus::Firing);
            let permit = self.router.reserve_up_to(tenant, firing.count());
            permits.push(permit.map_err(refusal::not_reserved)?);
        }
        for ((tenant, alerts), mut permit) in groups.iter().zip(permits) {
            let mut txn = desk.book.begin(permit.places());
            let mut opened = Vec::new();
            let mut pending = Vec::new();
            for alert in alerts {
                let later_starts = txn.later_starts();
                let Desk { book, doubts } = &mut *desk;
                let fresh = || {
                    let doubt = doubts.get(&(tenant.clone(), alert.fingerprint));
                    doubt.copied().unwrap_or_else(|| fresh_id(now))
                };
                let step = book.apply(&mut txn, tenant, alert, now, fresh);
                round.count(step);
                match step {
                    Step::Open(id) => {
                        let episode = template(tenant, alert, id, now);
                        opened.push(episode.clone());
                        round.entries.push((id, Entry::Opened { episode }));
                    }
                    Step::Seen(id) if txn.later_starts() > later_starts => {
                        let alert = alert.clone();
                        round.entries.push((id, Entry::Seen { alert }));
                    }
                    Step::Resolve(id) => {
                        let alert = alert.clone();
                        round.entries.push((id, Entry::Resolved { alert }));
                        round.resolved.push(id);
                    }
                    Step::Deferred(Deferred::Pending) => pending.push(alert.clone()),
                    Step::Deferred(why) => round.refused = Some(refusal::deferred(why, tenant)),
                    Step::Seen(_) | Step::Ignored(_) => {}
                }
            }
            permit.shrink_to(opened.len());
            round.txns.push(txn);
            round.opened.push((permit, opened));
            if !pending.is_empty() {
                round.pending.push((tenant.clone(), pending));
            }
        }
        Ok(round)
    }

    /// Makes a round durable, then lets it take effect; or undoes it whole.
    async fn write(&self, round: Round) -> Result<Accepted, AcceptError> {
        let Round {
            entries,
            txns,
            opened,
            resolved,
            counts,
            ..
        } = round;
        let changes = !entries.is_empty();
        if let Err(failed) = self.ledger.append_all(entries).await {
            self.undo(txns, &opened, &failed);
            return Err(refusal::not_recorded(&failed));
        }
        let mut keys = Vec::new();
        for (mut permit, episodes) in opened {
            for episode in episodes {
                keys.push((episode.tenant.clone(), episode.alert.fingerprint));
                permit.submit(episode);
            }
        }
        // Only now may others resolve these episodes: their channels are there.
        let mut desk = self.desk();
        for txn in txns {
            desk.book.confirm(txn);
        }
        for key in keys {
            desk.doubts.remove(&key);
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

impl Round {
    fn new() -> Self {
        Self {
            entries: Vec::new(),
            txns: Vec::new(),
            opened: Vec::new(),
            resolved: Vec::new(),
            counts: Accepted::default(),
            pending: Vec::new(),
            refused: None,
        }
    }

    fn count(&mut self, step: Step) {
        match step {
            Step::Open(_) => self.counts.opened += 1,
            Step::Seen(_) => self.counts.seen += 1,
            Step::Resolve(_) => self.counts.resolved += 1,
            Step::Ignored(_) => self.counts.ignored += 1,
            Step::Deferred(_) => {}
        }
    }
}

fn add(total: &mut Accepted, part: Accepted) {
    total.opened += part.opened;
    total.seen += part.seen;
    total.resolved += part.resolved;
    total.ignored += part.ignored;
}

fn fresh_id(now: Timestamp) -> EpisodeId {
    let unix_ms = u64::try_from(now.as_millisecond()).unwrap_or(0);
    EpisodeId::from_parts(unix_ms, random())
}

#[cfg(test)]
mod tests;
