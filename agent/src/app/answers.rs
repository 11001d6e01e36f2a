//! Joins what people say over HTTP with the pipeline, and says in HTTP's words what became of it.

use std::sync::Arc;

use axum::http::StatusCode;

use crate::{
    pipeline::{self, AnswerError, Stages, Word},
    report::{AnswerState, Denied},
    resilience,
};

/// For [`crate::report::answer_routes`].
pub(super) fn state(stages: &Arc<Stages>) -> AnswerState {
    let (own, known) = (stages.clone(), stages.clone());
    AnswerState {
        answer: Arc::new(move |id, yes, by| {
            let stages = own.clone();
            let word = if yes { Word::Approve } else { Word::Reject };
            Box::pin(async move {
                let answered = pipeline::answer(&stages, id, word, &by).await;
                answered.map_err(|error| denied(&error))
            })
        }),
        levels: Arc::new(move || serde_json::json!({ "levels": known.remedies.levels() })),
    }
}

fn denied(error: &AnswerError) -> Denied {
    let (status, code) = match error {
        AnswerError::Unknown(_) => (StatusCode::NOT_FOUND, "unknown_incident"),
        AnswerError::NotProposed(_) => (StatusCode::CONFLICT, "not_proposed"),
        AnswerError::Answered(..) => (StatusCode::CONFLICT, "answered"),
        AnswerError::Lapsed { .. } => (StatusCode::GONE, "lapsed"),
        AnswerError::Stopping => (StatusCode::SERVICE_UNAVAILABLE, "stopping"),
        AnswerError::Ledger(_) => (StatusCode::SERVICE_UNAVAILABLE, "not_recorded"),
    };
    (status, code, resilience::chain(error))
}
