//! The machine: a disk, a clock, and folders that stand for cgroups.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};

use crate::{
    clock::Clock,
    incident::{CgroupId, Fingerprint},
    journal::sim::{Rng, SimDisk},
    resilience::simulated,
};

/// The limited file of a cgroup: what it holds by default, and what the agent writes. Of one length,
/// because a plain file keeps the rest of a longer text.
pub(super) const FILE: &str = "cpu.weight";
pub(super) const PRIOR: &str = "100";
pub(super) const LIMITED: &str = "025";

/// Wall clock and monotonic clock by tokio's, which stands still until nothing else is to be done.
#[derive(Debug)]
pub(super) struct VirtualClock {
    base: Timestamp,
    begun: tokio::time::Instant,
}

impl VirtualClock {
    /// When this life began.
    pub(super) fn base(&self) -> Timestamp {
        self.base
    }
}

impl Clock for VirtualClock {
    fn now(&self) -> Timestamp {
        let elapsed = SignedDuration::try_from(self.monotonic()).unwrap_or_default();
        self.base + elapsed
    }

    fn monotonic(&self) -> Duration {
        self.begun.elapsed()
    }
}

/// What outlives the agent's lives.
pub(super) struct Machine {
    pub(super) disk: SimDisk,
    folder: tempfile::TempDir,
    begun: Timestamp,
    now: Timestamp,
}

impl Machine {
    pub(super) fn new(seed: u64) -> Self {
        let disk = SimDisk::new(seed);
        simulated::machine(disk.clone(), seed);
        // In memory where there is such a place: thousands of small files are made and thrown away.
        let memory = Path::new("/dev/shm");
        let folder = if memory.is_dir() {
            tempfile::tempdir_in(memory)
        } else {
            tempfile::tempdir()
        };
        let begun: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let folder = folder.unwrap();
        lay_out(folder.path());
        Self {
            disk,
            folder,
            begun,
            now: begun,
        }
    }

    pub(super) fn root(&self) -> &Path {
        self.folder.path()
    }

    pub(super) fn now(&self) -> Timestamp {
        self.now
    }

    pub(super) fn elapsed_s(&self) -> u64 {
        self.now.duration_since(self.begun).as_secs().unsigned_abs()
    }

    /// The clock of a life that begins; within its runtime.
    pub(super) fn clock(&self) -> Arc<VirtualClock> {
        Arc::new(VirtualClock {
            base: self.now,
            begun: tokio::time::Instant::now(),
        })
    }

    /// A life has ended at this time.
    pub(super) fn ended(&mut self, at: Timestamp) {
        self.now = at;
    }

    /// Folders of cgroups.
    fn cgroups(&self) -> Vec<PathBuf> {
        let listed = fs::read_dir(self.root()).unwrap();
        let paths = listed.map(|entry| entry.unwrap().path());
        paths.filter(|path| path.is_dir()).collect()
    }

    /// Paths, below the mount, of cgroups that are limited now.
    pub(super) fn limited(&self) -> Vec<String> {
        let dirs = self.cgroups().into_iter();
        let limited = dirs.filter(|dir| fs::read_to_string(dir.join(FILE)).unwrap() != PRIOR);
        limited
            .filter_map(|dir| Some(format!("/{}", dir.file_name()?.to_str()?)))
            .collect()
    }

    pub(super) fn none_is_limited(&self) -> Result<(), String> {
        let limited = self.limited();
        if limited.is_empty() {
            Ok(())
        } else {
            Err(format!("still limited: {limited:?}"))
        }
    }

    /// Time passes without an agent; after a power cut the disk and the kernel begin anew.
    pub(super) fn pass(&mut self, power_cut: bool, rng: &mut Rng) {
        if power_cut {
            self.disk.power_cycle();
            for dir in self.cgroups() {
                fs::remove_dir_all(dir).unwrap();
            }
        } else {
            self.disk.restart();
        }
        let seconds = [0, 1, 20, 400, 4000][rng.below(5)];
        self.now += SignedDuration::from_secs(seconds);
    }
}

fn lay_out(dir: &Path) {
    fs::write(dir.join("cgroup.procs"), "").unwrap();
    fs::write(dir.join(FILE), PRIOR).unwrap();
}

/// The cgroup that a label set's alerts are about, made when it is first asked for: its id, its path
/// below the mount, and what its file holds.
pub(super) fn cgroup(root: &Path, of: Fingerprint) -> (CgroupId, String, String) {
    let dir = root.join(of.to_string());
    if !dir.is_dir() {
        fs::create_dir(&dir).unwrap();
        lay_out(&dir);
    }
    let id = CgroupId(fs::metadata(&dir).unwrap().ino());
    let holds = fs::read_to_string(dir.join(FILE)).unwrap();
    (id, format!("/{of}"), holds)
}
