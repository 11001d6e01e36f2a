//! `/api/v1`, described by `/api/v1/openapi.json`, and `/metrics`. Read-only. Refusals are problem
//! documents ([`crate::problem`]).

use std::{sync::Arc, time::Duration};

use axum::{
    Json, Router,
    extract::{
        Path, Query, State,
        rejection::{PathRejection, QueryRejection},
    },
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing::{MethodRouter, get},
};
use serde::{Deserialize, Serialize};

use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::{Metrics, Standing, events::events, page, post_mortem};
use crate::{
    incident::{Entry, EpisodeId, Evidence},
    ledger::{self, Incident, SharedLedger, Summary},
    problem::Problem,
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
    /// What the kernel shows.
    pub recorder: RecorderQuery,
    /// How the other stages stand, asked at each scrape.
    pub standing: Arc<dyn Fn() -> Standing + Send + Sync>,
    /// Places for those who follow what is recorded.
    pub streams: Arc<Semaphore>,
    /// Ends what would otherwise go on.
    pub stop: CancellationToken,
}

/// Every route but the page's own files.
fn table() -> [(&'static str, MethodRouter<ReportState>); 8] {
    [
        ("/api/v1/incidents", get(list)),
        ("/api/v1/incidents/{id}", get(show)),
        ("/api/v1/incidents/{id}/evidence/{lsn}", get(evidence)),
        ("/api/v1/incidents/{id}/report", get(report)),
        ("/api/v1/events", get(events)),
        ("/api/v1/recorder", get(recorder)),
        ("/api/v1/openapi.json", get(openapi)),
        ("/metrics", get(metrics)),
    ]
}

/// The read-only routes.
pub fn routes(state: ReportState) -> Router {
    let own = table().into_iter();
    own.fold(Router::new(), |router, (path, methods)| {
        router.route(path, methods)
    })
    .merge(page::routes())
    .with_state(state)
}

/// The document is kept by hand; tests hold it against the routes and against what they answer.
async fn openapi() -> impl IntoResponse {
    let headers = [(header::CONTENT_TYPE, "application/json")];
    (headers, include_str!("api/openapi.json"))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Page {
    limit: Option<usize>,
    before: Option<EpisodeId>,
    state: Option<ledger::State>,
}

#[derive(Serialize)]
struct List {
    incidents: Vec<Summary>,
    /// `before` of the next page; `None` on the last.
    next: Option<EpisodeId>,
}

fn bad_query(rejection: &QueryRejection) -> Problem {
    Problem::new(StatusCode::BAD_REQUEST, "query", rejection.body_text())
}

/// Newest first.
async fn list(
    State(state): State<ReportState>,
    page: Result<Query<Page>, QueryRejection>,
) -> Result<Json<List>, Problem> {
    let Query(page) = page.map_err(|rejection| bad_query(&rejection))?;
    let limit = page.limit.unwrap_or(PAGE_DEFAULT);
    if !(1..=PAGE_MAX).contains(&limit) {
        let detail =
            format!("limit: {limit} is not within 1 to {PAGE_MAX}; `before` asks for more");
        return Err(Problem::new(StatusCode::BAD_REQUEST, "query", detail));
    }
    let mut incidents: Vec<Summary> = state.ledger.with_index(|index| {
        index
            .iter()
            .rev()
            .skip_while(|incident| page.before.is_some_and(|before| incident.id >= before))
            .filter(|incident| page.state.is_none_or(|wanted| incident.state() == wanted))
            .take(limit + 1)
            .map(Incident::summary)
            .collect()
    });
    let more = incidents.len() > limit;
    incidents.truncate(limit);
    let next = incidents.last().filter(|_| more).map(|last| last.id);
    Ok(Json(List { incidents, next }))
}

pub(super) fn parse_id(text: &str) -> Result<EpisodeId, Problem> {
    text.parse()
        .map_err(|error: String| Problem::new(StatusCode::BAD_REQUEST, "incident_id", error))
}

async fn show(
    State(state): State<ReportState>,
    Path(id): Path<String>,
) -> Result<Json<Incident>, Problem> {
    find(&state, &id).map(Json)
}

fn find(state: &ReportState, id: &str) -> Result<Incident, Problem> {
    let id = parse_id(id)?;
    let found = state.ledger.with_index(|index| index.get(id).cloned());
    found.ok_or_else(|| {
        let detail = format!("no incident {id} here; older ones: `paramedic incidents show {id}`");
        Problem::new(StatusCode::NOT_FOUND, "unknown_incident", detail)
    })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ReportQuery {
    #[serde(default)]
    format: post_mortem::Format,
}

/// The post-mortem that `paramedic incidents report` writes.
async fn report(
    State(state): State<ReportState>,
    Path(id): Path<String>,
    query: Result<Query<ReportQuery>, QueryRejection>,
) -> Result<Response, Problem> {
    let Query(query) = query.map_err(|rejection| bad_query(&rejection))?;
    let incident = find(&state, &id)?;
    let ledger = state.ledger.clone();
    let written = tokio::task::spawn_blocking(move || {
        let read = |reference: &str| -> Result<Evidence, String> { ledger.evidence(reference) };
        post_mortem::write(&incident, &read, query.format)
    });
    let text = written.await.map_err(|_| panicked())?;
    Ok(post_mortem::answer(query.format, text))
}

fn panicked() -> Problem {
    let detail = "the reader panicked; the agent's log says why";
    Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", detail)
}

/// The evidence that the entry with this LSN names.
async fn evidence(
    State(state): State<ReportState>,
    path: Result<Path<(String, u64)>, PathRejection>,
) -> Result<Json<Evidence>, Problem> {
    let Path((id, lsn)) = path.map_err(|rejection| {
        Problem::new(StatusCode::BAD_REQUEST, "path", rejection.body_text())
    })?;
    let incident = find(&state, &id)?;
    let reference = incident.entries.iter().find_map(|line| match &line.entry {
        Entry::Diagnosed { snapshot, .. } | Entry::Verified { snapshot, .. } if line.lsn == lsn => {
            snapshot.clone()
        }
        _ => None,
    });
    let reference = reference.ok_or_else(|| {
        let detail = format!("entry {lsn} of incident {id} names no evidence");
        Problem::new(StatusCode::NOT_FOUND, "no_evidence", detail)
    })?;
    let ledger = state.ledger.clone();
    let read = tokio::task::spawn_blocking(move || ledger.evidence(&reference));
    let read = read.await.map_err(|_| panicked())?;
    read.map(Json)
        .map_err(|detail| Problem::new(StatusCode::NOT_FOUND, "no_evidence", detail))
}

#[derive(Deserialize)]
struct Span {
    window_s: Option<f64>,
}

/// The evidence of the last `window_s` seconds, how the probes fare, and the last events.
async fn recorder(
    State(state): State<ReportState>,
    span: Result<Query<Span>, QueryRejection>,
) -> Result<Response, Problem> {
    let Query(span) = span.map_err(|rejection| bad_query(&rejection))?;
    let window_s = span.window_s.unwrap_or(WINDOW_DEFAULT_S);
    if !(1.0..=WINDOW_MAX_S).contains(&window_s) {
        let detail = format!("window_s={window_s} is not within 1 to {WINDOW_MAX_S}");
        return Err(Problem::new(StatusCode::BAD_REQUEST, "query", detail));
    }
    let query = state.recorder.clone();
    let asked = move || query(Duration::from_secs_f64(window_s));
    let json = tokio::task::spawn_blocking(asked)
        .await
        .map_err(|_| panicked())?
        .map_err(|detail| Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "recorder", detail))?;
    Ok(([(header::CONTENT_TYPE, "application/json")], json).into_response())
}

/// OpenMetrics for who asks for it, the classic text format for everybody else.
async fn metrics(State(state): State<ReportState>, headers: HeaderMap) -> Response {
    let open = headers
        .get_all(header::ACCEPT)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .any(|accept| accept.contains("application/openmetrics-text"));
    // Probes are asked through system calls.
    let encoded = tokio::task::spawn_blocking(move || {
        let standing = (state.standing)();
        if open {
            (OPEN_METRICS, state.metrics.encode(&state.ledger, standing))
        } else {
            (
                CLASSIC,
                state.metrics.encode_classic(&state.ledger, standing),
            )
        }
    });
    match encoded.await {
        Ok((content_type, Ok(text))) => {
            ([(header::CONTENT_TYPE, content_type)], text).into_response()
        }
        Ok((_, Err(error))) => {
            let detail = format!("cannot encode metrics: {error}");
            Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", detail).into_response()
        }
        Err(_) => panicked().into_response(),
    }
}

#[cfg(test)]
mod tests;
