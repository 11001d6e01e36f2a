//! What arrived: alerts, and the episodes that they open.

use std::{collections::BTreeMap, fmt, str::FromStr, sync::Arc};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// A tenant's name: 1 to 63 characters of `[a-z0-9-_]`, so that it is safe as a metric label.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TenantId(String);

/// Why a tenant's name was refused.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("tenant {0:?} is not 1 to 63 characters of a-z, 0-9, '-' and '_'")]
pub struct TenantIdError(String);

impl TenantId {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for TenantId {
    type Error = TenantIdError;
    fn try_from(name: String) -> Result<Self, TenantIdError> {
        let fits = (1..=63).contains(&name.len())
            && name
                .bytes()
                .all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_'));
        if fits {
            Ok(Self(name))
        } else {
            Err(TenantIdError(name))
        }
    }
}

impl FromStr for TenantId {
    type Err = TenantIdError;
    fn from_str(name: &str) -> Result<Self, TenantIdError> {
        Self::try_from(name.to_owned())
    }
}

impl From<TenantId> for String {
    fn from(tenant: TenantId) -> String {
        tenant.0
    }
}

impl fmt::Display for TenantId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Alertmanager's identity of a label set: 16 hexadecimal digits. It names the *labels*, not the
/// episode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Fingerprint(pub u64);

impl TryFrom<String> for Fingerprint {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        if text.is_empty() || text.len() > 16 {
            return Err(format!(
                "fingerprint {text:?} is not 1 to 16 hexadecimal digits"
            ));
        }
        u64::from_str_radix(&text, 16)
            .map(Self)
            .map_err(|_| format!("fingerprint {text:?} is not 1 to 16 hexadecimal digits"))
    }
}

impl From<Fingerprint> for String {
    fn from(fingerprint: Fingerprint) -> String {
        fingerprint.to_string()
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl Fingerprint {
    /// FNV-1a (64 bit) over the sorted label pairs, each name and value closed by 0xff: what
    /// Prometheus' `LabelSet.Fingerprint` computes. For senders that leave the field out.
    pub fn of(labels: &BTreeMap<String, String>) -> Self {
        const OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
        const PRIME: u64 = 0x0000_0100_0000_01b3;
        let mut hash = OFFSET;
        let mut eat = |byte: u8| hash = (hash ^ u64::from(byte)).wrapping_mul(PRIME);
        for (name, value) in labels {
            name.bytes().for_each(&mut eat);
            eat(0xff);
            value.bytes().for_each(&mut eat);
            eat(0xff);
        }
        Self(hash)
    }
}

/// An alert's own status; a group's status is never used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AlertStatus {
    /// The condition holds.
    Firing,
    /// The condition no longer holds.
    Resolved,
}

/// One alert of a webhook request, or of a local trigger. Labels and annotations are data: they
/// never reach a path or a command line, and reach PromQL only quoted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Alert {
    /// Firing or resolved.
    pub status: AlertStatus,
    /// Label set, `alertname` included.
    pub labels: BTreeMap<String, String>,
    /// Free text for people.
    #[serde(default)]
    pub annotations: BTreeMap<String, String>,
    /// Start of the condition. May move earlier between two sends of one episode.
    pub starts_at: Timestamp,
    /// End of the condition; `None` while firing (Alertmanager sends the year 1).
    #[serde(default)]
    pub ends_at: Option<Timestamp>,
    /// Identity of the label set.
    pub fingerprint: Fingerprint,
}

impl Alert {
    /// The `alertname` label, or `"(unnamed)"`.
    pub fn name(&self) -> &str {
        self.labels
            .get("alertname")
            .map_or("(unnamed)", String::as_str)
    }
}

/// Who woke the agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Source {
    /// Alertmanager's webhook (or a sender of the same shape).
    Alertmanager {
        /// The `receiver` as sent.
        receiver: String,
    },
    /// A local PSI trigger.
    Pressure {
        /// `cpu`, `memory` or `io`.
        resource: String,
    },
    /// `paramedic diagnose`.
    Manual,
}

/// Identity of an episode: 128 bits, time-ordered (48 bits of Unix milliseconds, then 80 random),
/// written as `ep-` and 32 hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct EpisodeId(pub [u8; 16]);

impl EpisodeId {
    /// From Unix milliseconds and 80 random bits; pure, so that tests hold both.
    pub fn from_parts(unix_ms: u64, random: [u8; 10]) -> Self {
        let mut id = [0; 16];
        id[..6].copy_from_slice(&unix_ms.to_be_bytes()[2..]);
        id[6..].copy_from_slice(&random);
        Self(id)
    }
}

impl fmt::Display for EpisodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ep-")?;
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl FromStr for EpisodeId {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("incident {text:?} is not ep- and 32 hexadecimal digits");
        let digits = text
            .strip_prefix("ep-")
            .filter(|d| d.len() == 32)
            .ok_or_else(wrong)?;
        let id = u128::from_str_radix(digits, 16).map_err(|_| wrong())?;
        Ok(Self(id.to_be_bytes()))
    }
}

impl TryFrom<String> for EpisodeId {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<EpisodeId> for String {
    fn from(id: EpisodeId) -> String {
        id.to_string()
    }
}

/// W3C trace context (<https://www.w3.org/TR/trace-context/>), continued from the request or begun
/// here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TraceContext {
    /// 32 lower-case hexadecimal digits, not all zero.
    pub trace_id: String,
    /// 16 lower-case hexadecimal digits, not all zero: the parent of our own spans.
    pub span_id: String,
    /// The sampled flag.
    pub sampled: bool,
    /// Whether no request brought it: then `span_id` is nobody's yet, and the span of the episode's own
    /// handling takes it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub begun_here: bool,
}

impl TraceContext {
    /// Parses a `traceparent` header; `None` when it is not valid, as the standard asks.
    pub fn parse(header: &str) -> Option<Self> {
        let mut parts = header.trim().split('-');
        let (version, trace_id, span_id, flags) =
            (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        let hex = |text: &str, len: usize| {
            text.len() == len && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
        };
        let nonzero = |text: &str| text.bytes().any(|b| b != b'0');
        let whole = hex(version, 2)
            && version != "ff"
            && (version != "00" || parts.next().is_none())
            && hex(trace_id, 32)
            && nonzero(trace_id)
            && hex(span_id, 16)
            && nonzero(span_id)
            && hex(flags, 2);
        whole.then(|| Self {
            trace_id: trace_id.to_owned(),
            span_id: span_id.to_owned(),
            sampled: u8::from_str_radix(flags, 16).is_ok_and(|f| f & 1 == 1),
            begun_here: false,
        })
    }

    /// The header to send on.
    pub fn traceparent(&self) -> String {
        format!(
            "00-{}-{}-{:02x}",
            self.trace_id,
            self.span_id,
            u8::from(self.sampled)
        )
    }
}

/// One spell of trouble: a state machine per (tenant, fingerprint). Firing opens it, resolved
/// closes it, a later `starts_at` reopens it as a new one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Episode {
    /// Identity.
    pub id: EpisodeId,
    /// Owner.
    pub tenant: TenantId,
    /// The alert that opened it; shared, because an episode is handed on from stage to stage.
    pub alert: Arc<Alert>,
    /// Who told us.
    pub source: Source,
    /// When the alert was durable here.
    pub opened_at: Timestamp,
    /// Trace that this episode belongs to.
    pub trace: TraceContext,
}
