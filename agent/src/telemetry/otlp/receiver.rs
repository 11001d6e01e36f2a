//! Of tests: a collector over real HTTP that keeps what it is sent and answers as it is told.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
};

use axum::{
    Router,
    body::Bytes,
    extract::State,
    http::{HeaderMap, StatusCode},
    routing::post,
};
use serde_json::Value;
use tokio::{net::TcpListener, task::JoinHandle};

use super::OtlpConfig;

#[derive(Default)]
struct Kept {
    requests: Vec<(HeaderMap, Value)>,
    /// Answers to come; 200 and nothing after them.
    answers: VecDeque<(StatusCode, &'static str)>,
}

/// A collector. Ends when it is dropped.
pub(crate) struct Receiver {
    kept: Arc<Mutex<Kept>>,
    endpoint: String,
    task: JoinHandle<()>,
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.task.abort();
    }
}

pub(crate) fn config(endpoint: String) -> OtlpConfig {
    OtlpConfig {
        endpoint,
        headers_file: None,
        ca_file: None,
        ratio: 1.0,
        timeout_ms: 30_000,
    }
}

impl Receiver {
    pub(crate) async fn start(answers: &[(u16, &'static str)]) -> Self {
        crate::secret::choose_crypto();
        let answers = answers.iter();
        let answers = answers.map(|(status, body)| (StatusCode::from_u16(*status).unwrap(), *body));
        let kept = Arc::new(Mutex::new(Kept {
            answers: answers.collect(),
            ..Kept::default()
        }));
        let routes = Router::new()
            .route("/v1/traces", post(take))
            .with_state(kept.clone());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let task = tokio::spawn(async move { axum::serve(listener, routes).await.unwrap() });
        Self {
            kept,
            endpoint,
            task,
        }
    }

    pub(crate) fn config(&self) -> OtlpConfig {
        config(self.endpoint.clone())
    }

    pub(crate) fn requests(&self) -> Vec<(HeaderMap, Value)> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.requests.clone()
    }

    /// Every span of every request.
    pub(crate) fn spans(&self) -> Vec<Value> {
        let requests = self.requests().into_iter();
        requests
            .flat_map(|(_, body)| {
                let spans = &body["resourceSpans"][0]["scopeSpans"][0]["spans"];
                spans.as_array().unwrap().clone()
            })
            .collect()
    }
}

async fn take(
    State(kept): State<Arc<Mutex<Kept>>>,
    headers: HeaderMap,
    body: Bytes,
) -> (StatusCode, &'static str) {
    let body = serde_json::from_slice(&body).unwrap();
    let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
    kept.requests.push((headers, body));
    kept.answers.pop_front().unwrap_or((StatusCode::OK, "{}"))
}
