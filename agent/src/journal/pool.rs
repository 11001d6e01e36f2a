//! Prepared segments: allocated, zeroed, synced and named, before a commit needs them.
//!
//! A commit into such a segment changes no metadata, so it costs one flush of the device and no
//! commit of the filesystem's own journal. This is also the only place where a full disk shows.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use super::block::{Access, BlockFile, DirectIo, Disk, granule_for};
use super::engine::{Engine, Pwrite, fastest};
use super::error::Failure;
use super::{LaneId, lock, priority, store};

/// What the pool prepares.
#[derive(Clone, Debug)]
pub(crate) struct PoolConfig {
    pub(crate) segment_len: u64,
    pub(crate) ahead: usize,
    /// Longest wait of a commit for a segment that is being prepared.
    pub(crate) patience: Duration,
    pub(crate) space_retry: Duration,
    /// Batches that may be on their way to the device at once.
    pub(crate) in_flight_max: u32,
    /// The writer will ask for the real-time class.
    pub(crate) realtime: bool,
    /// Prepare in the thread that needs a segment; for tests that want one order of calls.
    pub(crate) inline: bool,
}

/// A segment ready to be begun.
pub(crate) struct Prepared {
    pub(crate) seq: u64,
    pub(crate) file: Box<dyn BlockFile>,
    pub(crate) granule: u32,
    pub(crate) len: u64,
}

struct State {
    ready: VecDeque<Prepared>,
    next_seq: u64,
    /// The last attempt found no space.
    full: bool,
    failed: Option<Failure>,
    closed: bool,
    direct: DirectIo,
}

/// Prepared segments of one lane.
pub(crate) struct Pool {
    disk: Arc<dyn Disk>,
    lane: LaneId,
    config: PoolConfig,
    state: Mutex<State>,
    changed: Condvar,
}

/// What is prepared, and whether more can be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Space {
    pub(crate) ready_bytes: u64,
    pub(crate) ready_segments: usize,
    /// How many the preparer stops at.
    pub(crate) ahead: usize,
    pub(crate) full: bool,
}

/// Why no segment could be had.
pub(crate) enum NoSegment {
    /// Disk full, or not prepared in time.
    NoSpace,
    Failed(Failure),
}

const CHUNK_BYTES: usize = 1 << 20;

impl Pool {
    pub(crate) fn new(
        disk: Arc<dyn Disk>,
        lane: LaneId,
        config: PoolConfig,
        next_seq: u64,
    ) -> Self {
        let state = State {
            ready: VecDeque::new(),
            next_seq,
            full: false,
            failed: None,
            closed: false,
            direct: DirectIo::NotWanted,
        };
        Self {
            disk,
            lane,
            config,
            state: Mutex::new(state),
            changed: Condvar::new(),
        }
    }

    /// The fastest engine for this pool's segments, measured in a prepared one if there is a
    /// choice.
    pub(crate) fn engine(&self) -> Box<dyn Engine> {
        let pwrite = || Box::new(Pwrite::new(self.lane)) as Box<dyn Engine>;
        let mut engines = self
            .disk
            .engines(self.lane, self.config.in_flight_max.max(1));
        if engines.len() < 2 {
            return engines.pop().unwrap_or_else(pwrite);
        }
        let front = lock(&self.state).ready.front().map(|p| (p.seq, p.len));
        let opened = front.and_then(|(seq, len)| {
            let name = store::segment_name(self.lane, seq);
            let file = self.disk.open(&name, self.lane.access()).ok()?;
            Some((Arc::<dyn BlockFile>::from(file), len))
        });
        let Some((file, len)) = opened else {
            return engines.remove(0);
        };
        // A thread of the priority that the writer will have, as its helpers will.
        let realtime = self.config.realtime;
        let measured = std::thread::scope(|scope| {
            let run = scope.spawn(|| {
                if realtime {
                    // Refused here, refused to the writer, which will say so.
                    drop(priority::realtime());
                }
                fastest(engines, &file, len)
            });
            run.join().ok().flatten()
        });
        measured.unwrap_or_else(pwrite)
    }

    /// Whether nothing is to be done by other threads.
    #[cfg(test)]
    pub(crate) fn is_inline(&self) -> bool {
        self.config.inline
    }

    pub(crate) fn segment_len(&self) -> u64 {
        self.config.segment_len
    }

    /// Takes over a segment that recovery found prepared.
    pub(crate) fn adopt(&self, seq: u64, len: u64) -> Result<(), Failure> {
        let name = store::segment_name(self.lane, seq);
        let file = self
            .disk
            .open(&name, self.lane.access())
            .map_err(Failure::of("open", &name))?;
        self.add(Prepared {
            seq,
            granule: granule_for(&file.direct()),
            file,
            len,
        });
        Ok(())
    }

    fn add(&self, prepared: Prepared) {
        let mut state = lock(&self.state);
        state.direct = prepared.file.direct();
        state.ready.push_back(prepared);
        state.full = false;
        self.changed.notify_all();
    }

    pub(crate) fn space(&self) -> Space {
        let state = lock(&self.state);
        Space {
            ready_bytes: state
                .ready
                .iter()
                .map(|p| p.len - u64::from(p.granule))
                .sum(),
            ready_segments: state.ready.len(),
            ahead: self.config.ahead,
            full: state.full,
        }
    }

    pub(crate) fn direct(&self) -> DirectIo {
        lock(&self.state).direct.clone()
    }

    /// Takes the next segment, waiting for the preparer at most as long as configured.
    pub(crate) fn take(&self) -> Result<Prepared, NoSegment> {
        if self.config.inline {
            self.prepare_if_empty().map_err(NoSegment::Failed)?;
        }
        let until = Instant::now() + self.config.patience;
        let mut state = lock(&self.state);
        loop {
            if let Some(failure) = &state.failed {
                return Err(NoSegment::Failed(failure.clone()));
            }
            if let Some(prepared) = state.ready.pop_front() {
                self.changed.notify_all();
                return Ok(prepared);
            }
            let left = until.saturating_duration_since(Instant::now());
            if state.full || state.closed || self.config.inline || left.is_zero() {
                return Err(NoSegment::NoSpace);
            }
            let wait = self.changed.wait_timeout(state, left);
            state = wait.unwrap_or_else(std::sync::PoisonError::into_inner).0;
        }
    }

    /// Waits until there are more than `seen` segments or it is certain that there won't be;
    /// `false` if the preparer did not answer in time.
    pub(crate) fn wait_for_more(&self, seen: usize) -> bool {
        if self.config.inline {
            // A failure is remembered, and met by the commit.
            return self.prepare_if_empty().is_ok();
        }
        let until = Instant::now() + self.config.patience;
        let mut state = lock(&self.state);
        loop {
            let idle = state.ready.len() >= self.config.ahead;
            let over = state.full || state.closed || state.failed.is_some();
            if state.ready.len() > seen || idle || over {
                return true;
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            let wait = self.changed.wait_timeout(state, left);
            state = wait.unwrap_or_else(std::sync::PoisonError::into_inner).0;
        }
    }

    /// Prepares one segment if there is none. A full disk is remembered, not an error.
    pub(crate) fn prepare_if_empty(&self) -> Result<(), Failure> {
        if lock(&self.state).ready.is_empty() {
            self.prepare()
        } else {
            Ok(())
        }
    }

    /// Prepares one segment; a full disk is remembered, any other failure is for good.
    fn prepare(&self) -> Result<(), Failure> {
        let seq = lock(&self.state).next_seq;
        let made = self.make(seq);
        let mut state = lock(&self.state);
        let result = match made {
            Ok(Some(prepared)) => {
                state.next_seq = seq + 1;
                drop(state);
                self.add(prepared);
                return Ok(());
            }
            Ok(None) => {
                state.full = true;
                Ok(())
            }
            Err(failure) => {
                state.failed = Some(failure.clone());
                Err(failure)
            }
        };
        self.changed.notify_all();
        result
    }

    /// `None` when the disk has no space; nothing is left behind then. `None` too when there was no file
    /// descriptor: that passes, nothing is acknowledged or read of a segment that is being made, and the
    /// next attempt makes it from the beginning.
    fn make(&self, seq: u64) -> Result<Option<Prepared>, Failure> {
        match self.make_once(seq) {
            Err(failure) if failure.is_no_descriptor() => {
                let (operation, object) = (failure.operation, &failure.object);
                tracing::warn!(lane = %self.lane, operation, object, error = %failure.source,
                    "no journal segment can be prepared for now");
                Ok(None)
            }
            made => made,
        }
    }

    fn make_once(&self, seq: u64) -> Result<Option<Prepared>, Failure> {
        let name = store::preparing_name(self.lane, seq);
        let last = store::segment_name(self.lane, seq);
        let file = match self
            .disk
            .create(&name)
            .map_err(Failure::of("create", &name))
        {
            Ok(file) => file,
            Err(failure) if failure.is_no_space() => return Ok(None),
            Err(failure) => return Err(failure),
        };
        let filled = self.fill(file.as_ref(), &name);
        drop(file);
        let named = filled.and_then(|()| {
            self.disk
                .rename(&name, &last)
                .map_err(Failure::of("rename", &name))
        });
        match named {
            Ok(()) => {}
            Err(failure) if failure.is_no_space() => {
                self.disk
                    .remove(&name)
                    .map_err(Failure::of("remove", &name))?;
                return Ok(None);
            }
            Err(failure) => return Err(failure),
        }
        self.disk
            .sync_dir()
            .map_err(Failure::of("sync directory of", &last))?;
        let file = self
            .disk
            .open(&last, self.lane.access())
            .map_err(Failure::of("open", &last))?;
        let granule = granule_for(&file.direct());
        Ok(Some(Prepared {
            seq,
            file,
            granule,
            len: self.config.segment_len,
        }))
    }

    /// Real zeros, not only an allocation: overwriting them later changes no extent's state.
    fn fill(&self, file: &dyn BlockFile, name: &str) -> Result<(), Failure> {
        let len = self.config.segment_len;
        file.allocate(len).map_err(Failure::of("allocate", name))?;
        let zeros = vec![0; CHUNK_BYTES.min(usize::try_from(len).unwrap_or(CHUNK_BYTES))];
        let mut offset = 0;
        while offset < len {
            let left = usize::try_from(len - offset)
                .unwrap_or(usize::MAX)
                .min(zeros.len());
            // Going on after a short write is no retry: nothing here is acknowledged or read.
            let written = file
                .write_at(&zeros[..left], offset)
                .map_err(Failure::of("zero", name))?;
            if written == 0 {
                let error = std::io::Error::from_raw_os_error(libc::ENOSPC);
                return Err(Failure::of("zero", name)(error));
            }
            offset += written as u64;
        }
        file.sync_all().map_err(Failure::of("sync", name))?;
        if self.lane.access() == Access::Direct {
            file.drop_cache()
                .map_err(Failure::of("drop the cache of", name))?;
        }
        Ok(())
    }

    /// The preparer's thread: keeps `ahead` segments ready until the pool is closed or fails.
    pub(crate) fn run(&self) {
        loop {
            {
                let mut state = lock(&self.state);
                while !state.closed && state.failed.is_none() {
                    if state.full {
                        let wait = self.changed.wait_timeout(state, self.config.space_retry);
                        state = wait.unwrap_or_else(std::sync::PoisonError::into_inner).0;
                        break;
                    }
                    if state.ready.len() < self.config.ahead {
                        break;
                    }
                    let wait = self.changed.wait(state);
                    state = wait.unwrap_or_else(std::sync::PoisonError::into_inner);
                }
                if state.closed || state.failed.is_some() {
                    return;
                }
                if state.ready.len() >= self.config.ahead {
                    continue;
                }
            }
            if let Err(failure) = self.prepare() {
                tracing::error!(lane = %self.lane, operation = failure.operation,
                    object = failure.object, error = %failure.source,
                    "cannot prepare a journal segment");
                return;
            }
        }
    }

    /// The failure of the preparer, if it has failed.
    pub(crate) fn failure(&self) -> Option<Failure> {
        lock(&self.state).failed.clone()
    }

    /// Ends the preparer and every wait for it.
    pub(crate) fn close(&self) {
        lock(&self.state).closed = true;
        self.changed.notify_all();
    }
}
