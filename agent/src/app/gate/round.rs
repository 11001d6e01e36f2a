//! One pass over a request's alerts: what each means, decided under the desk's short lock.

use std::collections::HashMap;

use jiff::Timestamp;
use tracing::info;

use super::{Groups, Inner, Key, refusal, troubles::Troubles};
use crate::{
    incident::{Alert, AlertStatus, Entry, Episode, EpisodeId, Source, TenantId},
    intake::{AcceptError, Accepted, Deferred, EpisodeBook, Step, Txn},
    resilience::random,
    routing::Permit,
};

/// What is decided under one short lock.
pub(super) struct Desk {
    pub(super) book: EpisodeBook,
    pub(super) doubts: HashMap<Key, EpisodeId>,
    pub(super) troubles: Troubles,
}

/// One pass over a request's alerts: what to write, what follows once it is written.
pub(super) struct Round {
    pub(super) entries: Vec<(EpisodeId, Entry)>,
    pub(super) txns: Vec<Txn>,
    /// Episodes opened, with the places to put them.
    pub(super) opened: Vec<(Permit, Vec<Episode>)>,
    pub(super) resolved: Vec<EpisodeId>,
    /// Episodes that other alerts took over.
    pub(super) joined: Vec<EpisodeId>,
    /// Openings in doubt that this round decides.
    pub(super) settled: Vec<Key>,
    pub(super) counts: Accepted,
    /// Alerts that wait for another request's transaction.
    pub(super) pending: Groups,
    /// Why others could not be taken.
    pub(super) refused: Option<String>,
}

impl Inner {
    /// Decides every alert and reserves places for those that open an episode.
    pub(super) fn decide(
        &self,
        groups: Groups,
        source: &Source,
        template: impl Fn(&TenantId, Alert, EpisodeId, Timestamp) -> Episode,
    ) -> Result<Round, AcceptError> {
        let now = self.clock.now();
        let mut round = Round::new();
        let mut desk = self.desk();
        // Under the lock, so that places taken for resends, which need none, are not missed by
        // others before they are given back below.
        let mut permits = Vec::with_capacity(groups.len());
        for (tenant, alerts) in &groups {
            let firing = alerts.iter().filter(|a| a.status == AlertStatus::Firing);
            let permit = self.router.reserve_up_to(tenant, firing.count());
            permits.push(permit.map_err(refusal::not_reserved)?);
        }
        for ((tenant, alerts), mut permit) in groups.into_iter().zip(permits) {
            let mut txn = desk.book.begin(permit.places());
            let mut opened = Vec::new();
            let mut pending = Vec::new();
            for alert in alerts {
                let later_starts = txn.later_starts();
                let (step, joins) = desk.step(&mut txn, &tenant, &alert, source, now);
                match step {
                    Step::Open(id) => {
                        let episode = template(&tenant, alert, id, now);
                        opened.push(episode.clone());
                        round.entries.push((id, Entry::Opened { episode }));
                    }
                    Step::Seen(id) if joins || txn.later_starts() > later_starts => {
                        round.joined.extend(joins.then_some(id));
                        round.entries.push((id, Entry::Seen { alert }));
                    }
                    Step::Resolve(id) => {
                        round.settled.push((tenant.clone(), alert.fingerprint));
                        round.entries.push((id, Entry::Resolved { alert }));
                        round.resolved.push(id);
                    }
                    Step::Deferred(Deferred::Pending) => pending.push(alert),
                    Step::Deferred(why) => round.refused = Some(refusal::deferred(why, &tenant)),
                    Step::Seen(_) | Step::Ignored(_) => {}
                }
                round.count(step);
            }
            permit.shrink_to(opened.len());
            round.txns.push(txn);
            round.opened.push((permit, opened));
            if !pending.is_empty() {
                round.pending.push((tenant, pending));
            }
        }
        Ok(round)
    }
}

impl Desk {
    /// What one alert means, and whether it joins an episode of other labels.
    fn step(
        &mut self,
        txn: &mut Txn,
        tenant: &TenantId,
        alert: &Alert,
        source: &Source,
        now: Timestamp,
    ) -> (Step, bool) {
        if self.troubles.any_open() && self.book.is_news(tenant, alert) {
            let local = matches!(source, Source::Pressure { .. });
            if let Some(id) = self.troubles.same(alert, source, now) {
                if local {
                    return (Step::Seen(id), false);
                }
                if let Some(step) = self.book.join(txn, tenant, alert, now, id) {
                    info!(episode = %id, alert = alert.name(), "an alert joins the episode of a local trigger");
                    return (step, matches!(step, Step::Seen(_)));
                }
            }
        }
        let Self { book, doubts, .. } = self;
        let doubt = || {
            // Hardly ever is there one, and a key costs an allocation.
            let key = (!doubts.is_empty()).then(|| (tenant.clone(), alert.fingerprint))?;
            doubts.get(&key).copied()
        };
        let step = book.apply(txn, tenant, alert, now, || {
            doubt().unwrap_or_else(|| fresh_id(now))
        });
        match (step, alert.status) {
            // The opening may be durable, and then the next life must know that it ended.
            (Step::Ignored(_), AlertStatus::Resolved) => {
                (doubt().map_or(step, Step::Resolve), false)
            }
            _ => (step, false),
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
            joined: Vec::new(),
            settled: Vec::new(),
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

pub(super) fn add(total: &mut Accepted, part: Accepted) {
    total.opened += part.opened;
    total.seen += part.seen;
    total.resolved += part.resolved;
    total.ignored += part.ignored;
}

fn fresh_id(now: Timestamp) -> EpisodeId {
    let unix_ms = u64::try_from(now.as_millisecond()).unwrap_or(0);
    EpisodeId::from_parts(unix_ms, random())
}
