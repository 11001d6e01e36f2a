//! What the probes may cost.

use serde::{Deserialize, Serialize};

/// A probe that can be switched off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ProbeName {
    /// Programs executed.
    Exec,
    /// Processes created.
    Fork,
    /// Processes ended.
    Exit,
    /// Out-of-memory victims.
    Oom,
    /// The syscall pair, attached on an alert.
    Syscalls,
    /// The scheduler tier.
    Sched,
    /// Signals.
    Signal,
    /// Direct reclaim.
    Reclaim,
    /// TCP connections.
    Tcp,
    /// Block I/O.
    Block,
}

/// Bounds of the kernel probes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ProbesConfig {
    /// Load any probe at all. Default true.
    pub enabled: bool,
    /// Probes to leave out. Default none.
    pub off: Vec<ProbeName>,
    /// Cgroups that are counted apart, 64 to 1,000,000; about 100 bytes each in the kernel. More
    /// than these are counted as not attributed. Default 16,384.
    pub cgroups_max: u32,
    /// Ring of events in bytes: a power of two, 4,096 to 67,108,864. Default 1 MiB, which holds what
    /// 900,000 events a second bring within one drain.
    pub ring_bytes: u32,
    /// Longest wait between two drains of the ring in ms while events come, 1 to 1,000; while few do,
    /// up to eight times that. Default 20.
    pub drain_ms: u64,
    /// Bytes waiting in the ring from which a drain starts at once, 1,024 to 67,108,864. In a ring
    /// that is smaller only the clock starts it. Default 64 KiB.
    pub wake_bytes: u32,
    /// Last events kept for people to read, 0 to 65,536; 64 bytes each. Default 1,024.
    pub recent_max: usize,
    /// Seconds without a count after which a cgroup's place may be given to another once three
    /// quarters of the places are taken, 10 to 86,400. Default 120.
    pub idle_s: u64,
    /// What agent and probes may take of one CPU, in percent, 1 to 100, measured every ten seconds.
    /// Over it for half a minute, the syscall pair is detached, then the scheduler tier; they come back
    /// after a minute under half of it. Default 25.
    pub budget_cpu_percent: u32,
    /// Let the kernel measure what the probes cost, for a second in ten: needs CAP_SYS_ADMIN, which is
    /// given up without it. The budget then knows the agent's own CPU time only. Default true.
    pub measure_cost: bool,
}

impl Default for ProbesConfig {
    fn default() -> Self {
        Self {
            enabled: true,
            off: Vec::new(),
            cgroups_max: 16_384,
            ring_bytes: 1 << 20,
            drain_ms: 20,
            wake_bytes: 64 << 10,
            recent_max: 1_024,
            idle_s: 120,
            budget_cpu_percent: 25,
            measure_cost: true,
        }
    }
}

impl ProbesConfig {
    /// What is out of bounds, a sentence a field.
    pub fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        let mut within = |name: &str, value: u64, least: u64, most: u64| {
            if !(least..=most).contains(&value) {
                problems.push(format!(
                    "probes.{name}: {value} is not within {least} to {most}"
                ));
            }
        };
        within("cgroups_max", self.cgroups_max.into(), 64, 1_000_000);
        within("ring_bytes", self.ring_bytes.into(), 4_096, 64 << 20);
        within("drain_ms", self.drain_ms, 1, 1_000);
        within("wake_bytes", self.wake_bytes.into(), 1_024, 64 << 20);
        within("recent_max", self.recent_max as u64, 0, 65_536);
        within("idle_s", self.idle_s, 10, 86_400);
        within("budget_cpu_percent", self.budget_cpu_percent.into(), 1, 100);
        if !self.ring_bytes.is_power_of_two() {
            problems.push(format!(
                "probes.ring_bytes: {} is not a power of two",
                self.ring_bytes
            ));
        }
        problems
    }
}

#[cfg(test)]
mod tests {
    use super::{ProbeName, ProbesConfig};

    #[test]
    fn the_defaults_are_within_their_bounds() {
        assert!(ProbesConfig::default().problems().is_empty());
    }

    #[test]
    fn all_bad_fields_are_named_at_once() {
        let config = ProbesConfig {
            cgroups_max: 1,
            ring_bytes: 5_000,
            drain_ms: 0,
            ..ProbesConfig::default()
        };
        assert_eq!(
            config.problems(),
            [
                "probes.cgroups_max: 1 is not within 64 to 1000000",
                "probes.drain_ms: 0 is not within 1 to 1000",
                "probes.ring_bytes: 5000 is not a power of two",
            ]
        );
    }

    #[test]
    fn probes_are_left_out_by_their_names() {
        let config: ProbesConfig = serde_saphyr::from_str("off: [oom, syscalls]").unwrap();
        assert_eq!(config.off, [ProbeName::Oom, ProbeName::Syscalls]);
        assert!(serde_saphyr::from_str::<ProbesConfig>("off: [kprobe]").is_err());
        assert!(serde_saphyr::from_str::<ProbesConfig>("ofof: []").is_err());
    }
}
