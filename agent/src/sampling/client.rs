//! One `query_range`: bounded in time and bytes, repeated only where that can help, through the
//! breaker. <https://prometheus.io/docs/prometheus/latest/querying/api/#range-queries>.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use reqwest::{Response, StatusCode, header};
use serde::Deserialize;
use url::Url;

use super::{
    SamplingConfig, SamplingError,
    access::{self, Access},
    matrix::{Capped, Grid, Matrix, SERIES_PARSED_MAX},
};
use crate::{
    clock::Clock,
    incident::TraceContext,
    outbound,
    resilience::{Backoff, Breaker, BreakerOpen, BreakerState, Class, Deadline},
};

/// From this length on a query goes into the body: addresses of 2 KiB pass every proxy.
const GET_BYTES_MAX: usize = 1500;
/// Read of an answer that only says what went wrong.
const ERROR_BYTES_MAX: usize = 16 << 10;
/// Warnings of one answer that are kept.
const WARNINGS_MAX: usize = 4;
/// Kept of what Prometheus says, in characters.
const SAID_CHARS_MAX: usize = 200;

/// Why a query has no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum QueryError {
    /// It failed before, several times, lately for this reason.
    #[error("Prometheus was {0} ({1})")]
    Open(BreakerOpen, String),
    /// No time left to begin.
    #[error("not asked: the time for all queries was used up")]
    NoTime,
    /// Begun, and no answer in time.
    #[error("no answer from Prometheus within {0} ms")]
    Timeout(u128),
    /// No connection, or it broke.
    #[error("cannot reach Prometheus: {0}")]
    Unreachable(String),
    /// An error status.
    #[error("Prometheus answered {status}: {said}")]
    Status { status: StatusCode, said: String },
    /// More bytes than we read.
    #[error(
        "the answer is longer than {0} bytes; aggregate in the query or raise \
         sampling.response_bytes_max"
    )]
    TooLong(usize),
    /// Our own fault: the query's task panicked.
    #[error("not answered: an error in the agent, see its log")]
    Lost,
    /// The credentials can't be put into a header.
    #[error("not asked: the secret of {0} is no header's value")]
    Secret(&'static str),
    /// Status 200 and something else than a matrix.
    #[error("not an answer of Prometheus: {0}")]
    NotPrometheus(String),
}

impl QueryError {
    /// A timeout is not repeated: the same query would load a struggling Prometheus again.
    pub(super) fn class(&self) -> Class {
        match self {
            Self::Unreachable(_) => Class::Transient,
            Self::Status { .. } if self.is_sickness() => Class::Transient,
            Self::Open(..) | Self::NoTime | Self::Timeout(_) | Self::NotPrometheus(_) => {
                Class::Recoverable
            }
            Self::Status { .. } | Self::TooLong(_) | Self::Lost | Self::Secret(_) => {
                Class::Permanent
            }
        }
    }

    /// A stable name, for logs and for those who count them.
    pub(super) fn code(&self) -> &'static str {
        match self {
            Self::Open(..) => "prometheus_breaker_open",
            Self::NoTime => "prometheus_budget",
            Self::Timeout(_) => "prometheus_timeout",
            Self::Unreachable(_) => "prometheus_unreachable",
            Self::Status { .. } => "prometheus_status",
            Self::TooLong(_) => "prometheus_answer_too_long",
            Self::Lost => "prometheus_query_lost",
            Self::NotPrometheus(_) => "prometheus_not_an_answer",
            Self::Secret(_) => "prometheus_secret",
        }
    }

    /// Whether it speaks against Prometheus, and not against this one query.
    fn is_sickness(&self) -> bool {
        match self {
            Self::Timeout(_) | Self::Unreachable(_) | Self::NotPrometheus(_) => true,
            Self::Status { status, .. } => {
                status.is_server_error() || *status == StatusCode::TOO_MANY_REQUESTS
            }
            Self::Open(..) | Self::NoTime | Self::TooLong(_) | Self::Lost | Self::Secret(_) => {
                false
            }
        }
    }
}

/// Prometheus as one dependency: one breaker over all queries of all episodes.
#[derive(Debug)]
pub(super) struct Client {
    http: reqwest::Client,
    endpoint: Url,
    breaker: Breaker,
    /// For those who find the breaker open.
    last_failure: Mutex<String>,
    backoff: Backoff,
    access: Access,
    config: SamplingConfig,
}

impl Client {
    pub(super) fn new(
        config: &SamplingConfig,
        endpoint: Url,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, SamplingError> {
        let http = outbound::client()
            .connect_timeout(config.timeout())
            .pool_max_idle_per_host(config.concurrency_max);
        let http = access::with_tls(http, config, &endpoint)?
            .build()
            .map_err(SamplingError::Client)?;
        Ok(Self {
            http,
            endpoint,
            breaker: Breaker::new(config.breaker(), clock),
            last_failure: Mutex::default(),
            backoff: config.backoff(),
            access: Access::load(config)?,
            config: config.clone(),
        })
    }

    /// Whether the next call would only be let through as a trial.
    pub(super) fn is_suspect(&self) -> bool {
        self.breaker.state() != BreakerState::Closed
    }

    /// For all queries of one episode.
    pub(super) fn budget(&self) -> Duration {
        self.config.budget()
    }

    /// Asks, by the deadline at the latest.
    pub(super) async fn query_range(
        &self,
        query: &str,
        grid: &Grid,
        deadline: Deadline,
        trace: &TraceContext,
    ) -> Result<Matrix, QueryError> {
        let answer = self
            .backoff
            .run(deadline, QueryError::class, |_| {
                self.attempt(query, grid, deadline, trace)
            })
            .await;
        if let Err(error) = &answer {
            // On the episode's span, which has its id and the trace.
            tracing::warn!(service = "prometheus", code = error.code(),
                class = error.class().as_str(), %error, "a query has no answer");
        }
        answer
    }

    async fn attempt(
        &self,
        query: &str,
        grid: &Grid,
        deadline: Deadline,
        trace: &TraceContext,
    ) -> Result<Matrix, QueryError> {
        let limit = self.config.timeout().min(deadline.remaining());
        if limit.is_zero() {
            return Err(QueryError::NoTime);
        }
        let pass = self
            .breaker
            .try_pass()
            .map_err(|open| QueryError::Open(open, self.last_failure().clone()))?;
        let asked = self.ask(query, grid, limit, trace);
        let answer = tokio::time::timeout(limit, asked)
            .await
            .unwrap_or(Err(QueryError::Timeout(limit.as_millis())));
        match &answer {
            Err(error) if error.is_sickness() => {
                *self.last_failure() = error.to_string();
                pass.failure();
            }
            _ => pass.success(),
        }
        answer
    }

    fn last_failure(&self) -> MutexGuard<'_, String> {
        self.last_failure
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    async fn ask(
        &self,
        query: &str,
        grid: &Grid,
        limit: Duration,
        trace: &TraceContext,
    ) -> Result<Matrix, QueryError> {
        let parameters = [
            ("query", query.to_owned()),
            ("start", grid.start_s.to_string()),
            ("end", grid.end_s().to_string()),
            ("step", grid.step_s.to_string()),
            // Prometheus stops working on it when nobody waits any more.
            ("timeout", format!("{}ms", limit.as_millis().max(1))),
            // One more than is read, so that it is known that there are more. Prometheus before 3.0
            // takes no notice.
            ("limit", (SERIES_PARSED_MAX + 1).to_string()),
        ];
        let request = if query.len() > GET_BYTES_MAX {
            self.http.post(self.endpoint.clone()).form(&parameters)
        } else {
            let mut url = self.endpoint.clone();
            url.query_pairs_mut().extend_pairs(&parameters);
            self.http.get(url)
        };
        let response = self
            .access
            .show(request)?
            .header(header::ACCEPT, "application/json")
            .header("traceparent", trace.traceparent())
            .send()
            .await
            .map_err(unreachable)?;
        let status = response.status();
        if status != StatusCode::OK {
            return Err(QueryError::Status {
                status,
                said: said(response).await,
            });
        }
        parse(&read(response, self.config.response_bytes_max).await?)
    }
}

/// The answer's body, up to a limit that no answer is trusted to keep.
async fn read(mut response: Response, bytes_max: usize) -> Result<Vec<u8>, QueryError> {
    let told = response.content_length().unwrap_or(0);
    let told = usize::try_from(told).unwrap_or(usize::MAX);
    if told > bytes_max {
        return Err(QueryError::TooLong(bytes_max));
    }
    let mut body = Vec::with_capacity(told);
    while let Some(chunk) = response.chunk().await.map_err(unreachable)? {
        if body.len() + chunk.len() > bytes_max {
            return Err(QueryError::TooLong(bytes_max));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

#[derive(Deserialize)]
struct Body {
    status: String,
    #[serde(default)]
    data: Option<Matrix>,
    #[serde(default)]
    error: Option<String>,
    #[serde(default)]
    warnings: Capped<String, WARNINGS_MAX>,
}

pub(super) fn parse(body: &[u8]) -> Result<Matrix, QueryError> {
    let wrong = |why: &str| QueryError::NotPrometheus(plain(why));
    let body: Body = serde_json::from_slice(body).map_err(|error| wrong(&error.to_string()))?;
    match body.data {
        Some(mut matrix) if body.status == "success" && matrix.kind == "matrix" => {
            matrix.warnings = body.warnings.kept.iter().map(|text| plain(text)).collect();
            Ok(matrix)
        }
        Some(matrix) if body.status == "success" => {
            Err(wrong(&format!("a {} in place of a matrix", matrix.kind)))
        }
        _ => Err(wrong(
            &body
                .error
                .unwrap_or_else(|| format!("status {:?}", body.status)),
        )),
    }
}

/// What an error answer says, if it says anything.
async fn said(response: Response) -> String {
    #[derive(Deserialize)]
    struct Problem {
        error: String,
    }
    let Ok(body) = read(response, ERROR_BYTES_MAX).await else {
        return "(nothing readable)".to_owned();
    };
    let text = serde_json::from_slice::<Problem>(&body).map_or_else(
        |_| String::from_utf8_lossy(&body).into_owned(),
        |problem| problem.error,
    );
    plain(&text)
}

/// The innermost reason, without the address: it is long and known.
#[allow(
    clippy::needless_pass_by_value,
    reason = "the shape that map_err wants"
)]
fn unreachable(error: reqwest::Error) -> QueryError {
    let error = error.without_url();
    let mut innermost: &dyn std::error::Error = &error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    QueryError::Unreachable(plain(&innermost.to_string()))
}

/// Others' words, short and without control characters: they end up in terminals.
fn plain(text: &str) -> String {
    let mut words: String = text
        .trim()
        .chars()
        .take(SAID_CHARS_MAX)
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    if text.trim().chars().nth(SAID_CHARS_MAX).is_some() {
        words.push('…');
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_successful_matrix_is_an_answer() {
        let good = br#"{"status": "success", "data": {"resultType": "matrix", "result": []}}"#;
        assert!(parse(good).unwrap().series.kept.is_empty());
        for (body, why) in [
            ("", "EOF"),
            ("<html>\u{1b}[31m", "expected value"),
            (r#"{"status": "error", "error": "no\u001b[2J"}"#, "no [2J"),
            (r#"{"status": "odd"}"#, "odd"),
            (
                r#"{"status": "success", "data": {"resultType": "vector", "result": []}}"#,
                "a vector in place",
            ),
        ] {
            let error = parse(body.as_bytes()).unwrap_err();
            assert!(error.to_string().contains(why), "{body}: {error}");
            assert!(error.is_sickness());
        }
    }

    #[test]
    fn a_bad_query_says_nothing_against_prometheus() {
        let status = |code: u16| QueryError::Status {
            status: StatusCode::from_u16(code).unwrap(),
            said: String::new(),
        };
        for code in [400, 401, 404, 422] {
            assert!(!status(code).is_sickness());
            assert_eq!(status(code).class(), Class::Permanent);
        }
        for code in [429, 500, 502, 503] {
            assert!(status(code).is_sickness());
            assert_eq!(status(code).class(), Class::Transient);
        }
        assert!(QueryError::Timeout(1).is_sickness());
        assert_eq!(QueryError::Timeout(1).class(), Class::Recoverable);
        assert!(!QueryError::TooLong(1).is_sickness());
    }

    #[test]
    fn others_words_are_cut_and_cleaned() {
        assert_eq!(plain(" a\nb\u{1b} "), "a b ");
        let long = plain(&"é".repeat(500));
        assert_eq!(long.chars().count(), SAID_CHARS_MAX + 1);
    }
}
