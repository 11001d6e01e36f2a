//! Where intake's alerts become durable episodes: the book decides, the queue has a place, the
//! journal has it, then the answer is 200.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use jiff::Timestamp;
use tokio::sync::watch;

use crate::{
    incident::{Alert, Entry, Episode, EpisodeId, Source, TenantId, TraceContext},
    intake::{AcceptError, Accepted, EpisodeBook, Sink, Step},
    journal::JournalHealth,
    ledger::SharedLedger,
    report::Metrics,
    routing::{Router, SubmitError},
};

/// Whether an opening is durable yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Opening {
    Pending,
    Durable,
    Failed,
}
