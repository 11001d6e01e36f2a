//! A cgroup v2 of a test's own, gone afterwards with everything in it. For the VM.

use std::{
    fs::{self, File},
    io::{self, Write},
    os::{fd::AsRawFd, unix::fs::MetadataExt, unix::process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};

use crate::process::spawn;

/// The mount.
pub const ROOT: &str = "/sys/fs/cgroup";
/// Whatever a test does, it stays below this many processes unless it says otherwise.
const PIDS_MAX: &str = "512";
/// For emptying one that is removed.
const EMPTY_WITHIN: Duration = Duration::from_secs(10);

/// A cgroup v2, removed on drop.
#[derive(Debug)]
pub struct Cgroup {
    dir: PathBuf,
    children: Vec<Child>,
}

impl Cgroup {
    /// Makes a cgroup at a path below the mount, such as `tests/hog`; parents that don't exist are
    /// made and kept, with every controller handed down. `pids.max` is 512 until set otherwise.
    pub fn make(path: &str) -> anyhow::Result<Self> {
        let root = Path::new(ROOT);
        let path = path.trim_matches('/');
        if path.is_empty() || path.split('/').any(|part| part == "..") {
            bail!("{path:?} is not a path below {ROOT}");
        }
        if !root.join("cgroup.controllers").is_file() {
            bail!("{ROOT} is not cgroup v2: run this in `cargo xtask vm`");
        }
        let parent = Path::new(path).parent().unwrap_or(Path::new(""));
        let mut dir = root.to_owned();
        for part in parent.components() {
            dir.push(part);
            make_dir(&dir)?;
            write(
                &dir.join("cgroup.subtree_control"),
                "+cpu +memory +pids +io",
            )?;
        }
        let dir = root.join(path);
        make_dir(&dir)?;
        let cgroup = Self {
            dir,
            children: Vec::new(),
        };
        cgroup.set("pids.max", PIDS_MAX)?;
        Ok(cgroup)
    }

    /// Its path below the mount, with the leading slash, as the agent writes it.
    pub fn path(&self) -> String {
        let below = self.dir.strip_prefix(ROOT).unwrap_or(&self.dir);
        format!("/{}", below.display())
    }

    /// Its folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Its id: the inode of its folder.
    pub fn id(&self) -> anyhow::Result<u64> {
        Ok(fs::metadata(&self.dir)
            .with_context(|| format!("cannot look at {}", self.dir.display()))?
            .ino())
    }

    /// Writes one of its files.
    pub fn set(&self, file: &str, value: &str) -> anyhow::Result<()> {
        write(&self.dir.join(file), value)
    }

    /// Reads one of its files, without the last newline.
    pub fn get(&self, file: &str) -> anyhow::Result<String> {
        let file = self.dir.join(file);
        let text =
            fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
        Ok(text.trim_end().to_owned())
    }

    /// Processes in it now.
    pub fn pids(&self) -> anyhow::Result<Vec<u32>> {
        Ok(self
            .get("cgroup.procs")?
            .lines()
            .filter_map(|pid| pid.parse().ok())
            .collect())
    }

    /// Starts a command inside; its output goes nowhere. It ends with the cgroup or with us, and by
    /// SIGALRM after `at_most`, should the test hang. Returns its process id.
    pub fn spawn(&mut self, mut command: Command, at_most: Duration) -> anyhow::Result<u32> {
        let program = PathBuf::from(command.get_program());
        let file = self.dir.join("cgroup.procs");
        let procs = File::options()
            .write(true)
            .open(&file)
            .with_context(|| format!("cannot open {}", file.display()))?;
        let seconds = u32::try_from(at_most.as_secs().max(1)).unwrap_or(u32::MAX);
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        // SAFETY: between fork and exec only write(2) and alarm(2) are called, both
        // async-signal-safe; `procs` is moved into the closure and so stays open.
        unsafe {
            command.pre_exec(move || {
                // "0" is the writer itself: it moves before it becomes the program.
                if libc::write(procs.as_raw_fd(), c"0".as_ptr().cast(), 1) != 1 {
                    return Err(io::Error::last_os_error());
                }
                // An alarm survives exec and ends a program that does not handle it.
                libc::alarm(seconds);
                Ok(())
            });
        }
        let child = spawn(command).with_context(|| {
            format!(
                "cannot start {} in {}",
                program.display(),
                self.dir.display()
            )
        })?;
        let pid = child.id();
        self.children.push(child);
        Ok(pid)
    }

    /// Kills everything in it.
    pub fn kill(&self) -> anyhow::Result<()> {
        self.set("cgroup.kill", "1")
    }

    /// Kills everything in it and below, and removes it.
    pub fn remove(mut self) -> anyhow::Result<()> {
        self.clear()
    }

    fn clear(&mut self) -> anyhow::Result<()> {
        if !self.dir.is_dir() {
            return Ok(());
        }
        // A frozen process does not die.
        self.set("cgroup.freeze", "0")?;
        self.kill()?;
        for mut child in self.children.drain(..) {
            child.wait().context("cannot wait for a child")?;
        }
        let begun = Instant::now();
        while let Err(error) = fs::remove_dir(&self.dir) {
            if begun.elapsed() >= EMPTY_WITHIN {
                return Err(error).with_context(|| format!("cannot remove {}", self.dir.display()));
            }
            thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        if let Err(error) = self.clear() {
            eprintln!("{error:#}");
        }
    }
}

fn make_dir(dir: &Path) -> anyhow::Result<()> {
    match fs::create_dir(dir) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            Err(error).with_context(|| format!("cannot make {}", dir.display()))
        }
        _ => Ok(()),
    }
}

fn write(file: &Path, value: &str) -> anyhow::Result<()> {
    // One write, as the kernel wants it.
    File::options()
        .write(true)
        .open(file)
        .and_then(|mut open| open.write_all(value.as_bytes()))
        .with_context(|| format!("cannot write {value:?} to {}", file.display()))
}

/// Moves this process into the cgroup of this directory.
pub fn move_to(dir: &Path) -> anyhow::Result<()> {
    let file = dir.join("cgroup.procs");
    fs::write(&file, "0").with_context(|| format!("cannot move to {}", dir.display()))
}

/// Kills everything in a cgroup and its children, and removes them.
pub fn empty(dir: &Path, within: Duration) -> anyhow::Result<()> {
    fs::write(dir.join("cgroup.kill"), "1")
        .with_context(|| format!("cannot empty {}", dir.display()))?;
    let begun = Instant::now();
    loop {
        for child in fs::read_dir(dir)?.flatten().map(|entry| entry.path()) {
            if child.is_dir() {
                // Not empty yet: again below.
                fs::remove_dir(&child).unwrap_or_default();
            }
        }
        match fs::remove_dir(dir) {
            Ok(()) => return Ok(()),
            Err(error) if begun.elapsed() > within => {
                return Err(error).with_context(|| format!("cannot remove {}", dir.display()));
            }
            Err(_) => thread::sleep(Duration::from_millis(20)),
        }
    }
}
