//! Alertmanagers: what is sent next, and what was answered for.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};

use super::Spell;
use crate::{
    incident::{Alert, AlertStatus, Fingerprint, Source},
    intake::{Delivery, fresh_trace},
    journal::sim::Rng,
};

/// Of a label set, how far it is told.
#[derive(Debug)]
struct Teller {
    fingerprint: Fingerprint,
    tenant: &'static str,
    spells: usize,
    /// Index of the next thing to be told: spell * 2, and 1 more for its end.
    next: usize,
}

/// One request's alerts: of which tellers, and whether they are news.
#[derive(Clone, Debug)]
pub(super) struct Request {
    tellers: Vec<(usize, usize)>,
    news: bool,
}

/// All that send.
#[derive(Debug)]
pub(super) struct Sender {
    base: Timestamp,
    tellers: Vec<Teller>,
    /// What was answered for: `true` firing, `false` its end.
    taken: BTreeMap<Spell, (bool, bool)>,
    sent: Vec<Request>,
}

/// Tenants of the simulated agent.
pub(super) const TENANTS: [&str; 2] = ["a", "b"];
/// From the start of one spell to the next one's, and half of it is how long one lasts.
const SPELL_S: i64 = 20;

impl Sender {
    pub(super) fn new(rng: &mut Rng, now: Timestamp) -> Self {
        let tellers = (0..2 + rng.below(5)).map(|_| Teller {
            fingerprint: Fingerprint(rng.next()),
            tenant: TENANTS[rng.below(2)],
            spells: 1 + rng.below(4),
            next: 0,
        });
        Self {
            base: now - SignedDuration::from_hours(1),
            tellers: tellers.collect(),
            taken: BTreeMap::new(),
            sent: Vec::new(),
        }
    }

    fn spell(&self, teller: usize, step: usize) -> Spell {
        let start = self.base
            + SignedDuration::from_secs(
                SPELL_S * i64::try_from(step / 2).unwrap_or(i64::MAX / SPELL_S),
            );
        (self.tellers[teller].fingerprint, start.as_second())
    }

    /// Something to send: news of some label sets of one tenant, or what was sent before once more.
    pub(super) fn next(&self, rng: &mut Rng) -> Option<Request> {
        if rng.below(3) == 0 && !self.sent.is_empty() {
            let mut again = self.sent[rng.below(self.sent.len())].clone();
            again.news = false;
            return Some(again);
        }
        let tenant = TENANTS[rng.below(2)];
        let mut tellers = Vec::new();
        for (at, teller) in self.tellers.iter().enumerate() {
            let left = teller.next < teller.spells * 2;
            if left && teller.tenant == tenant && rng.below(2) == 0 {
                tellers.push((at, teller.next));
            }
        }
        (!tellers.is_empty()).then_some(Request {
            tellers,
            news: true,
        })
    }

    /// Whether everything is told.
    pub(super) fn is_done(&self) -> bool {
        self.tellers
            .iter()
            .all(|teller| teller.next >= teller.spells * 2)
    }

    pub(super) fn delivery(&self, request: &Request) -> Delivery {
        let alerts = request.tellers.iter().map(|(teller, step)| {
            let (fingerprint, start) = self.spell(*teller, *step);
            let starts_at = Timestamp::from_second(start).unwrap();
            let firing = step % 2 == 0;
            Alert {
                status: if firing {
                    AlertStatus::Firing
                } else {
                    AlertStatus::Resolved
                },
                labels: [("alertname".to_owned(), format!("Sim{fingerprint}"))].into(),
                annotations: BTreeMap::new(),
                starts_at,
                ends_at: (!firing).then(|| starts_at + SignedDuration::from_secs(SPELL_S / 2)),
                fingerprint,
            }
        });
        let tenant = self.tellers[request.tellers[0].0].tenant.parse().unwrap();
        Delivery {
            groups: [(tenant, alerts.collect())].into(),
            source: Source::Alertmanager {
                receiver: "sim".to_owned(),
            },
            trace: fresh_trace(),
        }
    }

    /// It was answered 200.
    pub(super) fn took(&mut self, request: Request) {
        for (teller, step) in &request.tellers {
            let spell = self.spell(*teller, *step);
            let known = self.taken.entry(spell).or_default();
            if step % 2 == 0 {
                known.0 = true;
            } else {
                known.1 = true;
            }
            let teller = &mut self.tellers[*teller];
            teller.next = teller.next.max(step + 1);
        }
        if request.news {
            self.sent.push(request);
        }
    }

    /// Every spell that was answered for, and apart from it its end (`false`).
    pub(super) fn taken(&self) -> impl Iterator<Item = (Spell, bool)> {
        self.taken.iter().flat_map(|(spell, (firing, ended))| {
            let firing = firing.then_some((*spell, true));
            let ended = ended.then_some((*spell, false));
            firing.into_iter().chain(ended)
        })
    }
}
