//! A child of the cgroup v2 root, so that the measured process has a cgroup id of its own.

use std::{fs, os::unix::fs::MetadataExt as _, path::PathBuf};

use anyhow::Context;

/// Removed at the end; processes in it go back to where the root is.
pub(crate) struct Child {
    root: PathBuf,
    path: PathBuf,
}

impl Child {
    pub(crate) fn new(name: &str) -> anyhow::Result<Self> {
        let root = mount()?;
        let path = root.join(format!("{name}-{}", std::process::id()));
        fs::create_dir(&path).with_context(|| format!("cannot make {}", path.display()))?;
        Ok(Self { root, path })
    }

    /// What the probes see of it.
    pub(crate) fn id(&self) -> anyhow::Result<u64> {
        Ok(fs::metadata(&self.path)?.ino())
    }

    /// Moves this process into it.
    pub(crate) fn enter(&self) -> anyhow::Result<()> {
        let file = self.path.join("cgroup.procs");
        fs::write(&file, "0").with_context(|| format!("cannot write {}", file.display()))
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        let members = fs::read_to_string(self.path.join("cgroup.procs")).unwrap_or_default();
        for member in members.lines() {
            // One that ended meanwhile is no trouble.
            fs::write(self.root.join("cgroup.procs"), member).unwrap_or_default();
        }
        if let Err(error) = fs::remove_dir(&self.path) {
            eprintln!("cannot remove {}: {error}", self.path.display());
        }
    }
}

fn mount() -> anyhow::Result<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    mounts
        .lines()
        .map(|line| line.split(' ').collect::<Vec<_>>())
        .find(|fields| fields.get(2) == Some(&"cgroup2"))
        .map(|fields| PathBuf::from(fields[1]))
        .context("cgroup v2 is not mounted")
}
