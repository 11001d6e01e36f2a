//! What every trial of a run shares: the real node exporter, Prometheus and Alertmanager.

use std::net::SocketAddr;

use anyhow::Context;
use paramedic_parts::{Alertmanager, NodeExporter, Prometheus, Scrape};

use super::{relay::Relay, scenario::Alert, slice::Slice};

/// The `instance` label of this node.
pub const INSTANCE: &str = "node-1";
/// `cpu.weight` of the monitoring. Prometheus and Alertmanager stand for those of another machine: a
/// fault of this one starves them not.
const MONITORING_WEIGHT: &str = "10000";

/// The monitoring, all up.
pub struct Stack {
    /// Prometheus, with every alert loaded.
    pub prometheus: Prometheus,
    /// Alertmanager; its one receiver is the relay.
    pub alertmanager: Alertmanager,
    _exporter: NodeExporter,
}

impl Stack {
    /// Starts it in its own cgroup. `measured` is the run's own exporter.
    pub fn start(
        slice: &Slice,
        relay: &Relay,
        alerts: &[Alert],
        measured: SocketAddr,
    ) -> anyhow::Result<Self> {
        slice.within("monitoring", MONITORING_WEIGHT, || {
            let exporter = NodeExporter::start_small()?;
            let alertmanager = Alertmanager::start(&relay.url())?;
            let mut prometheus = Prometheus::builder()
                .scrape(Scrape::new("node", exporter.address()).instance(INSTANCE))
                .scrape(Scrape::new("mttr", measured).instance("mttr"))
                .alertmanager(alertmanager.address());
            for alert in alerts {
                // Not before there are scrapes enough to tell a symptom from our own start.
                let expr = format!(
                    "({}) and on (instance) count_over_time(up[1m]) > 12",
                    alert.expr
                );
                let severity = [("severity", "critical")];
                prometheus = prometheus.alert_labelled(&alert.alert, &expr, &severity);
            }
            Ok(Self {
                prometheus: prometheus.start()?,
                alertmanager,
                _exporter: exporter,
            })
        })
    }

    /// Names of alerts that fire in Prometheus or are still active in Alertmanager, and whether
    /// enough scrapes are in.
    pub fn restless(&self) -> anyhow::Result<Option<String>> {
        let up = "count_over_time(up{job=\"node\"}[1m]) > 12";
        if self.prometheus.query(up)?.is_empty() {
            return Ok(Some("too few scrapes yet".to_owned()));
        }
        let firing = self.prometheus.query("ALERTS")?;
        if let Some(alert) = firing.first() {
            let busy = self
                .prometheus
                .query("1 - avg(rate(node_cpu_seconds_total{mode=\"idle\"}[4s]))")?;
            let busy = busy.first().map(|sample| sample["value"][1].to_string());
            return Ok(Some(format!(
                "{} fires, the CPUs are busy {}",
                alert["metric"]["alertname"],
                busy.unwrap_or_default()
            )));
        }
        let active = self.alertmanager.alerts()?;
        let active = active.as_array().context("Alertmanager has no list")?;
        Ok(active
            .first()
            .map(|alert| format!("Alertmanager still holds {}", alert["labels"]["alertname"])))
    }
}
