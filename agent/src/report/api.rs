//! `GET /`, `/api/v1/incidents`, `/api/v1/incidents/{id}`, `…/{id}/evidence/{lsn}`, `/api/v1/events`,
//! `/api/v1/recorder`, `/metrics`. Read-only.

use std::{sync::Arc, time::Duration};

use axum::{
    Json, Router,
    extract::{Path, Query, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use serde::{Deserialize, Serialize};

use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::{Metrics, events::events, page};
use crate::{
    incident::{Entry, EpisodeId},
    ledger::{SharedLedger, Summary},
};

/// Incidents of one page when the caller does not say; and the most that it may ask for.
const PAGE_DEFAULT: usize = 100;
const PAGE_MAX: usize = 1000;

const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const CLASSIC: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Seconds of evidence when the caller does not say; and the most that it may ask for. The recorder
/// has no more than its configuration lets it keep, and says how much it was.
const WINDOW_DEFAULT_S: f64 = 3.0;
const WINDOW_MAX_S: f64 = 3600.0;

/// Gives JSON of what the recorder holds of the last while; called on a thread that may block.
pub type RecorderQuery = Arc<dyn Fn(Duration) -> Result<Vec<u8>, String> + Send + Sync>;

/// What the readers share.
#[derive(Clone)]
pub struct ReportState {
    /// The record.
    pub ledger: SharedLedger,
    /// Own figures.
    pub metrics: Arc<Metrics>,
    /// Episodes waiting in all queues, asked at each scrape.
    pub depth: Arc<dyn Fn() -> usize + Send + Sync>,
    /// What the kernel shows.
    pub recorder: RecorderQuery,
    /// Places for those who follow what is recorded.
    pub streams: Arc<Semaphore>,
    /// Ends what would otherwise go on.
    pub stop: CancellationToken,
}

/// The read-only routes.
pub fn routes(state: ReportState) -> Router {
    Router::new()
        .route("/api/v1/incidents", get(list))
        .route("/api/v1/incidents/{id}", get(show))
        .route("/api/v1/incidents/{id}/evidence/{lsn}", get(evidence))
        .route("/api/v1/events", get(events))
        .route("/api/v1/recorder", get(recorder))
        .route("/metrics", get(metrics))
        .merge(page::routes())
        .with_state(state)
}

#[derive(Deserialize)]
struct Page {
    limit: Option<usize>,
}

#[derive(Serialize)]
struct List {
    incidents: Vec<Summary>,
}

/// Newest first.
async fn list(State(state): State<ReportState>, Query(page): Query<Page>) -> Json<List> {
    let limit = page.limit.unwrap_or(PAGE_DEFAULT).min(PAGE_MAX);
    let incidents = state.ledger.with_index(|index| {
        index
            .iter()
            .rev()
            .take(limit)
            .map(crate::ledger::Incident::summary)
            .collect()
    });
    Json(List { incidents })
}

/// Why there is no answer: a status, and a sentence in JSON.
struct Problem(StatusCode, String);

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        (self.0, Json(serde_json::json!({ "error": self.1 }))).into_response()
    }
}

fn parse_id(text: &str) -> Result<EpisodeId, Problem> {
    text.parse()
        .map_err(|error: String| Problem(StatusCode::BAD_REQUEST, error))
}

async fn show(
    State(state): State<ReportState>,
    Path(id): Path<String>,
) -> Result<Response, Problem> {
    let id = parse_id(&id)?;
    let found = state.ledger.with_index(|index| index.get(id).cloned());
    let incident = found.ok_or_else(|| unknown(id))?;
    Ok(Json(incident).into_response())
}

fn unknown(id: EpisodeId) -> Problem {
    let error = format!("no incident {id} here; older ones: `paramedic incidents show {id}`");
    Problem(StatusCode::NOT_FOUND, error)
}

/// The evidence that the entry with this LSN names.
async fn evidence(
    State(state): State<ReportState>,
    Path((id, lsn)): Path<(String, u64)>,
) -> Result<Response, Problem> {
    let id = parse_id(&id)?;
    let found = state.ledger.with_index(|index| {
        index.get(id).map(|incident| {
            let mut lines = incident.entries.iter().filter(|line| line.lsn == lsn);
            lines.find_map(|line| match &line.entry {
                Entry::Diagnosed { snapshot, .. } | Entry::Verified { snapshot, .. } => {
                    snapshot.clone()
                }
                _ => None,
            })
        })
    });
    let reference = found.ok_or_else(|| unknown(id))?.ok_or_else(|| {
        let error = format!("entry {lsn} of incident {id} names no evidence");
        Problem(StatusCode::NOT_FOUND, error)
    })?;
    let ledger = state.ledger.clone();
    let read = tokio::task::spawn_blocking(move || ledger.evidence(&reference)).await;
    match read {
        Ok(Ok(evidence)) => Ok(Json(evidence).into_response()),
        Ok(Err(error)) => Err(Problem(StatusCode::NOT_FOUND, error)),
        Err(_) => Err(Problem(
            StatusCode::INTERNAL_SERVER_ERROR,
            "the reader panicked".to_owned(),
        )),
    }
}

#[derive(Deserialize)]
struct Span {
    window_s: Option<f64>,
}

/// The evidence of the last `window_s` seconds, how the probes fare, and the last events.
async fn recorder(
    State(state): State<ReportState>,
    Query(span): Query<Span>,
) -> Result<Response, Problem> {
    let window_s = span.window_s.unwrap_or(WINDOW_DEFAULT_S);
    if !(1.0..=WINDOW_MAX_S).contains(&window_s) {
        let error = format!("window_s={window_s} is not within 1 to {WINDOW_MAX_S}");
        return Err(Problem(StatusCode::BAD_REQUEST, error));
    }
    let query = state.recorder.clone();
    let asked = move || query(Duration::from_secs_f64(window_s));
    match tokio::task::spawn_blocking(asked).await {
        Ok(Ok(json)) => Ok(([(header::CONTENT_TYPE, "application/json")], json).into_response()),
        Ok(Err(error)) => Err(Problem(StatusCode::INTERNAL_SERVER_ERROR, error)),
        Err(_) => Err(Problem(
            StatusCode::INTERNAL_SERVER_ERROR,
            "the reader panicked".to_owned(),
        )),
    }
}

/// OpenMetrics for who asks for it, the classic text format for everybody else.
async fn metrics(State(state): State<ReportState>, headers: HeaderMap) -> Response {
    let open = headers
        .get_all(header::ACCEPT)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .any(|accept| accept.contains("application/openmetrics-text"));
    state.metrics.queue_depth((state.depth)());
    let (content_type, text) = if open {
        (OPEN_METRICS, state.metrics.encode(&state.ledger))
    } else {
        (CLASSIC, state.metrics.encode_classic(&state.ledger))
    };
    match text {
        Ok(text) => ([(header::CONTENT_TYPE, content_type)], text).into_response(),
        Err(error) => (
            StatusCode::INTERNAL_SERVER_ERROR,
            format!("cannot encode metrics: {error}"),
        )
            .into_response(),
    }
}

#[cfg(test)]
mod tests;
