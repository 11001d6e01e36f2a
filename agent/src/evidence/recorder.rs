//! The flight recorder: a thread that samples this host and keeps the last minutes of windows.
//!
//! Evidence from before an alert is there when the alert comes. Each asking takes a fresh sample, so
//! the last window ends now; where it begins decides what it may be used for:
//! - [`Recorder::evidence`] goes back at least as far as it can, to judge what led here;
//! - [`Recorder::evidence_since`] and [`Recorder::evidence_after`] never look behind their moment, to
//!   judge what an action did: a window that began before it holds the trouble that was cured.
//!   [`Recorder::mark`] puts a boundary between windows exactly at that moment.
//!
//! Memory is bounded by `history / period` windows of `cgroups_kept` rows each. Time is bounded too:
//! where samples cost much, they are taken less often, so that sampling stays under a twentieth of one
//! CPU. The mean of the last ones counts: some things are read in every tenth sample only.

use std::{
    cmp::Reverse,
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use tracing::warn;

use super::{
    EvidenceConfig, EvidenceError,
    account::Account,
    counters::Counter,
    kernel::{KernelProbes, ProbeStatus, SyscallPlan, WATCHED_MAX},
    sample::{Sample, Sampler},
    scan::For,
    window::Window,
};
use crate::incident::{CgroupId, Evidence};

/// Sampling rests at least this many times as long as it works on average.
const REST: u32 = 19;
/// Weight of the past in that average, against 1 for the latest sample.
const PAST: u32 = 7;
/// A sample this fresh is not taken again.
const FRESH: Duration = Duration::from_millis(20);
/// A sample that takes longer than this is worth a warning.
const SLOW: Duration = Duration::from_millis(500);

/// What recording costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecorderStats {
    /// Windows kept.
    pub windows: usize,
    /// Cgroups in the last sample.
    pub cgroups: usize,
    /// CPU time that taking the last sample took.
    pub sample_took: Duration,
    /// Bytes that the windows hold.
    pub bytes: usize,
}

/// Keeps the last minutes. Stops when it is dropped.
#[derive(Debug)]
pub struct Recorder {
    shared: Arc<Shared>,
    probes: Arc<dyn KernelProbes>,
    stop: Option<mpsc::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    config: EvidenceConfig,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    sampler: Sampler,
    last: Sample,
    windows: VecDeque<Window>,
}

impl Recorder {
    /// Takes a first sample and starts the thread.
    ///
    /// # Errors
    /// When a setting is out of bounds, `/proc` can't be read or no thread can be started.
    pub fn start(
        config: &EvidenceConfig,
        probes: Arc<dyn KernelProbes>,
    ) -> Result<Self, EvidenceError> {
        let problems = config.problems();
        if !problems.is_empty() {
            return Err(EvidenceError::Config(problems));
        }
        let mut sampler = Sampler::new(config.clone(), probes.clone());
        let last = sampler.sample(None, For::Keeping)?;
        let state = State {
            sampler,
            last,
            windows: VecDeque::new(),
        };
        let shared = Arc::new(Shared {
            config: config.clone(),
            state: Mutex::new(state),
        });
        let (stop, stopped) = mpsc::channel();
        let thread = std::thread::Builder::new()
            .name("recorder".to_owned())
            .spawn({
                let shared = shared.clone();
                move || shared.record(&stopped)
            })
            .map_err(EvidenceError::Thread)?;
        Ok(Self {
            shared,
            probes,
            stop: Some(stop),
            thread: Some(thread),
        })
    }

    /// The evidence of the last `window`, up to now. Where a boundary between two windows does not
    /// fall on its begin, it begins up to one period later, or earlier if less than half of `window`
    /// would be left; `window_s` says what it really spans.
    pub fn evidence(&self, window: Duration) -> Evidence {
        self.last(window, None)
    }

    /// Likewise, and of nothing before `floor`: what an action does while it lasts. Where samples come
    /// late, one window is longer than what is asked for; it is better than none.
    pub fn evidence_after(&self, floor: Instant, window: Duration) -> Evidence {
        self.last(window, Some(floor))
    }

    fn last(&self, window: Duration, floor: Option<Instant>) -> Evidence {
        let mut state = self.shared.lock();
        let fresh = state.fresh(&self.shared.config);
        let since = state.now(fresh.as_ref()).checked_sub(window);
        let fresh_window = fresh.as_ref().map(|(window, _)| window);
        let mut windows: Vec<&Window> = Vec::new();
        let mut span = Duration::ZERO;
        for one in fresh_window.into_iter().chain(state.windows.iter().rev()) {
            // Better a little too much of the past than next to nothing.
            let within = since.is_none_or(|since| one.begun >= since);
            let too_early = floor.is_some_and(|floor| one.begun < floor);
            if too_early || (!within && span * 2 >= window) {
                break;
            }
            span += one.ended.saturating_duration_since(one.begun);
            windows.push(one);
        }
        windows.reverse();
        self.account(&state, &windows, fresh.as_ref(), window)
    }

    /// The evidence of the time since `since`, and of nothing before it. While no window lies wholly
    /// within (see [`Recorder::mark`]), it has levels but no rates, and `window_s` is 0.
    pub fn evidence_since(&self, since: Instant) -> Evidence {
        let mut state = self.shared.lock();
        let fresh = state.fresh(&self.shared.config);
        let asked = state.now(fresh.as_ref()).saturating_duration_since(since);
        let windows: Vec<&Window> = state
            .windows
            .iter()
            .chain(fresh.as_ref().map(|(window, _)| window))
            .filter(|window| window.begun >= since)
            .collect();
        self.account(&state, &windows, fresh.as_ref(), asked)
    }

    /// Ends the running window now and begins the next; returns the moment between them. Call it
    /// right after an action: `evidence_since` that moment then shows exactly what came after.
    pub fn mark(&self) -> Instant {
        let mut state = self.shared.lock();
        self.shared.turn(&mut state);
        state.last.at
    }

    /// Attaches or detaches the syscall pair; says whether it is attached afterwards. The leaves that
    /// were most in any way are counted apart, all others together.
    pub fn watch_syscalls(&self, on: bool) -> bool {
        let plan = if on {
            self.shared.lock().plan()
        } else {
            SyscallPlan::default()
        };
        self.probes.watch(&plan)
    }

    /// How the probes fare.
    pub fn probes(&self) -> Vec<ProbeStatus> {
        self.probes.statuses()
    }

    /// What recording costs.
    pub fn stats(&self) -> RecorderStats {
        let state = self.shared.lock();
        RecorderStats {
            windows: state.windows.len(),
            cgroups: state.last.cgroups.len(),
            sample_took: state.last.took,
            bytes: state.windows.iter().map(Window::bytes).sum(),
        }
    }

    fn account(
        &self,
        state: &State,
        windows: &[&Window],
        fresh: Option<&(Window, Sample)>,
        asked: Duration,
    ) -> Evidence {
        Account {
            windows,
            latest: fresh.map_or(&state.last, |(_, sample)| sample),
            asked,
            cgroups_max: self.shared.config.cgroups_kept,
            syscalls_max: self.shared.config.syscalls_max,
        }
        .evidence()
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            warn!("the recorder's thread had panicked");
        }
    }
}

impl State {
    /// A sample of now and the window up to it, on top of what is recorded: asking often must not push
    /// the past out. `None` when the last sample is fresh enough or none could be taken.
    fn fresh(&mut self, config: &EvidenceConfig) -> Option<(Window, Sample)> {
        if self.last.at.elapsed() < FRESH {
            return None;
        }
        let sample = self.take(For::Asking)?;
        let window = Window::between(&self.last, &sample, config.cgroups_kept);
        Some((window, sample))
    }

    fn take(&mut self, wanted: For) -> Option<Sample> {
        self.sampler
            .sample(Some(&self.last), wanted)
            .inspect_err(|error| warn!(error = error as &dyn std::error::Error, "no sample"))
            .ok()
    }

    /// Whose calls are worth counting apart: every leaf if they are few, else those that the last
    /// windows kept, the busiest first.
    fn plan(&self) -> SyscallPlan {
        let leaves = || self.last.cgroups.iter().filter(|(_, sample)| sample.leaf);
        if leaves().count() <= WATCHED_MAX {
            return SyscallPlan::all(leaves().map(|(id, _)| *id));
        }
        let mut busy: Vec<(Reverse<u64>, CgroupId)> = Vec::new();
        for row in self.windows.iter().rev().take(3).flat_map(|w| &w.rows) {
            let here = row.leaf && !row.gone && busy.iter().all(|(_, id)| *id != row.id);
            if here {
                let us = row.counters[Counter::CpuUs as usize].get().unwrap_or(0);
                busy.push((Reverse(us), row.id));
            }
        }
        busy.sort_unstable();
        SyscallPlan::all(busy.into_iter().map(|(_, id)| id).take(WATCHED_MAX))
    }

    /// The moment that evidence is up to.
    fn now(&self, fresh: Option<&(Window, Sample)>) -> Instant {
        fresh.map_or(self.last.at, |(_, sample)| sample.at)
    }
}

impl Shared {
    /// A panic elsewhere leaves at worst one window missing: the differences stay right.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn record(&self, stopped: &mpsc::Receiver<()>) {
        let period = self.config.period();
        let mut rest = period;
        let mut mean = self.lock().last.took;
        while stopped.recv_timeout(rest) == Err(mpsc::RecvTimeoutError::Timeout) {
            let begun = Instant::now();
            let took = {
                let mut state = self.lock();
                self.turn(&mut state);
                state.last.took
            };
            if took > SLOW {
                let cgroups = self.lock().last.cgroups.len();
                warn!(took_ms = took.as_millis(), cgroups, "sampling is slow");
            }
            mean = (mean * PAST + took) / (PAST + 1);
            rest = period.saturating_sub(begun.elapsed()).max(mean * REST);
        }
    }

    /// Closes the running window.
    fn turn(&self, state: &mut State) {
        let Some(sample) = state.take(For::Keeping) else {
            return;
        };
        let window = Window::between(&state.last, &sample, self.config.cgroups_kept);
        state.sampler.close_window();
        state.last = sample;
        state.windows.push_back(window);
        while state.windows.len() > self.config.windows_max() {
            state.windows.pop_front();
        }
    }
}

#[cfg(test)]
mod tests;
