//! What may be done, how much of it, for how long.

use serde::{Deserialize, Serialize};

use super::promotion::PromotionConfig;
use crate::incident::{ActionKind, Level};

/// The `remedy` section.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RemedyConfig {
    /// How far the agent may go on this node: `observe`, `advise`, `approve` or `act`. A rule's own
    /// level can only lower it. Default `advise`: it says what it would do and does nothing.
    pub level: Level,
    /// Go all the way up to the first write, say what it would be, and write nothing. Default false.
    /// `paramedic run --dry-run` sets it.
    pub dry_run: bool,
    /// Actions that may be taken at all. Default: all but `kill-process` and `kill-cgroup`, which cannot
    /// be undone, and `freeze-cgroup`, which stops whoever waits for the frozen.
    pub allow: Vec<ActionKind>,
    /// How long an effect that helped stays, in seconds. 1 to 86,400; default 300.
    pub lease_s: u64,
    /// How long a restart of a dead agent is waited for before the guardian undoes what nobody has
    /// verified, in seconds. 1 to 600; default 10.
    pub orphan_grace_s: u64,
    /// How long an action that needs a person's approval waits for it, in seconds. 10 to 86,400; default
    /// 3600.
    pub approval_s: u64,
    /// Levels that are earned by outcomes; off by default.
    pub promotion: PromotionConfig,
    /// Cgroups that are never touched, nor what contains them, as paths below the cgroup mount. At
    /// most 256. Comes on top of what is protected in code.
    pub protect: Vec<String>,
    /// Budgets.
    pub limits: LimitsConfig,
    /// Where diagnostic commands run.
    pub sandbox: SandboxConfig,
}

impl Default for RemedyConfig {
    fn default() -> Self {
        Self {
            level: Level::Advise,
            dry_run: false,
            allow: vec![
                ActionKind::ThrottleCpu,
                ActionKind::CapMemory,
                ActionKind::CapPids,
                ActionKind::DeprioritiseCpu,
                ActionKind::ThrottleIo,
                ActionKind::RaiseMemory,
                ActionKind::RaiseOomScore,
                ActionKind::Collect,
                ActionKind::Notify,
            ],
            lease_s: 300,
            orphan_grace_s: 10,
            approval_s: 3600,
            promotion: PromotionConfig::default(),
            protect: Vec::new(),
            limits: LimitsConfig::default(),
            sandbox: SandboxConfig::default(),
        }
    }
}

/// Budgets: a wrong diagnosis must not spread. Undoing is exempt.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LimitsConfig {
    /// Actions on this node in any hour. 1 to 1,000; default 6.
    pub actions_per_hour: u32,
    /// Seconds after an action before the same cgroup may be acted upon again. 0 to 86,400; default
    /// 900: an action that did not hold is for people to look at, not to be repeated.
    pub target_cooldown_s: u64,
    /// Effects in force at the same time. 1 to 64; default 4.
    pub held_max: u32,
}

impl Default for LimitsConfig {
    fn default() -> Self {
        Self {
            actions_per_hour: 6,
            target_cooldown_s: 900,
            held_max: 4,
        }
    }
}

/// The slice in which diagnostic commands run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SandboxConfig {
    /// Cgroup under which the slices are made, as a path below the mount. Empty (the default) = the
    /// agent's own cgroup if it is delegated to it, the one above it if that is, else none.
    pub parent: String,
    /// CPUs. 0.01 to 4; default 0.5.
    pub cpus: f64,
    /// Memory in MiB, without swap. 4 to 1,024; default 64.
    pub memory_mib: u64,
    /// Tasks. 1 to 256; default 16.
    pub pids: u64,
    /// MiB a second from each disk, and as much to it, where the io controller is there. 1 to 4,096;
    /// default 16.
    pub io_mib_per_s: u64,
    /// Seconds until it is killed. 1 to 60; default 5.
    pub deadline_s: u64,
    /// Output kept, in KiB; a command that writes more is killed. 1 to 1,024; default 64.
    pub output_kib: u64,
}

impl Default for SandboxConfig {
    fn default() -> Self {
        Self {
            parent: String::new(),
            cpus: 0.5,
            memory_mib: 64,
            pids: 16,
            io_mib_per_s: 16,
            deadline_s: 5,
            output_kib: 64,
        }
    }
}

impl RemedyConfig {
    /// What is out of bounds, one sentence a field; empty when all is well.
    pub fn problems(&self) -> Vec<String> {
        let (limits, sandbox) = (&self.limits, &self.sandbox);
        let numbers = [
            ("lease_s", self.lease_s, 1, 86_400),
            ("orphan_grace_s", self.orphan_grace_s, 1, 600),
            ("approval_s", self.approval_s, 10, 86_400),
            (
                "limits.actions_per_hour",
                limits.actions_per_hour.into(),
                1,
                1_000,
            ),
            (
                "limits.target_cooldown_s",
                limits.target_cooldown_s,
                0,
                86_400,
            ),
            ("limits.held_max", limits.held_max.into(), 1, 64),
            ("sandbox.memory_mib", sandbox.memory_mib, 4, 1_024),
            ("sandbox.pids", sandbox.pids, 1, 256),
            ("sandbox.io_mib_per_s", sandbox.io_mib_per_s, 1, 4_096),
            ("sandbox.deadline_s", sandbox.deadline_s, 1, 60),
            ("sandbox.output_kib", sandbox.output_kib, 1, 1_024),
        ];
        let mut problems: Vec<String> = numbers
            .iter()
            .filter(|(_, value, low, high)| !(low..=high).contains(&value))
            .map(|(name, value, low, high)| {
                format!("remedy.{name}: {value} is not within {low} to {high}")
            })
            .collect();
        if !(0.01..=4.0).contains(&sandbox.cpus) {
            problems.push(format!(
                "remedy.sandbox.cpus: {} is not within 0.01 to 4",
                sandbox.cpus
            ));
        }
        if self.protect.len() > 256 {
            problems.push(format!(
                "remedy.protect: {} entries are more than 256",
                self.protect.len()
            ));
        }
        problems.extend(self.promotion.problems());
        let parent = Some(&sandbox.parent).filter(|path| !path.is_empty());
        let named = self.protect.iter().map(|path| ("protect", path));
        for (name, path) in named.chain(parent.map(|path| ("sandbox.parent", path))) {
            if !path.starts_with('/') {
                problems.push(format!(
                    "remedy.{name}: {path:?} does not begin with / (a path below the cgroup mount)"
                ));
            }
        }
        problems
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_only_advise_and_never_kill() {
        let config = RemedyConfig::default();
        assert_eq!(config.level, Level::Advise);
        for harsh in [
            ActionKind::KillCgroup,
            ActionKind::KillProcess,
            ActionKind::FreezeCgroup,
        ] {
            assert!(!config.allow.contains(&harsh));
        }
        assert_eq!(config.problems(), Vec::<String>::new());
    }

    #[test]
    fn every_bad_field_is_told_at_once() {
        let config = RemedyConfig {
            lease_s: 0,
            protect: vec!["app".to_owned()],
            limits: LimitsConfig {
                held_max: 0,
                ..LimitsConfig::default()
            },
            sandbox: SandboxConfig {
                cpus: f64::NAN,
                ..SandboxConfig::default()
            },
            ..RemedyConfig::default()
        };
        let problems = config.problems();
        assert_eq!(problems.len(), 4, "{problems:?}");
        assert_eq!(problems[0], "remedy.lease_s: 0 is not within 1 to 86400");
    }
}
