//! Tells people: webhooks and Slack-compatible sinks.
//!
//! The notifier reads the record like every other reader, in a task of its own, and has no way to hold an
//! episode up: a dead sink has its queue fill, its breaker open and its counter rise, and nothing else.
//! Each state of an incident is told of once, and what was recorded before the start is not told again.

mod config;
mod sink;
mod template;

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use tokio::{sync::mpsc::Sender, time::Instant};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub use config::{NotifyConfig, SinkConfig, SinkKind};

use super::Metrics;
use crate::{
    clock::Clock,
    incident::EpisodeId,
    ledger::{Incident, SharedLedger, State},
    secret::SecretError,
};
use sink::{Message, Sink};

/// Between two looks at the record.
const LOOK: Duration = Duration::from_millis(300);
/// Alerts whose last telling is remembered.
const REMEMBERED_MAX: usize = 10_000;

/// Why notifications cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum NotifyError {
    /// A sink's address is not one.
    #[error("notify.sinks[{0}].url: {1}")]
    Address(String, String),
    /// The HTTP client could not be made.
    #[error("cannot set up the HTTP client for notifications")]
    Client(#[source] reqwest::Error),
    /// A file of a URL or of authorities was refused.
    #[error(transparent)]
    Secret(#[from] SecretError),
}

/// Follows the record and tells the sinks. Clones share it.
#[derive(Clone, Debug)]
pub struct Notifier {
    config: Arc<NotifyConfig>,
    sinks: Arc<Vec<Arc<Sink>>>,
}

impl Notifier {
    /// Checks addresses and reads files; sends nothing.
    pub fn new(
        config: &NotifyConfig,
        clock: &Arc<dyn Clock>,
        metrics: &Arc<Metrics>,
    ) -> Result<Self, NotifyError> {
        let sinks = config.sinks.iter();
        let sinks: Result<Vec<_>, _> = sinks
            .map(|sink| Sink::new(sink, clock.clone(), metrics.clone()).map(Arc::new))
            .collect();
        Ok(Self {
            config: Arc::new(config.clone()),
            sinks: Arc::new(sinks?),
        })
    }

    /// Each sink's breaker by name, and whether it is open.
    pub fn breakers(&self) -> Vec<(String, bool)> {
        let sinks = self.sinks.iter();
        sinks
            .map(|sink| (format!("notify-{}", sink.config.name), sink.is_open()))
            .collect()
    }

    /// Tells of what is recorded from now on, until `stop`.
    pub async fn run(self, ledger: SharedLedger, stop: CancellationToken) {
        if self.sinks.is_empty() {
            return;
        }
        let tasks = TaskTracker::new();
        let mut queues = Vec::new();
        for sink in self.sinks.iter() {
            let (queue, taken) = Sink::queue();
            let (sink, stop) = (sink.clone(), stop.clone());
            tasks.spawn(async move { sink.run(taken, stop).await });
            queues.push(queue);
        }
        tasks.close();
        let mut teller = Teller {
            node: self.config.node_name(),
            notifier: self,
            queues,
            states: HashMap::new(),
            recent: HashMap::new(),
            seen: None,
        };
        teller.look(&ledger);
        while stop
            .run_until_cancelled(tokio::time::sleep(LOOK))
            .await
            .is_some()
        {
            teller.look(&ledger);
        }
        tasks.wait().await;
    }
}

/// What makes two notifications the same to a person.
type Sameness = (u64, State, String);

struct Teller {
    notifier: Notifier,
    node: String,
    queues: Vec<Sender<Message>>,
    /// States that each incident in memory has been in.
    states: HashMap<EpisodeId, Vec<State>>,
    recent: HashMap<Sameness, Instant>,
    seen: Option<u64>,
}

impl Teller {
    /// Looks for incidents in a state that they were not seen in before.
    fn look(&mut self, ledger: &SharedLedger) {
        let first = self.seen.is_none();
        let news = ledger.with_index(|index| {
            if self.seen == Some(index.changes) {
                return Vec::new();
            }
            self.seen = Some(index.changes);
            self.states.retain(|id, _| index.get(*id).is_some());
            let mut news = Vec::new();
            for incident in index.iter() {
                let state = incident.state();
                let been = self.states.entry(incident.id).or_default();
                if !been.contains(&state) {
                    been.push(state);
                    if !first {
                        news.push((incident.clone(), state));
                    }
                }
            }
            news
        });
        for (incident, state) in news {
            self.tell(&incident, state);
        }
    }

    fn tell(&mut self, incident: &Incident, state: State) {
        let wanted = |sink: &&Arc<Sink>| sink.config.states.contains(&state);
        if !self.notifier.sinks.iter().any(|sink| wanted(&sink)) {
            return;
        }
        let page = self.notifier.config.page_url.as_deref();
        let page = page.map(|page| page.trim_end_matches('/'));
        let fields = template::fields(incident, state, &self.node, page);
        let repeated = self.repeats(incident, state, &fields);
        for (sink, queue) in self.notifier.sinks.iter().zip(&self.queues) {
            if !wanted(&sink) {
                continue;
            }
            if repeated {
                sink.repeated();
                continue;
            }
            let message = Message {
                fields: fields.clone(),
                traceparent: incident.episode.trace.traceparent(),
                until: Instant::now() + sink.config.give_up(),
            };
            sink.put(queue, message);
        }
    }

    /// Whether the same was told a short while ago.
    fn repeats(
        &mut self,
        incident: &Incident,
        state: State,
        fields: &BTreeMap<&'static str, String>,
    ) -> bool {
        let window = Duration::from_secs(self.notifier.config.repeat_s);
        if window.is_zero() {
            return false;
        }
        let now = Instant::now();
        self.recent.retain(|_, at| now.duration_since(*at) < window);
        let cause = fields.get("cause").cloned().unwrap_or_default();
        let same = (incident.episode.alert.fingerprint.0, state, cause);
        if self.recent.contains_key(&same) {
            return true;
        }
        if self.recent.len() < REMEMBERED_MAX {
            self.recent.insert(same, now);
        }
        false
    }
}

#[cfg(test)]
mod tests;
