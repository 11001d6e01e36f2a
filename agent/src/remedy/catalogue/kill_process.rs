//! `kill-process`: ends one process, the target's largest by resident memory. Asked first (SIGTERM), then
//! made to (SIGKILL), then looked for: it counts only when it is dead. Not reversible, so it needs its
//! name in `remedy.allow`.
//!
//! The victim is its number and its start together, signalled through a pidfd that was opened before
//! both were checked: a number that has gone to another process in between hits nobody.

use std::{
    os::fd::OwnedFd,
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec},
    io::Errno,
    process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal},
};

use super::{KnobAction, Planning};
use crate::{
    incident::{ActionKind, KnobChange, Refusal},
    remedy::{
        cgroup::{Cgroup, CgroupError},
        process::Processes,
        refuse,
    },
};

/// Plans the end of one process.
#[derive(Debug)]
pub struct KillProcess;

/// Not a file: nothing can be read back from it.
pub const FILE: &str = "SIGTERM, then SIGKILL";
/// How long it has to end by itself, and then to be gone.
const TERM_WITHIN: Duration = Duration::from_secs(2);
const KILL_WITHIN: Duration = Duration::from_secs(2);

impl KnobAction for KillProcess {
    fn kind(&self) -> ActionKind {
        ActionKind::KillProcess
    }

    fn needs(&self) -> (&'static str, &'static str) {
        ("cgroup", "cgroup.procs")
    }

    fn plan(&self, planning: &Planning<'_>) -> Result<Vec<KnobChange>, Refusal> {
        let victim = planning.by_memory()?.into_iter().next().ok_or_else(|| {
            let why = format!("{:?} has no process", planning.target.path());
            refuse("gone", why)
        })?;
        let names = planning.processes.names(victim.pid).ok().flatten();
        let name = names.and_then(|names| names.into_iter().next());
        Ok(vec![KnobChange {
            of: victim.holder(),
            file: FILE.to_owned(),
            prior: name.unwrap_or_default(),
            value: "dead".to_owned(),
        }])
    }
}

/// How it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Killed {
    /// Dead.
    Dead,
    /// Still there after SIGKILL: stuck in the kernel.
    Stuck,
    /// Its number belongs to another process now, or it has left the target: nobody was signalled.
    NotThere,
}

/// Ends it, and waits until it is dead.
///
/// # Errors
/// The kernel refuses, for another reason than that nobody is there.
pub fn kill(target: &Cgroup, pid: u32, start_ticks: u64) -> Result<Killed, CgroupError> {
    let failed = |errno: Errno| CgroupError::Process {
        operation: "signal",
        pid,
        source: errno.into(),
    };
    let Some(fd) = open(pid).map_err(failed)? else {
        return Ok(Killed::NotThere);
    };
    // The handle is fixed now: what is seen of the number from here on is its owner, or nobody's.
    let start = Processes::machine()
        .stat(pid)
        .map_err(|source| CgroupError::Process {
            operation: "look at",
            pid,
            source,
        })?;
    let same = start.is_some_and(|stat| stat.start_ticks == start_ticks);
    if !same || !target.processes()?.contains(&pid) {
        return Ok(Killed::NotThere);
    }
    for (signal, within) in [(Signal::TERM, TERM_WITHIN), (Signal::KILL, KILL_WITHIN)] {
        match pidfd_send_signal(&fd, signal) {
            Ok(()) => {}
            Err(Errno::SRCH) => return Ok(Killed::Dead),
            Err(errno) => return Err(failed(errno)),
        }
        if ended(&fd, within).map_err(failed)? {
            return Ok(Killed::Dead);
        }
    }
    Ok(Killed::Stuck)
}

/// `None` where there is no such process.
fn open(pid: u32) -> Result<Option<OwnedFd>, Errno> {
    let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) else {
        return Ok(None);
    };
    match pidfd_open(pid, PidfdFlags::empty()) {
        Ok(fd) => Ok(Some(fd)),
        Err(Errno::SRCH) => Ok(None),
        Err(errno) => Err(errno),
    }
}

/// A pidfd is readable when its process has ended.
fn ended(fd: &OwnedFd, within: Duration) -> Result<bool, Errno> {
    let deadline = Instant::now() + within;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = Timespec::try_from(left).map_err(|_| Errno::INVAL)?;
        match rustix::event::poll(&mut [PollFd::new(fd, PollFlags::IN)], Some(&timeout)) {
            Ok(0) => return Ok(false),
            Ok(_) => return Ok(true),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
}
