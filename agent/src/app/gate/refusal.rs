//! What a refusal says, and what it leaves open.

use crate::{
    incident::TenantId,
    intake::{AcceptError, Deferred},
    journal::{JournalError, JournalHealth},
    ledger::LedgerError,
    routing::SubmitError,
};

pub(super) const PENDING: &str = "another request is recording the same alert";

/// Whether alerts could be recorded; else what is wrong and what to do.
pub(super) fn journal_ready(health: &JournalHealth) -> Result<(), String> {
    match health {
        JournalHealth::Writable => Ok(()),
        JournalHealth::Full {
            lane, free_bytes, ..
        } => Err(format!(
            "the journal's {lane} lane is full ({free_bytes} bytes left): free space on the \
                 disk of state_dir; alerts are answered 503 until then"
        )),
        JournalHealth::Poisoned {
            lane,
            operation,
            error,
        } => Err(format!(
            "the journal is read-only: its {lane} lane failed to {operation}: {error}; check \
                 the disk of state_dir, then restart the agent"
        )),
        JournalHealth::Corrupt { corruption } => Err(format!(
            "the journal is read-only: {corruption}; move state_dir/journal away or repair \
                 it, then restart the agent"
        )),
    }
}

pub(super) fn deferred(why: Deferred, tenant: &TenantId) -> String {
    match why {
        Deferred::NoRoom => {
            format!("the queue of tenant {tenant} is full (routing.queue_len_max)")
        }
        Deferred::BookFull => "every label set that can be remembered has an open episode \
                               (intake.episodes_max)"
            .to_owned(),
        Deferred::Pending => PENDING.to_owned(),
    }
}

pub(super) fn not_reserved(error: SubmitError) -> AcceptError {
    match error {
        SubmitError::Full { .. } => AcceptError::Busy(error.to_string()),
        SubmitError::UnknownTenant(tenant) => AcceptError::UnknownTenant(tenant),
        SubmitError::Closed => AcceptError::ShuttingDown,
    }
}

/// Whether the records may be durable although the call failed.
pub(super) fn in_doubt(failed: &LedgerError) -> bool {
    let LedgerError::Journal { source, .. } = failed else {
        return false;
    };
    matches!(
        source,
        JournalError::Deadline { .. } | JournalError::Poisoned { .. }
    )
}

pub(super) fn not_recorded(failed: &LedgerError) -> AcceptError {
    match failed {
        LedgerError::Journal { source, .. } => match source {
            JournalError::TooLarge { .. } => AcceptError::TooLarge(source.to_string()),
            JournalError::Closed { .. } => AcceptError::ShuttingDown,
            source => AcceptError::Journal(source.to_string()),
        },
        LedgerError::Encode { source, .. } => AcceptError::Internal(source.to_string()),
    }
}
