//! What the tests leave out, one thing at a time, to see that a test notices.
//!
//! Nothing of it is in a build that is not a test: [`left_out`] is a constant there.

/// Something that the journal's promise hangs on.
#[cfg_attr(not(test), allow(dead_code, reason = "left out by tests only"))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Check {
    /// A batch's epoch is the log's.
    Epoch,
    /// A batch continues the chain.
    Chain,
    /// Valid batches beyond the tail are corruption.
    Beyond,
    /// Segments are removed only when a durable header says that they have gone.
    BaseDurable,
    /// A segment's header says how many batches may be in flight in it.
    Window,
    /// A resumed segment keeps the window that it was begun with.
    WindowKept,
    /// A segment is begun only when nothing is on its way.
    Settled,
    /// Batches are acknowledged in the order in which they were submitted.
    InOrder,
    /// A batch is acknowledged only if its write succeeded.
    Succeeded,
    /// Whoever has enough calls wakes the writer that sleeps on the queue.
    WakeParked,
    /// ... and rings for the one that sleeps in the engine.
    WakeDozing,
    /// The writer looks once more before it sleeps in the engine.
    LastLook,
    /// Closing the queue wakes the writer.
    WakeClosed,
    /// A batch is where its header says, and of this log.
    Place,
    /// A batch's body is what was written.
    Body,
    /// A record is what was written.
    Record,
    /// Records fill the body exactly.
    Filled,
    /// The LSNs in a batch are those that its header promises.
    RecordLsn,
}

#[cfg(test)]
pub(crate) use super::tests::mutation::left_out;

/// Nothing is ever left out.
#[cfg(not(test))]
pub(crate) const fn left_out(_: Check) -> bool {
    false
}
