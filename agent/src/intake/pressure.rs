//! Local triggers: pressure (PSI) and readings of this host open episodes with no Prometheus at all.
//!
//! The kernel itself watches pressure and wakes a task here when tasks have stalled for longer than
//! the threshold within a window (`Documentation/accounting/psi.rst`); nothing is polled. Readings of
//! the flight recorder are compared with thresholds every few seconds. What either says goes through
//! one small state machine each (`watch`), and out come alerts like everybody else's: durable before
//! they count, resolved when the trouble has been gone for a while.

mod config;
mod trigger;
mod watch;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use jiff::Timestamp;
use tokio::{sync::mpsc, time::Instant};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

pub use config::{PressureConfig, Resource, Stall, Threshold};

use super::{Delivery, Sink, fresh_trace};
use crate::incident::{Alert, AlertStatus, Fingerprint, Source, TenantId};
use trigger::Trigger;
use watch::{Edge, Watch};

/// How often the state machines are looked at, and how soon a refused alert is sent again.
const TICK: Duration = Duration::from_millis(500);
/// How often readings are taken: each taking is a sample of the whole host.
const READ_EVERY: Duration = Duration::from_secs(5);
/// Triggers that fired and were not looked at yet; more than there are triggers would say nothing new.
const FIRED_MAX: usize = 256;

/// The host's readings now, by name without `host.`; called on a thread that may block.
pub type Readings = Arc<dyn Fn() -> BTreeMap<String, f64> + Send + Sync>;

/// One thing watched, and what it is called.
struct Watched {
    resource: Resource,
    labels: BTreeMap<String, String>,
    summary: String,
    watch: Watch,
    /// While an episode is open: when the trouble began.
    since: Option<Timestamp>,
}

/// Watches until `stop`. What cannot be watched is said once, and the rest is watched all the same.
pub async fn run(
    config: PressureConfig,
    tenant: TenantId,
    sink: Arc<dyn Sink>,
    readings: Readings,
    stop: CancellationToken,
) {
    if !config.enabled {
        return;
    }
    let (fired, mut events) = mpsc::channel(FIRED_MAX);
    let mut watched = Vec::new();
    for (resource, stall, cgroup) in config.stalls() {
        let file = trigger::file(resource, cgroup);
        match Trigger::open(&file, stall, config.window_ms) {
            Ok(trigger) => {
                let (at, fired, stop) = (watched.len(), fired.clone(), stop.clone());
                tokio::spawn(async move {
                    if stop
                        .run_until_cancelled(trigger.watch(at, fired))
                        .await
                        .is_some()
                    {
                        info!(file, "no longer watched: its cgroup is gone");
                    }
                });
                watched.push(Watched::stalled(&config, resource, stall, cgroup));
            }
            Err(error) => warn!(file, %error, "pressure is not watched here"),
        }
    }
    let thresholds = watched.len();
    watched.extend(config.thresholds.iter().map(Watched::crossed));
    info!(
        triggers = thresholds,
        readings = watched.len() - thresholds,
        "local triggers are watched"
    );
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut read_at = Instant::now();
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            Some(at) = events.recv() => {
                watched[at].watch.trouble(Instant::now());
                continue;
            }
            _ = ticks.tick() => {}
        }
        if !config.thresholds.is_empty() && read_at.elapsed() >= READ_EVERY {
            read_at = Instant::now();
            let readings = readings.clone();
            let now = tokio::task::spawn_blocking(move || readings()).await;
            let now = now.unwrap_or_default();
            for (threshold, watched) in config.thresholds.iter().zip(&mut watched[thresholds..]) {
                if now
                    .get(&threshold.reading)
                    .is_some_and(|value| threshold.crossed(*value))
                {
                    watched.watch.trouble(Instant::now());
                }
            }
        }
        for watched in &mut watched {
            watched.act(&tenant, &sink).await;
        }
    }
}

impl Watched {
    fn stalled(
        config: &PressureConfig,
        resource: Resource,
        stall: Stall,
        cgroup: Option<&str>,
    ) -> Self {
        let name = match resource {
            Resource::Cpu => "LocalCpuPressure",
            Resource::Memory => "LocalMemoryPressure",
            Resource::Io => "LocalIoPressure",
        };
        let place = cgroup.map_or_else(|| "this host".to_owned(), |path| format!("cgroup {path}"));
        let share = 100 * stall.stalled_ms / config.window_ms;
        let summary = format!(
            "{} tasks of {place} waited for {} for {share} % of the time or more",
            if stall.full { "all" } else { "some" },
            resource.as_str(),
        );
        let mut labels = labels(name, resource);
        labels.extend(cgroup.map(|path| ("cgroup".to_owned(), path.to_owned())));
        let window = Duration::from_millis(config.window_ms);
        let hold = Duration::from_secs(config.hold_s);
        let clear = Duration::from_secs(config.clear_s);
        Self {
            resource,
            labels,
            summary,
            // Events come once a window while it lasts; one may come late on a machine under load.
            watch: Watch::new(hold, 3 * window, clear),
            since: None,
        }
    }

    fn crossed(threshold: &Threshold) -> Self {
        let mut labels = labels("LocalThreshold", threshold.resource);
        labels.insert("reading".to_owned(), threshold.reading.clone());
        let hold = Duration::from_secs(threshold.for_s);
        Self {
            resource: threshold.resource,
            labels,
            summary: threshold.summary(),
            watch: Watch::new(hold, 3 * READ_EVERY, 6 * READ_EVERY),
            since: None,
        }
    }

    /// Tells of a change; told again at the next tick if it was not taken.
    async fn act(&mut self, tenant: &TenantId, sink: &Arc<dyn Sink>) {
        let now = Timestamp::now();
        let alert = match self.watch.edge(Instant::now()) {
            None => return,
            Some(Edge::Begins { lasted }) => {
                // Kept for what is sent again, so that it is the same spell.
                let began = *self.since.get_or_insert(now - lasted);
                self.alert(AlertStatus::Firing, began, None)
            }
            Some(Edge::Ends) => {
                let began = self.since.unwrap_or(now);
                self.alert(AlertStatus::Resolved, began, Some(now))
            }
        };
        let firing = alert.status == AlertStatus::Firing;
        let delivery = Delivery {
            groups: [(tenant.clone(), vec![alert])].into(),
            source: Source::Pressure {
                resource: self.resource.as_str().to_owned(),
            },
            trace: fresh_trace(),
        };
        match sink.accept(delivery).await {
            Ok(_) => {
                self.watch.told();
                if !firing {
                    self.since = None;
                }
            }
            Err(error) => {
                sink.refused(error.reason());
                warn!(%error, "a local trigger was not taken; it is told again");
            }
        }
    }

    fn alert(&self, status: AlertStatus, starts: Timestamp, ends: Option<Timestamp>) -> Alert {
        Alert {
            status,
            fingerprint: Fingerprint::of(&self.labels),
            labels: self.labels.clone(),
            annotations: [("summary".to_owned(), self.summary.clone())].into(),
            starts_at: starts,
            ends_at: ends,
        }
    }
}

fn labels(name: &str, resource: Resource) -> BTreeMap<String, String> {
    [
        ("alertname", name),
        ("resource", resource.as_str()),
        ("severity", "warning"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .into()
}

#[cfg(test)]
mod tests;
