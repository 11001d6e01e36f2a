//! Cgroups by directory handle: found by path, identified by id, read and written only through the
//! handle, so that a path which has been reused meanwhile cannot lead to somebody else.
//!
//! cgroups-rs gives the values ([`MaxValue`]). Its own file access is not used here: it addresses
//! cgroups by path below a hard-coded `/sys/fs/cgroup`, follows links, and its `create` enables every
//! controller on every ancestor and ignores the errors.

mod hierarchy;

use std::{
    fmt, fs,
    io::{self, Read, Write},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

pub use cgroups_rs::fs::MaxValue;
pub use hierarchy::Hierarchy;
use rustix::{
    fs::{Access, AtFlags, Dir, FileType, FsWord, Mode, OFlags},
    io::Errno,
};

use crate::incident::CgroupId;
#[cfg(test)]
use crate::resilience::simulated;

/// Longest file that is read whole; `cgroup.procs` is read up to its own bound.
const FILE_BYTES_MAX: u64 = 64 * 1024;
/// Deepest path; the kernel's own `cgroup.max.depth` is rarely above a handful.
const DEPTH_MAX: usize = 64;
/// Bytes of `cgroup.procs` read: 7 digits and a newline each for [`PROCS_MAX`].
const PROCS_BYTES_MAX: u64 = 8 * PROCS_MAX as u64;
/// Most processes of one cgroup and all below it that are looked at.
pub const PROCS_MAX: usize = 65_536;
/// Most cgroups of one subtree that are looked at.
pub const SUBTREE_MAX: usize = 4_096;
/// `CGROUP2_SUPER_MAGIC` of `linux/magic.h`.
const CGROUP2_MAGIC: FsWord = 0x6367_7270;

/// What can go wrong with a cgroup; names it.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    /// No cgroup2 mount.
    #[error(
        "no cgroup2 filesystem is mounted: mount one at /sys/fs/cgroup, or boot with \
         systemd.unified_cgroup_hierarchy=1"
    )]
    NoMount,
    /// Not a path below the mount.
    #[error(
        "{path:?} is not a path of a cgroup: it must begin with / and have no empty, . or .. part"
    )]
    BadPath {
        /// As given.
        path: String,
    },
    /// Removed.
    #[error("cgroup {path:?} is gone")]
    Gone {
        /// Its path.
        path: String,
    },
    /// Removed, and another one took its path.
    #[error("cgroup {path:?} has been replaced: id {wanted} was meant, {found} is there now")]
    Reused {
        /// Its path.
        path: String,
        /// Id that was meant.
        wanted: u64,
        /// Id that is there.
        found: u64,
    },
    /// The file isn't there: its controller is not enabled.
    #[error("cgroup {path:?} has no {file}: its controller is not enabled there")]
    NoFile {
        /// The cgroup.
        path: String,
        /// The file.
        file: String,
    },
    /// More than is looked at.
    #[error("cgroup {path:?} has more than {bound} {what}")]
    TooMany {
        /// The cgroup.
        path: String,
        /// Processes or cgroups.
        what: &'static str,
        /// The bound.
        bound: usize,
    },
    /// A process of it has ended, or another one has its number now.
    #[error("process {pid} has ended")]
    ProcessGone {
        /// Its number.
        pid: u32,
    },
    /// The kernel refused something about a process of it.
    #[error("cannot {operation} process {pid}: {source}")]
    Process {
        /// `read`, `write`, `signal`, …
        operation: &'static str,
        /// Its number.
        pid: u32,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The kernel refused.
    #[error("cannot {operation} {file} of cgroup {path:?}: {source}")]
    Io {
        /// `read`, `write`, …
        operation: &'static str,
        /// The file, or `.` for the directory.
        file: String,
        /// The cgroup.
        path: String,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Marks that systemd sets on what it delegates (its "Control Group APIs and Delegation").
const DELEGATED: [&str; 2] = ["trusted.delegate", "user.delegate"];

/// Whether a cgroup's directory is delegated to whoever runs in it.
pub fn delegated(dir: BorrowedFd<'_>) -> bool {
    DELEGATED.iter().any(|mark| {
        let mut value = [0; 8];
        rustix::fs::fgetxattr(dir, *mark, &mut value)
            .is_ok_and(|len| value.get(..len) == Some(b"1"))
    })
}

/// Whether a filesystem is what it must be; in the simulation a plain folder will do.
fn is_cgroup2(magic: FsWord) -> bool {
    #[cfg(test)]
    if simulated::state() != simulated::State::Off {
        return true;
    }
    magic == CGROUP2_MAGIC
}

fn parts(path: &str) -> Result<Vec<&str>, CgroupError> {
    let bad = || CgroupError::BadPath {
        path: path.to_owned(),
    };
    let rest = path.strip_prefix('/').ok_or_else(bad)?;
    if rest.is_empty() {
        return Ok(Vec::new());
    }
    let parts: Vec<&str> = rest.split('/').collect();
    let plain =
        |part: &&str| !part.is_empty() && **part != *"." && **part != *".." && !part.contains('\0');
    if parts.len() > DEPTH_MAX || !parts.iter().all(plain) {
        return Err(bad());
    }
    Ok(parts)
}

fn open_dir(at: BorrowedFd<'_>, name: &str, path: &str) -> Result<OwnedFd, CgroupError> {
    let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    rustix::fs::openat(at, name, flags, Mode::empty()).map_err(|errno| match errno {
        Errno::NOENT | Errno::NODEV => CgroupError::Gone {
            path: path.to_owned(),
        },
        errno => failed("open", ".", path, errno),
    })
}

fn failed(operation: &'static str, file: &str, path: &str, errno: Errno) -> CgroupError {
    CgroupError::Io {
        operation,
        file: file.to_owned(),
        path: path.to_owned(),
        source: errno.into(),
    }
}

/// One cgroup, held open. The handle stays with this very cgroup whatever becomes of its path.
pub struct Cgroup {
    dir: OwnedFd,
    id: CgroupId,
    path: String,
}

impl fmt::Debug for Cgroup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Cgroup({:?}, id {})", self.path, self.id.0)
    }
}

impl Cgroup {
    fn from_dir(dir: OwnedFd, path: &str) -> Result<Self, CgroupError> {
        let stat = rustix::fs::fstat(&dir).map_err(|errno| failed("stat", ".", path, errno))?;
        let kind = rustix::fs::fstatfs(&dir).map_err(|errno| failed("stat", ".", path, errno))?;
        // Something else may be mounted inside the hierarchy.
        if !is_cgroup2(kind.f_type) {
            return Err(CgroupError::BadPath {
                path: path.to_owned(),
            });
        }
        Ok(Self {
            dir,
            id: CgroupId(stat.st_ino),
            path: path.to_owned(),
        })
    }

    /// Its id: the inode of its directory.
    pub fn id(&self) -> CgroupId {
        self.id
    }

    /// Path below the mount by which it was opened.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The directory's handle, for `CLONE_INTO_CGROUP`.
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }

    fn open_file(
        &self,
        operation: &'static str,
        file: &str,
        flags: OFlags,
    ) -> Result<fs::File, CgroupError> {
        let flags = flags | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        rustix::fs::openat(&self.dir, file, flags, Mode::empty())
            .map(fs::File::from)
            .map_err(|errno| self.explain(operation, file, errno.into()))
    }

    /// Tells a missing controller, a removed cgroup and everything else apart.
    fn explain(&self, operation: &'static str, file: &str, source: io::Error) -> CgroupError {
        let path = self.path.clone();
        match Errno::from_io_error(&source) {
            Some(Errno::NOENT) if self.has("cgroup.procs") => CgroupError::NoFile {
                path,
                file: file.to_owned(),
            },
            Some(Errno::NOENT | Errno::NODEV) => CgroupError::Gone { path },
            _ => CgroupError::Io {
                operation,
                file: file.to_owned(),
                path,
                source,
            },
        }
    }

    /// Whether it has this file.
    pub fn has(&self, file: &str) -> bool {
        rustix::fs::accessat(&self.dir, file, Access::EXISTS, AtFlags::empty()).is_ok()
    }

    /// Whether this process may write a file; says why not.
    pub fn check_writable(&self, file: &str) -> Result<(), CgroupError> {
        rustix::fs::accessat(&self.dir, file, Access::WRITE_OK, AtFlags::EACCESS)
            .map_err(|errno| self.explain("write", file, errno.into()))
    }

    /// A file's text without its last newline.
    pub fn read(&self, file: &str) -> Result<String, CgroupError> {
        let mut text = self.read_up_to(file, FILE_BYTES_MAX)?;
        text.truncate(text.trim_end().len());
        Ok(text)
    }

    fn read_up_to(&self, file: &str, bytes_max: u64) -> Result<String, CgroupError> {
        let mut text = String::new();
        self.open_file("read", file, OFlags::RDONLY)?
            .take(bytes_max)
            .read_to_string(&mut text)
            .map_err(|source| self.explain("read", file, source))?;
        Ok(text)
    }

    /// Writes a file by one call. Lowering `memory.high` or `memory.max` reclaims within that call
    /// (and kills, for `memory.max`); the kernel gives up by itself when nothing is left to reclaim.
    pub fn write(&self, file: &str, value: &str) -> Result<(), CgroupError> {
        let wrote = self
            .open_file("write", file, OFlags::WRONLY)?
            .write(value.as_bytes())
            .map_err(|source| self.explain("write", file, source))?;
        if wrote == value.len() {
            return Ok(());
        }
        Err(self.explain("write", file, io::ErrorKind::WriteZero.into()))
    }

    /// A limit such as `pids.max`.
    pub fn read_max(&self, file: &str) -> Result<MaxValue, CgroupError> {
        let text = self.read(file)?;
        parse_max(&text).ok_or_else(|| self.odd(file))
    }

    /// A plain number such as `memory.current`.
    pub fn read_number(&self, file: &str) -> Result<u64, CgroupError> {
        self.read(file)?.parse().map_err(|_| self.odd(file))
    }

    fn odd(&self, file: &str) -> CgroupError {
        self.explain("understand", file, io::ErrorKind::InvalidData.into())
    }

    /// Whether a controller is enabled for its children.
    pub fn enables(&self, controller: &str) -> Result<bool, CgroupError> {
        let enabled = self.read("cgroup.subtree_control")?;
        Ok(enabled.split(' ').any(|one| one == controller))
    }

    /// Whether it or anything below it has live processes.
    pub fn populated(&self) -> Result<bool, CgroupError> {
        Ok(self.read("cgroup.events")?.contains("populated 1"))
    }

    /// Kills every process in it and below it, new ones included.
    pub fn kill(&self) -> Result<(), CgroupError> {
        self.write("cgroup.kill", "1")
    }

    /// Names of its children.
    pub fn children(&self) -> Result<Vec<String>, CgroupError> {
        let refused = |errno| failed("list", ".", &self.path, errno);
        let mut names = Vec::new();
        for entry in Dir::read_from(&self.dir).map_err(refused)? {
            let entry = entry.map_err(refused)?;
            let name = entry.file_name();
            if entry.file_type() == FileType::Directory && name != c"." && name != c".." {
                // A name that is not UTF-8 still names a cgroup: it must not hide what is in it.
                let name = name.to_str().map_err(|_| CgroupError::BadPath {
                    path: format!("{}/{}", self.path, name.to_string_lossy()),
                })?;
                names.push(name.to_owned());
            }
            if names.len() > SUBTREE_MAX {
                return Err(self.too_many("cgroups", SUBTREE_MAX));
            }
        }
        Ok(names)
    }

    /// A child by name.
    pub fn child(&self, name: &str) -> Result<Self, CgroupError> {
        let path = format!("{}/{name}", self.path.trim_end_matches('/'));
        parts(&path)?;
        Self::from_dir(open_dir(self.dir.as_fd(), name, &path)?, &path)
    }

    /// Makes a child.
    pub fn make_child(&self, name: &str) -> Result<Self, CgroupError> {
        rustix::fs::mkdirat(&self.dir, name, Mode::from_raw_mode(0o755))
            .map_err(|errno| failed("make", name, &self.path, errno))?;
        self.child(name)
    }

    /// Removes an empty child.
    pub fn remove_child(&self, name: &str) -> Result<(), CgroupError> {
        rustix::fs::unlinkat(&self.dir, name, AtFlags::REMOVEDIR)
            .map_err(|errno| failed("remove", name, &self.path, errno))
    }

    fn too_many(&self, what: &'static str, bound: usize) -> CgroupError {
        CgroupError::TooMany {
            path: self.path.clone(),
            what,
            bound,
        }
    }

    /// Ids of all processes in it and below it, as this process' pid namespace numbers them (0 for
    /// one outside). Fails rather than leaving some out.
    pub fn processes(&self) -> Result<Vec<u32>, CgroupError> {
        let mut found = self.own_processes()?;
        let mut todo: Vec<Self> = Vec::new();
        self.push_children(&mut todo)?;
        let mut seen = 0;
        while let Some(next) = todo.pop() {
            seen += 1;
            if seen + todo.len() > SUBTREE_MAX {
                return Err(self.too_many("cgroups below it", SUBTREE_MAX));
            }
            match next.own_processes() {
                // A threaded child: its processes are listed at the domain above it.
                Err(CgroupError::Io { source, .. })
                    if Errno::from_io_error(&source) == Some(Errno::OPNOTSUPP) => {}
                Err(CgroupError::Gone { .. }) => continue,
                other => found.extend(other?),
            }
            if found.len() > PROCS_MAX {
                return Err(self.too_many("processes", PROCS_MAX));
            }
            next.push_children(&mut todo)?;
        }
        Ok(found)
    }

    fn push_children(&self, todo: &mut Vec<Self>) -> Result<(), CgroupError> {
        for name in self.children()? {
            match self.child(&name) {
                Ok(child) => todo.push(child),
                Err(CgroupError::Gone { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn own_processes(&self) -> Result<Vec<u32>, CgroupError> {
        let text = self.read_up_to("cgroup.procs", PROCS_BYTES_MAX)?;
        if text.len() as u64 == PROCS_BYTES_MAX {
            return Err(self.too_many("processes", PROCS_MAX));
        }
        text.lines()
            .map(|line| line.parse().map_err(|_| self.odd("cgroup.procs")))
            .collect()
    }
}

/// `max` or a number, as limits are written.
pub fn parse_max(text: &str) -> Option<MaxValue> {
    match text {
        "max" => Some(MaxValue::Max),
        number => number.parse().ok().map(MaxValue::Value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_lead_only_downwards() {
        assert_eq!(parts("/").unwrap(), Vec::<&str>::new());
        assert_eq!(parts("/a/b c\n/d").unwrap(), ["a", "b c\n", "d"]);
        let deep = "/a".repeat(DEPTH_MAX + 1);
        for bad in [
            "", "a", "/..", "/a/../b", "/a//b", "/a/", "/./a", "/a\0b", &deep,
        ] {
            assert!(
                matches!(parts(bad), Err(CgroupError::BadPath { .. })),
                "{bad:?}"
            );
        }
    }

    #[test]
    fn limits_are_read_as_the_kernel_writes_them() {
        assert_eq!(parse_max("max"), Some(MaxValue::Max));
        assert_eq!(parse_max("4096"), Some(MaxValue::Value(4096)));
        assert_eq!(parse_max(""), None);
        assert_eq!(parse_max("12 34"), None);
    }
}
