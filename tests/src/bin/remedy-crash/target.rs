//! The cgroup that is acted upon, and everything about it that an action may change.

use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::Context;
use paramedic::incident::{ActionKind, Holder, Intent};
use paramedic_tests::Cgroup;

/// Longer than any case.
const AT_MOST: Duration = Duration::from_mins(5);

/// All reversible actions.
pub const ACTIONS: [ActionKind; 8] = [
    ActionKind::ThrottleCpu,
    ActionKind::CapMemory,
    ActionKind::CapPids,
    ActionKind::DeprioritiseCpu,
    ActionKind::ThrottleIo,
    ActionKind::FreezeCgroup,
    ActionKind::RaiseMemory,
    ActionKind::RaiseOomScore,
];

/// Files of the cgroup that an action may change.
const FILES: [&str; 8] = [
    "cpu.max",
    "cpu.max.burst",
    "cpu.weight",
    "memory.high",
    "memory.max",
    "pids.max",
    "cgroup.freeze",
    "io.max",
];

/// What the rule asks for.
pub fn amount(kind: ActionKind) -> Option<f64> {
    match kind {
        ActionKind::ThrottleCpu => Some(0.1),
        ActionKind::CapPids => Some(9.0),
        ActionKind::ThrottleIo => Some(4e6),
        _ => None,
    }
}

/// Every value, by holder and file.
pub type Values = BTreeMap<String, String>;

/// A cgroup with limits of its own and two processes.
pub struct Target {
    /// The cgroup.
    pub cgroup: Cgroup,
    pids: Vec<u32>,
}

impl Target {
    /// Makes it; `disk` is a folder on a disk that `io.max` can limit.
    pub fn make(name: &str, kind: ActionKind, disk: &Path) -> anyhow::Result<Self> {
        let mut cgroup = Cgroup::make(&format!("crash/{name}"))?;
        // Owners' own limits: what is undone must be theirs, not a default.
        cgroup.set("cpu.max", "150000 50000")?;
        cgroup.set("cpu.max.burst", "20000")?;
        cgroup.set("cpu.weight", "80")?;
        if kind == ActionKind::RaiseMemory {
            cgroup.set("memory.max", "67108864")?;
            cgroup.set("memory.high", "50331648")?;
        }
        let mut pids = Vec::new();
        for _ in 0..2 {
            let mut sleeper = Command::new("sleep");
            sleeper.arg("300").stdin(Stdio::null());
            pids.push(cgroup.spawn(sleeper, AT_MOST)?);
        }
        if kind == ActionKind::ThrottleIo {
            let mut writer = Command::new("dd");
            let file = disk.join(name);
            writer
                .args(["if=/dev/zero", "bs=64k", "count=1", "oflag=direct"])
                .arg(format!("of={}", file.display()))
                .stderr(Stdio::null());
            cgroup.spawn(writer, AT_MOST)?;
            paramedic_tests::wait_for("traffic with a disk", Duration::from_secs(20), || {
                let stat = cgroup.get("io.stat")?;
                anyhow::ensure!(stat.contains("wbytes=65536"), "io.stat is {stat:?}");
                Ok(())
            })?;
        }
        Ok(Self { cgroup, pids })
    }

    /// All of its values now.
    pub fn values(&self) -> anyhow::Result<Values> {
        let mut values = Values::new();
        for file in FILES {
            values.insert(file.to_owned(), self.cgroup.get(file)?);
        }
        for pid in &self.pids {
            let path = format!("/proc/{pid}/oom_score_adj");
            let value = fs::read_to_string(&path).context(path)?;
            values.insert(of_process(*pid, "oom_score_adj"), value.trim().to_owned());
        }
        Ok(values)
    }
}

fn of_process(pid: u32, file: &str) -> String {
    format!("{pid}:{file}")
}

/// What `before` becomes when everything of an intent is in force.
pub fn with(before: &Values, intent: &Intent) -> Values {
    let mut values = before.clone();
    for change in &intent.changes {
        let name = match change.of {
            Holder::Cgroup => change.file.clone(),
            Holder::Process { pid, .. } => of_process(pid, &change.file),
        };
        values.insert(name, change.value.clone());
    }
    values
}
