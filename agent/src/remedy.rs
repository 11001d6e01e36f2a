//! Stage: remedy. From a diagnosis to one guarded, leased, undoable effect.
//!
//! - `plan`: the first suggestion of the rule that is possible, unprotected, permitted and within the
//!   budgets; otherwise a [`Refusal`] that says why and what to change;
//! - `policy`, `protect`, `limits`: the three guards;
//! - `promotion`: the level that a rule's verified outcomes have earned;
//! - `catalogue`: what each action writes;
//! - `effect`: writing and undoing, the same for all;
//! - `knob`: one file of a cgroup or of a process, read and written;
//! - `guardian`: the process that ends effects when the agent can't;
//! - `cgroup`: cgroups by handle and id, never by bare path;
//! - `sandbox`: where diagnostic commands run.
//!
//! Everything here blocks (cgroup files are answered by the kernel, lowering a memory limit takes as
//! long as reclaim does): call it from a blocking thread.

mod catalogue;
mod cgroup;
mod config;
mod effect;
pub mod guardian;
mod knob;
mod lease;
mod limits;
mod plan;
mod policy;
mod process;
mod promotion;
mod protect;
pub mod sandbox;

use std::{
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use jiff::Timestamp;
use tracing::warn;

pub use catalogue::collect::Command;
pub use cgroup::{Cgroup, CgroupError, Hierarchy, delegated};
pub use config::{LimitsConfig, RemedyConfig, SandboxConfig};
pub use effect::{ApplyError, UndoReport};
pub use plan::Decision;
pub use promotion::{Earned, PromotionConfig, Standings, wilson_lower};
pub use protect::Protected;
pub use sandbox::{CollectError, Collected};

use crate::{
    clock::Clock,
    incident::{
        Action, ActionKind, Diagnosis, Episode, Evidence, Intent, Level, OutcomeKind, Refusal,
    },
};
use guardian::Warden;
use limits::Limits;
use process::Processes;
use protect::Protection;
use sandbox::Sandbox;

/// An effect is in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Applied {
    /// Microseconds from the first check to the last value read back.
    pub took_us: u64,
}

/// All that may be done on this node. Shared by all episodes.
#[derive(Debug)]
pub struct Remedies {
    config: RemedyConfig,
    hierarchy: Result<Hierarchy, CgroupError>,
    protection: Protection,
    limits: Limits,
    /// One command at a time: the sandbox is for a node in trouble.
    sandbox: Mutex<Sandbox>,
    /// What outcomes have earned.
    standings: Mutex<Standings>,
    /// Ends effects when this process can't. None where nothing is ever done.
    warden: Option<Warden>,
    clock: Arc<dyn Clock>,
}

impl Remedies {
    /// For this machine. Without a cgroup2 mount it refuses every action and says why.
    pub fn new(config: &RemedyConfig, clock: Arc<dyn Clock>) -> Self {
        Self::with(config, clock, Hierarchy::find())
    }

    /// For the hierarchy mounted at a folder.
    pub fn at(config: &RemedyConfig, clock: Arc<dyn Clock>, mount: &Path) -> Self {
        Self::with(config, clock, Hierarchy::at(mount))
    }

    pub(crate) fn with(
        config: &RemedyConfig,
        clock: Arc<dyn Clock>,
        hierarchy: Result<Hierarchy, CgroupError>,
    ) -> Self {
        Self {
            protection: Protection {
                processes: Processes::machine(),
                own: vec![std::process::id()],
                listed: config.protect.clone(),
            },
            limits: Limits::new(&config.limits, clock.clone()),
            sandbox: Mutex::new(Sandbox::new(&config.sandbox)),
            standings: Mutex::default(),
            warden: None,
            config: config.clone(),
            hierarchy,
            clock,
        }
    }

    /// The wall clock that leases are counted by.
    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// Takes a place in the budgets, as planning does.
    #[cfg(test)]
    pub(crate) fn take_place(&self, intent: &Intent) -> Result<(), Refusal> {
        self.limits.take(intent)
    }

    /// From now on nothing is done without the guardian. It is protected by its program's name.
    #[must_use]
    pub fn guarded(mut self, warden: Warden) -> Self {
        self.warden = Some(warden);
        self
    }

    /// The agent's side of the guardian.
    pub fn warden(&self) -> Option<&Warden> {
        self.warden.as_ref()
    }

    fn hierarchy(&self) -> Result<&Hierarchy, &CgroupError> {
        self.hierarchy.as_ref()
    }

    /// Plans the one safe thing, with the prior values, and takes its place in the budgets if it may be
    /// done at once. Writes nothing. A place that is not used (the intent could not be journalled) is given
    /// back by [`Remedies::undo`], or ends with the lease.
    pub fn decide(
        &self,
        diagnosis: &Diagnosis,
        evidence: &Evidence,
        episode: &Episode,
        now: Timestamp,
    ) -> Result<Decision, Refusal> {
        plan::plan(self, diagnosis, evidence, episode, now)
    }

    /// The same for who can ask nobody: what a person would have to approve is refused.
    pub fn plan(
        &self,
        diagnosis: &Diagnosis,
        evidence: &Evidence,
        episode: &Episode,
        now: Timestamp,
    ) -> Result<Intent, Refusal> {
        match self.decide(diagnosis, evidence, episode, now)? {
            Decision::Act(intent) => Ok(intent),
            Decision::Ask(Intent { action, .. }) => Err(refuse(
                "approval",
                format!("{} in {:?} waits for a person", action.kind, action.path),
            )),
        }
    }

    /// Plans anew what a person has approved, through every guard, and takes its place in the budgets.
    pub fn plan_approved(
        &self,
        diagnosis: &Diagnosis,
        evidence: &Evidence,
        episode: &Episode,
        now: Timestamp,
        action: &Action,
    ) -> Result<Intent, Refusal> {
        plan::approved(self, diagnosis, evidence, episode, now, action)
    }

    /// How long a proposal waits for a person.
    pub fn approval_wait(&self) -> Duration {
        Duration::from_secs(self.config.approval_s)
    }

    /// The level that outcomes have earned for one rule's action; the highest where nothing has to be
    /// earned.
    pub fn earned(&self, rule: &str, kind: ActionKind) -> Level {
        self.standings().level(&self.config.promotion, rule, kind)
    }

    /// What each rule's actions have earned.
    pub fn levels(&self) -> Vec<Earned> {
        self.standings().earned(&self.config.promotion)
    }

    /// An action of a rule was judged: what it has earned follows.
    pub fn judged(&self, rule: &str, kind: ActionKind, outcome: OutcomeKind) {
        self.standings().add(rule, kind, outcome);
    }

    fn standings(&self) -> MutexGuard<'_, Standings> {
        self.standings
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes what a journalled intent says, after making sure once more that the target is the one
    /// that was meant and not protected. After an error, [`Remedies::undo`] takes back what was
    /// written.
    pub fn apply(&self, intent: &Intent) -> Result<Applied, ApplyError> {
        let begun = Instant::now();
        let hierarchy = self.hierarchy().map_err(|_| CgroupError::NoMount)?;
        let target = hierarchy.open_same(&intent.action.path, intent.action.cgroup)?;
        self.protection.check(hierarchy, &target)?;
        if let Some(warden) = &self.warden {
            warden.entrust(intent)?;
        }
        effect::apply(&target, &intent.changes)?;
        let took_us = u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX);
        Ok(Applied { took_us })
    }

    /// Restores prior values where our own are still there. No budget, level or breaker stands in its
    /// way; it never fails, and may be called again.
    pub fn undo(&self, intent: &Intent) -> UndoReport {
        let report = match self.hierarchy() {
            Ok(hierarchy) => effect::undo(hierarchy, intent),
            Err(error) => UndoReport {
                left_alone: vec![error.to_string()],
                ..UndoReport::default()
            },
        };
        self.limits.release(intent);
        let Some(warden) = &self.warden else {
            return report;
        };
        if let Err(error) = warden.release(intent.episode) {
            let error = &error as &dyn std::error::Error;
            warn!(
                error,
                "the guardian will undo this once more, which changes nothing"
            );
        }
        match warden.done(intent.episode) {
            // Done before: what it found then is the truth, what is there now may be somebody else's.
            Some(done) => UndoReport {
                restored: done.restored.clone(),
                left_alone: done.left_alone.clone(),
                guardian: Some(done),
            },
            None => report,
        }
    }

    /// It helped: it stays until its lease ends, whatever becomes of this process.
    pub fn keep(&self, intent: &Intent) {
        if let Some(Err(error)) = self.warden.as_ref().map(|warden| warden.verified(intent)) {
            let error = &error as &dyn std::error::Error;
            warn!(error, "the guardian takes this effect for unverified");
        }
    }

    /// Whether the guardian has ended this effect already.
    pub fn ended(&self, intent: &Intent) -> bool {
        let warden = self.warden.as_ref();
        warden.is_some_and(|warden| warden.done(intent.episode).is_some())
    }

    /// After a restart: counts an action of an earlier life, begun at `at`; `held` if it is still in
    /// force.
    pub fn recall(&self, intent: &Intent, at: Timestamp, held: bool) {
        self.limits.recall(intent, at, held);
    }

    /// The diagnostic commands that the top hypothesis' rule asks for. None unless `collect` is in
    /// `remedy.allow`.
    pub fn collections(&self, diagnosis: &Diagnosis) -> Vec<Command> {
        let asked = diagnosis.top.first().is_some_and(|top| {
            let mut actions = top.remedies.iter().map(|suggestion| suggestion.action);
            actions.any(|action| action == ActionKind::Collect)
        });
        if asked && self.config.allow.contains(&ActionKind::Collect) {
            catalogue::collect::all().to_vec()
        } else {
            Vec::new()
        }
    }

    /// Runs one of them in a slice of its own; `traceparent` goes into its environment.
    pub fn collect(&self, command: &Command, traceparent: &str) -> Result<Collected, CollectError> {
        let program = command.program().ok_or_else(|| {
            CollectError::NotAvailable(format!("{} is not installed", command.looked_for()))
        })?;
        let hierarchy = self
            .hierarchy()
            .map_err(|error| CollectError::NotAvailable(error.to_string()))?;
        let sandbox = self.sandbox.lock().unwrap_or_else(PoisonError::into_inner);
        sandbox.run(hierarchy, &program, traceparent)
    }
}

/// A refusal from its stable word and its text for people.
pub(crate) fn refuse(reason: &str, detail: String) -> Refusal {
    Refusal {
        reason: reason.to_owned(),
        detail,
    }
}
