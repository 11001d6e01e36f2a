//! What intake was told, read back from the journal: all of it, not only what the index holds.
//!
//! The index of incidents is bounded by a number for readers, and gives up incidents that are closed.
//! What decides whether an alert is news must not depend on that number.

use jiff::Timestamp;

use super::Line;
use crate::incident::{Alert, Entry, EpisodeId, Fingerprint, TenantId};

/// One event, without the alert's words: some hundred bytes.
#[derive(Clone, Debug, PartialEq)]
pub struct Heard {
    /// Its place in the order of writing.
    pub lsn: u64,
    /// The episode that it belongs to.
    pub id: EpisodeId,
    /// What.
    pub event: Event,
}

/// What was told.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// An alert opened the episode.
    Opened {
        /// Owner.
        tenant: TenantId,
        /// Identity of its labels.
        fingerprint: Fingerprint,
        /// Start as told.
        starts_at: Timestamp,
    },
    /// An alert belongs to it: the same with a later start, or another one that joined.
    Seen {
        /// Identity of its labels.
        fingerprint: Fingerprint,
        /// Start as told.
        starts_at: Timestamp,
    },
    /// Its alert resolved.
    Resolved {
        /// Start as told.
        starts_at: Timestamp,
        /// End as told.
        ends_at: Option<Timestamp>,
    },
}

impl Heard {
    /// Of a line that intake wrote; `None` for the others.
    pub(super) fn of(id: EpisodeId, line: &Line) -> Option<Self> {
        let seen = |alert: &Alert| (alert.fingerprint, alert.starts_at);
        let event = match &line.entry {
            Entry::Opened { episode } => {
                let (fingerprint, starts_at) = seen(&episode.alert);
                Event::Opened {
                    tenant: episode.tenant.clone(),
                    fingerprint,
                    starts_at,
                }
            }
            Entry::Seen { alert } => {
                let (fingerprint, starts_at) = seen(alert);
                Event::Seen {
                    fingerprint,
                    starts_at,
                }
            }
            Entry::Resolved { alert } => Event::Resolved {
                starts_at: alert.starts_at,
                ends_at: alert.ends_at,
            },
            _ => return None,
        };
        Some(Self {
            lsn: line.lsn,
            id,
            event,
        })
    }
}
