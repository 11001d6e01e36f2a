//! What the queue and the threads' engine are built of, in one place: the model check
//! (`tests/model.rs`) compiles the same two files with its own.

pub(crate) use std::sync::atomic::{AtomicUsize, Ordering};
pub(crate) use std::sync::{Condvar, Mutex};
pub(crate) use std::thread::{Builder, JoinHandle};

use std::sync::{MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Locks, whatever became of an earlier holder: every critical section here leaves its data whole.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Most calls that are watched for awake.
pub(crate) const WATCHED_MAX: usize = 16;

/// Waits to be notified; may return without.
pub(crate) fn wait<'a, T>(condvar: &Condvar, guard: MutexGuard<'a, T>) -> MutexGuard<'a, T> {
    condvar.wait(guard).unwrap_or_else(PoisonError::into_inner)
}

/// The end of a wait.
#[derive(Clone, Debug)]
pub(crate) struct Until(Instant);

impl Until {
    pub(crate) fn after(limit: Duration) -> Self {
        Self(Instant::now() + limit)
    }

    pub(crate) fn over(&self) -> bool {
        Instant::now() >= self.0
    }

    /// Waits to be notified, not beyond the end.
    pub(crate) fn wait<'a, T>(
        &self,
        condvar: &Condvar,
        guard: MutexGuard<'a, T>,
    ) -> MutexGuard<'a, T> {
        let left = self.0.saturating_duration_since(Instant::now());
        let woken = condvar.wait_timeout(guard, left);
        woken.unwrap_or_else(PoisonError::into_inner).0
    }
}
