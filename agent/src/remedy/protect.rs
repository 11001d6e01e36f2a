//! What is never acted upon, whatever rules and configuration say (invariant 6).
//!
//! An action on a cgroup hits everything below it, so the whole subtree is looked through. What
//! cannot be looked through is refused too.

use super::{
    cgroup::{Cgroup, CgroupError, Hierarchy},
    process::Processes,
};

/// Cgroups that hold the node together, by whole path. Services below them are not meant.
const PATHS: &[&str] = &[
    "/",
    "/init.scope",
    "/system.slice",
    "/user.slice",
    "/machine.slice",
    "/kubepods",
    "/kubepods.slice",
];

/// Cgroups by their last part, wherever they are.
const UNITS: &[&str] = &[
    "init.scope",
    "containerd.service",
    "crio.service",
    "dbus-broker.service",
    "dbus.service",
    "docker.service",
    "k3s.service",
    "kubelet.service",
    "NetworkManager.service",
    "paramedic.service",
    "paramedic.slice",
    "ssh.service",
    "sshd.service",
];

/// Programs, by `comm` or the file name of the executable. A process can give itself such a name and
/// escape its throttle; that is the safe side to be wrong on. `comm` ends after 15 bytes.
const PROGRAMS: &[&str] = &[
    "containerd",
    "crio",
    "dbus-broker",
    "dbus-daemon",
    "dockerd",
    "init",
    "iscsid",
    "k3s",
    "k3s-server",
    "kubelet",
    "multipathd",
    "NetworkManager",
    "paramedic",
    "sshd",
    "sshd-auth",
    "sshd-session",
    "systemd",
];
/// The same by their beginning: systemd-journald, -udevd, -logind, -networkd, …
const PROGRAM_PREFIX: &str = "systemd-";

/// Why a target may not be touched.
#[derive(Debug, thiserror::Error)]
pub enum Protected {
    /// By its own identity.
    #[error("{path:?} {why}")]
    Itself {
        /// The target.
        path: String,
        /// What it is.
        why: &'static str,
    },
    /// Named in the configuration.
    #[error("{path:?} is or contains {listed:?}, which remedy.protect lists")]
    Listed {
        /// The target.
        path: String,
        /// The entry.
        listed: String,
    },
    /// By a process inside.
    #[error("{path:?} contains process {pid} ({name:?}), {why}")]
    Contains {
        /// The target.
        path: String,
        /// The process.
        pid: u32,
        /// Its name.
        name: String,
        /// What it is.
        why: &'static str,
    },
    /// Could not be looked through.
    #[error("{path:?} could not be looked through for protected processes: {source}")]
    Unclear {
        /// The target.
        path: String,
        /// Why.
        #[source]
        source: CgroupError,
    },
    /// One of its processes could not be read.
    #[error("{path:?} contains process {pid}, of which nothing can be read: {source}")]
    Unreadable {
        /// The target.
        path: String,
        /// The process.
        pid: u32,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

/// Who is protected on this node, beside the lists above.
#[derive(Clone, Debug)]
pub struct Protection {
    /// `/proc`.
    pub processes: Processes,
    /// The agent and its guardian.
    pub own: Vec<u32>,
    /// Paths of cgroups from the configuration.
    pub listed: Vec<String>,
}

impl Protection {
    /// Refuses a protected target.
    pub fn check(&self, hierarchy: &Hierarchy, target: &Cgroup) -> Result<(), Protected> {
        let path = target.path().to_owned();
        let unclear = |source| Protected::Unclear {
            path: path.clone(),
            source,
        };
        self.check_path(&path)?;
        if hierarchy.root_id().map_err(unclear)? == target.id() {
            return Err(Protected::Itself {
                path,
                why: "is the root of all cgroups",
            });
        }
        let pids = target.processes().map_err(unclear)?;
        self.check_processes(&path, &pids)
    }

    fn check_path(&self, path: &str) -> Result<(), Protected> {
        let itself = |why| Protected::Itself {
            path: path.to_owned(),
            why,
        };
        if PATHS.contains(&path) {
            return Err(itself("holds the node together"));
        }
        let last = path.rsplit('/').next().unwrap_or_default();
        if UNITS.contains(&last) || (last.starts_with("systemd-") && last.ends_with(".service")) {
            return Err(itself("is a service that the node cannot do without"));
        }
        match self.listed.iter().find(|listed| contains(path, listed)) {
            Some(listed) => Err(Protected::Listed {
                path: path.to_owned(),
                listed: listed.clone(),
            }),
            None => Ok(()),
        }
    }

    fn check_processes(&self, path: &str, pids: &[u32]) -> Result<(), Protected> {
        for pid in pids {
            let found = self
                .protected(*pid)
                .map_err(|source| Protected::Unreadable {
                    path: path.to_owned(),
                    pid: *pid,
                    source,
                })?;
            if let Some((name, why)) = found {
                return Err(Protected::Contains {
                    path: path.to_owned(),
                    pid: *pid,
                    name,
                    why,
                });
            }
        }
        Ok(())
    }

    fn protected(&self, pid: u32) -> std::io::Result<Option<(String, &'static str)>> {
        let Some(names) = (match pid {
            0 => {
                return Ok(Some((
                    String::new(),
                    "of a pid namespace that is not seen from here",
                )));
            }
            pid => self.processes.names(pid)?,
        }) else {
            return Ok(None);
        };
        let first = || names.first().cloned().unwrap_or_default();
        if pid == 1 {
            return Ok(Some((first(), "the first of all")));
        }
        if self.own.contains(&pid) {
            return Ok(Some((first(), "this agent or its guardian")));
        }
        if let Some(name) = names.iter().find(|name| is_protected_program(name)) {
            return Ok(Some((name.clone(), "which the node cannot do without")));
        }
        // A kernel thread has no program; so has a process that is just ending.
        let has_no_program = names.len() < 2;
        if has_no_program && self.processes.stat(pid)?.is_some_and(|stat| stat.kernel) {
            return Ok(Some((first(), "a thread of the kernel")));
        }
        Ok(None)
    }
}

fn is_protected_program(name: &str) -> bool {
    PROGRAMS.contains(&name) || name.starts_with(PROGRAM_PREFIX)
}

/// Whether `inner` is `outer` or below it.
fn contains(outer: &str, inner: &str) -> bool {
    let outer = outer.trim_end_matches('/');
    inner
        .trim_end_matches('/')
        .strip_prefix(outer)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink, path::Path};

    use super::*;

    const USER: &str = "S 1 1 1 0 -1 4194560 0 0 0 0 0 0 0 0 20 0 1 0 5 0 0";
    const KERNEL: &str = "S 2 0 0 0 -1 2129984 0 0 0 0 0 0 0 0 20 0 1 0 5 0 0";

    fn process(proc: &Path, pid: u32, comm: &str, exe: Option<&str>, stat: &str) {
        let dir = proc.join(pid.to_string());
        fs::create_dir(&dir).unwrap();
        fs::write(dir.join("comm"), format!("{comm}\n")).unwrap();
        fs::write(dir.join("stat"), format!("{pid} ({comm}) {stat}")).unwrap();
        if let Some(exe) = exe {
            symlink(exe, dir.join("exe")).unwrap();
        }
    }

    fn protection(proc: &Path) -> Protection {
        Protection {
            processes: Processes::at(proc),
            own: vec![500, 501],
            listed: vec!["/app/db".to_owned()],
        }
    }

    #[test]
    fn processes_that_hold_the_node_together_are_found() {
        let proc = tempfile::tempdir().unwrap();
        let p = proc.path();
        process(p, 1, "busybox", Some("/bin/busybox"), USER);
        process(p, 20, "kworker/0:1", None, KERNEL);
        process(p, 30, "worker", Some("/usr/bin/kubelet"), USER);
        process(
            p,
            31,
            "systemd-journal",
            Some("/usr/lib/systemd/systemd-journald"),
            USER,
        );
        process(p, 32, "sshd", Some("/opt/renamed"), USER);
        process(p, 33, "x", Some("/usr/bin/containerd (deleted)"), USER);
        process(p, 40, "stress-ng-cpu", Some("/usr/bin/stress-ng"), USER);
        process(p, 41, "zombie", None, USER);
        process(p, 500, "agent", Some("/usr/bin/a"), USER);
        let protection = protection(p);
        let refused = |pid| {
            protection
                .check_processes("/x", &[40, 41, pid, 40])
                .unwrap_err()
        };
        for pid in [0, 1, 20, 30, 31, 32, 33, 500] {
            assert!(matches!(refused(pid), Protected::Contains { pid: found, .. } if found == pid));
        }
        assert!(refused(20).to_string().contains("a thread of the kernel"));
        assert!(refused(30).to_string().contains("\"kubelet\""));
        // 7777 has ended meanwhile.
        protection.check_processes("/x", &[40, 41, 7777]).unwrap();
    }

    #[test]
    fn core_units_are_refused_by_path_and_services_below_are_not() {
        let proc = tempfile::tempdir().unwrap();
        let protection = protection(proc.path());
        for path in [
            "/",
            "/init.scope",
            "/system.slice",
            "/kubepods.slice",
            "/system.slice/systemd-udevd.service",
            "/system.slice/ssh.service",
            "/user.slice/user-0.slice/user@0.service/init.scope",
        ] {
            assert!(
                matches!(protection.check_path(path), Err(Protected::Itself { .. })),
                "{path}"
            );
        }
        for path in [
            "/system.slice/app.service",
            "/kubepods.slice/pod1",
            "/init.scope2",
        ] {
            protection.check_path(path).unwrap();
        }
    }

    #[test]
    fn listed_cgroups_protect_what_is_above_them_too() {
        let proc = tempfile::tempdir().unwrap();
        let protection = protection(proc.path());
        for path in ["/app", "/app/db"] {
            assert!(
                matches!(protection.check_path(path), Err(Protected::Listed { .. })),
                "{path}"
            );
        }
        // What is below a listed one is someone else's; so is a like name.
        for path in ["/app/db/tmp", "/app/d", "/ap", "/app/db2"] {
            protection.check_path(path).unwrap();
        }
    }
}
