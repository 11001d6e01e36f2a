//! One sink: its queue, its rate, its breaker, and the task that sends.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use reqwest::{Certificate, StatusCode};
use serde_json::json;
use tokio::{
    sync::mpsc::{Receiver, Sender, channel},
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};
use url::Url;

use super::{
    NotifyError, SinkConfig, SinkKind,
    config::{URL_FILE, checked},
    template::{self, Fields},
};
use crate::{
    clock::Clock,
    outbound,
    report::Metrics,
    resilience::{Backoff, Breaker, BreakerConfig, BreakerState, random},
    secret::{SecretFile, single},
};

/// Notifications that wait for a slow or dead sink.
const QUEUE_MAX: usize = 64;
/// A sink that failed three times in a row is left alone this long.
const BREAKER: BreakerConfig = BreakerConfig {
    failures_max: 3,
    open_for: Duration::from_secs(10),
};
const BACKOFF: Backoff = Backoff {
    attempts_max: u32::MAX,
    base: Duration::from_millis(500),
    max: Duration::from_secs(30),
};
/// Longest wait that a sink can ask for, seconds: the longest `give_up_s`.
const AFTER_S_MAX: u64 = 3600;
const MINUTE: Duration = Duration::from_mins(1);

/// What is sent, and until when it is worth sending.
#[derive(Clone, Debug)]
pub(super) struct Message {
    pub(super) fields: Fields,
    pub(super) traceparent: String,
    pub(super) until: Instant,
}

#[derive(Debug)]
enum Address {
    Fixed(Url),
    File(SecretFile<String>),
}

/// A sink that is set up.
#[derive(Debug)]
pub(super) struct Sink {
    pub(super) config: SinkConfig,
    address: Address,
    http: reqwest::Client,
    breaker: Breaker,
    metrics: Arc<Metrics>,
    /// Dropped since the last one that was sent.
    dropped: AtomicU64,
}

/// What became of one attempt.
enum Attempt {
    Sent,
    /// Trying again cannot help.
    Refused(String),
    /// It may; not before this long, if the sink said so.
    Failed(String, Option<Duration>),
}

impl Sink {
    pub(super) fn new(
        config: &SinkConfig,
        clock: Arc<dyn Clock>,
        metrics: Arc<Metrics>,
    ) -> Result<Self, NotifyError> {
        let address = match (&config.url, &config.url_file) {
            (_, Some(path)) => Address::File(SecretFile::open(path, URL_FILE, single)?),
            (url, None) => {
                let url = checked(url.as_deref().unwrap_or_default());
                Address::Fixed(url.map_err(|why| NotifyError::Address(config.name.clone(), why))?)
            }
        };
        let mut http = outbound::client()
            .timeout(config.timeout())
            .pool_max_idle_per_host(1);
        let plain = matches!(&address, Address::Fixed(url) if url.scheme() == "http");
        if plain {
            http = http.tls_certs_only(Vec::<Certificate>::new());
        } else if let Some(path) = &config.ca_file {
            let pem = outbound::pem(path, "notify.sinks.ca_file")?;
            http = http
                .tls_certs_only(Certificate::from_pem_bundle(&pem).map_err(NotifyError::Client)?);
        }
        for result in ["sent", "failed", "dropped", "repeated"] {
            metrics.notified(&config.name, result, 0);
        }
        Ok(Self {
            config: config.clone(),
            address,
            http: http.build().map_err(NotifyError::Client)?,
            breaker: Breaker::new(BREAKER, clock),
            metrics,
            dropped: AtomicU64::new(0),
        })
    }

    /// Its queue.
    pub(super) fn queue() -> (Sender<Message>, Receiver<Message>) {
        channel(QUEUE_MAX)
    }

    /// Whether the sink is left alone at present.
    pub(super) fn is_open(&self) -> bool {
        self.breaker.state() != BreakerState::Closed
    }

    /// Never waits: what finds no room is counted.
    pub(super) fn put(&self, queue: &Sender<Message>, message: Message) {
        if queue.try_send(message).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
            self.metrics.notified(&self.config.name, "dropped", 1);
        }
    }

    pub(super) fn repeated(&self) {
        self.metrics.notified(&self.config.name, "repeated", 1);
    }

    /// Sends what is queued until `stop`.
    pub(super) async fn run(&self, mut queue: Receiver<Message>, stop: CancellationToken) {
        let every = MINUTE / self.config.per_minute.max(1);
        // A few at once are not a flood: a fifth of a minute's worth may go without waiting.
        let burst = every * (self.config.per_minute / 5).max(1);
        let mut next = Instant::now();
        loop {
            let Some(Some(message)) = stop.run_until_cancelled(queue.recv()).await else {
                return;
            };
            let now = Instant::now();
            let sent = async {
                tokio::time::sleep_until(next.checked_sub(burst).unwrap_or(now)).await;
                self.deliver(&message).await
            };
            let Some(result) = stop.run_until_cancelled(sent).await else {
                return;
            };
            next = next.max(now) + every;
            self.metrics.notified(&self.config.name, result, 1);
        }
    }

    /// Tries until it is taken, refused for good, or old.
    async fn deliver(&self, message: &Message) -> &'static str {
        let name = &self.config.name;
        let dropped = self.dropped.swap(0, Ordering::Relaxed);
        let body = self.body(message, dropped);
        let mut attempt = 0;
        loop {
            let mut wait = BACKOFF.delay(attempt, u64::from_ne_bytes(random()));
            match self.breaker.try_pass() {
                Ok(pass) => match self.attempt(&body, &message.traceparent).await {
                    Attempt::Sent => {
                        pass.success();
                        return "sent";
                    }
                    Attempt::Refused(why) => {
                        pass.success();
                        warn!(sink = name, why, "the sink refuses a notification");
                        return "failed";
                    }
                    Attempt::Failed(why, after) => {
                        pass.failure();
                        debug!(sink = name, why, attempt, "a notification was not taken");
                        attempt += 1;
                        wait = wait.max(after.unwrap_or_default());
                        if Instant::now() + wait >= message.until {
                            warn!(sink = name, why, "a notification is given up");
                            self.dropped.fetch_add(dropped, Ordering::Relaxed);
                            return "failed";
                        }
                    }
                },
                Err(open) => wait = wait.max(open.retry_in),
            }
            if Instant::now() + wait >= message.until {
                self.dropped.fetch_add(dropped, Ordering::Relaxed);
                return "failed";
            }
            sleep(wait).await;
        }
    }

    fn body(&self, message: &Message, dropped: u64) -> String {
        let escape: fn(&str) -> String = match self.config.kind {
            SinkKind::Webhook => template::plain,
            SinkKind::Slack => template::slack,
        };
        let mut text = template::fill(&self.config.template, &message.fields, escape);
        if dropped > 0 {
            text.push_str("\n(");
            text.push_str(&dropped.to_string());
            text.push_str(" more were not told)");
        }
        match self.config.kind {
            SinkKind::Slack => json!({ "text": text }),
            SinkKind::Webhook => json!({
                "version": "1",
                "text": text,
                "not_told": dropped,
                "incident": message.fields,
            }),
        }
        .to_string()
    }

    async fn attempt(&self, body: &str, traceparent: &str) -> Attempt {
        let url = match &self.address {
            Address::Fixed(url) => url.clone(),
            Address::File(file) => match checked(&file.current()) {
                Ok(url) => url,
                Err(why) => return Attempt::Refused(format!("url_file: {why}")),
            },
        };
        let request = self
            .http
            .post(url)
            .header("content-type", "application/json")
            .header("traceparent", traceparent)
            .body(body.to_owned());
        let answer = match request.send().await {
            Ok(answer) => answer,
            // The address may be a secret.
            Err(error) => {
                return Attempt::Failed(crate::resilience::chain(&error.without_url()), None);
            }
        };
        let status = answer.status();
        if status.is_success() {
            return Attempt::Sent;
        }
        let why = format!("status {status}");
        let later = status.is_server_error()
            || status == StatusCode::TOO_MANY_REQUESTS
            || status == StatusCode::REQUEST_TIMEOUT;
        if !later {
            return Attempt::Refused(why);
        }
        let after = answer.headers().get("retry-after");
        let after = after.and_then(|value| value.to_str().ok()?.parse().ok());
        // No notification is tried for longer; a number of the sink's own would not do for a time.
        let after = after.map(|seconds: u64| Duration::from_secs(seconds.min(AFTER_S_MAX)));
        Attempt::Failed(why, after)
    }
}
