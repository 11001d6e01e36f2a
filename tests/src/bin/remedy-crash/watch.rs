//! Answers the calls of one life and of the guardian that it has started; kills at the one that is
//! armed, before it is carried out.

use std::{
    fs,
    io::ErrorKind,
    os::{fd::OwnedFd, unix::fs::FileExt},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use paramedic_tests::{
    cgroup::ROOT,
    seccomp::{self, Call},
};
use rustix::process::{Pid, Signal, kill_process};

/// For a killed process to be gone, on an emulated CPU.
const GONE_WITHIN: Duration = Duration::from_secs(20);
/// Longest text read from a caller's memory.
const TEXT_MAX: usize = 4096;

/// Who makes a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    Agent,
    Guardian,
}

/// A place among somebody's calls, counted from 1.
///
/// The journal's writer has a thread of its own and takes together what is there: the number of its calls
/// differs by a few from run to run. The writes to cgroups and processes don't.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// The n-th call.
    Call(usize),
    /// The n-th write to a cgroup or a process.
    Effect(usize),
    /// The first call after that one.
    AfterEffect(usize),
}

impl Place {
    /// Whether the last of these calls stands there.
    fn is_last_of(self, points: &[Point]) -> bool {
        let effects = |points: &[Point]| points.iter().filter(|p| p.effect.is_some()).count();
        let Some((last, before)) = points.split_last() else {
            return false;
        };
        match self {
            Self::Call(n) => points.len() == n,
            Self::Effect(n) => last.effect.is_some() && effects(points) == n,
            Self::AfterEffect(n) => effects(before) == n,
        }
    }
}

/// Kill these at a call of somebody.
#[derive(Clone, Copy, Debug)]
pub struct Arm {
    pub whose: Who,
    pub at: Place,
    pub agent: bool,
    pub guardian: bool,
    /// With the agent dead, kill the guardian at the n-th call that it makes from then on.
    pub then_guardian: Option<usize>,
}

/// A call that changes something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Point {
    /// Its name and its file.
    pub what: String,
    /// The file and the value, of a write to a cgroup or a process.
    pub effect: Option<(String, String)>,
}

/// What was seen so far.
#[derive(Debug, Default)]
pub struct Seen {
    /// Calls are counted from when the agent has started.
    pub counting: bool,
    /// What to do, and when.
    pub arm: Option<Arm>,
    /// The call at which it was done.
    pub fired: Option<String>,
    /// Of a second kill in the same life: from which of the guardian's calls they were counted, and the
    /// call at which it was done.
    pub from: Option<usize>,
    pub fired_then: Option<String>,
    pub agent: Vec<Point>,
    pub guardian: Vec<Point>,
    /// Trouble of this test itself.
    pub trouble: Option<String>,
}

/// Of one life.
pub struct Watch {
    seen: Arc<Mutex<Seen>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Watch {
    /// Answers from now on.
    pub fn start(listener: OwnedFd, agent: u32, dir: &Path, arm: Option<Arm>) -> Self {
        let seen = Arc::new(Mutex::new(Seen {
            arm,
            ..Seen::default()
        }));
        let stop = Arc::new(AtomicBool::new(false));
        let watching = Watching {
            listener,
            agent,
            dir: dir.to_owned(),
            seen: seen.clone(),
        };
        let ends = stop.clone();
        let thread = thread::spawn(move || watching.run(&ends));
        Self {
            seen,
            stop,
            thread: Some(thread),
        }
    }

    /// What was seen so far.
    pub fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

struct Watching {
    listener: OwnedFd,
    agent: u32,
    dir: PathBuf,
    seen: Arc<Mutex<Seen>>,
}

impl Watching {
    fn run(&self, stop: &AtomicBool) {
        while !stop.load(Ordering::Relaxed) {
            match seccomp::next(&self.listener, 50) {
                Ok(None) => {}
                Ok(Some(call)) => {
                    if self.consider(&call) {
                        seccomp::let_through(&self.listener, call);
                    }
                }
                Err(error) if error.kind() == ErrorKind::NotFound => return,
                Err(error) => {
                    self.lock().trouble = Some(format!("seccomp: {error}"));
                    return;
                }
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the call may go on.
    fn consider(&self, call: &Call) -> bool {
        let Some(point) = self.describe(call) else {
            return true;
        };
        let who = if process_of(call.tid) == Some(self.agent) {
            Who::Agent
        } else {
            Who::Guardian
        };
        let mut seen = self.lock();
        if !seen.counting {
            return true;
        }
        let armed = seen.arm;
        let points = match who {
            Who::Agent => &mut seen.agent,
            Who::Guardian => &mut seen.guardian,
        };
        points.push(point.clone());
        let there = |arm: &Arm| arm.whose == who && arm.at.is_last_of(points);
        let Some(arm) = armed.filter(there) else {
            return true;
        };
        let own = match who {
            Who::Agent => arm.agent,
            Who::Guardian => arm.guardian,
        };
        if own {
            // It is never carried out.
            match who {
                Who::Agent => seen.agent.pop(),
                Who::Guardian => seen.guardian.pop(),
            };
        }
        if seen.from.is_some() {
            seen.fired_then = Some(point.what);
        } else {
            seen.fired = Some(point.what);
        }
        // Here, where nobody's next call can come before it.
        let from = seen.guardian.len();
        seen.from = arm.then_guardian.map_or(seen.from, |_| Some(from));
        seen.arm = arm.then_guardian.map(|at| Arm {
            whose: Who::Guardian,
            at: Place::Call(from.saturating_add(at)),
            agent: false,
            guardian: true,
            then_guardian: None,
        });
        drop(seen);
        let killed = self.kill(arm);
        if let Err(error) = killed {
            self.lock().trouble = Some(format!("{error:#}"));
        }
        !own
    }

    fn kill(&self, arm: Arm) -> anyhow::Result<()> {
        if arm.agent {
            kill(self.agent)?;
        }
        if arm.guardian
            && let Some(pid) = guardian(&self.dir)
        {
            kill(pid)?;
            wait_gone(pid)?;
        }
        if arm.agent {
            wait_gone(self.agent)?;
        }
        Ok(())
    }

    fn describe(&self, call: &Call) -> Option<Point> {
        let plain = |what: String| Some(Point { what, effect: None });
        let dir = self.dir.to_str()?;
        let by_path = |name: &str, at: usize| {
            let path = text(call.tid, call.args[at], TEXT_MAX)?;
            let path = path.split('\0').next()?;
            plain(format!("{name} {}", path.strip_prefix(dir)?))
        };
        match call.nr {
            #[cfg(target_arch = "x86_64")]
            libc::SYS_rename => by_path("rename", 0),
            #[cfg(target_arch = "x86_64")]
            libc::SYS_unlink => by_path("unlink", 0),
            #[cfg(target_arch = "x86_64")]
            libc::SYS_mkdir => by_path("mkdir", 0),
            #[cfg(target_arch = "x86_64")]
            libc::SYS_rmdir => by_path("rmdir", 0),
            libc::SYS_renameat | libc::SYS_renameat2 => by_path("rename", 1),
            libc::SYS_unlinkat => by_path("unlink", 1),
            libc::SYS_mkdirat => by_path("mkdir", 1),
            libc::SYS_openat => by_path("create", 1),
            libc::SYS_pidfd_send_signal => plain("signal".to_owned()),
            libc::SYS_io_uring_enter if call.args[1] > 0 => {
                plain("submit to the journal".to_owned())
            }
            libc::SYS_io_uring_enter => None,
            nr => {
                let fd = call.args[0];
                let link = fs::read_link(format!("/proc/{}/fd/{fd}", call.tid)).ok()?;
                let path = link.to_str()?;
                if let Some(own) = path.strip_prefix(dir) {
                    let name = match nr {
                        libc::SYS_fsync | libc::SYS_fdatasync => "sync",
                        libc::SYS_ftruncate | libc::SYS_fallocate => "size",
                        _ => "write",
                    };
                    return plain(format!("{name} {own}"));
                }
                let effect = path.starts_with(ROOT) || path.starts_with("/proc/");
                if nr != libc::SYS_write || !effect {
                    return None;
                }
                let length = usize::try_from(call.args[2]).ok()?.min(TEXT_MAX);
                let value = text(call.tid, call.args[1], length)?;
                let file = path.strip_prefix(ROOT).unwrap_or(path);
                Some(Point {
                    what: format!("write {file}"),
                    effect: Some((path.to_owned(), value)),
                })
            }
        }
    }
}

/// The process of a thread.
fn process_of(tid: u32) -> Option<u32> {
    let status = fs::read_to_string(format!("/proc/{tid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("Tgid:"))?;
    line.trim().parse().ok()
}

/// Of a caller's memory.
fn text(tid: u32, address: u64, length: usize) -> Option<String> {
    let memory = fs::File::open(format!("/proc/{tid}/mem")).ok()?;
    let mut bytes = vec![0; length];
    // A name near the end of a mapping is shorter than what is asked for.
    let read = memory.read_at(&mut bytes, address).ok()?;
    bytes.truncate(read);
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

/// The guardian of this folder, if one lives.
pub fn guardian(dir: &Path) -> Option<u32> {
    let text = fs::read_to_string(dir.join("leases/guardian.lock")).ok()?;
    let pid: u32 = text.trim().parse().ok()?;
    let words = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let words = String::from_utf8_lossy(&words).into_owned();
    (words.contains("guardian") && words.contains(dir.to_str()?)).then_some(pid)
}

/// `kill -9`; fine if it has ended already.
pub fn kill(pid: u32) -> anyhow::Result<()> {
    let raw = i32::try_from(pid).ok().and_then(Pid::from_raw);
    match kill_process(raw.context("no process")?, Signal::KILL) {
        Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
        Err(error) => Err(error).with_context(|| format!("cannot kill {pid}")),
    }
}

/// Until it does nothing any more: gone, or waiting for its parent to look.
pub fn wait_gone(pid: u32) -> anyhow::Result<()> {
    let begun = Instant::now();
    while begun.elapsed() < GONE_WITHIN {
        let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else {
            return Ok(());
        };
        let state = stat.rsplit_once(") ").map_or("", |(_, rest)| rest);
        if state.starts_with('Z') || state.starts_with('X') {
            return Ok(());
        }
        thread::sleep(Duration::from_millis(1));
    }
    bail!("process {pid} does not die")
}
