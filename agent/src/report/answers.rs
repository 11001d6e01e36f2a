//! `POST /api/v1/incidents/{id}/approve`, `…/{id}/reject`: a person's word; `GET /api/v1/levels`: what
//! outcomes have earned. The same credentials as for the webhook, all tenants'.
//!
//! A body is needed, with `Content-Type: application/json`: a page of another site cannot send that without
//! asking first, and nobody here says yes.

use std::sync::Arc;

use axum::{
    Json, Router,
    extract::{DefaultBodyLimit, Path, State, rejection::JsonRejection},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::{MethodRouter, get, post},
};
use serde::Deserialize;

use super::api::parse_id;
use crate::{incident::EpisodeId, problem::Problem, resilience::Boxed};

/// Largest body, bytes; longest name, characters.
const BODY_BYTES_MAX: usize = 4096;
const BY_CHARS_MAX: usize = 100;

/// A word that changes nothing: a status, a stable code and a sentence.
pub type Denied = (StatusCode, &'static str, String);
/// Takes a word: on which incident, whether it is yes, and by whom.
pub type Answering =
    Arc<dyn Fn(EpisodeId, bool, String) -> Boxed<Result<(), Denied>> + Send + Sync>;
/// What `/api/v1/levels` answers.
pub type Levels = Arc<dyn Fn() -> serde_json::Value + Send + Sync>;

/// What the routes need of others.
#[derive(Clone)]
pub struct AnswerState {
    /// Whoever acts on a word.
    pub answer: Answering,
    /// Whoever knows the levels.
    pub levels: Levels,
}

/// The routes; each is described by `/api/v1/openapi.json`.
pub(super) fn table() -> [(&'static str, MethodRouter<AnswerState>); 3] {
    [
        ("/api/v1/incidents/{id}/approve", post(approve)),
        ("/api/v1/incidents/{id}/reject", post(reject)),
        ("/api/v1/levels", get(levels)),
    ]
}

/// The routes.
pub fn answer_routes(state: AnswerState) -> Router {
    let own = table().into_iter();
    own.fold(Router::new(), |router, (path, methods)| {
        router.route(path, methods)
    })
    .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
    .with_state(state)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Said {
    /// Who says so, for the record.
    #[serde(default)]
    by: Option<String>,
}

type Body = Result<Json<Said>, JsonRejection>;

async fn approve(
    State(state): State<AnswerState>,
    Path(id): Path<String>,
    said: Body,
) -> Result<Response, Problem> {
    answer(&state, &id, true, said).await
}

async fn reject(
    State(state): State<AnswerState>,
    Path(id): Path<String>,
    said: Body,
) -> Result<Response, Problem> {
    answer(&state, &id, false, said).await
}

async fn answer(state: &AnswerState, id: &str, yes: bool, said: Body) -> Result<Response, Problem> {
    let Json(said) =
        said.map_err(|rejection| Problem::new(rejection.status(), "body", rejection.body_text()))?;
    let id = parse_id(id)?;
    let by = said.by.unwrap_or_else(|| "somebody over HTTP".to_owned());
    let by: String = by
        .chars()
        .filter(|c| !c.is_control())
        .take(BY_CHARS_MAX)
        .collect();
    let word = if yes { "approved" } else { "rejected" };
    (state.answer)(id, yes, by)
        .await
        .map_err(|(status, code, detail)| Problem::new(status, code, detail))?;
    let body = serde_json::json!({ "incident": id, "answer": word });
    Ok((StatusCode::ACCEPTED, Json(body)).into_response())
}

async fn levels(State(state): State<AnswerState>) -> Json<serde_json::Value> {
    Json((state.levels)())
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use axum::http::Request;
    use tower::ServiceExt;

    use super::*;

    async fn post_to(path: &str, kind: &str, body: &str) -> (StatusCode, Vec<(bool, String)>) {
        let heard: Arc<Mutex<Vec<(bool, String)>>> = Arc::default();
        let own = heard.clone();
        let answer: Answering = Arc::new(move |id, yes, by| {
            own.lock().unwrap().push((yes, by));
            Box::pin(async move {
                if id == EpisodeId([0; 16]) {
                    let detail = "was rejected already".to_owned();
                    return Err((StatusCode::CONFLICT, "answered", detail));
                }
                Ok(())
            })
        });
        let levels: Levels = Arc::new(|| serde_json::json!([]));
        let request = Request::post(path)
            .header("content-type", kind)
            .body(axum::body::Body::from(body.to_owned()))
            .unwrap();
        let routes = answer_routes(AnswerState { answer, levels });
        let status = routes.oneshot(request).await.unwrap().status();
        let heard = heard.lock().unwrap().clone();
        (status, heard)
    }

    #[tokio::test]
    async fn a_word_is_handed_on_with_a_name_that_harms_no_terminal() {
        let id = EpisodeId([1; 16]);
        let path = format!("/api/v1/incidents/{id}/approve");
        let long = "x".repeat(500);
        let body = format!("{{\"by\": \"an\\u001bna{long}\"}}");
        let (status, heard) = post_to(&path, "application/json", &body).await;
        assert_eq!(status, StatusCode::ACCEPTED);
        assert_eq!(heard.len(), 1);
        assert!(heard[0].0 && heard[0].1.starts_with("annax"));
        assert_eq!(heard[0].1.chars().count(), BY_CHARS_MAX);
        let path = format!("/api/v1/incidents/{}/reject", EpisodeId([0; 16]));
        let (status, heard) = post_to(&path, "application/json", "{}").await;
        assert_eq!(status, StatusCode::CONFLICT);
        assert_eq!(heard, [(false, "somebody over HTTP".to_owned())]);
    }

    #[tokio::test]
    async fn what_a_foreign_page_could_send_is_refused_before_anybody_hears_it() {
        let path = format!("/api/v1/incidents/{}/approve", EpisodeId([1; 16]));
        for kind in ["text/plain", "application/x-www-form-urlencoded"] {
            let (status, heard) = post_to(&path, kind, "{}").await;
            assert_eq!(
                (status, heard.len()),
                (StatusCode::UNSUPPORTED_MEDIA_TYPE, 0)
            );
        }
        for (path, body) in [
            (path.as_str(), "{\"yes\": true}"),
            (path.as_str(), "no JSON"),
            ("/api/v1/incidents/other/approve", "{}"),
        ] {
            let (status, heard) = post_to(path, "application/json", body).await;
            assert!(status.is_client_error(), "{status}");
            assert_eq!(heard.len(), 0);
        }
        let long = format!("{{\"by\": \"{}\"}}", "x".repeat(5000));
        let (status, _) = post_to(&path, "application/json", &long).await;
        assert_eq!(status, StatusCode::PAYLOAD_TOO_LARGE);
    }
}
