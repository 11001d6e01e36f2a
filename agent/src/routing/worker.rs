//! One episode's run: in a task of its own, so that a panic ends that task only; within its
//! deadline; and what goes wrong is told.

use std::{
    any::Any,
    sync::{Arc, atomic::Ordering},
};

use tokio::task::JoinError;
use tracing::{Instrument, error, info_span, warn};

use super::{
    Failure, Shared,
    queue::{Queued, Running},
    tenant::Slot,
};
use crate::incident::EpisodeId;

/// Forgets the episode's `resolved` channel, whatever way the run ends.
struct Forget {
    shared: Arc<Shared>,
    id: EpisodeId,
}

impl Drop for Forget {
    fn drop(&mut self) {
        self.shared.watches().remove(&self.id);
    }
}

/// Runs one episode to its end; `_slot` and `_running` are given back then.
pub(super) async fn run(shared: Arc<Shared>, queued: Queued, _slot: Slot, _running: Running) {
    let Queued {
        episode,
        resolved,
        place,
    } = queued;
    drop(place);
    let id = episode.id;
    let _forget = Forget {
        shared: shared.clone(),
        id,
    };
    let span = info_span!("worker", episode = %id, tenant = %episode.tenant);
    let handler = shared.handler.clone();
    let (given, deadline) = (episode.clone(), shared.deadline);
    // Making the future may panic as well as running it: both are inside.
    let work = async move { tokio::time::timeout(deadline, handler(given, resolved)).await };
    let mut task = tokio::spawn(work.instrument(span.clone()));
    let ended = tokio::select! {
        ended = &mut task => ended,
        () = shared.kill.cancelled() => {
            task.abort();
            task.await
        }
    };
    let failure = match ended {
        Ok(Ok(Ok(()))) => return,
        Ok(Ok(Err(error))) => Failure::Error(error),
        Ok(Err(_)) => Failure::Deadline(deadline),
        Err(error) => {
            let Some(text) = panic_text(error) else {
                shared.cut.fetch_add(1, Ordering::Relaxed);
                span.in_scope(|| warn!("cut off at the shutdown; the next start takes it up"));
                return;
            };
            Failure::Panicked(text)
        }
    };
    span.in_scope(|| error!(error = %failure, "the episode failed"));
    let on_failure = shared.on_failure.clone();
    let telling = async move { on_failure(episode, failure).await };
    let telling = tokio::spawn(telling.instrument(span.clone()));
    let told = tokio::time::timeout(shared.failure_limit, telling).await;
    if !matches!(told, Ok(Ok(()))) {
        span.in_scope(|| error!("the failure could not be noted down"));
    }
}

/// What a panic said; `None` if the task was cut off instead.
fn panic_text(error: JoinError) -> Option<String> {
    let payload: Box<dyn Any + Send> = error.try_into_panic().ok()?;
    let text = payload
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| payload.downcast_ref::<String>().cloned());
    Some(text.unwrap_or_else(|| "no message".to_owned()))
}
