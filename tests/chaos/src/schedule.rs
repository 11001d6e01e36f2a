//! What a seed means: how the agent is set up, what is sent to it, and what happens to it when. Pure, so
//! that a seed is the same storm every time.

use std::fmt;

use paramedic_parts::chance::Rng;

use crate::prometheus::Mode;

/// Label values that must stay data wherever they come. Each holds the marker.
pub const HOSTILE: [&str; 6] = [
    "chaosmark\"} or vector(1) or up{x=\"",
    "../../../../etc/chaosmark",
    "$(touch /tmp/chaosmark)`id`;reboot",
    "chaosmark\\\n\r\t\u{0}\u{202e}",
    "chaosmark{{instance}}{{ $labels.x }}",
    "\\\"chaosmark' OR 1=1 --",
];
/// Stands in every hostile value.
pub const MARKER: &str = "chaosmark";

/// One storm.
#[derive(Clone, Debug)]
pub struct Schedule {
    pub seed: u64,
    pub setting: Setting,
    pub stories: Vec<Story>,
    pub steps: Vec<Step>,
    /// The end is a kill, and what was accepted is looked for before anybody has tidied up.
    pub ends_by_kill: bool,
}

/// How the agent is set up.
#[derive(Clone, Debug)]
pub struct Setting {
    pub queue_len_max: u64,
    pub concurrency_max: u64,
    /// 1 keeps the threads and io_uring out of the safe lane.
    pub in_flight_max: u64,
    pub journal_deadline_ms: u64,
    pub probes: ProbesAre,
    pub disk_mib: u64,
}

/// How the kernel's probes fare.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProbesAre {
    Off,
    /// As far as this kernel lets them.
    On,
    /// Every call of bpf(2) is refused.
    Refused,
}

/// What one Alertmanager group goes through: so many label sets fire and resolve, again and again while
/// the storm lasts.
#[derive(Clone, Debug)]
pub struct Story {
    pub alert: &'static str,
    pub alerts: u64,
    /// At most.
    pub spells: u64,
    /// Between two requests.
    pub pause_ms: u64,
    /// Whether the last spell resolves.
    pub resolves: bool,
    /// Index of a hostile value for its labels.
    pub hostile: Option<usize>,
}

/// A fault, so long after the one before.
#[derive(Clone, Debug)]
pub struct Step {
    pub after_ms: u64,
    pub fault: Fault,
}

/// Which call of the disk fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskCall {
    Sync,
    Write,
    Allocate,
}

/// Of which lane of the journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lane {
    Fast,
    Safe,
}

/// What happens to the agent, or to what it depends on.
#[derive(Clone, Copy, Debug)]
pub enum Fault {
    /// SIGKILL, then a new life.
    Kill,
    /// SIGTERM, then a new life.
    Terminate,
    /// SIGSTOP for a while.
    Freeze { ms: u64 },
    /// No byte left on the disk of the journal for a while.
    DiskFull { ms: u64 },
    /// One call on a lane's files answers EIO, after so many; then a new life.
    DiskFails {
        call: DiskCall,
        lane: Lane,
        after: u64,
    },
    /// For a while no space can be had for new segments.
    NoSpace { ms: u64 },
    /// Each of them takes so long for a while.
    DiskSlow { call_ms: u64, ms: u64 },
    /// From now on Prometheus is like this.
    Prometheus(Mode),
    /// So many connections send one group at once.
    Flood { connections: u64 },
    /// Bodies and heads that are not right.
    Malformed,
    /// Senders that stop in the middle of a request, or hang up before the answer.
    Partition { connections: u64, ms: u64 },
    /// So many file descriptors are left for a while, and more connections than that come.
    Files { spare: u64, ms: u64 },
    /// So much address space is left for a while.
    Memory { spare_mib: u64, ms: u64 },
    /// SIGHUP with another rule file, a good or a bad one.
    Reload { good: bool },
    /// SIGKILL for the guardian.
    KillGuardian,
    /// A second agent is started on the same state.
    SecondAgent,
    /// The record is read beside the running agent.
    Readers,
}

impl Fault {
    /// For counting.
    pub fn name(self) -> &'static str {
        match self {
            Self::Kill => "kill",
            Self::Terminate => "terminate",
            Self::Freeze { .. } => "freeze",
            Self::DiskFull { .. } => "disk-full",
            Self::DiskFails { .. } => "disk-fails",
            Self::NoSpace { .. } => "no-space",
            Self::DiskSlow { .. } => "disk-slow",
            Self::Prometheus(_) => "prometheus",
            Self::Flood { .. } => "flood",
            Self::Malformed => "malformed",
            Self::Partition { .. } => "partition",
            Self::Files { .. } => "files",
            Self::Memory { .. } => "memory",
            Self::Reload { .. } => "reload",
            Self::KillGuardian => "kill-guardian",
            Self::SecondAgent => "second-agent",
            Self::Readers => "readers",
        }
    }

    /// Most of these in one storm: each costs a start of the agent.
    fn is_costly(self) -> bool {
        matches!(
            self,
            Self::Kill
                | Self::Terminate
                | Self::DiskFails { .. }
                | Self::Memory { .. }
                | Self::SecondAgent
        )
    }
}

/// Starts of the agent that a storm's faults may cost.
const COSTLY_MAX: usize = 2;

/// Names that shipped rules know, so that queries with the alert's labels are asked, and one that they
/// don't.
const ALERTS: [&str; 5] = [
    "HostCpuSaturated",
    "HostOutOfMemory",
    "HostHighCpu",
    "HostDiskSlow",
    "Chaos",
];

impl Schedule {
    /// The storm of a seed.
    pub fn of(seed: u64) -> Self {
        let mut rng = Rng(seed);
        let setting = Setting {
            queue_len_max: [4, 64, 1024][index(&mut rng, 3)],
            concurrency_max: [2, 16][index(&mut rng, 2)],
            in_flight_max: [1, 8][index(&mut rng, 2)],
            journal_deadline_ms: [300, 2_000, 10_000][index(&mut rng, 3)],
            probes: match rng.below(6) {
                0 => ProbesAre::On,
                1 => ProbesAre::Refused,
                _ => ProbesAre::Off,
            },
            disk_mib: 24 + rng.below(16),
        };
        let stories = (0..2 + rng.below(4)).map(|_| story(&mut rng)).collect();
        let mut steps = Vec::new();
        let mut costly = 0;
        while steps.len() < 4 + index(&mut rng, 4) {
            let fault = fault(&mut rng);
            if fault.is_costly() {
                costly += 1;
                if costly > COSTLY_MAX {
                    continue;
                }
            }
            let after_ms = rng.below(120);
            steps.push(Step { after_ms, fault });
        }
        Self {
            seed,
            setting,
            stories,
            steps,
            ends_by_kill: rng.below(2) == 0,
        }
    }
}

fn index(rng: &mut Rng, n: u64) -> usize {
    usize::try_from(rng.below(n)).unwrap_or(0)
}

fn story(rng: &mut Rng) -> Story {
    Story {
        alert: ALERTS[index(rng, ALERTS.len() as u64)],
        alerts: 1 + rng.below(4),
        spells: 2 + rng.below(8),
        pause_ms: 20 + rng.below(150),
        resolves: rng.below(2) == 0,
        hostile: (rng.below(2) == 0).then(|| index(rng, HOSTILE.len() as u64)),
    }
}

fn fault(rng: &mut Rng) -> Fault {
    let ms = 50 + rng.below(300);
    match rng.below(17) {
        0 => Fault::Kill,
        1 => Fault::Terminate,
        2 => Fault::Freeze { ms: ms * 2 },
        3 => Fault::DiskFull { ms },
        4 => Fault::DiskFails {
            call: [DiskCall::Sync, DiskCall::Write, DiskCall::Allocate][index(rng, 3)],
            lane: [Lane::Fast, Lane::Fast, Lane::Safe][index(rng, 3)],
            after: rng.below(4),
        },
        5 => Fault::DiskSlow {
            call_ms: 1 + rng.below(80),
            ms,
        },
        6 => Fault::Prometheus(Mode::ALL[index(rng, Mode::ALL.len() as u64)]),
        7 => Fault::Flood {
            connections: 4 + rng.below(28),
        },
        8 => Fault::Malformed,
        9 => Fault::Partition {
            connections: 1 + rng.below(24),
            ms,
        },
        10 => Fault::Files {
            spare: rng.below(6),
            ms,
        },
        11 => Fault::Memory {
            spare_mib: rng.below(32),
            ms,
        },
        12 => Fault::Reload {
            good: rng.below(2) == 0,
        },
        13 => Fault::KillGuardian,
        14 => Fault::SecondAgent,
        15 => Fault::NoSpace { ms: ms * 2 },
        _ => Fault::Readers,
    }
}

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "seed {}: {:?}", self.seed, self.setting)?;
        for story in &self.stories {
            writeln!(f, "  {story:?}")?;
        }
        for Step { after_ms, fault } in &self.steps {
            writeln!(f, "  +{after_ms} ms {fault:?}")?;
        }
        let end = if self.ends_by_kill {
            "a kill"
        } else {
            "SIGTERM"
        };
        write!(f, "  ends by {end}")
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::{COSTLY_MAX, HOSTILE, MARKER, Schedule};

    #[test]
    fn a_seed_is_the_same_storm_every_time_and_all_faults_come() {
        let mut seen = BTreeSet::new();
        for seed in 0..300 {
            let schedule = Schedule::of(seed);
            assert_eq!(schedule.to_string(), Schedule::of(seed).to_string());
            let costly = schedule.steps.iter().filter(|step| step.fault.is_costly());
            assert!(costly.count() <= COSTLY_MAX && schedule.steps.len() >= 4);
            seen.extend(schedule.steps.iter().map(|step| step.fault.name()));
        }
        assert_eq!(seen.len(), 17, "{seen:?}");
    }

    #[test]
    fn hostile_values_can_be_found_again() {
        assert!(HOSTILE.iter().all(|value| value.contains(MARKER)));
    }
}
