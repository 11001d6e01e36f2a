//! What was done: suggestions, intents with what is needed to undo them, outcomes, and the journal's
//! entries.

use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Alert, CgroupId, Diagnosis, DualResult, Episode, EpisodeId, FeatureTest};

/// The catalogue's actions. No shell, no string-built commands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ActionKind {
    /// Limit the culprit's CPU time: `cpu.max`.
    ThrottleCpu,
    /// Cap the culprit's memory: `memory.high`, then `memory.max`.
    CapMemory,
    /// Cap the culprit's process count: `pids.max`.
    CapPids,
    /// Give the culprit less of a contended CPU: `cpu.weight`.
    DeprioritiseCpu,
    /// Limit the culprit's traffic with one disk: `io.max`.
    ThrottleIo,
    /// Stop the culprit for a short while: `cgroup.freeze`.
    FreezeCgroup,
    /// Let the culprit have more memory than its own limit: `memory.max`.
    RaiseMemory,
    /// Let the kernel's OOM killer take the culprit first: `oom_score_adj`.
    RaiseOomScore,
    /// End the culprit's largest process. Not reversible.
    KillProcess,
    /// Kill everything in the culprit: `cgroup.kill`. Not reversible.
    KillCgroup,
    /// Run a diagnostic command in a sandbox slice. Changes nothing.
    Collect,
    /// Tell people only.
    Notify,
}

impl fmt::Display for ActionKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ThrottleCpu => "throttle-cpu",
            Self::CapMemory => "cap-memory",
            Self::CapPids => "cap-pids",
            Self::DeprioritiseCpu => "deprioritise-cpu",
            Self::ThrottleIo => "throttle-io",
            Self::FreezeCgroup => "freeze-cgroup",
            Self::RaiseMemory => "raise-memory",
            Self::RaiseOomScore => "raise-oom-score",
            Self::KillProcess => "kill-process",
            Self::KillCgroup => "kill-cgroup",
            Self::Collect => "collect",
            Self::Notify => "notify",
        })
    }
}

/// How far the agent may go by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// Diagnose and record.
    Observe,
    /// Also say what would be done.
    Advise,
    /// Do it once a person approves.
    Approve,
    /// Do it.
    Act,
}

impl Level {
    /// As the configuration writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Observe => "observe",
            Self::Advise => "advise",
            Self::Approve => "approve",
            Self::Act => "act",
        }
    }
}

/// A remedy as a rule suggests it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Suggestion {
    /// Which action of the catalogue.
    pub action: ActionKind,
    /// Action-specific size: CPUs for `throttle-cpu`, share of the node's memory for `cap-memory`, and so
    /// on (docs/remedies.md); `None` = the action's own default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub amount: Option<f64>,
    /// The most that this rule lets the agent do; the node's policy may lower it further.
    #[serde(default = "act")]
    pub level: Level,
    /// Only say what would be written, and write nothing.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub dry_run: bool,
}

fn act() -> Level {
    Level::Act
}

/// A planned action: a suggestion with its target.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Action {
    /// Which.
    pub kind: ActionKind,
    /// Target cgroup.
    pub cgroup: CgroupId,
    /// Target's path below the mount when it was planned.
    pub path: String,
    /// See [`Suggestion::amount`].
    pub amount: Option<f64>,
}

/// Whose a changed file is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Holder {
    /// The target cgroup's own.
    #[default]
    Cgroup,
    /// A process of the target, by its number and its start: a number alone is used again.
    Process {
        /// Number.
        pid: u32,
        /// Field 22 of `/proc/PID/stat`: start in clock ticks since boot.
        start_ticks: u64,
    },
}

impl Holder {
    /// Whether it is the target cgroup itself.
    pub fn is_cgroup(&self) -> bool {
        *self == Self::Cgroup
    }
}

/// One file with its value before and after.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KnobChange {
    /// Whose file.
    #[serde(default, skip_serializing_if = "Holder::is_cgroup")]
    pub of: Holder,
    /// File name in the holder's directory, e.g. `cpu.max`. Of `io.max`, which has a line a disk, the
    /// values are one line.
    pub file: String,
    /// What it held: needed to undo.
    pub prior: String,
    /// What is written.
    pub value: String,
}

impl fmt::Display for KnobChange {
    /// The file and both values, as records and dry runs show them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            of,
            file,
            prior,
            value,
        } = self;
        if let Holder::Process { pid, .. } = of {
            write!(f, "process {pid}: ")?;
        }
        write!(f, "{file}: {prior:?} -> {value:?}")
    }
}

/// Journalled before the first write to the system (invariant 3).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Intent {
    /// For which episode.
    pub episode: EpisodeId,
    /// What, to whom.
    pub action: Action,
    /// Every write, in order; undone in reverse.
    pub changes: Vec<KnobChange>,
    /// When the effect must end by itself unless committed or renewed.
    pub lease_until: Timestamp,
}

/// Why an action was not taken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// Stable word: `policy`, `protected`, `budget`, `inconclusive`, `unsupported`, `read-only`, …
    pub reason: String,
    /// For people: names the object and the way out.
    pub detail: String,
}

/// How an action ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OutcomeKind {
    /// Recovery was seen; the effect stays until its lease ends. Not only until the alert resolves:
    /// it resolves because of the effect.
    Healed,
    /// No recovery within the time; undone.
    NoEffect,
    /// It got worse; undone.
    Worse,
    /// Could not be judged (evidence missing, agent restarted); undone.
    Unknown,
}

/// The verification's verdict.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// Verdict.
    pub kind: OutcomeKind,
    /// Each recovery test with its value before and after the action.
    pub checks: Vec<(FeatureTest, Option<f64>, Option<f64>)>,
    /// Seconds from the action to the verdict.
    pub after_s: f64,
}

/// What the journal's fast lane holds, one record each, as JSON. Names are stable for ever.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "entry")]
pub enum Entry {
    /// An alert opened an episode.
    Opened {
        /// The episode.
        episode: Episode,
    },
    /// The same alert again, firing (resend, duplicate, earlier start).
    Seen {
        /// The alert as sent now.
        alert: Alert,
    },
    /// The alert resolved: the episode is closed for intake.
    Resolved {
        /// The alert as sent.
        alert: Alert,
    },
    /// A diagnosis was made; the evidence is in the safe lane.
    Diagnosed {
        /// The ranked answer.
        diagnosis: Diagnosis,
        /// Safe-lane snapshot, if it could be stored.
        #[serde(default)]
        snapshot: Option<String>,
        /// Milliseconds from the episode's opening to this diagnosis.
        since_open_ms: u64,
    },
    /// What the shadow strategy said beside the one that decided. Nothing is done about it.
    Shadowed {
        /// Both answers.
        dual: DualResult,
    },
    /// No action was taken, and why.
    Refused {
        /// The action, if one was planned.
        #[serde(default)]
        action: Option<Action>,
        /// Why not.
        refusal: Refusal,
    },
    /// The level lets a person decide: this is what would be written. Nothing is done until then.
    Proposed {
        /// As it was planned; planned anew against fresh evidence once it is approved.
        intent: Intent,
        /// It lapses then.
        expires: Timestamp,
    },
    /// A person said yes. Whether it is still the right thing is looked at once more.
    Approved {
        /// Who, as they said.
        by: String,
    },
    /// A person said no.
    Rejected {
        /// Who, as they said.
        by: String,
    },
    /// Nobody decided in time, or it could not be done any more.
    Lapsed {
        /// Why, for people.
        why: String,
    },
    /// About to write.
    Intended {
        /// With everything needed to undo.
        intent: Intent,
    },
    /// Written.
    Applied {
        /// Microseconds that the writes took.
        took_us: u64,
    },
    /// Output of a diagnostic command.
    Collected {
        /// The command's name in the catalogue.
        command: String,
        /// Exit status, or the signal as text.
        status: String,
        /// Output, capped.
        output: String,
    },
    /// Judged.
    Verified {
        /// The verdict.
        outcome: Outcome,
        /// Safe-lane snapshot of the evidence after the action, if there is one.
        #[serde(default)]
        snapshot: Option<String>,
    },
    /// Prior values restored.
    RolledBack {
        /// `did_not_help`, `lease_ended`, `agent_restarted`, `agent_gone`, …
        reason: String,
        /// When, where the guardian did it in the agent's absence.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        by_guardian: Option<Timestamp>,
        /// Files left alone because somebody else had changed them meanwhile, or the cgroup is gone.
        #[serde(default)]
        left_alone: Vec<String>,
    },
    /// A restarted agent took over a verified effect and its lease.
    TakenOver {
        /// What was found.
        detail: String,
    },
    /// The episode's handling ended by an error or a panic in the agent.
    Failed {
        /// What went wrong.
        error: String,
    },
    /// Everything for this episode is done.
    Closed,
}

impl Entry {
    /// The entry's name as it stands in the journal.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Opened { .. } => "opened",
            Self::Seen { .. } => "seen",
            Self::Resolved { .. } => "resolved",
            Self::Diagnosed { .. } => "diagnosed",
            Self::Shadowed { .. } => "shadowed",
            Self::Refused { .. } => "refused",
            Self::Proposed { .. } => "proposed",
            Self::Approved { .. } => "approved",
            Self::Rejected { .. } => "rejected",
            Self::Lapsed { .. } => "lapsed",
            Self::Intended { .. } => "intended",
            Self::Applied { .. } => "applied",
            Self::Collected { .. } => "collected",
            Self::Verified { .. } => "verified",
            Self::RolledBack { .. } => "rolled_back",
            Self::TakenOver { .. } => "taken_over",
            Self::Failed { .. } => "failed",
            Self::Closed => "closed",
        }
    }
}
