//! The cgroups of a run: everything below one slice, each part where it belongs.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context;
use paramedic_parts::{
    Cgroup,
    cgroup::{ROOT, empty, move_to},
};

/// Everything of a run lies below this cgroup.
const SLICE: &str = "mttr.slice";
/// For emptying it.
const EMPTY_WITHIN: Duration = Duration::from_secs(20);

/// The run's slice, and the way back to where we came from.
pub struct Slice {
    home: PathBuf,
}

impl Slice {
    /// Clears what an earlier run that was killed left behind.
    pub fn make() -> anyhow::Result<Self> {
        let own = fs::read_to_string("/proc/self/cgroup").context("cannot read our cgroup")?;
        let home = own
            .lines()
            .find_map(|line| line.strip_prefix("0::/"))
            .context("we are in no cgroup v2")?;
        let slice = Self {
            home: Path::new(ROOT).join(home),
        };
        slice.clear()?;
        // The first quota of a kernel and the end of the last one make it rewrite its own code, which
        // QEMU before 8.1 may not survive ("Oops: int3"): there is one from the start to the end.
        let keep = Self::child("quota")?;
        keep.set("cpu.max", "100000 100000")?;
        std::mem::forget(keep);
        Ok(slice)
    }

    /// A cgroup of the slice for one trial, gone when dropped.
    pub fn child(name: &str) -> anyhow::Result<Cgroup> {
        let cgroup = Cgroup::make(&format!("{SLICE}/{name}"))?;
        cgroup.set("pids.max", "max")?;
        Ok(cgroup)
    }

    /// The path of a child as the agent writes it.
    pub fn path(name: &str) -> String {
        format!("/{SLICE}/{name}")
    }

    /// Does something in a child of the slice of this `cpu.weight`: what is started by it is born
    /// there. The child stays until [`Slice::clear`].
    pub fn within<T>(
        &self,
        name: &str,
        cpu_weight: &str,
        work: impl FnOnce() -> anyhow::Result<T>,
    ) -> anyhow::Result<T> {
        let dir = Path::new(ROOT).join(SLICE).join(name);
        if !dir.is_dir() {
            // Kept: it is made with every controller handed down, and dropped as a folder only.
            let made = Self::child(name)?;
            made.set("cpu.weight", cpu_weight)?;
            std::mem::forget(made);
        }
        move_to(&dir)?;
        let done = work();
        move_to(&self.home)?;
        done
    }

    /// Kills everything in the slice and removes it.
    pub fn clear(&self) -> anyhow::Result<()> {
        let slice = Path::new(ROOT).join(SLICE);
        if !slice.is_dir() {
            return Ok(());
        }
        move_to(&self.home)?;
        empty(&slice, EMPTY_WITHIN)
    }
}
