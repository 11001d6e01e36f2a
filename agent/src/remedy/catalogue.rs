//! The actions. A file each; those that write a cgroup's files and can be undone implement
//! [`KnobAction`], which is all that a new one has to do.

pub mod cap_memory;
pub mod cap_pids;
pub mod collect;
pub mod kill_cgroup;
pub mod notify;
pub mod throttle_cpu;

use super::{
    cgroup::{Cgroup, CgroupError},
    process::Processes,
    refuse,
};
use crate::incident::{ActionKind, CgroupFacts, Evidence, KnobChange, Refusal};

/// A reversible action: writes to files of one cgroup. Planning reads and never writes; applying and
/// undoing are the same for all of them.
pub trait KnobAction: Sync {
    /// Its name in the catalogue.
    fn kind(&self) -> ActionKind;
    /// The controller that it needs on the target, and the first file that it writes.
    fn needs(&self) -> (&'static str, &'static str);
    /// The writes, in order, each with the value that it replaces exactly as it was read.
    fn plan(&self, planning: &Planning<'_>) -> Result<Vec<KnobChange>, Refusal>;
}

/// The reversible action of this name.
pub fn knob(kind: ActionKind) -> Option<&'static dyn KnobAction> {
    const KNOBS: [&dyn KnobAction; 3] = [
        &throttle_cpu::ThrottleCpu,
        &cap_memory::CapMemory,
        &cap_pids::CapPids,
    ];
    KNOBS.into_iter().find(|knob| knob.kind() == kind)
}

/// What an action may look at to choose its values.
#[derive(Debug)]
pub struct Planning<'a> {
    /// The target, held open.
    pub target: &'a Cgroup,
    /// What the rule says; `None` = the action's own default.
    pub amount: Option<f64>,
    /// The node now.
    pub node: Node,
    /// What the evidence says of the target.
    pub facts: Option<&'a CgroupFacts>,
    /// Seconds since the alert began.
    pub alert_age_s: f64,
    /// `/proc`.
    pub processes: &'a Processes,
}

impl Planning<'_> {
    /// A reading of the target, e.g. `cpu.cores`.
    pub fn reading(&self, name: &str) -> Option<f64> {
        let value = self.facts?.readings.get(name)?.value;
        value.is_finite().then_some(value)
    }

    /// Reads a file of the target; what is missing or gone becomes a refusal.
    pub fn read(&self, file: &str) -> Result<String, Refusal> {
        self.target.read(file).map_err(|error| unusable(&error))
    }

    /// The change of one file to `value`, with what it holds now; `None` when it holds that already.
    pub fn change(&self, file: &str, value: String) -> Result<Option<KnobChange>, Refusal> {
        let prior = self.read(file)?;
        let file = file.to_owned();
        Ok((prior != value).then_some(KnobChange { file, prior, value }))
    }

    /// A refusal because the target's own limit is as tight already.
    pub fn already(&self, limit: &str) -> Refusal {
        refuse(
            "already-limited",
            format!(
                "{:?} has {limit} already, which is as tight: look at what it does, or lower that limit",
                self.target.path()
            ),
        )
    }
}

/// The node at the moment of planning.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Node {
    /// Online CPUs.
    pub cpus: f64,
    /// Busy share of all CPUs over the evidence's window, 0 to 1.
    pub busy: Option<f64>,
    /// Memory in bytes.
    pub memory_total: u64,
    /// Of it, available without swapping.
    pub memory_available: u64,
    /// Free swap in bytes.
    pub swap_free: u64,
}

impl Node {
    /// CPU figures from the evidence; memory as it is now, because it may have halved since.
    pub fn now(evidence: &Evidence, processes: &Processes) -> std::io::Result<Self> {
        let host = |name: &str| evidence.host.get(name).map(|reading| reading.value);
        let online = || std::thread::available_parallelism().map_or(1.0, |n| n.get() as f64);
        Ok(Self {
            cpus: host("cpu.count")
                .filter(|n| *n >= 1.0)
                .unwrap_or_else(online),
            busy: host("cpu.busy").filter(|busy| (0.0..=1.0).contains(busy)),
            memory_total: processes.meminfo_bytes("MemTotal")?,
            memory_available: processes.meminfo_bytes("MemAvailable")?,
            swap_free: processes.meminfo_bytes("SwapFree").unwrap_or(0),
        })
    }
}

/// A cgroup that cannot be read or written, as a refusal with the way out.
pub fn unusable(error: &CgroupError) -> Refusal {
    match error {
        CgroupError::NoMount => refuse("unsupported", error.to_string()),
        CgroupError::NoFile { path, file } => {
            let controller = file.split('.').next().unwrap_or(file);
            refuse(
                "unsupported",
                format!(
                    "{error}: add +{controller} to the cgroup.subtree_control of every cgroup above \
                     {path:?} (under systemd: {}Accounting=yes in the unit)",
                    accounting(controller)
                ),
            )
        }
        CgroupError::Gone { .. } | CgroupError::Reused { .. } => refuse("gone", error.to_string()),
        CgroupError::Io { source, .. }
            if matches!(
                source.kind(),
                std::io::ErrorKind::PermissionDenied | std::io::ErrorKind::ReadOnlyFilesystem
            ) =>
        {
            refuse(
                "read-only",
                format!("{error}: run as root, with the cgroup filesystem mounted writable"),
            )
        }
        error => refuse("unsupported", error.to_string()),
    }
}

fn accounting(controller: &str) -> &'static str {
    match controller {
        "cpu" => "CPU",
        "memory" => "Memory",
        "pids" => "Tasks",
        _ => "IO",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reversible_action_is_in_the_catalogue() {
        for kind in [
            ActionKind::ThrottleCpu,
            ActionKind::CapMemory,
            ActionKind::CapPids,
        ] {
            assert_eq!(knob(kind).unwrap().kind(), kind);
        }
        for kind in [
            ActionKind::KillCgroup,
            ActionKind::Notify,
            ActionKind::Collect,
        ] {
            assert!(knob(kind).is_none());
        }
    }

    #[test]
    fn a_missing_controller_is_refused_with_the_way_out() {
        let refusal = unusable(&CgroupError::NoFile {
            path: "/a".to_owned(),
            file: "pids.max".to_owned(),
        });
        assert_eq!(refusal.reason, "unsupported");
        assert!(refusal.detail.contains("+pids"), "{}", refusal.detail);
        assert!(
            refusal.detail.contains("TasksAccounting=yes"),
            "{}",
            refusal.detail
        );
    }
}
