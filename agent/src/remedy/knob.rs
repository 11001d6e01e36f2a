//! Reading and writing one changed file, whoever holds it: the target cgroup, or a process of it.

use std::{
    fs,
    io::{self, Read, Write},
    os::fd::OwnedFd,
};

use rustix::{
    fs::{CWD, Mode, OFlags},
    io::Errno,
};

use super::{
    cgroup::{Cgroup, CgroupError},
    process::parse_stat,
};
use crate::incident::Holder;

/// A line a disk, `MAJOR:MINOR rbps=… wbps=… riops=… wiops=…`; disks without a limit have none.
pub const IO_MAX: &str = "io.max";
/// Of a process: -1000 to 1000.
pub const OOM: &str = "oom_score_adj";

/// Longest file of a process that is read.
const FILE_BYTES_MAX: u64 = 4096;

/// What a changed file holds now. `like`: a value of it, which for `io.max` names the line.
pub fn read(target: &Cgroup, of: Holder, file: &str, like: &str) -> Result<String, CgroupError> {
    match of {
        Holder::Cgroup if file == IO_MAX => {
            let disk = like.split(' ').next().unwrap_or_default();
            Ok(line_of(&target.read(file)?, disk))
        }
        Holder::Cgroup => target.read(file),
        Holder::Process { pid, start_ticks } => {
            let mut text = String::new();
            Process::open(pid, start_ticks)?
                .file(file, OFlags::RDONLY)?
                .take(FILE_BYTES_MAX)
                .read_to_string(&mut text)
                .map_err(|source| explain("read", pid, source))?;
            text.truncate(text.trim_end().len());
            Ok(text)
        }
    }
}

/// Writes a value by one call.
pub fn write(target: &Cgroup, of: Holder, file: &str, value: &str) -> Result<(), CgroupError> {
    match of {
        Holder::Cgroup => target.write(file, value),
        Holder::Process { pid, start_ticks } => Process::open(pid, start_ticks)?
            .file(file, OFlags::WRONLY)?
            .write_all(value.as_bytes())
            .map_err(|source| explain("write", pid, source)),
    }
}

/// The line of one disk in `io.max`, or what its absence means.
pub fn line_of(text: &str, disk: &str) -> String {
    let mut lines = text.lines().map(str::trim_end);
    lines
        .find(|line| line.split(' ').next() == Some(disk))
        .map_or_else(
            || format!("{disk} rbps=max wbps=max riops=max wiops=max"),
            str::to_owned,
        )
}

/// A process' folder in `/proc`, held open: it stays with this very process, and answers `ESRCH` when
/// that has ended, whoever has its number then.
struct Process {
    pid: u32,
    dir: OwnedFd,
}

impl Process {
    /// Fails with [`CgroupError::ProcessGone`] where it has ended, or another has its number.
    fn open(pid: u32, start_ticks: u64) -> Result<Self, CgroupError> {
        let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
        let dir = rustix::fs::openat(CWD, format!("/proc/{pid}"), flags, Mode::empty())
            .map_err(|errno| explain("open", pid, errno.into()))?;
        let process = Self { pid, dir };
        let mut stat = String::new();
        process
            .file("stat", OFlags::RDONLY)?
            .take(FILE_BYTES_MAX)
            .read_to_string(&mut stat)
            .map_err(|source| explain("read", pid, source))?;
        if parse_stat(&stat).is_none_or(|stat| stat.start_ticks != start_ticks) {
            return Err(CgroupError::ProcessGone { pid });
        }
        Ok(process)
    }

    fn file(&self, name: &str, flags: OFlags) -> Result<fs::File, CgroupError> {
        let flags = flags | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        rustix::fs::openat(&self.dir, name, flags, Mode::empty())
            .map(fs::File::from)
            .map_err(|errno| explain("open", self.pid, errno.into()))
    }
}

fn explain(operation: &'static str, pid: u32, source: io::Error) -> CgroupError {
    match Errno::from_io_error(&source) {
        Some(Errno::NOENT | Errno::SRCH) => CgroupError::ProcessGone { pid },
        _ => CgroupError::Process {
            operation,
            pid,
            source,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_without_a_line_has_no_limit() {
        let text = "8:0 rbps=1 wbps=max riops=max wiops=max\n";
        assert_eq!(line_of(text, "8:0"), text.trim_end());
        assert_eq!(
            line_of(text, "8:1"),
            "8:1 rbps=max wbps=max riops=max wiops=max"
        );
        assert_eq!(line_of("", "8:1"), line_of(text, "8:1"));
    }

    #[test]
    fn another_process_under_the_same_number_is_nobody() {
        let pid = std::process::id();
        assert!(matches!(
            Process::open(pid, 1),
            Err(CgroupError::ProcessGone { .. })
        ));
        let own = super::super::process::Processes::machine()
            .stat(pid)
            .unwrap()
            .unwrap();
        assert!(Process::open(pid, own.start_ticks).is_ok());
    }
}
