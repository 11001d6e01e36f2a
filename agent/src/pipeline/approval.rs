//! An action that a person decides about: proposed in the record, answered over HTTP, guarded once more
//! against fresh evidence, then carried out like any other.
//!
//! A proposal lives in the journal; nothing else has to survive. One answer counts: answers take turns, and
//! each looks at the record first.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};
use tokio::sync::{Mutex, watch};
use tracing::{error, info, info_span, warn};

use super::{
    PipelineError, Stages, abandon, diagnosed, examine::examine, learning, planned, report_only,
    treat,
};
use crate::{
    incident::{Action, Entry, EpisodeId, Intent, OutcomeKind},
    ledger::{Answer, Incident, LedgerError},
    remedy::refuse,
    resilience,
    telemetry::trace,
};

/// Proposals that wait at the same time. More than people can look at; each is one sleeping task.
const WAITING_MAX: usize = 64;
/// Between two looks at whether the alert of a proposal has resolved.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// What a person says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Word {
    /// Do it.
    Approve,
    /// Don't.
    Reject,
}

/// Why a person's word changes nothing.
#[derive(Debug, thiserror::Error)]
pub enum AnswerError {
    /// No such incident.
    #[error("no incident {0} here: `paramedic incidents list` shows what there is")]
    Unknown(EpisodeId),
    /// Nothing waits.
    #[error("nothing of incident {0} waits for a person")]
    NotProposed(EpisodeId),
    /// Somebody was faster.
    #[error("incident {0} was {1} already")]
    Answered(EpisodeId, &'static str),
    /// Too late.
    #[error("the proposal of incident {id} has lapsed: {why}")]
    Lapsed {
        /// Which.
        id: EpisodeId,
        /// Why.
        why: String,
    },
    /// The agent is about to stop: nothing is begun any more.
    #[error("the agent is stopping; the proposal waits for the next start")]
    Stopping,
    /// Without a record nothing is done.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
}

/// What answers share.
#[derive(Debug, Default)]
pub(super) struct Turns {
    one: Mutex<()>,
    waiting: AtomicUsize,
}

/// Records a proposal; the episode's handling ends here until a person says something.
pub(super) async fn propose(
    stages: &Arc<Stages>,
    episode: EpisodeId,
    intent: Intent,
) -> Result<(), PipelineError> {
    if stages.keeper.turns.waiting.load(Ordering::Relaxed) >= WAITING_MAX {
        let detail = format!(
            "{WAITING_MAX} proposals wait for a person already: answer those, or lower \
             remedy.level to advise"
        );
        return report_only(stages, episode, refuse("budget", detail)).await;
    }
    let wait = SignedDuration::try_from(stages.remedies.approval_wait()).unwrap_or_default();
    let expires = Timestamp::now() + wait;
    info!(action = %intent.action.kind, target = %intent.action.path, %expires, "proposed");
    let proposed = Entry::Proposed { intent, expires };
    stages.ledger.append(episode, proposed).await?;
    wait_for_word(stages, episode, expires);
    Ok(())
}

/// Lapses a proposal when its time is over or its alert has resolved, unless it was answered before.
pub(super) fn wait_for_word(stages: &Arc<Stages>, id: EpisodeId, expires: Timestamp) {
    let (shared, stop) = (stages.clone(), stages.keeper.stop.clone());
    let turns = stages.keeper.turns.clone();
    turns.waiting.fetch_add(1, Ordering::Relaxed);
    stages.keeper.tasks.spawn(async move {
        loop {
            let left = expires.duration_since(Timestamp::now());
            let left = Duration::try_from(left).unwrap_or_default();
            let over = stop.run_until_cancelled(tokio::time::sleep(left.min(LOOK_EVERY)));
            if over.await.is_none() {
                break;
            }
            let _one = turns.one.lock().await;
            match pending(&shared, id) {
                Ok(_) => {}
                Err(AnswerError::Lapsed { why, .. }) => {
                    if let Err(error) = lapse(&shared, id, why).await {
                        let error = &error as &dyn std::error::Error;
                        error!(episode = %id, error, "the end of a proposal was not recorded");
                    }
                    break;
                }
                Err(_) => break,
            }
        }
        turns.waiting.fetch_sub(1, Ordering::Relaxed);
    });
}

/// What waits for a word, if it still does.
fn pending(stages: &Stages, id: EpisodeId) -> Result<Action, AnswerError> {
    stages.ledger.with_index(|index| {
        let incident = index.get(id).ok_or(AnswerError::Unknown(id))?;
        let proposal = incident.proposal().ok_or(AnswerError::NotProposed(id))?;
        match proposal.answer {
            Some(Answer::Approved) => return Err(AnswerError::Answered(id, "approved")),
            Some(Answer::Rejected) => return Err(AnswerError::Answered(id, "rejected")),
            Some(Answer::Lapsed) => return Err(AnswerError::Answered(id, "given up")),
            None => {}
        }
        over(incident, proposal.expires).map_or_else(
            || Ok(proposal.intent.action.clone()),
            |why| Err(AnswerError::Lapsed { id, why }),
        )
    })
}

/// Why a proposal that nobody answered may not be answered any more.
pub(super) fn over(incident: &Incident, expires: Timestamp) -> Option<String> {
    if incident.resolved() {
        return Some("the alert resolved before anybody decided".to_owned());
    }
    (Timestamp::now() >= expires)
        .then(|| format!("nobody decided until {expires} (remedy.approval_s)"))
}

pub(super) async fn lapse(stages: &Stages, id: EpisodeId, why: String) -> Result<(), LedgerError> {
    info!(episode = %id, why, "the proposal lapsed");
    let entries = vec![Entry::Lapsed { why }, Entry::Closed];
    stages.ledger.append_outcome(id, entries).await
}

/// Takes a person's word, durable when this returns. What was approved is then guarded and carried out in a
/// task of its own; the record tells what became of it. `by` is who they say they are.
///
/// # Errors
/// [`AnswerError`]: nothing was changed by it.
pub async fn answer(
    stages: &Arc<Stages>,
    id: EpisodeId,
    word: Word,
    by: &str,
) -> Result<(), AnswerError> {
    if stages.keeper.stop.is_cancelled() {
        return Err(AnswerError::Stopping);
    }
    let _one = stages.keeper.turns.one.lock().await;
    let action = match pending(stages, id) {
        Err(AnswerError::Lapsed { id, why }) => {
            lapse(stages, id, why.clone()).await?;
            return Err(AnswerError::Lapsed { id, why });
        }
        other => other?,
    };
    let by = by.to_owned();
    info!(episode = %id, ?word, by, action = %action.kind, target = %action.path, "answered");
    if word == Word::Reject {
        let entries = vec![(id, Entry::Rejected { by }), (id, Entry::Closed)];
        return Ok(stages.ledger.append_all(entries).await?);
    }
    stages.ledger.append(id, Entry::Approved { by }).await?;
    let (shared, stop) = (stages.clone(), stages.keeper.stop.clone());
    stages.keeper.tasks.spawn(async move {
        let own = shared.clone();
        let mut doing = tokio::spawn(async move {
            let span = info_span!("approved", episode = %id);
            trace::stage(span, carry_out(&own, id, &action)).await
        });
        let ended = tokio::select! {
            ended = &mut doing => ended,
            () = stop.cancelled() => {
                // What it has begun is undone by whoever stops the agent; what it has not begun lapses at
                // the next start.
                doing.abort();
                doing.await
            }
        };
        let why = match ended {
            Ok(Ok(())) => return,
            Ok(Err(error)) => resilience::chain(&error),
            Err(error) if error.is_cancelled() => return,
            Err(error) => error.to_string(),
        };
        if let Err(error) = abandon(&shared, id, &why).await {
            let error = &error as &dyn std::error::Error;
            error!(episode = %id, error, "the end of an approved action was not recorded");
        }
    });
    Ok(())
}

/// Looks again, guards again, then acts.
async fn carry_out(
    stages: &Arc<Stages>,
    id: EpisodeId,
    action: &Action,
) -> Result<(), PipelineError> {
    let Some(incident) = stages.ledger.with_index(|index| index.get(id).cloned()) else {
        warn!(episode = %id, "an approved incident is gone from the record");
        return Ok(());
    };
    let episode = &incident.episode;
    trace::join(|| Some(episode.trace.clone()));
    let _watched = stages.watch.begin(&stages.recorder);
    let (evidence, diagnosis) = examine(stages, episode).await;
    // No diagnosis of an alert that came just now: it is not counted as one.
    let (entry, _) = diagnosed(stages, episode, &diagnosis, &evidence).await;
    stages.ledger.append(id, entry).await?;

    let first = |incident: &Incident| Some(incident.diagnosis()?.top.first()?.id.clone());
    let proposed_for = first(&incident);
    let refusal = if proposed_for != diagnosis.top.first().map(|top| top.id.clone()) {
        let now = diagnosis.top.first().map_or("nothing", |top| &top.id);
        let detail = format!("the evidence of now says {now}: nothing was done");
        Err(refuse("changed", detail))
    } else if stages
        .ledger
        .with_index(|index| index.get(id).is_some_and(Incident::resolved))
    {
        let detail = "the alert has resolved meanwhile: nothing was done".to_owned();
        Err(refuse("resolved", detail))
    } else {
        let (episode, action) = (episode.clone(), action.clone());
        let (diagnosis, evidence) = (diagnosis.clone(), evidence.clone());
        planned(stages, move |remedies| {
            let now = Timestamp::now();
            remedies.plan_approved(&diagnosis, &evidence, &episode, now, &action)
        })
        .await
    };
    let intent = match refusal {
        Ok(intent) => intent,
        Err(refusal) => return report_only(stages, id, refusal).await,
    };
    let (_sender, mut resolved) = watch::channel(false);
    let outcome = treat(stages, &diagnosis, intent, &evidence, &mut resolved).await?;
    if outcome == OutcomeKind::Healed {
        learning::learn(stages, episode, &diagnosis).await;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
