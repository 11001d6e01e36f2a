//! A simulated disk with a volatile cache: at a crash, of every sector written since the last
//! sync any version survives, the one before included; names survive as a prefix of what was done
//! since the directory's last sync; space never written holds another file's remains.
//!
//! One call can be made to fail, and a crash can be set at any call.

#![allow(clippy::cast_possible_truncation, reason = "simulated disks are small")]

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::super::engine::{Engine, Pwrite};
use super::super::{LaneId, lock};
use super::{Access, BlockFile, DirectIo, Disk};

mod engine;
mod file;
mod rng;

use engine::SimEngine;
use file::{Inode, SimFile};
pub(crate) use rng::Rng;

const SECTOR: usize = 512;

/// The calls, for counting and for failing a chosen one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Call {
    Create,
    Open,
    Rename,
    Remove,
    List,
    SyncDir,
    Allocate,
    Write,
    Read,
    SyncData,
    SyncAll,
    DropCache,
}

impl Call {
    pub(crate) const ALL: [Self; 12] = [
        Self::Create,
        Self::Open,
        Self::Rename,
        Self::Remove,
        Self::List,
        Self::SyncDir,
        Self::Allocate,
        Self::Write,
        Self::Read,
        Self::SyncData,
        Self::SyncAll,
        Self::DropCache,
    ];
}

/// What a failing call does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum How {
    Errno(i32),
    /// A write that takes only half.
    Short,
}

#[derive(Clone, Debug)]
enum NameChange {
    Link(String, u64),
    Rename(String, String),
    Unlink(String),
}

struct State {
    names: BTreeMap<String, u64>,
    durable_names: BTreeMap<String, u64>,
    changes: Vec<NameChange>,
    inodes: BTreeMap<u64, Inode>,
    next_inode: u64,
    calls: BTreeMap<Call, u64>,
    total: u64,
    crash_at: Option<u64>,
    crashed: bool,
    fault: Option<(Call, u64, How)>,
    /// The fault has happened.
    faulted: bool,
    capacity: u64,
    direct: DirectIo,
    /// Calls that answer and do nothing: what a log without them would be.
    lies: Vec<Call>,
    /// How long a sync takes, for tests of what gathers meanwhile.
    sync_time: Duration,
    /// The safe lane may have several batches in flight.
    several: bool,
    rng: Rng,
}

/// The disk; clones are the same disk.
#[derive(Clone)]
pub(crate) struct SimDisk {
    state: Arc<Mutex<State>>,
}

impl SimDisk {
    pub(crate) fn new(seed: u64) -> Self {
        let state = State {
            names: BTreeMap::new(),
            durable_names: BTreeMap::new(),
            changes: Vec::new(),
            inodes: BTreeMap::new(),
            next_inode: 1,
            calls: BTreeMap::new(),
            total: 0,
            crash_at: None,
            crashed: false,
            fault: None,
            faulted: false,
            capacity: u64::MAX,
            direct: DirectIo::Used { alignment: 512 },
            lies: super::super::tests::mutation::lies(),
            sync_time: Duration::ZERO,
            several: false,
            rng: Rng(seed),
        };
        Self {
            state: Arc::new(Mutex::new(state)),
        }
    }

    /// Power fails in the middle of the `n`-th call from now (1 is the next).
    pub(crate) fn crash_after(&self, n: u64) {
        let mut state = lock(&self.state);
        state.crash_at = Some(state.total + n);
    }

    /// The `k`-th call of this kind from now (1 is the next) fails.
    pub(crate) fn fail(&self, call: Call, k: u64, how: How) {
        let mut state = lock(&self.state);
        let done = state.calls.get(&call).copied().unwrap_or(0);
        state.fault = Some((call, done + k, how));
        state.faulted = false;
    }

    pub(crate) fn faulted(&self) -> bool {
        lock(&self.state).faulted
    }

    pub(crate) fn crashed(&self) -> bool {
        lock(&self.state).crashed
    }

    pub(crate) fn set_capacity(&self, bytes: u64) {
        lock(&self.state).capacity = bytes;
    }

    pub(crate) fn set_direct(&self, direct: DirectIo) {
        lock(&self.state).direct = direct;
    }

    pub(crate) fn set_sync_time(&self, time: Duration) {
        lock(&self.state).sync_time = time;
    }

    /// Lets the lanes opened from now on have several batches in flight.
    pub(crate) fn set_several(&self, several: bool) {
        lock(&self.state).several = several;
    }

    pub(crate) fn count(&self, call: Call) -> u64 {
        lock(&self.state).calls.get(&call).copied().unwrap_or(0)
    }

    /// Power comes back: decides what survived.
    pub(crate) fn power_cycle(&self) {
        let mut state = lock(&self.state);
        let state = &mut *state;
        let kept = state.rng.below(state.changes.len() + 1);
        let changes: Vec<_> = state.changes.drain(..).take(kept).collect();
        for change in changes {
            apply(&mut state.durable_names, change);
        }
        state.names = state.durable_names.clone();
        let live: Vec<u64> = state.names.values().copied().collect();
        state.inodes.retain(|inode, _| live.contains(inode));
        for inode in state.inodes.values_mut() {
            inode.power_cycle(&mut state.rng);
        }
        Self::restart_in(state);
    }

    /// The process ends and begins again; the cache stays.
    pub(crate) fn restart(&self) {
        Self::restart_in(&mut lock(&self.state));
    }

    fn restart_in(state: &mut State) {
        state.crashed = false;
        state.crash_at = None;
        state.fault = None;
    }

    /// The bytes of a file, durable or not.
    pub(crate) fn peek(&self, name: &str) -> Vec<u8> {
        let state = lock(&self.state);
        state.inodes[&state.names[name]].current.clone()
    }

    /// Replaces the bytes of a file, durably: damage from outside.
    pub(crate) fn poke(&self, name: &str, bytes: Vec<u8>) {
        let mut state = lock(&self.state);
        let inode = state.names[name];
        let durable = bytes.clone();
        let pending = BTreeMap::new();
        state.inodes.insert(
            inode,
            Inode {
                current: bytes,
                durable,
                pending,
            },
        );
    }

    pub(crate) fn names(&self) -> Vec<String> {
        lock(&self.state).names.keys().cloned().collect()
    }

    /// Counts the call and says what is to become of it.
    fn enter(state: &mut State, call: Call) -> io::Result<Entered> {
        if state.crashed {
            return Err(io::Error::other("power is off"));
        }
        state.total += 1;
        let nth = state.calls.entry(call).or_default();
        *nth += 1;
        let nth = *nth;
        if state.crash_at.is_some_and(|at| state.total >= at) {
            state.crashed = true;
            return Ok(Entered::Crashing);
        }
        match state.fault {
            Some((which, k, how)) if which == call && k == nth => {
                state.faulted = true;
                match how {
                    How::Short if call == Call::Write => Ok(Entered::Short),
                    How::Short => Ok(Entered::Normal),
                    How::Errno(errno) => Ok(Entered::Failing(errno)),
                }
            }
            _ => Ok(Entered::Normal),
        }
    }

    /// For calls that either happen or don't.
    fn simple(
        &self,
        call: Call,
        body: impl FnOnce(&mut State) -> io::Result<()>,
    ) -> io::Result<()> {
        let mut state = lock(&self.state);
        match Self::enter(&mut state, call)? {
            Entered::Normal | Entered::Short => body(&mut state),
            Entered::Failing(errno) => Err(io::Error::from_raw_os_error(errno)),
            Entered::Crashing => {
                // Happened or not: for a name the surviving prefix decides, for the rest a coin.
                if state.rng.below(2) == 0 {
                    body(&mut state)?;
                }
                Err(io::Error::other("power failed"))
            }
        }
    }
}

enum Entered {
    Normal,
    Short,
    Failing(i32),
    Crashing,
}

fn apply(names: &mut BTreeMap<String, u64>, change: NameChange) {
    match change {
        NameChange::Link(name, inode) => {
            names.insert(name, inode);
        }
        NameChange::Rename(from, to) => {
            if let Some(inode) = names.remove(&from) {
                names.insert(to, inode);
            }
        }
        NameChange::Unlink(name) => {
            names.remove(&name);
        }
    }
}

impl Disk for SimDisk {
    fn create(&self, name: &str) -> io::Result<Box<dyn BlockFile>> {
        let mut inode = 0;
        self.simple(Call::Create, |state| {
            if state.names.contains_key(name) {
                return Err(io::Error::from_raw_os_error(libc::EEXIST));
            }
            inode = state.next_inode;
            state.next_inode += 1;
            state.inodes.insert(inode, Inode::default());
            state.names.insert(name.to_owned(), inode);
            state.changes.push(NameChange::Link(name.to_owned(), inode));
            Ok(())
        })?;
        Ok(Box::new(SimFile {
            disk: self.clone(),
            inode,
            direct: DirectIo::NotWanted,
            dsync: false,
        }))
    }

    fn open(&self, name: &str, access: Access) -> io::Result<Box<dyn BlockFile>> {
        let mut opened = (0, DirectIo::NotWanted);
        self.simple(Call::Open, |state| {
            let inode = state.names.get(name).copied();
            opened.0 = inode.ok_or_else(|| io::Error::from_raw_os_error(libc::ENOENT))?;
            if access == Access::Direct {
                opened.1 = state.direct.clone();
            }
            Ok(())
        })?;
        let (inode, direct) = opened;
        let dsync = access == Access::Direct;
        Ok(Box::new(SimFile {
            disk: self.clone(),
            inode,
            direct,
            dsync,
        }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.simple(Call::Rename, |state| {
            let change = NameChange::Rename(from.to_owned(), to.to_owned());
            apply(&mut state.names, change.clone());
            state.changes.push(change);
            Ok(())
        })
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.simple(Call::Remove, |state| {
            if !state.names.contains_key(name) {
                return Err(io::Error::from_raw_os_error(libc::ENOENT));
            }
            let change = NameChange::Unlink(name.to_owned());
            apply(&mut state.names, change.clone());
            state.changes.push(change);
            Ok(())
        })
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        self.simple(Call::List, |state| {
            names = state.names.keys().cloned().collect();
            Ok(())
        })?;
        Ok(names)
    }

    fn sync_dir(&self) -> io::Result<()> {
        let mut state = lock(&self.state);
        match Self::enter(&mut state, Call::SyncDir)? {
            Entered::Normal | Entered::Short if state.lies.contains(&Call::SyncDir) => Ok(()),
            Entered::Normal | Entered::Short => {
                for change in std::mem::take(&mut state.changes) {
                    apply(&mut state.durable_names, change);
                }
                Ok(())
            }
            Entered::Failing(errno) => Err(io::Error::from_raw_os_error(errno)),
            Entered::Crashing => Err(io::Error::other("power failed")),
        }
    }

    fn engines(&self, lane: LaneId, in_flight_max: u32) -> Vec<Box<dyn Engine>> {
        let mut state = lock(&self.state);
        if state.several && lane == LaneId::Safe {
            vec![Box::new(SimEngine::new(in_flight_max, state.rng.next()))]
        } else {
            vec![Box::new(Pwrite::new(lane))]
        }
    }
}
