//! Several batches in flight by a few threads, each with one pwrite at a time.
//!
//! The completion of a synced write through io_uring passes through a kernel worker of ordinary
//! priority: on a machine whose CPUs are busy that worker waits for a time slice, and every
//! batch with it. A thread of ours has the writer's priority, and does not.

use std::collections::VecDeque;
use std::sync::Arc;

use super::sync::{self, Builder, Condvar, JoinHandle, Mutex, lock};
use super::{Bell, Done, Engine, Wait, Write, WriteEngine, at_once};
use crate::journal::LaneId;

#[derive(Default)]
struct State {
    jobs: VecDeque<(u64, Write)>,
    done: VecDeque<Done>,
    rung: bool,
    closed: bool,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    /// A job, or the end.
    work: Condvar,
    /// A finished write, or the bell.
    news: Condvar,
}

impl Bell for Shared {
    fn ring(&self) {
        lock(&self.state).rung = true;
        self.news.notify_one();
    }
}

/// The threads of one lane.
pub(crate) struct Threads {
    lane: LaneId,
    depth: usize,
    /// Why it is not io_uring.
    instead: Option<String>,
    shared: Arc<Shared>,
    in_flight: usize,
    workers: Vec<JoinHandle<()>>,
}

impl Threads {
    pub(crate) fn new(lane: LaneId, depth: u32, instead: Option<String>) -> Self {
        Self {
            lane,
            depth: depth as usize,
            instead,
            shared: Arc::default(),
            in_flight: 0,
            workers: Vec::new(),
        }
    }

    /// One more thread if all are busy; begun by the lane's writer, whose priority it inherits.
    /// `false` if there is none at all.
    fn staffed(&mut self) -> bool {
        if self.workers.len() > self.in_flight || self.workers.len() >= self.depth {
            return true;
        }
        let lane = self.lane;
        let shared = self.shared.clone();
        let name = format!("journal-{lane}-{}", self.workers.len() + 1);
        match Builder::new().name(name).spawn(move || work(lane, &shared)) {
            Ok(thread) => self.workers.push(thread),
            Err(error) => tracing::warn!(%lane, %error, "no more threads for the journal"),
        }
        !self.workers.is_empty()
    }
}

fn work(lane: LaneId, shared: &Shared) {
    let mut state = lock(&shared.state);
    loop {
        if let Some((ticket, write)) = state.jobs.pop_front() {
            drop(state);
            let done = at_once(lane, ticket, write);
            state = lock(&shared.state);
            state.done.push_back(done);
            shared.news.notify_one();
        } else if state.closed {
            return;
        } else {
            state = sync::wait(&shared.work, state);
        }
    }
}

impl Engine for Threads {
    fn kind(&self) -> WriteEngine {
        WriteEngine::Threads {
            in_flight_max: u32::try_from(self.depth).unwrap_or(u32::MAX),
            instead: self.instead.clone(),
        }
    }

    fn depth(&self) -> usize {
        self.depth
    }

    fn submit(&mut self, ticket: u64, write: Write, alone: bool) {
        let here = (alone && self.in_flight == 0) || !self.staffed();
        self.in_flight += 1;
        if here {
            let done = at_once(self.lane, ticket, write);
            lock(&self.shared.state).done.push_back(done);
        } else {
            lock(&self.shared.state).jobs.push_back((ticket, write));
            self.shared.work.notify_one();
        }
    }

    fn reap(&mut self, wait: Wait) -> Option<Done> {
        let mut state = lock(&self.shared.state);
        loop {
            if let Some(done) = state.done.pop_front() {
                self.in_flight -= 1;
                return Some(done);
            }
            let rung = std::mem::take(&mut state.rung);
            if self.in_flight == 0 || wait == Wait::Not || (wait == Wait::DoneOrBell && rung) {
                return None;
            }
            state = sync::wait(&self.shared.news, state);
        }
    }

    fn bell(&self) -> Option<Arc<dyn Bell>> {
        Some(self.shared.clone())
    }
}

impl Drop for Threads {
    /// Waits for the writes under way: their files must not be closed under them.
    fn drop(&mut self) {
        lock(&self.shared.state).closed = true;
        self.shared.work.notify_all();
        for thread in self.workers.drain(..) {
            if thread.join().is_err() {
                tracing::error!(lane = %self.lane, "a journal thread panicked");
            }
        }
    }
}
