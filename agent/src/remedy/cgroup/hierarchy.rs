//! Where the cgroup2 hierarchy is mounted, and the way down from its root.

use std::{
    fs,
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
};

use rustix::fs::{CWD, Mode, OFlags};

use super::{Cgroup, CgroupError, failed, is_cgroup2, open_dir, parts};
use crate::incident::CgroupId;

/// The cgroup2 hierarchy of this machine.
#[derive(Debug)]
pub struct Hierarchy {
    mount: PathBuf,
    root: OwnedFd,
}

impl Hierarchy {
    /// Finds the cgroup2 mount in `/proc/self/mountinfo`.
    pub fn find() -> Result<Self, CgroupError> {
        let text = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let mount = mount_point(&text).ok_or(CgroupError::NoMount)?;
        Self::at(&mount)
    }

    /// The hierarchy mounted at `mount`.
    pub fn at(mount: &Path) -> Result<Self, CgroupError> {
        let path = mount.display().to_string();
        let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
        let root = rustix::fs::openat(CWD, mount, flags, Mode::empty())
            .map_err(|source| failed("open", ".", &path, source))?;
        let found = rustix::fs::fstatfs(&root).map_err(|e| failed("stat", ".", &path, e))?;
        if !is_cgroup2(found.f_type) {
            return Err(CgroupError::NoMount);
        }
        Ok(Self {
            mount: mount.to_owned(),
            root,
        })
    }

    /// Where it is mounted; for messages.
    pub fn mount(&self) -> &Path {
        &self.mount
    }

    /// Opens a cgroup by its path below the mount, part by part, following no link.
    pub fn open(&self, path: &str) -> Result<Cgroup, CgroupError> {
        let mut dir = open_dir(self.root.as_fd(), ".", "/")?;
        for part in parts(path)? {
            dir = open_dir(dir.as_fd(), part, path)?;
        }
        Cgroup::from_dir(dir, path)
    }

    /// Opens a cgroup and makes sure that it is still the one that was meant.
    pub fn open_same(&self, path: &str, id: CgroupId) -> Result<Cgroup, CgroupError> {
        let cgroup = self.open(path)?;
        if cgroup.id == id {
            return Ok(cgroup);
        }
        Err(CgroupError::Reused {
            path: path.to_owned(),
            wanted: id.0,
            found: cgroup.id.0,
        })
    }

    /// The root's own id.
    pub fn root_id(&self) -> Result<CgroupId, CgroupError> {
        Ok(self.open("/")?.id)
    }
}

/// The mount point of cgroup2: the whole hierarchy where there is a choice, else the first.
fn mount_point(mountinfo: &str) -> Option<PathBuf> {
    let mounts = mountinfo.lines().filter_map(|line| {
        let (left, right) = line.split_once(" - ")?;
        let mut fields = left.split(' ').skip(3);
        let (root, point) = (fields.next()?, fields.next()?);
        (right.split(' ').next()? == "cgroup2").then(|| (root == "/", unescape(point)))
    });
    let mounts: Vec<(bool, PathBuf)> = mounts.collect();
    let whole = mounts.iter().position(|(whole, _)| *whole).unwrap_or(0);
    mounts.into_iter().nth(whole).map(|(_, point)| point)
}

/// mountinfo writes space, tab, newline and backslash as three octal digits.
fn unescape(field: &str) -> PathBuf {
    let codes = [
        ("\\040", " "),
        ("\\011", "\t"),
        ("\\012", "\n"),
        ("\\134", "\\"),
    ];
    let plain = codes.iter().fold(field.to_owned(), |text, (code, plain)| {
        text.replace(code, plain)
    });
    PathBuf::from(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_whole_hierarchy_is_preferred_among_mounts() {
        let text = "\
30 25 0:26 /kubepods/pod1 /host/cg rw - cgroup2 cgroup2 rw
31 25 0:26 / /sys/fs/my\\040cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate
32 25 0:27 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu
";
        assert_eq!(mount_point(text), Some("/sys/fs/my cgroup".into()));
        let part = text.lines().next().unwrap();
        assert_eq!(mount_point(part), Some("/host/cg".into()));
        assert_eq!(mount_point("32 25 0:27 / /x rw - cgroup cgroup rw"), None);
        assert_eq!(mount_point("garbage"), None);
    }

    #[test]
    fn a_plain_folder_is_not_a_hierarchy() {
        let folder = tempfile::tempdir().unwrap();
        assert!(matches!(
            Hierarchy::at(folder.path()),
            Err(CgroupError::NoMount)
        ));
    }
}
