//! Limits of the way in, with defaults and reasons.

use std::{
    collections::BTreeMap, net::SocketAddr, ops::RangeInclusive, path::PathBuf, time::Duration,
};

use serde::{Deserialize, Serialize};

use crate::incident::TenantId;

/// Configuration of intake. Times are milliseconds unless the name says seconds, sizes are bytes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct IntakeConfig {
    /// Address and port to listen on, `127.0.0.1:9911` by default. Anything but loopback needs
    /// `token_file`.
    pub listen: String,
    /// File with the bearer tokens of which senders and readers must show one, one a line; read
    /// again when it changes. Without this and the next two nothing is asked for.
    pub token_file: Option<PathBuf>,
    /// File with users of basic authentication, `NAME:HASH` a line with bcrypt hashes as
    /// `htpasswd -nB NAME` writes them; read again when it changes.
    pub users_file: Option<PathBuf>,
    /// The same a tenant: such credentials send that tenant's alerts and can do nothing else.
    pub tenant_credentials: BTreeMap<TenantId, TenantCredentials>,
    /// Serve over TLS only (HTTP/1.1 and HTTP/2); unset = plain HTTP/1.1.
    pub tls: Option<TlsConfig>,
    /// Whether `POST /-/reload` does what SIGHUP does. False by default.
    pub reload_endpoint: bool,
    /// Tenants with a queue of their own; 1 to 256. `default` alone by default.
    pub tenants: Vec<TenantId>,
    /// Tenant of alerts that name none; must be one of `tenants`.
    pub default_tenant: TenantId,
    /// Label that names an alert's tenant when the path does not (`/webhook`); unset = not looked
    /// at.
    pub tenant_label: Option<String>,
    /// Largest request body; 1 KiB to 16 MiB, 1 MiB by default: some 1,500 alerts.
    pub body_bytes_max: usize,
    /// Most alerts in one request; 1 to 10,000, 1,000 by default.
    pub alerts_max: usize,
    /// Most labels, and most annotations, of one alert; 1 to 256, 64 by default.
    pub labels_max: usize,
    /// Longest label name or value, 16 to 65,536, 4,096 by default. A longer annotation is cut
    /// there, a longer label refused: labels are identity, annotations are words for people.
    pub label_bytes_max: usize,
    /// Time for a whole request, body and durability included; 100 to 60,000, 15,000 by default:
    /// more than the journal's own deadline, so that its answer is the one given.
    pub request_ms: u64,
    /// Time for a request's head, and for the next one on an idle connection; 100 to 60,000, 10,000
    /// by default.
    pub header_read_ms: u64,
    /// Connections at a time; further ones wait in the kernel's backlog. 1 to 1,024, 64 by default.
    pub connections_max: usize,
    /// Of them, from one address that is not this machine; further ones are closed at once, so that
    /// one silent peer cannot keep all others out. 1 to 1,024, 48 by default.
    pub peer_connections_max: usize,
    /// Seconds after which a connection is closed once its request is answered: bounds readers that
    /// never take their answer. 10 to 86,400, 300 by default.
    pub connection_age_max_s: u64,
    /// Time for running requests to end at a shutdown; 0 to 60,000, 5,000 by default.
    pub shutdown_grace_ms: u64,
    /// How long a request waits for another one that is changing the same episode, before it is
    /// answered 503; 0 to 60,000, 2,000 by default.
    pub pending_wait_ms: u64,
    /// Label sets remembered, open or closed; 1,000 to 10,000,000, 100,000 by default (some 30 MB).
    /// The oldest closed ones are forgotten first.
    pub episodes_max: usize,
    /// Seconds after which an open episode of which nothing was heard is closed, unless Prometheus
    /// says that its alert still fires: a receiver with `send_resolved: false` never says that it
    /// ended. 60 to 604,800; 18,000 by default, an hour more than Alertmanager's `repeat_interval`.
    pub quiet_max_s: u64,
}

/// Credentials of one tenant.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TenantCredentials {
    /// As `intake.token_file`.
    pub token_file: Option<PathBuf>,
    /// As `intake.users_file`.
    pub users_file: Option<PathBuf>,
}

/// What a TLS server needs. All files are PEM, and read again when they change.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TlsConfig {
    /// Certificate, and those between it and the authority.
    pub cert_file: PathBuf,
    /// Its private key.
    pub key_file: PathBuf,
    /// Authorities of the clients: with this, a client without a certificate of theirs gets no
    /// connection.
    #[serde(default)]
    pub client_ca_file: Option<PathBuf>,
}

impl Default for IntakeConfig {
    fn default() -> Self {
        Self {
            listen: "127.0.0.1:9911".to_owned(),
            token_file: None,
            users_file: None,
            tenant_credentials: BTreeMap::new(),
            tls: None,
            reload_endpoint: false,
            tenants: vec![default_tenant()],
            default_tenant: default_tenant(),
            tenant_label: None,
            body_bytes_max: 1 << 20,
            alerts_max: 1000,
            labels_max: 64,
            label_bytes_max: 4096,
            request_ms: 15_000,
            header_read_ms: 10_000,
            connections_max: 64,
            peer_connections_max: 48,
            connection_age_max_s: 300,
            shutdown_grace_ms: 5_000,
            pending_wait_ms: 2_000,
            episodes_max: 100_000,
            quiet_max_s: 18_000,
        }
    }
}

fn default_tenant() -> TenantId {
    "default"
        .parse()
        .unwrap_or_else(|_| unreachable!("the constant is a tenant's name"))
}

impl IntakeConfig {
    /// Whether a stranger is kept out.
    fn asks_who(&self) -> bool {
        let tenants = self.tenant_credentials.values();
        let certificates = self.tls.as_ref().map(|tls| tls.client_ca_file.is_some());
        self.token_file.is_some()
            || self.users_file.is_some()
            || tenants
                .into_iter()
                .any(|own| own.token_file.is_some() || own.users_file.is_some())
            || certificates.unwrap_or(false)
    }

    /// Every field out of bounds, one sentence each; empty when all is well.
    pub fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        match self.listen.parse::<SocketAddr>() {
            Err(_) => problems.push(format!(
                "intake.listen: {:?} is not an address and port such as 127.0.0.1:9911",
                self.listen
            )),
            Ok(address) if !address.ip().is_loopback() && !self.asks_who() => {
                problems.push(format!(
                    "intake.listen: {address} can be reached from elsewhere; set intake.token_file, \
                     intake.users_file or intake.tls.client_ca_file, or listen on 127.0.0.1"
                ));
            }
            Ok(_) => {}
        }
        if !self.tenants.contains(&self.default_tenant) {
            problems.push(format!(
                "intake.default_tenant: {} is not in intake.tenants",
                self.default_tenant
            ));
        }
        for tenant in self.tenant_credentials.keys() {
            if !self.tenants.contains(tenant) {
                problems.push(format!(
                    "intake.tenant_credentials: {tenant} is not in intake.tenants"
                ));
            }
        }
        if self.tenant_label.as_deref() == Some("") {
            problems
                .push("intake.tenant_label: empty; leave it out to look at no label".to_owned());
        }
        let mut bound = |field: &str, value: u64, bounds: RangeInclusive<u64>| {
            if !bounds.contains(&value) {
                problems.push(format!(
                    "intake.{field}: {value} is not within {} to {}",
                    bounds.start(),
                    bounds.end()
                ));
            }
        };
        bound("tenants", self.tenants.len() as u64, 1..=256);
        bound(
            "body_bytes_max",
            self.body_bytes_max as u64,
            1024..=16 << 20,
        );
        bound("alerts_max", self.alerts_max as u64, 1..=10_000);
        bound("labels_max", self.labels_max as u64, 1..=256);
        bound("label_bytes_max", self.label_bytes_max as u64, 16..=65_536);
        bound("request_ms", self.request_ms, 100..=60_000);
        bound("header_read_ms", self.header_read_ms, 100..=60_000);
        bound("connections_max", self.connections_max as u64, 1..=1024);
        let peer = self.peer_connections_max as u64;
        bound("peer_connections_max", peer, 1..=1024);
        bound(
            "connection_age_max_s",
            self.connection_age_max_s,
            10..=86_400,
        );
        bound("shutdown_grace_ms", self.shutdown_grace_ms, 0..=60_000);
        bound("pending_wait_ms", self.pending_wait_ms, 0..=60_000);
        bound("episodes_max", self.episodes_max as u64, 1000..=10_000_000);
        bound("quiet_max_s", self.quiet_max_s, 60..=604_800);
        problems
    }

    /// Time for a whole request.
    pub fn request_limit(&self) -> Duration {
        Duration::from_millis(self.request_ms)
    }

    /// The names of all tenants, for messages.
    pub(super) fn tenant_names(&self) -> String {
        let names: Vec<_> = self.tenants.iter().map(TenantId::as_str).collect();
        names.join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_within_their_bounds() {
        assert_eq!(IntakeConfig::default().problems(), Vec::<String>::new());
    }

    #[test]
    fn every_bad_field_is_named() {
        let config = IntakeConfig {
            listen: "localhost".to_owned(),
            default_tenant: "b".parse().unwrap(),
            tenant_label: Some(String::new()),
            body_bytes_max: 1,
            request_ms: 0,
            ..IntakeConfig::default()
        };
        assert_eq!(
            config.problems(),
            [
                "intake.listen: \"localhost\" is not an address and port such as 127.0.0.1:9911",
                "intake.default_tenant: b is not in intake.tenants",
                "intake.tenant_label: empty; leave it out to look at no label",
                "intake.body_bytes_max: 1 is not within 1024 to 16777216",
                "intake.request_ms: 0 is not within 100 to 60000",
            ]
        );
        let open = IntakeConfig {
            listen: "0.0.0.0:9911".to_owned(),
            ..IntakeConfig::default()
        };
        assert_eq!(open.problems().len(), 1, "{:?}", open.problems());
    }
}
