//! Bounds of sampling, each with its reason.

use std::{path::PathBuf, time::Duration};

use serde::{Deserialize, Serialize};
use url::Url;

use super::matrix;
use crate::resilience::{Backoff, BreakerConfig};

/// First and longest wait before a query is repeated: a restarting proxy, not an outage.
const BACKOFF_BASE: Duration = Duration::from_millis(50);
const BACKOFF_MAX: Duration = Duration::from_millis(500);

/// How Prometheus is asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SamplingConfig {
    /// Address of Prometheus, or of anything with its `query_range`, such as
    /// `http://127.0.0.1:9090`; a path before `/api/v1` is kept. None = not asked.
    pub prometheus_url: Option<String>,
    /// File with a bearer token to show; read again when it changes.
    pub bearer_token_file: Option<PathBuf>,
    /// User of basic authentication; with `password_file`, and without a bearer token.
    pub username: Option<String>,
    /// File with that user's password; read again when it changes.
    pub password_file: Option<PathBuf>,
    /// Authorities that Prometheus' certificate may be of, PEM; unset = those of the system.
    pub ca_file: Option<PathBuf>,
    /// Certificate and private key to show, both PEM in one file.
    pub identity_file: Option<PathBuf>,
    /// Milliseconds for one attempt of one query. 10 to 15,000; 3,000.
    pub timeout_ms: u64,
    /// Milliseconds for all queries of an episode: the diagnosis waits no longer. 10 to 60,000;
    /// 5,000.
    pub budget_ms: u64,
    /// Attempts of one query, the first included. 1 to 10; 3.
    pub attempts_max: u32,
    /// Queries in flight at once. 1 to 32; 4.
    pub concurrency_max: usize,
    /// Seconds before the alert's start that belong to the window, to compare with. 0 to 86,400;
    /// 300.
    pub baseline_s: u32,
    /// Longest window in seconds; of an older alert the newest part is looked at. 60 to 604,800;
    /// 3,600.
    pub window_max_s: u32,
    /// Widest distance of grid points in seconds unless `points_max` demands a wider one; short
    /// windows get a finer grid. 1 to 3,600; 30.
    pub step_s: u32,
    /// Points of the grid. 2 to 11,000 (Prometheus' own limit); 240.
    pub points_max: u32,
    /// Queries of an episode. 1 to 256; 64.
    pub queries_max: usize,
    /// Series kept of one query's answer. 1 to 1,000; 50.
    pub series_max: usize,
    /// Grid values kept of all answers together, gaps included: they go into one snapshot of the
    /// journal. 1 to 200,000; 20,000.
    pub samples_max: usize,
    /// Bytes of one answer. 1 KiB to 64 MiB; 4 MiB.
    pub response_bytes_max: usize,
    /// Labels that no series keeps: those that number things rather than name them. None by default.
    pub drop_labels: Vec<String>,
    /// Milliseconds for which an answer serves other episodes too: an alert storm asks each question
    /// once. 0 to 10,000; 2,000.
    pub cache_ms: u64,
    /// Seconds for which the last good answer to a query stands in for one that Prometheus does not give;
    /// its age is said, and what is read of it is partial. 0 to 3,600, 0 for never; 120.
    pub last_good_s: u32,
    /// Failures in a row after which Prometheus is left alone for a while. 1 to 100; 3.
    pub breaker_failures_max: u32,
    /// Milliseconds for which it is left alone. 10 to 600,000; 800.
    pub breaker_open_ms: u64,
}

impl Default for SamplingConfig {
    fn default() -> Self {
        let breaker = BreakerConfig::default();
        Self {
            prometheus_url: None,
            bearer_token_file: None,
            username: None,
            password_file: None,
            ca_file: None,
            identity_file: None,
            timeout_ms: 3000,
            budget_ms: 5000,
            attempts_max: 3,
            concurrency_max: 4,
            baseline_s: 300,
            window_max_s: 3600,
            step_s: 30,
            points_max: 240,
            queries_max: 64,
            series_max: 50,
            samples_max: 20_000,
            response_bytes_max: 4 << 20,
            drop_labels: Vec::new(),
            cache_ms: 2000,
            last_good_s: 120,
            breaker_failures_max: breaker.failures_max,
            breaker_open_ms: u64::try_from(breaker.open_for.as_millis()).unwrap_or(u64::MAX),
        }
    }
}

impl SamplingConfig {
    /// What is out of bounds, one sentence a field; empty when all is well.
    pub fn problems(&self) -> Vec<String> {
        let wide = |value: usize| u64::try_from(value).unwrap_or(u64::MAX);
        let series_max = wide(matrix::SERIES_PARSED_MAX);
        let bounds: [(&str, u64, u64, u64); 17] = [
            ("timeout_ms", self.timeout_ms, 10, 15_000),
            ("budget_ms", self.budget_ms, 10, 60_000),
            ("attempts_max", self.attempts_max.into(), 1, 10),
            ("concurrency_max", wide(self.concurrency_max), 1, 32),
            ("baseline_s", self.baseline_s.into(), 0, 86_400),
            ("window_max_s", self.window_max_s.into(), 60, 604_800),
            ("step_s", self.step_s.into(), 1, 3600),
            ("points_max", self.points_max.into(), 2, 11_000),
            ("queries_max", wide(self.queries_max), 1, 256),
            ("series_max", wide(self.series_max), 1, series_max),
            ("samples_max", wide(self.samples_max), 1, 200_000),
            (
                "response_bytes_max",
                wide(self.response_bytes_max),
                1 << 10,
                64 << 20,
            ),
            (
                "breaker_failures_max",
                self.breaker_failures_max.into(),
                1,
                100,
            ),
            ("breaker_open_ms", self.breaker_open_ms, 10, 600_000),
            ("cache_ms", self.cache_ms, 0, 10_000),
            ("last_good_s", self.last_good_s.into(), 0, 3600),
            ("drop_labels", wide(self.drop_labels.len()), 0, 64),
        ];
        let endpoint = self.endpoint();
        let address = endpoint
            .as_ref()
            .err()
            .map(|why| format!("sampling.prometheus_url: {why}"));
        let numbers = bounds
            .iter()
            .filter(|(_, value, low, high)| !(low..=high).contains(&value))
            .map(|(name, value, low, high)| {
                format!("sampling.{name}: {value} is not within {low} to {high}")
            });
        let who = match (&self.username, &self.password_file, &self.bearer_token_file) {
            (Some(_), None, _) | (None, Some(_), _) => {
                Some("sampling.username: needs password_file, and the other way round")
            }
            (Some(_), Some(_), Some(_)) => {
                Some("sampling.bearer_token_file: not beside a username; leave one of them out")
            }
            _ => None,
        };
        let plain = self
            .prometheus_url
            .as_deref()
            .is_some_and(|url| url.trim().starts_with("http:"));
        let tls = self.ca_file.is_some() || self.identity_file.is_some();
        let in_vain = (plain && tls).then_some(
            "sampling.ca_file, sampling.identity_file: of no use with an http:// address",
        );
        let words = who.into_iter().chain(in_vain).map(str::to_owned);
        address.into_iter().chain(numbers).chain(words).collect()
    }

    /// The address of `query_range`; `None` when Prometheus is not configured, an error in words
    /// for people when what is configured cannot be asked.
    pub(super) fn endpoint(&self) -> Result<Option<Url>, String> {
        let Some(text) = &self.prometheus_url else {
            return Ok(None);
        };
        // An address with a password in it is not repeated in messages.
        let mut url = Url::parse(text.trim())
            .map_err(|error| format!("not an address such as http://127.0.0.1:9090 ({error})"))?;
        match url.scheme() {
            "http" | "https" => {}
            other => return Err(format!("{other:?} is not http or https")),
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err("credentials in the address are not supported".to_owned());
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err("no `?` or `#` belongs into the address".to_owned());
        }
        url.path_segments_mut()
            .map_err(|()| "not an address of a server".to_owned())?
            .pop_if_empty()
            .extend(["api", "v1", "query_range"]);
        Ok(Some(url))
    }

    pub(super) fn timeout(&self) -> Duration {
        Duration::from_millis(self.timeout_ms)
    }

    pub(super) fn budget(&self) -> Duration {
        Duration::from_millis(self.budget_ms)
    }

    pub(super) fn backoff(&self) -> Backoff {
        Backoff {
            attempts_max: self.attempts_max,
            base: BACKOFF_BASE,
            max: BACKOFF_MAX,
        }
    }

    pub(super) fn breaker(&self) -> BreakerConfig {
        BreakerConfig {
            failures_max: self.breaker_failures_max,
            open_for: Duration::from_millis(self.breaker_open_ms),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(url: &str) -> SamplingConfig {
        SamplingConfig {
            prometheus_url: Some(url.to_owned()),
            ..SamplingConfig::default()
        }
    }

    #[test]
    fn the_defaults_are_within_their_bounds() {
        assert_eq!(SamplingConfig::default().problems(), Vec::<String>::new());
        assert_eq!(SamplingConfig::default().endpoint(), Ok(None));
    }

    #[test]
    fn every_bad_field_is_named_at_once() {
        let config = SamplingConfig {
            timeout_ms: 15_001,
            points_max: 1,
            series_max: 0,
            username: Some("me".to_owned()),
            ..at("ftp://prometheus:9090")
        };
        let problems = config.problems();
        assert_eq!(problems.len(), 5, "{problems:?}");
        assert!(problems[0].contains("not http or https"), "{problems:?}");
        assert!(problems[4].contains("password_file"), "{problems:?}");
        assert_eq!(
            problems[1],
            "sampling.timeout_ms: 15001 is not within 10 to 15000"
        );
    }

    #[test]
    fn an_address_keeps_its_path_and_nothing_else_is_taken() {
        for (given, asked) in [
            (
                "http://127.0.0.1:9090",
                "http://127.0.0.1:9090/api/v1/query_range",
            ),
            ("http://p/", "http://p/api/v1/query_range"),
            (
                " http://p/select/0/prometheus/ ",
                "http://p/select/0/prometheus/api/v1/query_range",
            ),
        ] {
            let endpoint = at(given).endpoint().unwrap().unwrap();
            assert_eq!(endpoint.as_str(), asked);
        }
        for wrong in [
            "",
            "prometheus:9090",
            "file:///x",
            "http://u:secret@p",
            "http://p?a=b",
        ] {
            let problems = at(wrong).problems();
            assert_eq!(problems.len(), 1, "{wrong}");
            assert!(!problems[0].contains("secret"));
        }
    }
}
