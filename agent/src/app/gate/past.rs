//! What the gate knows of before: rebuilt from the journal at a start, and given up when nothing is heard
//! any more.

use std::{collections::HashSet, time::Duration};

use super::{Desk, Gate};
use crate::{
    incident::{Alert, AlertStatus, EpisodeId, Source, TenantId},
    intake::{AcceptError, Accepted, Delivery, Restored, Sink, fresh_trace},
    ledger::{Event, Heard},
};

impl Gate {
    /// Rebuilds the book from what the journal held at the start. Run once, before intake opens.
    pub fn restore(&self, heard: Vec<Heard>) {
        let now = self.inner.clock.now();
        let mut desk = self.inner.desk();
        // An opening may be there twice: written after a deadline, or carried forward.
        let mut opened = HashSet::new();
        for Heard { id, event, .. } in heard {
            let event = match &event {
                Event::Opened { .. } if !opened.insert(id) => continue,
                Event::Opened {
                    tenant,
                    fingerprint,
                    starts_at,
                } => Restored::Opened {
                    tenant,
                    fingerprint: *fingerprint,
                    starts_at: *starts_at,
                },
                Event::Seen {
                    fingerprint,
                    starts_at,
                } => Restored::Seen {
                    fingerprint: *fingerprint,
                    starts_at: *starts_at,
                },
                Event::Resolved { starts_at, ends_at } => Restored::Resolved {
                    starts_at: *starts_at,
                    ends_at: *ends_at,
                },
            };
            desk.book.restore(id, event, now);
        }
        let Desk { book, troubles, .. } = &mut *desk;
        self.inner.ledger.with_index(|index| {
            for id in book.open_ids() {
                let episode = index.episode(id);
                if let (Some(episode), Some((_, fingerprint))) = (episode, book.key_of(id)) {
                    troubles.opened(episode);
                    if episode.alert.fingerprint != *fingerprint {
                        troubles.joined(id);
                    }
                }
            }
        });
    }

    /// Open episodes of which nothing was heard for `quiet`, with their alerts: their senders may
    /// never say that it ended.
    pub fn quiet_for(&self, quiet: Duration) -> Vec<(EpisodeId, TenantId, Alert)> {
        let before = self.inner.clock.now() - quiet;
        let found = self.inner.desk().book.quiet_since(before);
        let with_alert = |(id, tenant, fingerprint)| {
            let alert = self.inner.ledger.with_index(|index| {
                let episode = index.episode(id)?;
                Some(episode.alert.as_ref().clone())
            });
            alert.map(|alert| {
                (
                    id,
                    tenant,
                    Alert {
                        fingerprint,
                        ..alert
                    },
                )
            })
        };
        found.into_iter().filter_map(with_alert).collect()
    }

    /// Somebody else says that the episode's alert still fires.
    pub fn heard_of(&self, id: EpisodeId) {
        let now = self.inner.clock.now();
        self.inner.desk().book.heard_of(id, now);
    }

    /// Closes an episode for intake as if its sender had: durable like any resolution.
    ///
    /// # Errors
    /// As for any delivery.
    pub async fn expire(&self, tenant: TenantId, alert: Alert) -> Result<Accepted, AcceptError> {
        let ends_at = Some(self.inner.clock.now());
        let alert = Alert {
            status: AlertStatus::Resolved,
            ends_at,
            ..alert
        };
        let delivery = Delivery {
            groups: [(tenant, vec![alert])].into(),
            source: Source::Manual,
            trace: fresh_trace(),
        };
        self.accept(delivery).await
    }
}
