//! Stage: intake. Alerts in over HTTP, episodes out; nothing is acknowledged before it is durable.
//!
//! [`Server`] takes requests, [`payload`] makes alerts of them, [`EpisodeBook`] decides what each
//! means. What makes that durable stands behind [`Sink`]: this stage knows neither the journal nor
//! the queues.

mod auth;
mod config;
pub mod episode;
pub mod payload;
pub mod pressure;
mod server;
mod tls;
mod webhook;

use std::collections::BTreeMap;

pub use auth::Auth;
pub use config::{IntakeConfig, TenantCredentials, TlsConfig};
pub use episode::{Deferred, EpisodeBook, Ignored, Restored, Step, Txn};
pub use pressure::PressureConfig;
pub use server::{Reload, Server, ServerError};

use crate::{
    incident::{Alert, Source, TenantId, TraceContext},
    resilience::{Boxed, random},
};

/// The alerts of one request, by tenant, in the order sent.
#[derive(Clone, Debug, PartialEq)]
pub struct Delivery {
    /// Only tenants of the configuration, none without an alert.
    pub groups: BTreeMap<TenantId, Vec<Alert>>,
    /// Who sent it.
    pub source: Source,
    /// The sender's trace, or one begun here.
    pub trace: TraceContext,
}

/// What became of the alerts of one request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Accepted {
    /// New episodes.
    pub opened: u64,
    /// Belong to an open episode.
    pub seen: u64,
    /// Closed their episodes.
    pub resolved: u64,
    /// Said nothing new.
    pub ignored: u64,
}

/// Why a request was not taken whole. What of it was taken is durable all the same: the sender
/// repeats the request, and that part then counts as seen.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AcceptError {
    /// No place, or another request is changing the same episode: 503.
    #[error("busy: {0}; send it again later")]
    Busy(String),
    /// The journal would not take it: 503.
    #[error("not recorded, so not accepted: {0}")]
    Journal(String),
    /// The agent is stopping: 503.
    #[error("the agent is shutting down; send it again later")]
    ShuttingDown,
    /// The journal can never take it: 413.
    #[error("{0}; set a lower max_alerts in Alertmanager's webhook_config")]
    TooLarge(String),
    /// No queue of that name: 404.
    #[error("unknown tenant {0}: add it to intake.tenants")]
    UnknownTenant(TenantId),
    /// A defect of the agent: 503.
    #[error("internal error: {0}")]
    Internal(String),
}

impl AcceptError {
    /// A fixed word for the counter of refusals.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Busy(_) => "busy",
            Self::Journal(_) => "journal",
            Self::ShuttingDown => "shutting_down",
            Self::TooLarge(_) => "record_too_large",
            Self::UnknownTenant(_) => "unknown_tenant",
            Self::Internal(_) => "internal",
        }
    }
}

/// A trace begun here.
pub fn fresh_trace() -> TraceContext {
    TraceContext {
        // Not all zero, which would be no valid id.
        trace_id: format!("{:032x}", u128::from_be_bytes(random()) | 1),
        span_id: fresh_span(),
        sampled: true,
        begun_here: true,
    }
}

fn fresh_span() -> String {
    format!("{:016x}", u64::from_be_bytes(random()) | 1)
}

/// The context of one of a delivery's episodes. In a trace begun here each gets a span of its own: two spans
/// must not have one id.
pub fn trace_of_one(delivery: &TraceContext) -> TraceContext {
    let mut trace = delivery.clone();
    if trace.begun_here {
        trace.span_id = fresh_span();
    }
    trace
}

/// Where deliveries go.
pub trait Sink: Send + Sync + 'static {
    /// Makes a delivery durable, then answers. Dropping the future must not undo or halve what it
    /// began: a sender that hangs up is no reason to lose an alert.
    fn accept(&self, delivery: Delivery) -> Boxed<Result<Accepted, AcceptError>>;

    /// Whether alerts would be accepted now; else a sentence why not.
    ///
    /// # Errors
    /// The sentence.
    fn ready(&self) -> Result<(), String>;

    /// A request was refused, for a reason out of a fixed set of words.
    fn refused(&self, reason: &'static str);
}
