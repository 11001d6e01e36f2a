//! What is watched on this host, with defaults and reasons.

use std::ops::RangeInclusive;

use regex::{Regex, RegexBuilder};
use serde::{Deserialize, Serialize};

/// Cgroups that may be watched: three triggers each, and the kernel keeps a timer for every one.
const CGROUPS_MAX: usize = 32;
const THRESHOLDS_MAX: usize = 32;
/// Bytes of a pattern.
const PATTERN_BYTES_MAX: usize = 1000;

/// What tasks wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Resource {
    /// A CPU.
    Cpu,
    /// Memory to be reclaimed or swapped in.
    Memory,
    /// A block device.
    Io,
}

impl Resource {
    /// As the kernel's files and the rules name it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Memory => "memory",
            Self::Io => "io",
        }
    }
}

/// How much stalling within a window is trouble.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stall {
    /// Milliseconds of the window; at most the window.
    pub stalled_ms: u64,
    /// Whether only time counts in which no task could run.
    #[serde(default)]
    pub full: bool,
}

/// A reading of this host that is trouble beyond a value.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Threshold {
    /// Name without `host.`, such as `mem.available`.
    pub reading: String,
    /// Trouble from here upwards.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at_least: Option<f64>,
    /// Trouble from here downwards.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at_most: Option<f64>,
    /// Seconds for which it must last; 0 to 3,600.
    pub for_s: u64,
    /// What it is about.
    pub resource: Resource,
}

impl Threshold {
    pub(super) fn crossed(&self, value: f64) -> bool {
        self.at_least.is_some_and(|least| value >= least)
            || self.at_most.is_some_and(|most| value <= most)
    }

    pub(super) fn summary(&self) -> String {
        let name = &self.reading;
        match (self.at_least, self.at_most) {
            (Some(least), None) => format!("{name} at {least} or more for {} s", self.for_s),
            (_, most) => format!(
                "{name} at {} or less for {} s",
                most.unwrap_or_default(),
                self.for_s
            ),
        }
    }
}

/// Configuration of the local triggers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PressureConfig {
    /// Whether anything is watched. True by default: no Prometheus is needed.
    pub enabled: bool,
    /// Milliseconds of the kernel's window, 500 to 10,000; 2,000 by default, the only one (with its
    /// multiples) that the kernel allows without `CAP_SYS_RESOURCE`.
    pub window_ms: u64,
    /// CPU: some tasks waited; 1,700 ms of the window by default. A busy node reaches half of that
    /// in good health. Unset = not watched; so are the next two.
    pub cpu: Option<Stall>,
    /// Memory: some tasks waited; 400 ms by default: a fifth of the time is thrashing.
    pub memory: Option<Stall>,
    /// I/O: no task could run; 1,200 ms by default. That some wait is a disk's daily bread.
    pub io: Option<Stall>,
    /// Cgroups watched the same way, as paths below `/sys/fs/cgroup`; at most 32, none by default.
    pub cgroups: Vec<String>,
    /// Readings of the flight recorder; at most 32. By default available memory at 3 % or less.
    pub thresholds: Vec<Threshold>,
    /// Seconds for which the stalling must last before an episode opens; 0 to 3,600, 4 by default.
    pub hold_s: u64,
    /// Seconds without it after which the episode is resolved; 1 to 86,400, 30 by default.
    pub clear_s: u64,
    /// Names of alerts that tell of CPU trouble, as a regular expression for the whole name: such an
    /// alert joins the episode of a local trigger, and a local trigger that of such an alert.
    pub cpu_alerts: String,
    /// The same for memory.
    pub memory_alerts: String,
    /// The same for I/O.
    pub io_alerts: String,
}

impl Default for PressureConfig {
    fn default() -> Self {
        let stall = |stalled_ms, full| Some(Stall { stalled_ms, full });
        Self {
            enabled: true,
            window_ms: 2000,
            cpu: stall(1700, false),
            memory: stall(400, false),
            io: stall(1200, true),
            cgroups: Vec::new(),
            thresholds: vec![Threshold {
                reading: "mem.available".to_owned(),
                at_least: None,
                at_most: Some(0.03),
                for_s: 10,
                resource: Resource::Memory,
            }],
            hold_s: 4,
            clear_s: 30,
            cpu_alerts: ".*(cpu|load|throttl|runqueue|runnable).*".to_owned(),
            memory_alerts: ".*(mem|oom|swap|reclaim|thrash).*".to_owned(),
            io_alerts: ".*(disk|io(ps|wait|pressure|stall)|latency|await|filesystem).*".to_owned(),
        }
    }
}

fn compiled(pattern: &str) -> Result<Regex, regex::Error> {
    RegexBuilder::new(&format!("^(?:{pattern})$"))
        .case_insensitive(true)
        .build()
}

impl PressureConfig {
    /// What is out of bounds, one sentence a field; empty when all is well.
    pub fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        let mut bound = |field: &str, value: u64, bounds: RangeInclusive<u64>| {
            if !bounds.contains(&value) {
                problems.push(format!(
                    "pressure.{field}: {value} is not within {} to {}",
                    bounds.start(),
                    bounds.end()
                ));
            }
        };
        bound("window_ms", self.window_ms, 500..=10_000);
        for (name, stall) in [("cpu", self.cpu), ("memory", self.memory), ("io", self.io)] {
            if let Some(stall) = stall {
                let field = format!("{name}.stalled_ms");
                bound(&field, stall.stalled_ms, 1..=self.window_ms.max(1));
            }
        }
        bound("hold_s", self.hold_s, 0..=3600);
        bound("clear_s", self.clear_s, 1..=86_400);
        bound("cgroups", self.cgroups.len() as u64, 0..=CGROUPS_MAX as u64);
        let many = self.thresholds.len() as u64;
        bound("thresholds", many, 0..=THRESHOLDS_MAX as u64);
        for (at, threshold) in self.thresholds.iter().enumerate() {
            bound(
                &format!("thresholds[{at}].for_s"),
                threshold.for_s,
                0..=3600,
            );
        }
        for (at, threshold) in self.thresholds.iter().enumerate() {
            if threshold.at_least.is_some() == threshold.at_most.is_some() {
                problems.push(format!(
                    "pressure.thresholds[{at}]: needs either at_least or at_most"
                ));
            }
        }
        for path in &self.cgroups {
            // A path from the configuration, but still no way out of the tree.
            if path.split('/').any(|part| part == "..") || path.trim_matches('/').is_empty() {
                problems.push(format!(
                    "pressure.cgroups: {path:?} is not a path below /sys/fs/cgroup"
                ));
            }
        }
        for (field, pattern) in self.patterns() {
            match compiled(pattern) {
                Ok(_) if pattern.len() <= PATTERN_BYTES_MAX => {}
                Ok(_) => problems.push(format!(
                    "pressure.{field}: longer than {PATTERN_BYTES_MAX} bytes"
                )),
                Err(error) => problems.push(format!(
                    "pressure.{field}: not a regular expression: {error}"
                )),
            }
        }
        problems
    }

    fn patterns(&self) -> [(&'static str, &str); 3] {
        [
            ("cpu_alerts", &self.cpu_alerts),
            ("memory_alerts", &self.memory_alerts),
            ("io_alerts", &self.io_alerts),
        ]
    }

    /// Whether an alert of the first name is about the resource of the second, as configured. A
    /// pattern that is none ([`Self::problems`] says so) matches nothing.
    pub fn kin(&self) -> impl Fn(&str, &str) -> bool + Send + Sync + 'static {
        let patterns = self.patterns().map(|(_, pattern)| compiled(pattern).ok());
        move |alert: &str, resource: &str| {
            let at = ["cpu", "memory", "io"].iter().position(|r| *r == resource);
            let pattern = at.and_then(|at| patterns[at].as_ref());
            pattern.is_some_and(|pattern| pattern.is_match(alert))
        }
    }

    /// Every trigger: resource, threshold, cgroup.
    pub(super) fn stalls(&self) -> Vec<(Resource, Stall, Option<&str>)> {
        let places = std::iter::once(None).chain(self.cgroups.iter().map(|path| Some(&**path)));
        let all = [
            (Resource::Cpu, self.cpu),
            (Resource::Memory, self.memory),
            (Resource::Io, self.io),
        ];
        places
            .flat_map(|place| all.map(|(resource, stall)| Some((resource, stall?, place))))
            .flatten()
            .collect()
    }
}
