//! The faults: what is started, which alert sees it, what Paramedic should find and do.

use std::{fs, path::Path, process::Command};

use anyhow::Context;

/// Share of the node's memory that a memory hog leaves: little enough to hurt, enough for the
/// kernel not to kill at random.
const MEMORY_LEFT: f64 = 0.09;

/// Holds once a dozen scrapes have come in.
pub const OBSERVED: &str = "count_over_time(up[1m]) > 12";

/// A fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Scenario {
    /// One cgroup takes every CPU
    CpuHog,
    /// One cgroup takes the memory
    MemoryHog,
    /// One cgroup creates processes in masses
    ForkStorm,
}

impl Scenario {
    /// Its name, which is the expected hypothesis' id too.
    pub fn name(self) -> &'static str {
        match self {
            Self::CpuHog => "cpu-hog",
            Self::MemoryHog => "memory-hog",
            Self::ForkStorm => "fork-storm",
        }
    }

    /// The action that the rule suggests for it.
    pub fn action(self) -> &'static str {
        match self {
            Self::CpuHog => "throttle-cpu",
            Self::MemoryHog => "cap-memory",
            Self::ForkStorm => "cap-pids",
        }
    }

    /// For somebody who has never seen this.
    pub fn tale(self) -> &'static str {
        match self {
            Self::CpuHog => "A batch job starts more busy workers than the node has CPUs.",
            Self::MemoryHog => "A batch job's workers fill the node's memory within seconds.",
            Self::ForkStorm => "A batch job starts processes as fast as the kernel lets it.",
        }
    }

    /// The alert: a symptom of the host as anybody's Prometheus has it, not the cause.
    pub fn alert(self) -> &'static str {
        match self {
            Self::CpuHog => "HostCpuSaturated",
            Self::MemoryHog => "HostMemoryLow",
            Self::ForkStorm => "HostProcessChurn",
        }
    }

    /// The alert's PromQL: [`Self::symptom`], once there are scrapes enough to tell it from our own
    /// start.
    pub fn expression(self, cpus: usize) -> String {
        format!("{} and on (instance) {OBSERVED}", self.symptom(cpus))
    }

    /// Four seconds, not two: a scrape of a starved exporter may be late.
    fn symptom(self, cpus: usize) -> String {
        match self {
            Self::CpuHog => {
                r#"1 - avg by (instance) (rate(node_cpu_seconds_total{mode="idle"}[4s])) > 0.9"#
                    .to_owned()
            }
            Self::MemoryHog => {
                "node_memory_MemAvailable_bytes / node_memory_MemTotal_bytes < 0.15".to_owned()
            }
            Self::ForkStorm => format!("rate(node_forks_total[4s]) > {}", 40 * cpus),
        }
    }

    /// What is started in the guilty cgroup; `folder` is for its temporary files.
    pub fn fault(self, cpus: usize, folder: &Path) -> anyhow::Result<Command> {
        let mut command = Command::new("stress-ng");
        command.arg("--temp-path").arg(folder);
        command.args(self.stressors(cpus)?);
        command.current_dir(folder);
        Ok(command)
    }

    /// stress-ng's arguments without those that serve the demo only.
    pub fn stressors(self, cpus: usize) -> anyhow::Result<Vec<String>> {
        let words = |text: &str| text.split_whitespace().map(str::to_owned).collect();
        Ok(match self {
            Self::CpuHog => words(&format!("--cpu {}", 2 * cpus)),
            // Four workers that fill their share and hold it; --oomable: one that the kernel kills
            // stays dead.
            Self::MemoryHog => {
                let (total, available) = memory_kib()?;
                let take = (available - MEMORY_LEFT * total).max(0.0) / 1024.0;
                words(&format!(
                    "--vm 4 --vm-bytes {take:.0}M --vm-keep --vm-hang 0 --vm-populate \
                     --vm-madvise hugepage --vm-method write64 --oomable"
                ))
            }
            // vfork, as posix_spawn(3) and shells use it.
            Self::ForkStorm => words(&format!("--vfork {}", 2 * cpus)),
        })
    }
}

/// `MemTotal` and `MemAvailable` in KiB.
fn memory_kib() -> anyhow::Result<(f64, f64)> {
    let text = fs::read_to_string("/proc/meminfo").context("cannot read /proc/meminfo")?;
    let field = |name: &str| {
        text.lines()
            .find_map(|line| {
                line.strip_prefix(name)?
                    .split_whitespace()
                    .next()?
                    .parse()
                    .ok()
            })
            .with_context(|| format!("/proc/meminfo has no {name}"))
    };
    Ok((field("MemTotal:")?, field("MemAvailable:")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_alert_does_not_give_the_answer_away() {
        for scenario in <Scenario as clap::ValueEnum>::value_variants() {
            let alert = scenario.alert().to_lowercase();
            for word in scenario.name().split('-').skip(1) {
                assert!(!alert.contains(word), "{alert} names {word}");
            }
        }
    }

    #[test]
    fn a_memory_hog_leaves_something() {
        let arguments = Scenario::MemoryHog.stressors(2).unwrap();
        let at = arguments.iter().position(|word| word == "--vm-bytes");
        let mib: f64 = arguments[at.unwrap() + 1]
            .trim_end_matches('M')
            .parse()
            .unwrap();
        let (total, available) = memory_kib().unwrap();
        assert!(mib * 1024.0 < available && mib * 1024.0 < total * (1.0 - MEMORY_LEFT));
    }
}
