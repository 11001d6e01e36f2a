//! Between the callers and a lane's writer: a bounded queue, and one wake-up for whoever sleeps.
//!
//! A caller wakes the writer only if it sleeps; while it works, calls gather behind it for free.

use std::collections::VecDeque;
use std::sync::Arc;

use super::sync::{self, AtomicUsize, Condvar, Mutex, Ordering, Until, WATCHED_MAX, lock};
use crate::journal::engine::Bell;
use crate::journal::left_out::{Check, left_out};

/// What the writer waits in, if it waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sleep {
    Awake,
    /// In [`Queue::wait`] or [`Queue::wait_for`], for so many calls.
    Parked(usize),
    /// In the engine, for a write to be done or, with so many bytes waiting, for the bell.
    Engine(usize),
}

struct State<T> {
    waiting: VecDeque<T>,
    bytes: usize,
    closed: bool,
    sleep: Sleep,
}

/// The queue of one lane. Its bound is kept by whoever hands out the right to push.
pub(crate) struct Queue<T> {
    state: Mutex<State<T>>,
    pushed: Condvar,
    /// Length of `waiting`, to be watched without the lock.
    len: AtomicUsize,
    bell: Option<Arc<dyn Bell>>,
}

impl<T> Queue<T> {
    pub(crate) fn new(bell: Option<Arc<dyn Bell>>) -> Self {
        Self {
            state: Mutex::new(State {
                waiting: VecDeque::new(),
                bytes: 0,
                closed: false,
                sleep: Sleep::Awake,
            }),
            pushed: Condvar::new(),
            len: AtomicUsize::new(0),
            bell,
        }
    }

    /// Gives the item back if the queue is closed.
    pub(crate) fn push(&self, item: T, bytes: usize) -> Result<(), T> {
        self.push_all([(item, bytes)])
            .map_err(|mut back| back.swap_remove(0))
    }

    /// Pushes items with their bytes at once, with one wake-up. Gives them back if the queue is closed.
    pub(crate) fn push_all(
        &self,
        items: impl IntoIterator<Item = (T, usize)>,
    ) -> Result<(), Vec<T>> {
        let mut state = lock(&self.state);
        if state.closed {
            return Err(items.into_iter().map(|(item, _)| item).collect());
        }
        for (item, bytes) in items {
            state.waiting.push_back(item);
            state.bytes += bytes;
        }
        let len = state.waiting.len();
        self.len.store(len, Ordering::Release);
        let slept = state.sleep;
        let enough = match slept {
            Sleep::Awake => false,
            Sleep::Parked(calls) => len >= calls && !left_out(Check::WakeParked),
            Sleep::Engine(bytes) => state.bytes >= bytes && !left_out(Check::WakeDozing),
        };
        if enough {
            state.sleep = Sleep::Awake;
            drop(state);
            self.wake(slept);
        }
        Ok(())
    }

    fn wake(&self, slept: Sleep) {
        match (slept, &self.bell) {
            (Sleep::Parked(_), _) => self.pushed.notify_one(),
            (Sleep::Engine(_), Some(bell)) => bell.ring(),
            (Sleep::Awake, _) | (Sleep::Engine(_), None) => {}
        }
    }

    /// Moves everything that waits to `into`.
    pub(crate) fn take(&self, into: &mut VecDeque<T>) {
        if self.len.load(Ordering::Acquire) == 0 {
            return;
        }
        let mut state = lock(&self.state);
        into.append(&mut state.waiting);
        state.bytes = 0;
        self.len.store(0, Ordering::Release);
    }

    /// Waits until something is there; `false` if it is closed and empty.
    pub(crate) fn wait(&self) -> bool {
        let mut state = lock(&self.state);
        loop {
            if !state.waiting.is_empty() {
                state.sleep = Sleep::Awake;
                return true;
            }
            if state.closed {
                return false;
            }
            state.sleep = Sleep::Parked(1);
            state = sync::wait(&self.pushed, state);
        }
    }

    /// Waits until `calls` are there, not longer than `until`; a few are watched for awake, which
    /// costs less than to sleep and be woken.
    pub(crate) fn wait_for(&self, calls: usize, until: &Until) {
        if calls <= WATCHED_MAX {
            // Between two looks at the clock, which may cost more than many looks at the queue.
            const LOOKS: usize = 32;
            while !until.over() {
                for _ in 0..LOOKS {
                    if self.len.load(Ordering::Acquire) >= calls {
                        return;
                    }
                    std::hint::spin_loop();
                }
            }
            return;
        }
        let mut state = lock(&self.state);
        while state.waiting.len() < calls && !state.closed && !until.over() {
            state.sleep = Sleep::Parked(calls);
            state = until.wait(&self.pushed, state);
        }
        state.sleep = Sleep::Awake;
    }

    /// Calls waiting.
    pub(crate) fn len(&self) -> usize {
        self.len.load(Ordering::Acquire)
    }

    /// Announces that the writer goes to sleep in the engine until `bytes` wait; `false` if they
    /// do already.
    pub(crate) fn doze(&self, bytes: usize) -> bool {
        let mut state = lock(&self.state);
        let fewer = (state.bytes < bytes && !state.closed) || left_out(Check::LastLook);
        if fewer {
            state.sleep = Sleep::Engine(bytes);
        }
        fewer
    }

    /// The writer is up again.
    pub(crate) fn rouse(&self) {
        lock(&self.state).sleep = Sleep::Awake;
    }

    /// Nothing is taken any more; what waits still comes out.
    pub(crate) fn close(&self) {
        let mut state = lock(&self.state);
        state.closed = true;
        let slept = std::mem::replace(&mut state.sleep, Sleep::Awake);
        drop(state);
        if !left_out(Check::WakeClosed) {
            self.wake(slept);
        }
    }

    /// Ends a wait in [`Self::wait_for`] as a clock would that has run out: for the model check,
    /// which has none.
    #[cfg(test)]
    #[allow(dead_code, reason = "used by the model's copy of this file")]
    pub(crate) fn tick(&self) {
        let _state = lock(&self.state);
        self.pushed.notify_one();
    }

    /// Closes and forgets what waits: its callers learn that nobody will answer.
    pub(crate) fn abandon(&self) {
        self.close();
        lock(&self.state).waiting.clear();
    }
}
