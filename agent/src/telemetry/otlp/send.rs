//! One request to the collector, and what became of it.

use std::time::Duration;

use bytes::Bytes;
use reqwest::{Certificate, Client, Response, StatusCode, header};
use url::Url;

use super::{
    OtlpConfig, OtlpError,
    config::{CA_FILE, HEADERS_FILE, headers},
    encode,
};
use crate::{outbound, resilience::chain, secret::SecretFile};

/// Read of an answer: it says at most what was refused.
const ANSWER_BYTES_MAX: usize = 16 << 10;
/// Kept of what a collector says, in characters.
const SAID_CHARS_MAX: usize = 200;

/// Longest wait that a collector can ask for, seconds; spans are not kept that long.
const AFTER_S_MAX: u64 = 3600;

/// The way to the collector.
#[derive(Debug)]
pub(super) struct Collector {
    http: Client,
    url: Url,
    headers: Option<SecretFile<header::HeaderMap>>,
}

/// What became of one attempt.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Attempt {
    /// Taken, but for so many spans, for this reason.
    Taken(u64, String),
    /// Trying again cannot help.
    Refused(String),
    /// It may; not before this long, if the collector said so.
    Failed(String, Option<Duration>),
}

impl Collector {
    pub(super) fn new(config: &OtlpConfig) -> Result<Self, OtlpError> {
        let url = config.traces_url().map_err(OtlpError::Endpoint)?;
        let mut http = outbound::client()
            .timeout(config.timeout())
            .pool_max_idle_per_host(1);
        if url.scheme() == "http" {
            http = http.tls_certs_only(Vec::<Certificate>::new());
        } else if let Some(path) = &config.ca_file {
            let pem = outbound::pem(path, CA_FILE)?;
            let authorities = Certificate::from_pem_bundle(&pem).map_err(OtlpError::Client)?;
            http = http.tls_certs_only(authorities);
        }
        let file = config.headers_file.as_deref();
        let file = file.map(|path| SecretFile::open(path, HEADERS_FILE, headers));
        Ok(Self {
            http: http.build().map_err(OtlpError::Client)?,
            url,
            headers: file.transpose()?,
        })
    }

    /// Within the timeout of the configuration.
    pub(super) async fn post(&self, body: Bytes) -> Attempt {
        let mut request = self.http.post(self.url.clone());
        if let Some(file) = &self.headers {
            request = request.headers(file.current().as_ref().clone());
        }
        let request = request
            .header(header::CONTENT_TYPE, "application/json")
            .body(body);
        match request.send().await {
            Ok(response) => judge(response).await,
            Err(error) => Attempt::Failed(chain(&error.without_url()), None),
        }
    }
}

/// Which answers are final: <https://opentelemetry.io/docs/specs/otlp/#failures-1>.
async fn judge(response: Response) -> Attempt {
    let status = response.status();
    if status.is_success() {
        let (refused, why) = encode::refused(&read(response).await);
        return Attempt::Taken(refused, plain(&why));
    }
    let why = format!("status {status}");
    let later = [
        StatusCode::TOO_MANY_REQUESTS,
        StatusCode::BAD_GATEWAY,
        StatusCode::SERVICE_UNAVAILABLE,
        StatusCode::GATEWAY_TIMEOUT,
    ];
    if !later.contains(&status) {
        return Attempt::Refused(why);
    }
    let after = response.headers().get(header::RETRY_AFTER);
    let after = after.and_then(|value| value.to_str().ok()?.parse().ok());
    let after = after.map(|seconds: u64| Duration::from_secs(seconds.min(AFTER_S_MAX)));
    Attempt::Failed(why, after)
}

/// The body as far as it is read; the status has decided already.
async fn read(mut response: Response) -> Vec<u8> {
    let mut body = Vec::new();
    while let Ok(Some(chunk)) = response.chunk().await {
        if body.len() + chunk.len() > ANSWER_BYTES_MAX {
            break;
        }
        body.extend_from_slice(&chunk);
    }
    body
}

/// Others' words, short and without control characters.
fn plain(text: &str) -> String {
    let shown = text.chars().take(SAID_CHARS_MAX);
    shown
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_collector_cannot_ask_for_an_absurd_wait() {
        let answer = axum::http::Response::builder()
            .status(503)
            .header("retry-after", u64::MAX)
            .body("")
            .unwrap();
        let why = "status 503 Service Unavailable".to_owned();
        let after = Some(Duration::from_secs(AFTER_S_MAX));
        assert_eq!(judge(answer.into()).await, Attempt::Failed(why, after));
    }
}
