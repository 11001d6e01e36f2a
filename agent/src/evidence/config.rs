//! Limits of the readers and the recorder, their defaults and reasons.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// How often, how long and how much is recorded.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EvidenceConfig {
    /// Time between two samples in ms. Default 1000; 250 to 10,000. It stretches by itself where a
    /// sample takes more than a twentieth of it.
    pub period_ms: u64,
    /// How far back the recorder remembers, in seconds. Default 900; 10 to 3600.
    pub history_s: u64,
    /// Window of evidence that an episode is diagnosed by, in seconds before it is looked at. Default
    /// 3; 1 to `history_s`. It should be shorter than alerts take to fire: a longer one dilutes the
    /// fault with the quiet before it.
    pub window_s: u64,
    /// How long the syscall pair counts before the first diagnosis, in ms; Prometheus is asked
    /// meanwhile. Default 100; 0 to 2000.
    pub syscall_watch_ms: u64,
    /// Cgroups read at most; what is beyond is said in the coverage. Default 4096; 16 to 100,000.
    pub cgroups_max: usize,
    /// Cgroups kept of each window: those with the most of any measure. Default 64; 16 to 512. The
    /// recorder's memory is at most `history / period * kept * 0.25 KiB` plus their paths.
    pub cgroups_kept: usize,
    /// Depth of the cgroup tree that is read. Default 16; 1 to 64.
    pub cgroup_depth_max: usize,
    /// Processes looked at where a fallback needs them. Default 32,768; 256 to 1,000,000.
    pub processes_max: usize,
    /// Pairs of cgroup and syscall in the evidence, the costliest first. Default 32; 1 to 256.
    pub syscalls_max: usize,
}

impl Default for EvidenceConfig {
    fn default() -> Self {
        Self {
            period_ms: 1000,
            history_s: 900,
            window_s: 3,
            syscall_watch_ms: 100,
            cgroups_max: 4096,
            cgroups_kept: 64,
            cgroup_depth_max: 16,
            processes_max: 32_768,
            syscalls_max: 32,
        }
    }
}

impl EvidenceConfig {
    /// What is out of bounds, one sentence a field; empty when all is well.
    pub fn problems(&self) -> Vec<String> {
        let count = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
        let bounds = [
            ("period_ms", self.period_ms, 250, 10_000),
            ("history_s", self.history_s, 10, 3600),
            ("window_s", self.window_s, 1, self.history_s.max(1)),
            ("syscall_watch_ms", self.syscall_watch_ms, 0, 2000),
            ("cgroups_max", count(self.cgroups_max), 16, 100_000),
            ("cgroups_kept", count(self.cgroups_kept), 16, 512),
            ("cgroup_depth_max", count(self.cgroup_depth_max), 1, 64),
            ("processes_max", count(self.processes_max), 256, 1_000_000),
            ("syscalls_max", count(self.syscalls_max), 1, 256),
        ];
        bounds
            .iter()
            .filter(|(_, value, low, high)| !(low..=high).contains(&value))
            .map(|(name, value, low, high)| {
                format!("evidence.{name}: {value} is not within {low} to {high}")
            })
            .collect()
    }

    /// Time between two samples.
    pub fn period(&self) -> Duration {
        Duration::from_millis(self.period_ms)
    }

    /// The window that an episode is diagnosed by.
    pub fn window(&self) -> Duration {
        Duration::from_secs(self.window_s)
    }

    /// Windows that the recorder keeps at most.
    pub(super) fn windows_max(&self) -> usize {
        usize::try_from(self.history_s * 1000 / self.period_ms.max(1)).unwrap_or(usize::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::EvidenceConfig;

    #[test]
    fn the_defaults_are_within_bounds() {
        assert_eq!(EvidenceConfig::default().problems(), Vec::<String>::new());
    }

    #[test]
    fn each_bad_field_is_named() {
        let config = EvidenceConfig {
            period_ms: 100,
            window_s: 0,
            cgroups_kept: 4,
            ..EvidenceConfig::default()
        };
        assert_eq!(
            config.problems(),
            [
                "evidence.period_ms: 100 is not within 250 to 10000",
                "evidence.window_s: 0 is not within 1 to 900",
                "evidence.cgroups_kept: 4 is not within 16 to 512",
            ]
        );
    }
}
