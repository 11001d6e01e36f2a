//! Where diagnostic commands run: a slice of their own, born inside it, with limits on CPU, memory,
//! tasks, output and time. No shell, fixed words, a clean environment, no new privileges, as nobody.
//!
//! Whatever the command does, it ends within its deadline and leaves no process and no cgroup.

mod slice;
mod spawn;

use std::{
    fs::File,
    io::{ErrorKind, Read},
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::MetadataExt,
    },
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{CWD, Mode, OFlags},
    process::{WaitId, WaitIdOptions, WaitIdStatus, waitid},
};

use super::{CgroupError, Hierarchy, SandboxConfig};
use slice::Slice;

/// After the kill: how long the dead may take.
const REAP_WITHIN: Duration = Duration::from_secs(2);

/// A program and its words. Never from outside: the catalogue's, or a test's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    /// Absolute path.
    pub path: PathBuf,
    /// Words after the program's own name.
    pub args: Vec<String>,
}

/// What a command left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Collected {
    /// `exit 0`, `signal 9`, `killed at its deadline of 5 s`, `killed at 64 KiB of output`.
    pub status: String,
    /// Standard output and standard error, in the order written; not UTF-8 is replaced.
    pub output: String,
}

/// Why a command did not run, or did not end.
#[derive(Debug, thiserror::Error)]
pub enum CollectError {
    /// Not on this machine, or no place for its slice: says why and the way out.
    #[error("{0}")]
    NotAvailable(String),
    /// The slice could not be made or removed.
    #[error("the sandbox slice: {0}")]
    Slice(#[from] CgroupError),
    /// The program was not trusted.
    #[error("{path:?} is not run: {why}")]
    Untrusted {
        /// The program.
        path: PathBuf,
        /// Why not.
        why: &'static str,
    },
    /// It could not be started or waited for.
    #[error("cannot {operation} {path:?}: {source}")]
    Process {
        /// `start`, `read the output of`, `wait for`.
        operation: &'static str,
        /// The program.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Killed, and still there.
    #[error("{path:?} was killed and is still there after 2 s: stuck in the kernel")]
    Stuck {
        /// The program.
        path: PathBuf,
    },
}

/// Runs commands, one slice each.
#[derive(Debug)]
pub struct Sandbox {
    config: SandboxConfig,
}

impl Sandbox {
    /// With these limits.
    pub fn new(config: &SandboxConfig) -> Self {
        Self {
            config: config.clone(),
        }
    }

    /// Runs a program to its end or its limits. `traceparent` is its only inherited context.
    pub fn run(
        &self,
        hierarchy: &Hierarchy,
        program: &Program,
        traceparent: &str,
    ) -> Result<Collected, CollectError> {
        let executable = trusted(&program.path)?;
        let slice = Slice::make(hierarchy, &self.config)?;
        let ran = self.run_in(&slice, &executable, program, traceparent);
        // Also after an error: nothing may be left running.
        let removed = slice.remove();
        let collected = ran?;
        removed?;
        Ok(collected)
    }

    fn run_in(
        &self,
        slice: &Slice,
        executable: &OwnedFd,
        program: &Program,
        traceparent: &str,
    ) -> Result<Collected, CollectError> {
        let process = |operation| {
            let path = program.path.clone();
            move |source| CollectError::Process {
                operation,
                path,
                source,
            }
        };
        let child = spawn::spawn(slice.cgroup(), executable, program, traceparent)
            .map_err(process("start"))?;
        let deadline = Instant::now() + Duration::from_secs(self.config.deadline_s);
        let output_max = usize::try_from(self.config.output_kib * 1024).unwrap_or(usize::MAX);
        let (output, end) = read_until(child.output, &child.pidfd, deadline, output_max)
            .map_err(process("read the output of"))?;
        // It may have ended and left others behind; or it has to end now.
        slice.kill()?;
        let code = reap(&child.pidfd)
            .map_err(process("wait for"))?
            .ok_or_else(|| CollectError::Stuck {
                path: program.path.clone(),
            })?;
        let status = match end {
            End::Itself => code,
            End::Deadline => format!("killed at its deadline of {} s", self.config.deadline_s),
            End::Output => format!("killed at {} KiB of output", self.config.output_kib),
        };
        Ok(Collected {
            status,
            output: String::from_utf8_lossy(&output).into_owned(),
        })
    }
}

/// Opens a program that only root can have put there. The handle is what is executed.
fn trusted(path: &Path) -> Result<OwnedFd, CollectError> {
    let untrusted = |why| CollectError::Untrusted {
        path: path.to_owned(),
        why,
    };
    if !path.is_absolute() {
        return Err(untrusted("its path is not absolute"));
    }
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let program = rustix::fs::openat(CWD, path, flags, Mode::empty())
        .map_err(|errno| CollectError::NotAvailable(format!("{}: {errno}", path.display())))?;
    let facts = File::from(
        program
            .try_clone()
            .map_err(|source| CollectError::Process {
                operation: "open",
                path: path.to_owned(),
                source,
            })?,
    )
    .metadata()
    .map_err(|source| CollectError::Process {
        operation: "look at",
        path: path.to_owned(),
        source,
    })?;
    if !facts.is_file() {
        return Err(untrusted("it is not a file"));
    }
    if facts.uid() != 0 || facts.mode() & 0o022 != 0 {
        return Err(untrusted("others than root may change it"));
    }
    Ok(program)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Itself,
    Deadline,
    Output,
}

/// Reads until the program ends, the deadline passes or it has written too much. A grandchild that
/// keeps the pipe open does not prolong it.
fn read_until(
    output: OwnedFd,
    pidfd: &OwnedFd,
    deadline: Instant,
    output_max: usize,
) -> std::io::Result<(Vec<u8>, End)> {
    let mut pipe = File::from(output);
    let mut kept = Vec::new();
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok((kept, End::Deadline));
        }
        // Ready when it has ended; polled first, so that what it wrote last is still read below.
        let ended = wait_ready(&pipe, pidfd, left)?;
        loop {
            let room = output_max.saturating_add(1) - kept.len();
            let mut chunk = [0; 8192];
            let size = chunk.len().min(room);
            match pipe.read(&mut chunk[..size]) {
                Ok(0) => break,
                Ok(read) => kept.extend_from_slice(&chunk[..read]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
            if kept.len() > output_max {
                kept.truncate(output_max);
                return Ok((kept, End::Output));
            }
        }
        if ended {
            return Ok((kept, End::Itself));
        }
    }
}

/// Waits for output or the end; true when the program has ended.
fn wait_ready(pipe: &File, pidfd: &OwnedFd, left: Duration) -> std::io::Result<bool> {
    let timeout = Timespec::try_from(left).map_err(|_| ErrorKind::InvalidInput)?;
    let mut ready = [
        PollFd::from_borrowed_fd(pidfd.as_fd(), PollFlags::IN),
        PollFd::from_borrowed_fd(pipe.as_fd(), PollFlags::IN),
    ];
    match poll(&mut ready, Some(&timeout)) {
        Ok(_) | Err(rustix::io::Errno::INTR) => {}
        Err(errno) => return Err(errno.into()),
    }
    let hung_up =
        ready[1].revents().contains(PollFlags::HUP) && !ready[1].revents().contains(PollFlags::IN);
    let ended = !ready[0].revents().is_empty();
    if hung_up && !ended {
        // Nobody holds the pipe any more: only the end is left to wait for.
        let mut end = [PollFd::from_borrowed_fd(pidfd.as_fd(), PollFlags::IN)];
        return match poll(&mut end, Some(&timeout)) {
            Ok(_) => Ok(!end[0].revents().is_empty()),
            Err(rustix::io::Errno::INTR) => Ok(false),
            Err(errno) => Err(errno.into()),
        };
    }
    Ok(ended)
}

/// Collects the exit status; `None` when it doesn't come.
fn reap(pidfd: &OwnedFd) -> std::io::Result<Option<String>> {
    let deadline = Instant::now() + REAP_WITHIN;
    loop {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
        match waitid(WaitId::PidFd(pidfd.as_fd()), options) {
            Ok(Some(status)) => return Ok(Some(told(&status))),
            Ok(None) if Instant::now() >= deadline => return Ok(None),
            Ok(None) => {
                let left = deadline.saturating_duration_since(Instant::now());
                let timeout = Timespec::try_from(left).map_err(|_| ErrorKind::InvalidInput)?;
                let mut end = [PollFd::from_borrowed_fd(pidfd.as_fd(), PollFlags::IN)];
                match poll(&mut end, Some(&timeout)) {
                    Ok(_) | Err(rustix::io::Errno::INTR) => {}
                    Err(errno) => return Err(errno.into()),
                }
            }
            Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

fn told(status: &WaitIdStatus) -> String {
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => format!("exit {code}"),
        (_, Some(signal)) => format!("signal {signal}"),
        _ => "ended".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_roots_own_programs_by_absolute_path_are_run() {
        assert!(matches!(
            trusted(Path::new("ps")),
            Err(CollectError::Untrusted { .. })
        ));
        assert!(matches!(
            trusted(Path::new("/usr")),
            Err(CollectError::Untrusted { .. })
        ));
        assert!(matches!(
            trusted(Path::new("/nowhere/ps")),
            Err(CollectError::NotAvailable(_))
        ));
        let folder = tempfile::tempdir().unwrap();
        let loose = folder.path().join("loose");
        std::fs::write(&loose, "").unwrap();
        let everybody = std::os::unix::fs::PermissionsExt::from_mode(0o777);
        std::fs::set_permissions(&loose, everybody).unwrap();
        assert!(matches!(
            trusted(&loose),
            Err(CollectError::Untrusted { .. })
        ));
        trusted(Path::new("/bin/true")).unwrap();
    }
}
