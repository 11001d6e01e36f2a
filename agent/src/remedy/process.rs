//! What `/proc/PID` says of one process: name, program, age, threads, whether it is the kernel's.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// `PF_KTHREAD` of `linux/sched.h`, in the flags of `/proc/PID/stat`.
const PF_KTHREAD: u64 = 0x0020_0000;

/// A view of `/proc`; another folder in tests.
#[derive(Clone, Debug)]
pub struct Processes {
    proc: PathBuf,
}

/// The fields of `/proc/PID/stat` that are needed here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stat {
    /// A thread of the kernel.
    pub kernel: bool,
    /// Threads of the process.
    pub threads: u64,
    /// Start in clock ticks since boot.
    pub start_ticks: u64,
    /// Resident memory in pages.
    pub resident_pages: u64,
}

impl Processes {
    /// The machine's own.
    pub fn machine() -> Self {
        Self::at(Path::new("/proc"))
    }

    /// Below another folder.
    pub fn at(proc: &Path) -> Self {
        Self {
            proc: proc.to_owned(),
        }
    }

    fn file(&self, pid: u32, name: &str) -> PathBuf {
        self.proc.join(pid.to_string()).join(name)
    }

    /// Names that it goes by: its `comm` (15 bytes at most) and its program's file name. `None` when
    /// it has ended.
    pub fn names(&self, pid: u32) -> io::Result<Option<Vec<String>>> {
        let comm = match fs::read(self.file(pid, "comm")) {
            Ok(comm) => comm,
            Err(error) if ended(&error) => return Ok(None),
            Err(error) => return Err(error),
        };
        let mut names = vec![String::from_utf8_lossy(&comm).trim_end().to_owned()];
        if let Ok(program) = fs::read_link(self.file(pid, "exe"))
            && let Some(name) = program.file_name()
        {
            let name = name.to_string_lossy();
            // A program that was upgraded while it runs.
            names.push(name.trim_end_matches(" (deleted)").to_owned());
        }
        Ok(Some(names))
    }

    /// `None` when it has ended.
    pub fn stat(&self, pid: u32) -> io::Result<Option<Stat>> {
        match fs::read(self.file(pid, "stat")) {
            Ok(text) => parse_stat(&String::from_utf8_lossy(&text))
                .map(Some)
                .ok_or_else(|| io::ErrorKind::InvalidData.into()),
            Err(error) if ended(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Seconds since boot.
    pub fn uptime_s(&self) -> io::Result<f64> {
        let text = fs::read_to_string(self.proc.join("uptime"))?;
        let first = text.split(' ').next().and_then(|word| word.parse().ok());
        first.ok_or_else(|| io::ErrorKind::InvalidData.into())
    }

    /// A line of `/proc/meminfo` in bytes.
    pub fn meminfo_bytes(&self, key: &str) -> io::Result<u64> {
        let text = fs::read_to_string(self.proc.join("meminfo"))?;
        text.lines()
            .find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))
            .and_then(|rest| rest.trim().trim_end_matches(" kB").parse::<u64>().ok())
            .map(|kib| kib * 1024)
            .ok_or_else(|| io::ErrorKind::InvalidData.into())
    }
}

fn ended(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::ESRCH)
}

/// The name stands in parentheses and may hold anything, parentheses and newlines included.
pub(super) fn parse_stat(text: &str) -> Option<Stat> {
    let (_, rest) = text.rsplit_once(')')?;
    // From `state`, which is field 3.
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let number = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
    Some(Stat {
        kernel: number(9)? & PF_KTHREAD != 0,
        threads: number(20)?,
        start_ticks: number(22)?,
        resident_pages: number(24)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_cannot_forge_the_fields() {
        let text = "7 (a) 1 2\n) S 1 7 7 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 9 0 12345 1 2";
        let expected = Stat {
            kernel: false,
            threads: 9,
            start_ticks: 12345,
            resident_pages: 2,
        };
        assert_eq!(parse_stat(text), Some(expected));
        let kernel = "2 (kthreadd) S 0 0 0 0 -1 2129984 0 0 0 0 0 0 0 0 20 0 1 0 0 0 0 0";
        assert!(parse_stat(kernel).unwrap().kernel);
        assert_eq!(parse_stat("7 (short) S 1"), None);
    }

    #[test]
    fn this_process_knows_itself() {
        let me = Processes::machine();
        let stat = me.stat(std::process::id()).unwrap().unwrap();
        assert!(!stat.kernel && stat.threads >= 1);
        assert!(me.uptime_s().unwrap() > 0.0);
        assert!(me.meminfo_bytes("MemTotal").unwrap() > 0);
        assert!(me.names(std::process::id()).unwrap().unwrap().len() == 2);
    }

    #[test]
    fn an_ended_process_is_nobody() {
        let folder = tempfile::tempdir().unwrap();
        let processes = Processes::at(folder.path());
        assert_eq!(processes.names(4).unwrap(), None);
        assert_eq!(processes.stat(4).unwrap(), None);
    }
}
