//! How a batch reaches the device: one after another, or several in flight.
//!
//! An engine owns each buffer from [`Engine::submit`] until it hands it back with the outcome. It
//! promises nothing about order: who acknowledges in order is `lane.rs`.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use serde::Serialize;

use super::LaneId;
use super::block::{AlignedBuf, BlockFile};
use super::error::Failure;
use super::format;
use super::lane::Batch;
use super::sync;

mod measure;
mod threads;
mod uring;

pub(crate) use measure::fastest;
pub(crate) use threads::Threads;
pub(crate) use uring::Uring;

/// How a lane's batches are written; chosen when the journal is opened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "engine")]
pub enum WriteEngine {
    /// One write at a time, by the lane's own thread.
    Pwrite,
    /// Up to so many batches in flight, each written by a thread.
    Threads {
        /// How many.
        in_flight_max: u32,
        /// Why it is not io_uring.
        instead: Option<String>,
    },
    /// Up to so many batches in flight through io_uring.
    IoUring {
        /// How many.
        in_flight_max: u32,
    },
}

/// One batch on its way.
pub(crate) struct Write {
    pub(crate) file: Arc<dyn BlockFile>,
    pub(crate) name: Arc<str>,
    pub(crate) offset: u64,
    pub(crate) buf: AlignedBuf,
    /// Of the buffer, bytes.
    pub(crate) len: usize,
    pub(crate) content: Content,
}

/// What the buffer is to hold.
pub(crate) enum Content {
    Batch(Batch),
    /// Zeros, and as much work as a batch would be: to measure with.
    Trial,
    /// It holds it already.
    There,
}

impl Write {
    /// Fills the buffer. Engines that write in several threads do it there.
    pub(crate) fn encode(&mut self) -> Result<(), Failure> {
        let bytes = self.buf.slice(self.len);
        match std::mem::replace(&mut self.content, Content::There) {
            Content::Batch(batch) => batch.encode(&self.name, bytes),
            Content::Trial => {
                format::trial(bytes);
                Ok(())
            }
            Content::There => Ok(()),
        }
    }
}

/// A batch that is durable, or never will be.
pub(crate) struct Done {
    pub(crate) ticket: u64,
    pub(crate) buf: AlignedBuf,
    pub(crate) result: Result<(), Failure>,
}

/// What [`Engine::reap`] may wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wait {
    Not,
    /// Until a write is done.
    Done,
    /// Until a write is done or the bell rings.
    DoneOrBell,
}

/// Rung by callers to end a wait of kind [`Wait::DoneOrBell`].
pub(crate) trait Bell: Send + Sync {
    fn ring(&self);
}

/// Takes batches and says when each is durable.
pub(crate) trait Engine: Send {
    fn kind(&self) -> WriteEngine;

    /// How many may be in flight.
    fn depth(&self) -> usize;

    /// Starts a write, which is encoded in the order of submission or beside the others, never
    /// after a later one: that waits for its check. `alone`: nothing else will be submitted before it is done, so the call may
    /// do all of it. A failure comes out of [`Self::reap`].
    fn submit(&mut self, ticket: u64, write: Write, alone: bool);

    /// One finished write, in any order.
    fn reap(&mut self, wait: Wait) -> Option<Done>;

    /// `None` if it never waits for a bell.
    fn bell(&self) -> Option<Arc<dyn Bell>>;
}

/// One system call after another.
pub(crate) struct Pwrite {
    lane: LaneId,
    done: VecDeque<Done>,
}

impl Pwrite {
    pub(crate) fn new(lane: LaneId) -> Self {
        Self {
            lane,
            done: VecDeque::new(),
        }
    }
}

impl Engine for Pwrite {
    fn kind(&self) -> WriteEngine {
        WriteEngine::Pwrite
    }

    fn depth(&self) -> usize {
        1
    }

    fn submit(&mut self, ticket: u64, write: Write, _alone: bool) {
        self.done.push_back(at_once(self.lane, ticket, write));
    }

    fn reap(&mut self, _wait: Wait) -> Option<Done> {
        self.done.pop_front()
    }

    fn bell(&self) -> Option<Arc<dyn Bell>> {
        None
    }
}

/// The whole commit in the calling thread.
pub(crate) fn at_once(lane: LaneId, ticket: u64, mut write: Write) -> Done {
    let encoded = write.encode();
    let Write {
        file,
        name,
        offset,
        mut buf,
        len,
        ..
    } = write;
    let result = encoded.and_then(|()| lane.commit(file.as_ref(), &name, buf.slice(len), offset));
    Done {
        ticket,
        buf,
        result,
    }
}

/// A write must take everything. What a short one leaves behind is unknown, so it counts as a
/// failure and is not continued.
pub(crate) fn whole(written: usize, len: usize, name: &str, offset: u64) -> Result<(), Failure> {
    if written == len {
        return Ok(());
    }
    let text = format!("{written} of {len} bytes at offset {offset}");
    Err(Failure::of("write", name)(io::Error::new(
        io::ErrorKind::WriteZero,
        text,
    )))
}
