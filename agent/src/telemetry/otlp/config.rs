//! Where traces go, with limits, defaults and reasons.

use std::{path::PathBuf, time::Duration};

use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use serde::{Deserialize, Serialize};
use url::Url;

use crate::secret::{SecretError, lines};

/// What is posted to, below the endpoint.
const PATH: &str = "v1/traces";
/// Set by us, or by HTTP itself.
const OWN_HEADERS: [&str; 5] = [
    "content-type",
    "content-length",
    "transfer-encoding",
    "host",
    "connection",
];
pub(super) const HEADERS_FILE: &str = "telemetry.otlp.headers_file";
pub(super) const CA_FILE: &str = "telemetry.otlp.ca_file";

/// Export of traces by OTLP over HTTP with JSON.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OtlpConfig {
    /// The collector, such as `http://127.0.0.1:4318`; `/v1/traces` is put behind it, as behind
    /// `OTEL_EXPORTER_OTLP_ENDPOINT`.
    pub endpoint: String,
    /// File with headers to send along, one `Name: value` a line; read again when it changes.
    #[serde(default)]
    pub headers_file: Option<PathBuf>,
    /// Authorities that the collector's certificate may be of, PEM; unset = those of the system.
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
    /// Part of the sampled traces that is exported. 0 to 1; 1. Decided by the trace's id, so that every
    /// agent with the same ratio keeps the same traces.
    #[serde(default = "ratio")]
    pub ratio: f64,
    /// Milliseconds for one request. 100 to 30,000; 10,000.
    #[serde(default = "timeout_ms")]
    pub timeout_ms: u64,
}

fn ratio() -> f64 {
    1.0
}

fn timeout_ms() -> u64 {
    10_000
}

/// Why nothing can be exported.
#[derive(Debug, thiserror::Error)]
pub enum OtlpError {
    /// The address is none.
    #[error("telemetry.otlp.endpoint: {0}")]
    Endpoint(String),
    /// A file of headers or certificates.
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// The HTTP client.
    #[error("cannot set up the HTTP client of telemetry.otlp")]
    Client(#[source] reqwest::Error),
}

impl OtlpConfig {
    /// Every field out of bounds, one sentence each; empty when all is well.
    pub fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        let mut say = |field: &str, why: String| {
            problems.push(format!("telemetry.otlp.{field}: {why}"));
        };
        if let Err(why) = self.traces_url() {
            say("endpoint", why);
        }
        if !(0.0..=1.0).contains(&self.ratio) {
            say("ratio", format!("{} is not within 0 to 1", self.ratio));
        }
        if !(100..=30_000).contains(&self.timeout_ms) {
            let timeout_ms = self.timeout_ms;
            say(
                "timeout_ms",
                format!("{timeout_ms} is not within 100 to 30000"),
            );
        }
        problems
    }

    pub(super) fn timeout(&self) -> Duration {
        Duration::from_millis(self.timeout_ms)
    }

    /// What spans are posted to.
    pub(super) fn traces_url(&self) -> Result<Url, String> {
        let parsed = self.endpoint.trim().parse();
        let mut url: Url = parsed.map_err(|error| format!("not a URL: {error}"))?;
        if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
            return Err("not an http or https URL".to_owned());
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err("has credentials: write them into headers_file".to_owned());
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err("has a query or a fragment: leave it out".to_owned());
        }
        let base = url.path().trim_end_matches('/').to_owned();
        if base.ends_with(PATH) {
            return Err(format!("ends with /{PATH} already: leave that out"));
        }
        url.set_path(&format!("{base}/{PATH}"));
        Ok(url)
    }
}

/// Headers of a file, one a line.
///
/// # Errors
/// A sentence that repeats no value.
pub(super) fn headers(text: &[u8]) -> Result<HeaderMap, String> {
    let mut headers = HeaderMap::new();
    for (nth, line) in lines(text).enumerate() {
        let nth = nth + 1;
        let colon = line.iter().position(|byte| *byte == b':');
        let colon = colon.ok_or_else(|| format!("has no `Name: value` in entry {nth}"))?;
        let (name, value) = (line[..colon].trim_ascii(), line[colon + 1..].trim_ascii());
        let name = HeaderName::from_bytes(name)
            .map_err(|_| format!("has no header's name in entry {nth}"))?;
        if OWN_HEADERS.contains(&name.as_str()) {
            return Err(format!("sets {name}, which the exporter sets itself"));
        }
        let mut value = HeaderValue::from_bytes(value)
            .map_err(|_| format!("has no header's value in entry {nth}"))?;
        value.set_sensitive(true);
        headers.append(name, value);
    }
    Ok(headers)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    fn problems(text: &str) -> String {
        let text = format!("telemetry: {{otlp: {{{text}}}}}\n");
        let parsed = Config::parse(&text, std::path::Path::new("p.yaml"));
        parsed.map_or_else(|error| error.to_string(), |_| String::new())
    }

    #[test]
    fn every_bad_field_is_named() {
        assert_eq!(problems("endpoint: 'http://127.0.0.1:4318'"), "");
        let all = problems("endpoint: 'ftp://x', ratio: 1.5, timeout_ms: 5");
        for field in ["endpoint: not an http", "ratio: 1.5", "timeout_ms: 5"] {
            assert!(all.contains(&format!("telemetry.otlp.{field}")), "{all}");
        }
        assert!(problems("ratio: 1.0").contains("endpoint"), "it is needed");
        assert!(problems("endpoint: 'http://x', rate: 1").contains("rate"));
        let secret = problems("endpoint: 'https://ana:hunter2@x'");
        assert!(secret.contains("headers_file") && !secret.contains("hunter2"));
        assert!(problems("endpoint: 'http://x/v1/traces'").contains("leave that out"));
        assert!(problems("endpoint: 'http://x', ratio: .nan").contains("ratio"));
    }

    #[test]
    fn the_path_is_put_behind_the_endpoint() {
        let url = |endpoint: &str| {
            let config = OtlpConfig {
                endpoint: endpoint.to_owned(),
                headers_file: None,
                ca_file: None,
                ratio: 1.0,
                timeout_ms: 1000,
            };
            config.traces_url().unwrap().to_string()
        };
        assert_eq!(url("http://c:4318"), "http://c:4318/v1/traces");
        assert_eq!(url("https://c/otlp/"), "https://c/otlp/v1/traces");
    }

    #[test]
    fn headers_are_read_and_never_repeated_in_errors() {
        let file = b"# of the collector\nAuthorization: Bearer a:b\n\nx-scope-orgid:7\n";
        let read = headers(file).unwrap();
        assert_eq!(read["authorization"], "Bearer a:b");
        assert_eq!(read["x-scope-orgid"], "7");
        assert!(!format!("{read:?}").contains("Bearer"));
        for bad in [
            "hunter2",
            "Content-Type: hunter2",
            "a b: hunter2",
            "x: hunter2\x01",
        ] {
            let why = headers(bad.as_bytes()).unwrap_err();
            assert!(!why.contains("hunter2"), "{why}");
        }
    }
}
