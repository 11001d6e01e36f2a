//! What is left unfinished: by an earlier life ([`resume`]), by an episode whose handling broke off
//! ([`abandon`]), by this life when it ends ([`leave`]). An effect is undone or taken over, never
//! repeated; an accepted episode that nothing was done for is handled again.

use std::sync::Arc;

use tracing::{info, warn};

use super::{Stages, approval, undo};
use crate::{
    incident::{Entry, Episode, EpisodeId, Outcome, OutcomeKind},
    ledger::{Answer, Incident, LedgerError, Line, Proposal},
};

/// What was found and done.
#[derive(Debug, Default)]
pub struct Resumed {
    /// Accepted, but nothing was intended: to be handled now. With whether the alert has resolved
    /// meanwhile.
    pub again: Vec<(Episode, bool)>,
    /// Unverified effects undone.
    pub rolled_back: usize,
    /// Verified effects whose leases run on.
    pub taken_over: usize,
    /// Proposals that still wait for a person.
    pub proposed: usize,
}

/// Settles every unfinished incident of the journal. Run once, before intake opens.
pub async fn resume(stages: &Arc<Stages>) -> Result<Resumed, LedgerError> {
    let unfinished: Vec<Incident> = stages
        .ledger
        .with_index(|index| index.iter().filter(|i| !i.closed()).cloned().collect());
    recall(stages);
    let mut resumed = Resumed::default();
    for incident in unfinished {
        match incident.intent() {
            None if incident.proposal().is_some() => {
                resumed.proposed += usize::from(take_up(stages, &incident).await?);
            }
            None => {
                let resolved = incident.resolved();
                let mut episode = incident.episode;
                // The first handling had that span, and may have told others of it.
                episode.trace.begun_here = false;
                resumed.again.push((episode, resolved));
            }
            Some(_) if incident.rolled_back() => close(stages, &incident).await?,
            Some((intent, true)) if stages.remedies.ended(intent) => {
                let undone = undo(stages, intent, "lease_ended").await;
                let entries = vec![undone, Entry::Closed];
                stages.ledger.append_outcome(incident.id, entries).await?;
            }
            Some((_, true)) => {
                take_over(stages, &incident).await?;
                resumed.taken_over += 1;
            }
            Some((_, false)) => {
                roll_back(stages, &incident).await?;
                resumed.rolled_back += 1;
            }
        }
    }
    tidy(stages);
    Ok(resumed)
}

/// A proposal of an earlier life waits on, unless its time is over. One that was approved and not begun is
/// not begun now: the approval was for what the evidence said then. Whether it still waits.
async fn take_up(stages: &Arc<Stages>, incident: &Incident) -> Result<bool, LedgerError> {
    let Some(Proposal {
        intent,
        expires,
        answer,
    }) = incident.proposal()
    else {
        return Ok(false);
    };
    match answer {
        Some(Answer::Approved) => {
            let why = "the agent ended after the approval and before anything was done";
            approval::lapse(stages, incident.id, why.to_owned()).await?;
            return Ok(false);
        }
        Some(_) => {
            close(stages, incident).await?;
            return Ok(false);
        }
        None => {}
    }
    if let Some(why) = approval::over(incident, expires) {
        approval::lapse(stages, incident.id, why).await?;
        return Ok(false);
    }
    let detail = format!(
        "the agent restarted; {} on {} still waits for a person, until {expires}",
        intent.action.kind, intent.action.path
    );
    info!(episode = %incident.id, detail, "taken over");
    let taken_over = Entry::TakenOver { detail };
    stages.ledger.append(incident.id, taken_over).await?;
    approval::wait_for_word(stages, incident.id, expires);
    Ok(true)
}

/// What the guardian told stands in the journal now.
fn tidy(stages: &Stages) {
    let Some(warden) = stages.remedies.warden() else {
        return;
    };
    let closed = |id| {
        stages
            .ledger
            .with_index(|index| index.get(id).is_none_or(Incident::closed))
    };
    if let Err(error) = warden.tidy(closed) {
        let error = &error as &dyn std::error::Error;
        warn!(error, "the guardian's notes stay for now");
    }
}

/// The budgets count what an earlier life did, and levels are what its outcomes earned.
fn recall(stages: &Stages) {
    stages.ledger.with_index(|index| {
        for (rule, action, outcome) in index.judged() {
            stages.remedies.judged(rule, action, outcome);
        }
        for incident in index.iter() {
            let intended = |line: &&Line| matches!(line.entry, Entry::Intended { .. });
            let at = incident
                .entries
                .iter()
                .rev()
                .find(intended)
                .map(|line| line.at);
            if let (Some((intent, _)), Some(at)) = (incident.intent(), at) {
                let held = !incident.closed() && !incident.rolled_back();
                stages.remedies.recall(intent, at, held);
            }
        }
    });
}

async fn take_over(stages: &Arc<Stages>, incident: &Incident) -> Result<(), LedgerError> {
    let Some((intent, _)) = incident.intent() else {
        return Ok(());
    };
    let detail = format!(
        "the agent restarted; {} on {} helped and stays until {}",
        intent.action.kind, intent.action.path, intent.lease_until
    );
    info!(episode = %incident.id, detail, "taken over");
    stages
        .ledger
        .append_outcome(incident.id, vec![Entry::TakenOver { detail }])
        .await?;
    super::keep(stages, intent).await;
    stages.keeper.hold(stages, intent.clone());
    Ok(())
}

/// The intent may have been applied whole, in part or not at all: undoing covers all three, because
/// it re-reads each file and restores only what holds our own value.
async fn roll_back(stages: &Arc<Stages>, incident: &Incident) -> Result<(), LedgerError> {
    let Some((intent, _)) = incident.intent() else {
        return Ok(());
    };
    warn!(episode = %incident.id, action = %intent.action.kind, target = %intent.action.path,
        "the agent died before this effect was verified; undoing it");
    let undone = undo(stages, intent, "agent_restarted").await;
    let outcome = Outcome {
        kind: OutcomeKind::Unknown,
        checks: Vec::new(),
        after_s: 0.0,
    };
    let (kind, snapshot) = (outcome.kind, None);
    let entries = vec![Entry::Verified { outcome, snapshot }, undone, Entry::Closed];
    stages.ledger.append_outcome(incident.id, entries).await?;
    if let Some(top) = incident.diagnosis().and_then(|found| found.top.first()) {
        stages.remedies.judged(&top.id, intent.action.kind, kind);
    }
    Ok(())
}

/// Before a stop: undoes every effect that is still in force, held or not yet verified. Whoever stops
/// the agent may not start it again, and then nobody would end the leases.
pub async fn leave(stages: &Arc<Stages>) -> Result<usize, LedgerError> {
    let in_force: Vec<Incident> = stages.ledger.with_index(|index| {
        let unfinished = index.iter().filter(|i| !i.closed() && !i.rolled_back());
        unfinished
            .filter(|i| i.intent().is_some())
            .cloned()
            .collect()
    });
    let mut failed = None;
    for incident in &in_force {
        let Some((intent, _)) = incident.intent() else {
            continue;
        };
        let undone = undo(stages, intent, "agent_stopped").await;
        let entries = vec![undone, Entry::Closed];
        // One that cannot be recorded must not keep the others in force.
        if let Err(error) = stages.ledger.append_outcome(incident.id, entries).await {
            failed.get_or_insert(error);
        }
    }
    failed.map_or(Ok(in_force.len()), Err)
}

/// Ends an episode whose handling did not end by itself (an error, a panic, its deadline): an effect
/// that nobody verified is undone first, whether or not the journal can still be told.
pub async fn abandon(stages: &Arc<Stages>, id: EpisodeId, why: &str) -> Result<(), LedgerError> {
    let found = stages.ledger.with_index(|index| index.get(id).cloned());
    let Some(incident) = found.filter(|incident| !incident.closed()) else {
        return Ok(());
    };
    let mut entries = Vec::new();
    match incident.intent() {
        // It helped, and its lease is kept.
        Some((_, true)) => return Ok(()),
        Some((intent, false)) if !incident.rolled_back() => {
            entries.push(undo(stages, intent, "abandoned").await);
        }
        _ => {}
    }
    warn!(episode = %id, why, "the episode was abandoned");
    entries.push(Entry::Failed {
        error: why.to_owned(),
    });
    entries.push(Entry::Closed);
    stages.ledger.append_outcome(id, entries).await
}

async fn close(stages: &Arc<Stages>, incident: &Incident) -> Result<(), LedgerError> {
    stages
        .ledger
        .append_outcome(incident.id, vec![Entry::Closed])
        .await
}
