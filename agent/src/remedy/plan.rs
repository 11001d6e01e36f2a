//! From a diagnosis to one intent, or to the reason why not. Reads the target and writes nothing.

use jiff::Timestamp;

use super::{
    Remedies, catalogue,
    catalogue::{Node, Planning, kill_cgroup, notify, unusable},
    cgroup::{Cgroup, Hierarchy},
    lease,
    policy::{self, Permission},
    refuse,
};
use crate::incident::{
    Action, ActionKind, Culprit, Diagnosis, Episode, Evidence, Hypothesis, Intent, KnobChange,
    Refusal, Suggestion, Verdict,
};

/// What the guards leave of a diagnosis.
#[derive(Clone, Debug, PartialEq)]
pub enum Decision {
    /// To be done at once. Its place in the budgets is taken.
    Act(Intent),
    /// To be proposed to a person. No place is taken.
    Ask(Intent),
}

/// The first suggestion that is possible, unprotected and permitted, within the budgets; one that may be
/// done at once before one that somebody has to approve.
pub(super) fn plan(
    remedies: &Remedies,
    diagnosis: &Diagnosis,
    evidence: &Evidence,
    episode: &Episode,
    now: Timestamp,
) -> Result<Decision, Refusal> {
    let top = sure(diagnosis)?;
    if top.remedies.is_empty() {
        return Err(refuse(
            "no-remedy",
            format!("the rule {} suggests none", top.id),
        ));
    }
    let call = Call {
        remedies,
        top,
        evidence,
        episode,
        now,
    };
    let mut refusals = Vec::new();
    let mut ask = None;
    for suggestion in &top.remedies {
        match call.one(suggestion, false) {
            Ok(Decision::Act(intent)) => return Ok(Decision::Act(intent)),
            Ok(proposed) => ask = ask.or(Some(proposed)),
            Err(refusal) => refusals.push((suggestion.action, refusal)),
        }
    }
    ask.ok_or_else(|| most_telling(refusals))
}

/// An action that a person has approved, guarded again: the diagnosis must still be sure, and blame the
/// same cgroup.
pub(super) fn approved(
    remedies: &Remedies,
    diagnosis: &Diagnosis,
    evidence: &Evidence,
    episode: &Episode,
    now: Timestamp,
    action: &Action,
) -> Result<Intent, Refusal> {
    let top = sure(diagnosis)?;
    let blamed = top.culprit.as_ref().map(|culprit| culprit.cgroup);
    if blamed != Some(action.cgroup) {
        let why = format!("{:?} is not the culprit any more", action.path);
        return Err(refuse("changed", why));
    }
    let suggestion = top.remedies.iter().find(|s| s.action == action.kind);
    let suggestion = suggestion.ok_or_else(|| {
        let why = format!(
            "the rule {} does not suggest {} any more",
            top.id, action.kind
        );
        refuse("changed", why)
    })?;
    let call = Call {
        remedies,
        top,
        evidence,
        episode,
        now,
    };
    match call.one(suggestion, true)? {
        Decision::Act(intent) | Decision::Ask(intent) => Ok(intent),
    }
}

/// The hypothesis that may be acted upon.
fn sure(diagnosis: &Diagnosis) -> Result<&Hypothesis, Refusal> {
    if let Verdict::Inconclusive(why) = &diagnosis.verdict {
        return Err(refuse("inconclusive", why.clone()));
    }
    let top = diagnosis.top.first();
    top.ok_or_else(|| refuse("inconclusive", "no hypothesis is left".to_owned()))
}

/// The refusal of the rule's first choice that is more than a notice; the others are named.
fn most_telling(mut refusals: Vec<(ActionKind, Refusal)>) -> Refusal {
    let passive = |kind: ActionKind| matches!(kind, ActionKind::Notify | ActionKind::Collect);
    let at = refusals
        .iter()
        .position(|(kind, _)| !passive(*kind))
        .unwrap_or(0);
    if refusals.is_empty() {
        return refuse("no-remedy", "the rule suggests none".to_owned());
    }
    let (kind, mut refusal) = refusals.remove(at);
    if !passive(kind) {
        refusal.detail = format!("{kind}: {}", refusal.detail);
    }
    let others = refusals.iter().filter(|(kind, _)| !passive(*kind));
    refusal
        .detail
        .extend(others.map(|(kind, other)| format!("; {kind}: {} as well", other.reason)));
    refusal
}

struct Call<'a> {
    remedies: &'a Remedies,
    top: &'a Hypothesis,
    evidence: &'a Evidence,
    episode: &'a Episode,
    now: Timestamp,
}

impl Call<'_> {
    /// With `approved`, a person's word is there.
    fn one(&self, suggestion: &Suggestion, approved: bool) -> Result<Decision, Refusal> {
        match suggestion.action {
            ActionKind::Notify => return Err(notify::refusal(self.top)),
            ActionKind::Collect => {
                return Err(refuse(
                    "notify",
                    "the rule only collects diagnostics".to_owned(),
                ));
            }
            _ => {}
        }
        let culprit = self.top.culprit.as_ref().ok_or_else(|| {
            refuse(
                "no-culprit",
                format!("{}: no cgroup stands out as the culprit", self.top.id),
            )
        })?;
        let hierarchy = self.remedies.hierarchy().map_err(unusable)?;
        let target = hierarchy
            .open_same(&culprit.path, culprit.cgroup)
            .map_err(|error| unusable(&error))?;
        self.protected(hierarchy, &target)?;
        let changes = self.changes(suggestion, &target)?;
        let intent = self.intent(suggestion, culprit, changes);
        let config = &self.remedies.config;
        let lease_s = self.lease_s(suggestion.action);
        let would = policy::describe(&intent.action, &intent.changes, lease_s);
        let earned = self.remedies.earned(&self.top.id, suggestion.action);
        let permission = policy::permit(config, suggestion, earned, &would)?;
        let own = intent.changes.iter().filter(|change| change.of.is_cgroup());
        for change in own {
            target
                .check_writable(&change.file)
                .map_err(|error| unusable(&error))?;
        }
        if permission == Permission::Ask && !approved {
            self.remedies.limits.would_take(&intent)?;
            return Ok(Decision::Ask(intent));
        }
        self.remedies.limits.take(&intent)?;
        Ok(Decision::Act(intent))
    }

    fn protected(&self, hierarchy: &Hierarchy, target: &Cgroup) -> Result<(), Refusal> {
        self.remedies
            .protection
            .check(hierarchy, target)
            .map_err(|protected| refuse("protected", protected.to_string()))
    }

    fn changes(
        &self,
        suggestion: &Suggestion,
        target: &Cgroup,
    ) -> Result<Vec<KnobChange>, Refusal> {
        let Some(knob) = catalogue::knob(suggestion.action) else {
            if !target.has(kill_cgroup::FILE) {
                let why = "this kernel has no cgroup.kill (since Linux 5.14)";
                return Err(refuse("unsupported", why.to_owned()));
            }
            return Ok(vec![kill_cgroup::change()]);
        };
        let (controller, file) = knob.needs();
        target.read(file).map_err(|error| unusable(&error))?;
        if suggestion
            .amount
            .is_some_and(|amount| !(amount.is_finite() && amount > 0.0))
        {
            let why = format!("the rule's amount for {controller} is not a number over 0");
            return Err(refuse("unsupported", why));
        }
        let processes = &self.remedies.protection.processes;
        let node = Node::now(self.evidence, processes).map_err(|error| {
            refuse("unsupported", format!("cannot read /proc/meminfo: {error}"))
        })?;
        let alert_age = self.now.duration_since(self.episode.alert.starts_at);
        let changes = knob.plan(&Planning {
            target,
            amount: suggestion.amount,
            node,
            facts: self.evidence.cgroup(target.id()),
            alert_age_s: alert_age.as_secs_f64(),
            processes,
        })?;
        if changes.is_empty() {
            let why = format!("{:?} holds these values already", target.path());
            return Err(refuse("already-limited", why));
        }
        Ok(changes)
    }

    fn lease_s(&self, kind: ActionKind) -> u64 {
        let own = catalogue::knob(kind).map_or(u64::MAX, catalogue::KnobAction::lease_s_max);
        self.remedies.config.lease_s.min(own)
    }

    fn intent(
        &self,
        suggestion: &Suggestion,
        culprit: &Culprit,
        changes: Vec<KnobChange>,
    ) -> Intent {
        Intent {
            episode: self.episode.id,
            action: Action {
                kind: suggestion.action,
                cgroup: culprit.cgroup,
                path: culprit.path.clone(),
                amount: suggestion.amount,
            },
            changes,
            lease_until: lease::ends(self.now, self.lease_s(suggestion.action)),
        }
    }
}

#[cfg(test)]
mod tests;
