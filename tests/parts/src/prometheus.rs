//! The real Prometheus: scrapes and evaluates every second, alerts without delay.

use std::{fs, net::SocketAddr, path::Path, process::Command, time::Duration};

use anyhow::Context;
use serde_json::{Value, json};

use crate::{http, process::Process, tools};

/// One scrape job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scrape {
    job: String,
    target: SocketAddr,
    instance: Option<String>,
}

impl Scrape {
    /// `/metrics` of `target` under the label `job`; the label `instance` is the address.
    pub fn new(job: &str, target: SocketAddr) -> Self {
        Self {
            job: job.to_owned(),
            target,
            instance: None,
        }
    }

    /// Another `instance` label, whatever it holds.
    #[must_use]
    pub fn instance(mut self, instance: &str) -> Self {
        self.instance = Some(instance.to_owned());
        self
    }

    fn config(&self) -> Value {
        let target = self.target.to_string();
        let labels = match &self.instance {
            Some(instance) => json!({"instance": instance}),
            None => json!({}),
        };
        json!({
            "job_name": self.job,
            "honor_labels": true,
            "static_configs": [{"targets": [target], "labels": labels}],
        })
    }
}

/// What Prometheus shall do.
#[derive(Clone, Debug, Default)]
pub struct Builder {
    scrapes: Vec<Scrape>,
    alerts: Vec<Value>,
    alertmanager: Option<SocketAddr>,
}

impl Builder {
    /// Adds a scrape job.
    #[must_use]
    pub fn scrape(mut self, scrape: Scrape) -> Self {
        self.scrapes.push(scrape);
        self
    }

    /// Adds an alert that fires as soon as `expr` has a result.
    #[must_use]
    pub fn alert(self, name: &str, expr: &str) -> Self {
        self.alert_labelled(name, expr, &[])
    }

    /// The same with labels of its own.
    #[must_use]
    pub fn alert_labelled(mut self, name: &str, expr: &str, labels: &[(&str, &str)]) -> Self {
        let labels: serde_json::Map<String, Value> = labels
            .iter()
            .map(|(name, value)| ((*name).to_owned(), json!(value)))
            .collect();
        self.alerts
            .push(json!({"alert": name, "expr": expr, "for": "0s", "labels": labels}));
        self
    }

    /// Sends alerts there.
    #[must_use]
    pub fn alertmanager(mut self, address: SocketAddr) -> Self {
        self.alertmanager = Some(address);
        self
    }

    /// Starts it and waits until it is ready.
    pub fn start(self) -> anyhow::Result<Prometheus> {
        Prometheus::start(&self)
    }

    fn write(&self, folder: &Path) -> anyhow::Result<()> {
        let alertmanagers: Vec<Value> = self
            .alertmanager
            .iter()
            .map(|address| json!({"static_configs": [{"targets": [address.to_string()]}]}))
            .collect();
        // JSON is YAML, and quotes whatever it is given.
        let config = json!({
            "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"},
            "rule_files": [folder.join("alerts.yml")],
            "alerting": {"alertmanagers": alertmanagers},
            "scrape_configs": self.scrapes.iter().map(Scrape::config).collect::<Vec<_>>(),
        });
        let alerts = json!({"groups": [{"name": "tests", "rules": self.alerts}]});
        for (name, content) in [("prometheus.yml", config), ("alerts.yml", alerts)] {
            let file = folder.join(name);
            fs::write(&file, content.to_string())
                .with_context(|| format!("cannot write {}", file.display()))?;
        }
        Ok(())
    }
}

/// A running Prometheus.
#[derive(Debug)]
pub struct Prometheus {
    address: SocketAddr,
    process: Process,
    _folder: tempfile::TempDir,
}

impl Prometheus {
    /// Nothing scraped, no alerts.
    pub fn builder() -> Builder {
        Builder::default()
    }

    fn start(builder: &Builder) -> anyhow::Result<Self> {
        let folder = tools::temporary_folder()?;
        builder.write(folder.path())?;
        let address = http::free_address()?;
        let at = |name: &str| folder.path().join(name).display().to_string();
        let mut command = Command::new(tools::tool("prometheus")?);
        command
            .arg(format!("--config.file={}", at("prometheus.yml")))
            .arg(format!("--storage.tsdb.path={}", at("data")))
            .arg(format!("--web.listen-address={address}"))
            // The package's own places for these do not exist where it is only unpacked.
            .arg(format!("--web.console.templates={}", at("consoles")))
            .arg(format!("--web.console.libraries={}", at("libraries")));
        let mut process = Process::start("Prometheus", command, &folder.path().join("log"))?;
        process.ready(Duration::from_mins(1), || {
            http::get(address, "/-/ready")?.ok()
        })?;
        Ok(Self {
            address,
            process,
            _folder: folder,
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// `http://address`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Evaluates PromQL now; the result's vector.
    pub fn query(&self, promql: &str) -> anyhow::Result<Vec<Value>> {
        let path = format!("/api/v1/query?query={}", http::encode(promql));
        let mut answer = http::get(self.address, &path)?.json()?;
        match answer["data"]["result"].take() {
            Value::Array(result) => Ok(result),
            other => anyhow::bail!("{promql} has no vector but {other}"),
        }
    }

    /// Waits until PromQL has a result.
    pub fn wait_for(&mut self, promql: &str, within: Duration) -> anyhow::Result<Vec<Value>> {
        let address = self.address;
        let path = format!("/api/v1/query?query={}", http::encode(promql));
        self.process.ready(within, || {
            let mut answer = http::get(address, &path)?.json()?;
            match answer["data"]["result"].take() {
                Value::Array(result) if !result.is_empty() => Ok(result),
                _ => anyhow::bail!("{promql} has no result"),
            }
        })
    }

    /// The process.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Alertmanager, NodeExporter, wait_for};

    #[test]
    fn the_real_parts_start_and_an_alert_reaches_alertmanager() {
        let exporter = NodeExporter::start().unwrap();
        // Nobody listens at the webhook: Alertmanager knows the alert all the same.
        let alertmanager = Alertmanager::start("http://127.0.0.1:9/webhook").unwrap();
        let mut prometheus = Prometheus::builder()
            .scrape(Scrape::new("node", exporter.address()).instance("a \"b\" \\ c"))
            .alert_labelled("Always", "node_load1 >= 0", &[("severity", "none")])
            .alertmanager(alertmanager.address())
            .start()
            .unwrap();
        let within = Duration::from_secs(20);
        let found = prometheus.wait_for("node_load1", within).unwrap();
        assert_eq!(found[0]["metric"]["instance"], "a \"b\" \\ c");
        let alert = wait_for("alert", within, || {
            let alerts = alertmanager.alerts()?;
            alerts.get(0).cloned().context("none yet")
        })
        .unwrap();
        assert_eq!(alert["labels"]["alertname"], "Always");
        assert_eq!(alert["labels"]["severity"], "none");
    }
}
