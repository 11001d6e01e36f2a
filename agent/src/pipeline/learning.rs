//! Beside the way of an episode: what the shadow says, and what a verified outcome teaches. Neither
//! delays anything, and a failure of either changes nothing but a line in the log.

use std::sync::Arc;

use jiff::Timestamp;
use tracing::{Instrument, debug_span, info, instrument, warn};

use super::Stages;
use crate::{
    diagnosis::history::Event,
    incident::{Diagnosis, Entry, Episode, Evidence},
    telemetry::trace,
};

/// Asks the shadow in a task of its own and records both answers.
pub(super) fn shadow(
    stages: &Arc<Stages>,
    episode: &Episode,
    decided: &Diagnosis,
    evidence: &Arc<Evidence>,
) {
    if stages.diagnosis.shadow_deadline_ms == 0 {
        return;
    }
    let (stages, decided) = (stages.clone(), decided.clone());
    let (id, alert, source) = (episode.id, episode.alert.clone(), episode.source.clone());
    let evidence = evidence.clone();
    // Not inside the episode's span, which would not end before this one.
    let span = debug_span!(parent: None, "shadow", episode = %id, tenant = %episode.tenant);
    let around = (!span.is_disabled()).then(|| trace::current(&episode.trace).into_owned());
    let shadowed = async move {
        trace::join(|| around);
        let (rules, config) = (stages.rules(), stages.diagnosis.clone());
        let asked = stages
            .gateway
            .shadow(rules, alert, source, evidence, config, &decided);
        let dual = asked.await;
        stages.metrics.shadowed(dual.consensus);
        if dual.consensus == Some(false) {
            info!(episode = %id, a = ?dual.a_said.first, b = ?dual.b_said, "the shadow disagrees");
        }
        if let Err(error) = stages.ledger.append(id, Entry::Shadowed { dual }).await {
            let error = &error as &dyn std::error::Error;
            warn!(error, "the shadow's answer was not recorded");
        }
    };
    tokio::spawn(shadowed.instrument(span));
}

/// A remedy for a cause has healed: that is proof, and the only kind that the agent finds itself.
#[instrument(level = "debug", skip_all)]
pub(super) async fn learn(stages: &Arc<Stages>, episode: &Episode, diagnosis: &Diagnosis) {
    let Some(top) = diagnosis.top.first() else {
        return;
    };
    let event = Event::Learned {
        cause: Some(top.id.clone()),
        by: "healed".to_owned(),
        episode: episode.id.to_string(),
    };
    let shared = stages.clone();
    let now = Timestamp::now();
    let appended = tokio::task::spawn_blocking(move || shared.history.append(now, event)).await;
    match appended {
        Ok(Ok(history)) => {
            let adjusted = history.adjust(&stages.rules(), &stages.diagnosis, now);
            stages.replace_rules(adjusted);
            info!(version = history.version(), cause = %top.id, "learned from a verified outcome");
        }
        Ok(Err(error)) => {
            let error = &error as &dyn std::error::Error;
            warn!(error, "the outcome taught nothing");
        }
        Err(_) => warn!("the writer of the history panicked"),
    }
}
