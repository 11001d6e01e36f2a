//! The run's own metrics, scraped by the run's own Prometheus.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError, atomic::AtomicU64},
};

use axum::{Router, extract::State, http::header::CONTENT_TYPE, routing::get};
use prometheus_client::{
    encoding::{EncodeLabelSet, text},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};

use super::{loopback, record::Trial, stats};

/// Bounds of the recovery times: from the fastest trigger to the longest fault.
const SECONDS: [f64; 12] = [
    0.5, 1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0, 24.0, 40.0, 80.0,
];

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    scenario: String,
    inject_type: String,
    recovery_strategy: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Attempt {
    scenario: String,
    inject_type: String,
    recovery_strategy: String,
    status: String,
}

type Float = Gauge<f64, AtomicU64>;

/// The metrics.
pub struct Exporter {
    registry: Registry,
    mttr: Family<Labels, Histogram, fn() -> Histogram>,
    p95: Family<Labels, Float>,
    attempts: Family<Attempt, Counter>,
    duration: Family<Labels, Float>,
    latency: Family<Labels, Float>,
    met: Family<Labels, Gauge>,
    /// Every recovery time so far: a quantile needs them.
    times: Mutex<Vec<(Labels, f64)>>,
}

/// The service at one moment, every 100 ms.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// Latency at the objective's quantile over the last second, ms.
    pub latency_ms: f64,
    /// The objective is met.
    pub met: bool,
    /// Milliseconds since the injection; `None` before it.
    pub since_ms: Option<f64>,
}

impl Exporter {
    /// Nothing measured yet.
    pub fn new() -> Self {
        let histogram: fn() -> Histogram = || Histogram::new(SECONDS);
        let mut exporter = Self {
            registry: Registry::default(),
            mttr: Family::new_with_constructor(histogram),
            p95: Family::default(),
            attempts: Family::default(),
            duration: Family::default(),
            latency: Family::default(),
            met: Family::default(),
            times: Mutex::new(Vec::new()),
        };
        let registry = &mut exporter.registry;
        registry.register(
            "mttr_seconds",
            "Seconds from the fault until the service kept its promise again",
            exporter.mttr.clone(),
        );
        registry.register(
            "mttr_p95",
            "95th percentile of the same over the run so far",
            exporter.p95.clone(),
        );
        registry.register(
            "recovery_attempts",
            "Trials, by how they ended",
            exporter.attempts.clone(),
        );
        registry.register(
            "recovery_duration_ms",
            "Milliseconds since the fault of the running trial, then its time to recovery",
            exporter.duration.clone(),
        );
        registry.register(
            "workload_latency_ms",
            "The service's latency at its objective's quantile, over a second",
            exporter.latency.clone(),
        );
        registry.register(
            "workload_slo_met",
            "1 while the service keeps its promise",
            exporter.met.clone(),
        );
        exporter
    }

    /// One look at the service.
    pub fn sample(&self, scenario: &str, inject_type: &str, strategy: &str, now: Now) {
        let labels = labels(scenario, inject_type, strategy);
        self.latency.get_or_create(&labels).set(now.latency_ms);
        self.met.get_or_create(&labels).set(i64::from(now.met));
        if let Some(since_ms) = now.since_ms {
            self.duration.get_or_create(&labels).set(since_ms);
        }
    }

    /// A trial has ended.
    pub fn ended(&self, trial: &Trial, inject_type: &str) {
        let labels = labels(&trial.scenario, inject_type, trial.strategy.name());
        let status = if trial.void.is_some() {
            "void"
        } else if !trial.harm.is_empty() {
            "harmed"
        } else if trial.healed {
            "healed"
        } else if trial.course.broken_s.is_none() {
            "untouched"
        } else {
            "unhealed"
        };
        self.attempts
            .get_or_create(&Attempt {
                scenario: labels.scenario.clone(),
                inject_type: labels.inject_type.clone(),
                recovery_strategy: labels.recovery_strategy.clone(),
                status: status.to_owned(),
            })
            .inc();
        let Some(mttr_s) = trial.mttr_s.filter(|_| trial.void.is_none()) else {
            return;
        };
        self.mttr.get_or_create(&labels).observe(mttr_s);
        self.duration.get_or_create(&labels).set(mttr_s * 1e3);
        let mut times = self.times.lock().unwrap_or_else(PoisonError::into_inner);
        times.push((labels.clone(), mttr_s));
        let own: Vec<f64> = times
            .iter()
            .filter(|(of, _)| *of == labels)
            .map(|(_, s)| *s)
            .collect();
        self.p95
            .get_or_create(&labels)
            .set(stats::quantile(&own, 0.95));
    }

    /// As Prometheus reads it.
    pub fn text(&self) -> String {
        let mut out = String::new();
        // Writing to a String does not fail; an empty page would be seen as missing series.
        text::encode(&mut out, &self.registry).unwrap_or_default();
        out
    }

    /// Serves `/metrics` on loopback as long as the runtime lives.
    pub fn serve(self: &Arc<Self>) -> anyhow::Result<(SocketAddr, tokio::runtime::Runtime)> {
        let routes = Router::new()
            .route("/metrics", get(metrics))
            .with_state(self.clone());
        loopback::serve(routes)
    }
}

impl Default for Exporter {
    fn default() -> Self {
        Self::new()
    }
}

async fn metrics(
    State(exporter): State<Arc<Exporter>>,
) -> ([(axum::http::HeaderName, &'static str); 1], String) {
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(CONTENT_TYPE, kind)], exporter.text())
}

fn labels(scenario: &str, inject_type: &str, strategy: &str) -> Labels {
    Labels {
        scenario: scenario.to_owned(),
        inject_type: inject_type.to_owned(),
        recovery_strategy: strategy.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mttr::{record::Run, report::tests::recorded};

    #[test]
    fn the_dashboard_asks_for_what_is_exported_and_for_nothing_else() {
        let exporter = Exporter::new();
        let run: Run = recorded();
        for trial in &run.trials {
            let mut trial = trial.clone();
            trial.mttr_s = Some(5.0);
            exporter.ended(&trial, "cpu");
        }
        let now = Now {
            latency_ms: 5.0,
            met: true,
            since_ms: Some(100.0),
        };
        exporter.sample("cpu-hog", "cpu", "none", now);
        let text = exporter.text();
        for labels in ["scenario=", "inject_type=", "recovery_strategy=", "status="] {
            assert!(text.contains(labels), "{labels}");
        }
        let dashboard = include_str!("../../../agent/deploy/grafana/mttr.json");
        let words = |text: &str| -> Vec<String> {
            text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'))
                .filter(|word| {
                    ["mttr_", "recovery_", "workload_"]
                        .iter()
                        .any(|p| word.starts_with(p))
                })
                .map(str::to_owned)
                .collect()
        };
        let there = words(&text);
        let labels = ["recovery_strategy", "inject_type"];
        for asked in words(dashboard) {
            let known = there.contains(&asked) || labels.contains(&asked.as_str());
            assert!(known, "{asked} is asked for and not exported");
        }
        assert!(dashboard.contains("mttr_p95") && dashboard.contains("recovery_attempts_total"));
    }
}
