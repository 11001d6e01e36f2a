//! `GET /api/v1/events`: says by server-sent events that something was recorded; the reader then asks
//! for what it shows. An event carries a counter and nothing else, so a slow reader misses nothing.

use std::{
    convert::Infallible,
    time::{Duration, Instant},
};

use axum::{
    body::Body,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use http_body_util::channel::Channel;

use super::ReportState;
use crate::problem::Problem;

/// Between two looks at the record.
const LOOK: Duration = Duration::from_millis(300);
/// A line this often, so that a reader that has gone away is noticed.
const ALIVE: Duration = Duration::from_secs(15);
/// One stream; browsers come again by themselves.
const AGE_MAX: Duration = Duration::from_mins(5);

/// Streams until the reader goes, the agent stops, or the stream is old.
pub async fn events(State(state): State<ReportState>) -> Response {
    let Ok(place) = state.streams.clone().try_acquire_owned() else {
        let detail = "too many pages follow this agent already; try again later";
        return Problem::new(StatusCode::SERVICE_UNAVAILABLE, "busy", detail).into_response();
    };
    let (mut sender, body) = Channel::<Bytes, Infallible>::new(1);
    tokio::spawn(async move {
        let _place = place;
        let begun = Instant::now();
        let (mut told, mut told_at) = (None, begun);
        while begun.elapsed() < AGE_MAX {
            let now = state.ledger.with_index(|index| index.changes);
            let line = if told != Some(now) {
                format!("id: {now}\ndata: {now}\n\n")
            } else if told_at.elapsed() >= ALIVE {
                ":\n\n".to_owned()
            } else {
                String::new()
            };
            if !line.is_empty() {
                (told, told_at) = (Some(now), Instant::now());
                if sender.send_data(Bytes::from(line)).await.is_err() {
                    return;
                }
            }
            if state
                .stop
                .run_until_cancelled(tokio::time::sleep(LOOK))
                .await
                .is_none()
            {
                return;
            }
        }
    });
    let headers = [
        (header::CONTENT_TYPE, "text/event-stream"),
        (header::CACHE_CONTROL, "no-store"),
    ];
    (headers, Body::new(body)).into_response()
}
