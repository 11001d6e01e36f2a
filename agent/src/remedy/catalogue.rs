//! The actions. A file each; those that write files of a cgroup or of its processes implement
//! [`KnobAction`], which is all that a new one has to do.

pub mod cap_memory;
pub mod cap_pids;
pub mod collect;
pub mod deprioritise_cpu;
pub mod freeze_cgroup;
pub mod kill_cgroup;
pub mod kill_process;
pub mod notify;
pub mod raise_memory;
pub mod raise_oom_score;
pub mod throttle_cpu;
pub mod throttle_io;

use super::{
    cgroup::{Cgroup, CgroupError},
    process::Processes,
    refuse,
};
use crate::incident::{ActionKind, CgroupFacts, Evidence, Holder, KnobChange, Refusal};

/// An action that writes to files of one cgroup or of its processes. Planning reads and never writes;
/// applying and undoing are the same for all of them.
pub trait KnobAction: Sync {
    /// Its name in the catalogue.
    fn kind(&self) -> ActionKind;
    /// The controller that it needs on the target, and a file of the target that must be there.
    fn needs(&self) -> (&'static str, &'static str);
    /// The writes, in order, each with the value that it replaces exactly as it was read.
    fn plan(&self, planning: &Planning<'_>) -> Result<Vec<KnobChange>, Refusal>;
    /// The longest lease that it may have, in seconds.
    fn lease_s_max(&self) -> u64 {
        u64::MAX
    }
}

/// The action of this name.
pub fn knob(kind: ActionKind) -> Option<&'static dyn KnobAction> {
    const KNOBS: [&dyn KnobAction; 9] = [
        &throttle_cpu::ThrottleCpu,
        &cap_memory::CapMemory,
        &cap_pids::CapPids,
        &deprioritise_cpu::DeprioritiseCpu,
        &throttle_io::ThrottleIo,
        &freeze_cgroup::FreezeCgroup,
        &raise_memory::RaiseMemory,
        &raise_oom_score::RaiseOomScore,
        &kill_process::KillProcess,
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
        Ok((prior != value).then_some(KnobChange {
            of: Holder::Cgroup,
            file: file.to_owned(),
            prior,
            value,
        }))
    }

    /// Processes of the target and everything below it, the one with the most resident memory first.
    /// One that has ended meanwhile, or cannot be read, is left out.
    pub fn by_memory(&self) -> Result<Vec<Member>, Refusal> {
        let pids = self.target.processes().map_err(|error| unusable(&error))?;
        let mut members: Vec<Member> = pids
            .into_iter()
            .filter_map(|pid| {
                let stat = self.processes.stat(pid).ok().flatten()?;
                Some(Member {
                    pid,
                    start_ticks: stat.start_ticks,
                    resident_pages: stat.resident_pages,
                })
            })
            .collect();
        // Among equals the youngest: it is the least likely to matter.
        members.sort_by_key(|member| {
            std::cmp::Reverse((member.resident_pages, member.start_ticks, member.pid))
        });
        Ok(members)
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

/// A process of the target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// Number.
    pub pid: u32,
    /// Start in clock ticks since boot.
    pub start_ticks: u64,
    /// Resident memory in pages.
    pub resident_pages: u64,
}

impl Member {
    /// As the holder of a change.
    pub fn holder(self) -> Holder {
        let Self {
            pid, start_ticks, ..
        } = self;
        Holder::Process { pid, start_ticks }
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
    fn every_action_that_writes_files_is_in_the_catalogue() {
        for kind in [
            ActionKind::ThrottleCpu,
            ActionKind::CapMemory,
            ActionKind::CapPids,
            ActionKind::DeprioritiseCpu,
            ActionKind::ThrottleIo,
            ActionKind::FreezeCgroup,
            ActionKind::RaiseMemory,
            ActionKind::RaiseOomScore,
            ActionKind::KillProcess,
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
