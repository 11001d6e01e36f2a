//! One slice: made under a cgroup that is ours, limited, killed, removed.

use std::{
    fs, io,
    path::Path,
    sync::atomic::{AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use cgroups_rs::fs::MaxValue;
use tracing::{debug, warn};

use super::CollectError;
use crate::remedy::{
    Cgroup, CgroupError, Hierarchy, SandboxConfig, catalogue::kill_cgroup, cgroup::delegated,
};

/// Beginning of every slice's name; then the agent's pid and a number.
const NAME: &str = "paramedic-sandbox-";
const CONTROLLERS: [&str; 3] = ["cpu", "memory", "pids"];
/// Where it is there: a command may write nothing, and read little.
const IO: &str = "io";
/// Whole disks that are limited at most.
const DISKS_MAX: usize = 64;
/// In microseconds.
const PERIOD_US: u64 = 100_000;
/// A slice whose last process was killed can be removed soon after, not at once.
const REMOVE_WITHIN: Duration = Duration::from_secs(2);
const PAUSE: Duration = Duration::from_millis(5);

static NEXT: AtomicU64 = AtomicU64::new(0);

/// A limited cgroup for one command.
#[derive(Debug)]
pub(super) struct Slice {
    parent: Cgroup,
    cgroup: Cgroup,
    name: String,
}

impl Slice {
    /// Makes one with every limit set, or none at all.
    pub(super) fn make(
        hierarchy: &Hierarchy,
        config: &SandboxConfig,
    ) -> Result<Self, CollectError> {
        let parent = parent(hierarchy, config)?;
        sweep(&parent);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("{NAME}{}-{number}", std::process::id());
        let cgroup = parent.make_child(&name)?;
        let slice = Self {
            parent,
            cgroup,
            name,
        };
        match slice.limit(config) {
            Ok(()) => Ok(slice),
            Err(error) => {
                if let Err(left) = slice.remove() {
                    warn!(error = %left, "an unlimited, empty sandbox slice is left behind");
                }
                Err(error.into())
            }
        }
    }

    fn limit(&self, config: &SandboxConfig) -> Result<(), CgroupError> {
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // 0.01 to 4 CPUs
        let quota_us = (config.cpus * PERIOD_US as f64) as u64;
        let memory = (config.memory_mib << 20).to_string();
        self.cgroup
            .write("cpu.max", &format!("{quota_us} {PERIOD_US}"))?;
        self.cgroup.write("memory.max", &memory)?;
        // Absent where the kernel has no swap accounting.
        if self.cgroup.has("memory.swap.max") {
            self.cgroup.write("memory.swap.max", "0")?;
        }
        self.cgroup.write("memory.oom.group", "1")?;
        self.cgroup.write("pids.max", &config.pids.to_string())?;
        self.limit_disks(config);
        // A limit that is not there is worse than no command: read back what protects the node.
        let pids = i64::try_from(config.pids).unwrap_or(i64::MAX);
        if self.cgroup.read_max("pids.max")? != MaxValue::Value(pids)
            || self.cgroup.read("memory.max")? != memory
        {
            return Err(CgroupError::NoFile {
                path: self.cgroup.path().to_owned(),
                file: "limits that hold".to_owned(),
            });
        }
        Ok(())
    }

    /// Each disk that is there now. One that goes, or takes no limit, is left out: the others protect the
    /// node, and a command that may not write is no storm.
    fn limit_disks(&self, config: &SandboxConfig) {
        if !self.cgroup.has("io.max") {
            debug!(
                "disks are not limited for the sandbox: there is no io controller below its parent"
            );
            return;
        }
        let bytes = config.io_mib_per_s << 20;
        let disks = match disks(Path::new("/sys/block")) {
            Ok(disks) => disks,
            Err(error) => {
                warn!(%error, "disks are not limited for the sandbox: /sys/block cannot be read");
                return;
            }
        };
        for disk in disks {
            let line = format!("{disk} rbps={bytes} wbps={bytes}");
            if let Err(error) = self.cgroup.write("io.max", &line) {
                debug!(disk, %error, "this disk is not limited for the sandbox");
            }
        }
    }

    pub(super) fn cgroup(&self) -> &Cgroup {
        &self.cgroup
    }

    /// Kills everything in it.
    pub(super) fn kill(&self) -> Result<(), CgroupError> {
        self.cgroup.kill()
    }

    /// Kills what is left and removes it.
    pub(super) fn remove(self) -> Result<(), CgroupError> {
        remove(&self.parent, &self.cgroup, &self.name)
    }
}

/// `MAJOR:MINOR` of every whole disk with something in it: neither a loop device without a file nor an empty
/// drive.
fn disks(folder: &Path) -> io::Result<Vec<String>> {
    let mut found = Vec::new();
    for disk in fs::read_dir(folder)? {
        let folder = disk?.path();
        let read = |name: &str| fs::read_to_string(folder.join(name));
        // One may go meanwhile.
        let (Ok(size), Ok(device)) = (read("size"), read("dev")) else {
            continue;
        };
        if size.trim() != "0" && found.len() < DISKS_MAX {
            found.push(device.trim().to_owned());
        }
    }
    Ok(found)
}

/// Kills, waits, removes. A command runs as nobody and cannot have made cgroups of its own in there.
fn remove(parent: &Cgroup, cgroup: &Cgroup, name: &str) -> Result<(), CgroupError> {
    cgroup.kill()?;
    kill_cgroup::wait_empty(cgroup, REMOVE_WITHIN)?;
    let deadline = Instant::now() + REMOVE_WITHIN;
    loop {
        match parent.remove_child(name) {
            Ok(()) => return Ok(()),
            Err(error) if Instant::now() >= deadline => return Err(error),
            Err(_) => thread::sleep(PAUSE),
        }
    }
}

/// Removes slices that a dead agent left. Best effort: they are limited.
fn sweep(parent: &Cgroup) {
    for name in parent.children().unwrap_or_default() {
        let Some(rest) = name.strip_prefix(NAME) else {
            continue;
        };
        let owner = rest
            .split('-')
            .next()
            .and_then(|pid| pid.parse::<i32>().ok());
        let alive = owner
            .and_then(rustix::process::Pid::from_raw)
            .is_some_and(|pid| rustix::process::test_kill_process(pid).is_ok());
        if alive {
            continue;
        }
        let removed = parent
            .child(&name)
            .and_then(|left| remove(parent, &left, &name));
        if let Err(error) = removed {
            warn!(slice = name, %error, "a sandbox slice of an earlier agent could not be removed");
        }
    }
}

/// The cgroup under which slices are made. Controllers are enabled only where it is ours: never on
/// the root, never on an ancestor.
fn parent(hierarchy: &Hierarchy, config: &SandboxConfig) -> Result<Cgroup, CollectError> {
    let (parent, ours) = if config.parent.is_empty() {
        own_subtree(hierarchy)?
    } else {
        (hierarchy.open(&config.parent)?, config.parent != "/")
    };
    let enabled = |controller: &str| -> Result<bool, CgroupError> {
        let enable = || parent.write("cgroup.subtree_control", &format!("+{controller}"));
        Ok(parent.enables(controller)? || (ours && enable().is_ok()))
    };
    enabled(IO)?;
    for controller in CONTROLLERS {
        if !enabled(controller)? {
            return Err(CollectError::NotAvailable(format!(
                "the {controller} controller is not enabled below cgroup {:?}: set \
                 remedy.sandbox.parent to a cgroup without processes that has it in \
                 cgroup.subtree_control",
                parent.path()
            )));
        }
    }
    Ok(parent)
}

fn own_subtree(hierarchy: &Hierarchy) -> Result<(Cgroup, bool), CollectError> {
    let text = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let own = text
        .lines()
        .find_map(|line| line.strip_prefix("0::"))
        .unwrap_or("/");
    let cgroup = hierarchy.open(own)?;
    if own == "/" {
        return Ok((cgroup, false));
    }
    if delegated(cgroup.as_fd()) {
        return Ok((cgroup, true));
    }
    let above = match own.rsplit_once('/') {
        Some(("", _)) | None => "/",
        Some((above, _)) => above,
    };
    let above = hierarchy.open(above)?;
    if delegated(above.as_fd()) {
        return Ok((above, true));
    }
    Err(CollectError::NotAvailable(format!(
        "cgroup {own:?} is not delegated to the agent: run it with Delegate=yes and \
         DelegateSubgroup=agent, or set remedy.sandbox.parent"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disks_with_something_in_them_are_found_and_empty_drives_are_not() {
        let folder = tempfile::tempdir().unwrap();
        for (name, size, device) in [("vda", "2048", "254:0"), ("loop0", "0", "7:0")] {
            let disk = folder.path().join(name);
            fs::create_dir(&disk).unwrap();
            fs::write(disk.join("size"), format!("{size}\n")).unwrap();
            fs::write(disk.join("dev"), format!("{device}\n")).unwrap();
        }
        // It went while the others were read.
        fs::create_dir(folder.path().join("sda")).unwrap();
        assert_eq!(disks(folder.path()).unwrap(), ["254:0"]);
        assert!(disks(Path::new("/nonexistent")).is_err());
    }
}
