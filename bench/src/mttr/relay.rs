//! Between Alertmanager and whoever answers: notes when each alert was delivered, and hands it on.
//!
//! One Alertmanager serves a whole run and has one receiver; strategies come and go behind it. The
//! hop is on the way of every strategy that alerts reach.

use std::{
    net::SocketAddr,
    path::PathBuf,
    process::{Command, Stdio},
    sync::{Arc, Mutex, PoisonError},
};

use axum::{Router, body::Bytes, extract::State, http::StatusCode, routing::post};
use jiff::Timestamp;
use paramedic_parts::{Cgroup, http};
use serde_json::Value;

use super::{loopback, unix};

/// A delivered alert.
#[derive(Clone, Debug, PartialEq)]
pub struct Delivery {
    /// Unix seconds.
    pub at: f64,
    /// Its name.
    pub alert: String,
    /// Firing, not resolved.
    pub firing: bool,
    /// Since when, Unix seconds, by Prometheus.
    pub starts_at: f64,
}

/// Who is behind the relay.
pub enum Behind {
    /// Nobody: 200, and nothing happens.
    Nobody,
    /// A script, run once an alert that fires.
    Script {
        /// Its file.
        file: PathBuf,
        /// What it kills goes there, a line each.
        victims: PathBuf,
        /// Where it runs.
        cgroup: Cgroup,
    },
    /// The agent; its answer is passed back.
    Agent(SocketAddr),
}

struct Shared {
    deliveries: Mutex<Vec<Delivery>>,
    behind: Mutex<Behind>,
}

/// A running relay.
pub struct Relay {
    shared: Arc<Shared>,
    address: SocketAddr,
    _runtime: tokio::runtime::Runtime,
}

impl Relay {
    /// Starts it with nobody behind it.
    pub fn start() -> anyhow::Result<Self> {
        let shared = Arc::new(Shared {
            deliveries: Mutex::new(Vec::new()),
            behind: Mutex::new(Behind::Nobody),
        });
        let routes = Router::new()
            .route("/webhook", post(take))
            .with_state(shared.clone());
        let (address, runtime) = loopback::serve(routes)?;
        Ok(Self {
            shared,
            address,
            _runtime: runtime,
        })
    }

    /// Where Alertmanager sends to.
    pub fn url(&self) -> String {
        format!("http://{}/webhook", self.address)
    }

    /// Puts somebody behind it, and forgets what was delivered before.
    pub fn set(&self, behind: Behind) {
        *lock(&self.shared.behind) = behind;
        lock(&self.shared.deliveries).clear();
    }

    /// What was delivered since [`Relay::set`].
    pub fn deliveries(&self) -> Vec<Delivery> {
        lock(&self.shared.deliveries).clone()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn take(State(shared): State<Arc<Shared>>, body: Bytes) -> (StatusCode, String) {
    let at = unix::now();
    let handed = tokio::task::spawn_blocking(move || {
        let body = String::from_utf8_lossy(&body).into_owned();
        let delivered = deliveries(&body, at);
        lock(&shared.deliveries).extend(delivered.iter().cloned());
        hand_on(&shared, &body, &delivered)
    });
    match handed.await {
        Ok(Ok(answer)) => answer,
        Ok(Err(error)) => (StatusCode::BAD_GATEWAY, format!("{error:#}")),
        Err(_) => (StatusCode::INTERNAL_SERVER_ERROR, "panicked".to_owned()),
    }
}

fn hand_on(
    shared: &Shared,
    body: &str,
    delivered: &[Delivery],
) -> anyhow::Result<(StatusCode, String)> {
    let agent = match &mut *lock(&shared.behind) {
        Behind::Nobody => return Ok((StatusCode::OK, String::new())),
        Behind::Script {
            file,
            victims,
            cgroup,
        } => {
            for delivery in delivered.iter().filter(|delivery| delivery.firing) {
                let mut command = Command::new("/bin/sh");
                command.arg(&*file).arg(&delivery.alert).arg(&*victims);
                command.stdin(Stdio::null());
                cgroup.spawn(command, std::time::Duration::from_mins(1))?;
            }
            return Ok((StatusCode::OK, String::new()));
        }
        Behind::Agent(address) => *address,
    };
    let answer = http::post_json(agent, "/webhook", body)?;
    Ok((StatusCode::from_u16(answer.status)?, answer.body))
}

fn deliveries(body: &str, at: f64) -> Vec<Delivery> {
    let payload: Value = serde_json::from_str(body).unwrap_or_default();
    let alerts = payload["alerts"].as_array().cloned().unwrap_or_default();
    let one = |alert: &Value| {
        let starts_at: Timestamp = alert["startsAt"].as_str()?.parse().ok()?;
        Some(Delivery {
            at,
            alert: alert["labels"]["alertname"].as_str()?.to_owned(),
            firing: alert["status"] == "firing",
            starts_at: unix::of(starts_at),
        })
    };
    alerts.iter().filter_map(one).collect()
}

#[cfg(test)]
mod tests {
    use paramedic_parts::payload;
    use serde_json::json;

    use super::*;

    #[test]
    fn it_notes_each_alert_and_passes_the_answer_back() {
        let relay = Relay::start().unwrap();
        let body = payload::firing(
            &json!({"alertname": "A"}),
            &json!({}),
            "2026-01-01T00:00:00Z",
        );
        let at: SocketAddr = relay.address;
        let answer = http::post_json(at, "/webhook", &body.to_string()).unwrap();
        assert_eq!(answer.status, 200);
        let noted = relay.deliveries();
        assert_eq!(noted.len(), 1);
        assert!(noted[0].firing && noted[0].alert == "A");
        // Nobody listens there: that must not look like an answer.
        relay.set(Behind::Agent("127.0.0.1:9".parse().unwrap()));
        assert!(relay.deliveries().is_empty());
        let answer = http::post_json(at, "/webhook", &body.to_string()).unwrap();
        assert_eq!(answer.status, 502);
    }
}
