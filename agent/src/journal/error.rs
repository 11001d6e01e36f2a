//! What can go wrong in the journal, and what it means for the caller.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use super::recover::Corruption;
use super::{Damage, LaneId};

/// Every failure of the journal. Cloned to all callers that shared the failed batch.
#[derive(Clone, Debug, thiserror::Error)]
pub enum JournalError {
    /// Fields out of bounds; all of them at once.
    #[error("journal configuration: {}", problems.join("; "))]
    Config {
        /// One sentence a field.
        problems: Vec<String>,
    },
    /// Another agent has this directory.
    #[error("journal {} is in use by {}", dir.display(), holder(*pid))]
    Locked {
        /// The directory.
        dir: PathBuf,
        /// The process that holds it, as it wrote it into the lock file.
        pid: Option<u32>,
    },
    /// An operation of opening or reading failed.
    #[error("cannot {operation} {object}")]
    Io {
        /// The call, in words.
        operation: &'static str,
        /// File or directory.
        object: String,
        /// The system's answer.
        #[source]
        source: Arc<io::Error>,
    },
    /// No space can be prepared and what is left is reserved. Nothing of this call was written:
    /// the caller answers 503 and the sender comes again.
    #[error("{lane} lane is full: {free_bytes} bytes left, {reserve_bytes} reserved for outcomes")]
    Full {
        /// Which lane.
        lane: LaneId,
        /// Prepared space left, bytes.
        free_bytes: u64,
        /// Of it, kept for outcomes.
        reserve_bytes: u64,
    },
    /// A write or sync of this lane failed once; the lane takes nothing more until a restart.
    /// Whether this call's records are durable is unknown: they were not acknowledged.
    #[error("{lane} lane is closed after a failure to {operation}: {error}")]
    Poisoned {
        /// Which lane.
        lane: LaneId,
        /// What failed, in words, with its object.
        operation: String,
        /// The system's answer.
        error: String,
    },
    /// Corruption was found at opening; the journal can be read, not written.
    #[error("journal is read-only: {0}")]
    ReadOnly(Corruption),
    /// The records of one call do not fit.
    #[error("{bytes} bytes in one call to the {lane} lane, at most {max_bytes}")]
    TooLarge {
        /// Which lane.
        lane: LaneId,
        /// Bytes asked for.
        bytes: u64,
        /// Bytes allowed.
        max_bytes: u64,
    },
    /// A call without records.
    #[error("no records to append")]
    Empty,
    /// The journal was closed.
    #[error("{lane} lane is closed")]
    Closed {
        /// Which lane.
        lane: LaneId,
    },
    /// Not acknowledged in time. The records may still become durable.
    #[error("{lane} lane: not durable within {after_ms} ms")]
    Deadline {
        /// Which lane.
        lane: LaneId,
        /// The configured deadline, milliseconds.
        after_ms: u64,
    },
    /// A snapshot is not where its reference says, or not intact.
    #[error("snapshot at {segment}+{offset}: {damage}")]
    Snapshot {
        /// Segment number.
        segment: u64,
        /// Offset in it, bytes.
        offset: u64,
        /// What is wrong.
        damage: Damage,
    },
}

fn holder(pid: Option<u32>) -> String {
    pid.map_or_else(
        || "another process".to_owned(),
        |pid| format!("process {pid}"),
    )
}

/// One failed system call, before it is known what it means.
#[derive(Clone, Debug)]
pub(crate) struct Failure {
    pub(crate) operation: &'static str,
    pub(crate) object: String,
    pub(crate) source: Arc<io::Error>,
}

impl Failure {
    /// For `map_err`: names the call and what it was made on.
    pub(crate) fn of(operation: &'static str, object: &str) -> impl Fn(io::Error) -> Self {
        let object = object.to_owned();
        move |error| Self {
            operation,
            object: object.clone(),
            source: Arc::new(error),
        }
    }

    /// Disk or quota exhausted, as far as preparing new space is concerned.
    pub(crate) fn is_no_space(&self) -> bool {
        let code = self.source.raw_os_error();
        code == Some(libc::ENOSPC) || code == Some(libc::EDQUOT)
    }

    /// Whether there was no file descriptor for the call: then it has done nothing, and may be made again.
    pub(crate) fn is_no_descriptor(&self) -> bool {
        let code = self.source.raw_os_error();
        code == Some(libc::EMFILE) || code == Some(libc::ENFILE)
    }

    pub(crate) fn poisoned(&self, lane: LaneId) -> JournalError {
        JournalError::Poisoned {
            lane,
            operation: format!("{} {}", self.operation, self.object),
            error: self.source.to_string(),
        }
    }
}

impl From<Failure> for JournalError {
    fn from(failure: Failure) -> Self {
        let Failure {
            operation,
            object,
            source,
        } = failure;
        Self::Io {
            operation,
            object,
            source,
        }
    }
}
