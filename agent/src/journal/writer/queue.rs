//! Between the callers and a lane's writer: a bounded queue, and one wake-up for whoever sleeps.
//!
//! A caller wakes the writer only if it sleeps; while it works, calls gather behind it for free.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use super::super::engine::Bell;
use super::super::lock;

/// What the writer waits in, if it waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sleep {
    Awake,
    /// In [`Queue::wait`].
    Parked,
    /// In the engine, for a write to be done or for the bell.
    Engine,
}

struct State<T> {
    waiting: VecDeque<T>,
    closed: bool,
    sleep: Sleep,
}

/// The queue of one lane. Its bound is kept by whoever hands out the right to push.
pub(crate) struct Queue<T> {
    state: Mutex<State<T>>,
    pushed: Condvar,
    bell: Option<Arc<dyn Bell>>,
}

impl<T> Queue<T> {
    pub(crate) fn new(bell: Option<Arc<dyn Bell>>) -> Self {
        Self {
            state: Mutex::new(State {
                waiting: VecDeque::new(),
                closed: false,
                sleep: Sleep::Awake,
            }),
            pushed: Condvar::new(),
            bell,
        }
    }

    /// Gives the item back if the queue is closed.
    pub(crate) fn push(&self, item: T) -> Result<(), T> {
        let mut state = lock(&self.state);
        if state.closed {
            return Err(item);
        }
        state.waiting.push_back(item);
        let slept = std::mem::replace(&mut state.sleep, Sleep::Awake);
        drop(state);
        self.wake(slept);
        Ok(())
    }

    fn wake(&self, slept: Sleep) {
        match (slept, &self.bell) {
            (Sleep::Parked, _) => self.pushed.notify_one(),
            (Sleep::Engine, Some(bell)) => bell.ring(),
            (Sleep::Awake, _) | (Sleep::Engine, None) => {}
        }
    }

    /// Moves everything that waits to `into`.
    pub(crate) fn take(&self, into: &mut VecDeque<T>) {
        into.append(&mut lock(&self.state).waiting);
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
            state.sleep = Sleep::Parked;
            let woken = self.pushed.wait(state);
            state = woken.unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Announces that the writer goes to sleep in the engine; `false` if something waits already.
    pub(crate) fn doze(&self) -> bool {
        let mut state = lock(&self.state);
        let empty = state.waiting.is_empty();
        if empty {
            state.sleep = Sleep::Engine;
        }
        empty
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
        self.wake(slept);
    }

    /// Closes and forgets what waits: its callers learn that nobody will answer.
    pub(crate) fn abandon(&self) {
        self.close();
        lock(&self.state).waiting.clear();
    }
}
