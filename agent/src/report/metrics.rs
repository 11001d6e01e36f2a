//! Own figures in OpenMetrics text. Labels are bounded: rule ids, action kinds, fixed words.

use std::{
    collections::HashMap,
    fmt,
    sync::{Mutex, PoisonError, atomic::AtomicU64},
};

use hdrhistogram::Histogram as Hdr;
use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
        info::Info,
    },
    registry::{Registry, Unit},
};

use crate::{
    incident::{Diagnosis, Intent, Outcome, OutcomeKind, Refusal, Verdict},
    journal::JournalHealth,
    ledger::Ledger,
};

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Reason {
    reason: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Verified {
    action: String,
    outcome: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Top {
    hypothesis: String,
    verdict: &'static str,
}

type GaugeF64 = Gauge<f64, AtomicU64>;

/// Everything that the agent says of itself.
pub struct Metrics {
    registry: Registry,
    alerts: Family<Reason, Counter>,
    refused_requests: Family<Reason, Counter>,
    diagnoses: Family<Top, Counter>,
    diagnosis_seconds: Histogram,
    diagnosis_p99_seconds: GaugeF64,
    diagnosis_hdr: Mutex<Hdr<u64>>,
    actions: Family<Verified, Counter>,
    healing_ratio: GaugeF64,
    healed: Counter,
    verified: Counter,
    not_acted: Family<Reason, Counter>,
    rollbacks: Family<Reason, Counter>,
    queue_depth: Gauge,
    journal_writable: Gauge,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// A fresh registry with everything at zero.
    pub fn new() -> Self {
        let mut registry = Registry::with_prefix("paramedic");
        let version = [("version", env!("CARGO_PKG_VERSION"))];
        registry.register("build", "Version of the agent", Info::new(version.to_vec()));
        let alerts = Family::default();
        registry.register(
            "alerts",
            "Alerts accepted, by what they did",
            alerts.clone(),
        );
        let refused_requests = Family::default();
        registry.register(
            "requests_refused",
            "Webhook requests refused",
            refused_requests.clone(),
        );
        let diagnoses = Family::default();
        registry.register(
            "diagnoses",
            "Diagnoses, by top hypothesis and verdict",
            diagnoses.clone(),
        );
        let diagnosis_seconds = Histogram::new(exponential_buckets(0.001, 2.0, 16));
        registry.register_with_unit(
            "diagnosis_duration",
            "From the alert being durable to its diagnosis",
            Unit::Seconds,
            diagnosis_seconds.clone(),
        );
        let diagnosis_p99_seconds = GaugeF64::default();
        registry.register_with_unit(
            "diagnosis_duration_p99",
            "99th percentile of the same since the start",
            Unit::Seconds,
            diagnosis_p99_seconds.clone(),
        );
        let actions = Family::default();
        registry.register("actions", "Actions verified, by outcome", actions.clone());
        let (healed, verified) = (Counter::default(), Counter::default());
        registry.register("healed", "Actions that healed", healed.clone());
        registry.register("verified", "Actions verified", verified.clone());
        let healing_ratio = GaugeF64::default();
        registry.register_with_unit(
            "healing_success",
            "Healed over verified since the start; NaN before the first",
            Unit::Ratios,
            healing_ratio.clone(),
        );
        healing_ratio.set(f64::NAN);
        let not_acted = Family::default();
        registry.register(
            "actions_refused",
            "Episodes without an action",
            not_acted.clone(),
        );
        let rollbacks = Family::default();
        registry.register("rollbacks", "Effects undone", rollbacks.clone());
        let queue_depth = Gauge::default();
        registry.register("queue_depth", "Episodes waiting", queue_depth.clone());
        let journal_writable = Gauge::default();
        registry.register(
            "journal_writable",
            "1 while the journal takes records",
            journal_writable.clone(),
        );
        // 1 ms to 1 h at three digits: 60 KiB, allocated once.
        let diagnosis_hdr =
            Mutex::new(Hdr::new_with_bounds(1, 3_600_000, 3).unwrap_or_else(|_| {
                unreachable!("the bounds are constants that hdrhistogram accepts")
            }));
        Self {
            registry,
            alerts,
            refused_requests,
            diagnoses,
            diagnosis_seconds,
            diagnosis_p99_seconds,
            diagnosis_hdr,
            actions,
            healing_ratio,
            healed,
            verified,
            not_acted,
            rollbacks,
            queue_depth,
            journal_writable,
        }
    }

    /// Alerts of an accepted request: `opened`, `seen`, `resolved` or `ignored`.
    pub fn accepted(&self, did: &str, count: u64) {
        self.alerts
            .get_or_create(&Reason {
                reason: did.to_owned(),
            })
            .inc_by(count);
    }

    /// A refused request.
    pub fn request_refused(&self, reason: &str) {
        self.refused_requests
            .get_or_create(&Reason {
                reason: reason.to_owned(),
            })
            .inc();
    }

    /// A diagnosis and its latency.
    pub fn diagnosed(&self, diagnosis: &Diagnosis, since_open_ms: u64) {
        let verdict = match diagnosis.verdict {
            Verdict::Conclusive => "conclusive",
            Verdict::Inconclusive(_) => "inconclusive",
        };
        let hypothesis = diagnosis
            .top
            .first()
            .map_or_else(|| "none".to_owned(), |top| top.id.clone());
        self.diagnoses
            .get_or_create(&Top {
                hypothesis,
                verdict,
            })
            .inc();
        self.diagnosis_seconds.observe(since_open_ms as f64 / 1e3);
        let mut hdr = self
            .diagnosis_hdr
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        hdr.saturating_record(since_open_ms.max(1));
        self.diagnosis_p99_seconds
            .set(hdr.value_at_quantile(0.99) as f64 / 1e3);
    }

    /// A judged action.
    pub fn verified(&self, intent: &Intent, outcome: &Outcome) {
        let word = match outcome.kind {
            OutcomeKind::Healed => "healed",
            OutcomeKind::NoEffect => "no_effect",
            OutcomeKind::Worse => "worse",
            OutcomeKind::Unknown => "unknown",
        };
        let action = intent.action.kind.to_string();
        self.actions
            .get_or_create(&Verified {
                action,
                outcome: word,
            })
            .inc();
        self.verified.inc();
        if outcome.kind == OutcomeKind::Healed {
            self.healed.inc();
        }
        self.healing_ratio
            .set(self.healed.get() as f64 / self.verified.get() as f64);
    }

    /// An episode that ended without an action.
    pub fn refused(&self, refusal: &Refusal) {
        self.not_acted
            .get_or_create(&Reason {
                reason: refusal.reason.clone(),
            })
            .inc();
    }

    /// An effect undone.
    pub fn rolled_back(&self, _intent: &Intent, reason: &str) {
        self.rollbacks
            .get_or_create(&Reason {
                reason: reason.to_owned(),
            })
            .inc();
    }

    /// Episodes waiting in all queues.
    pub fn queue_depth(&self, depth: usize) {
        self.queue_depth
            .set(i64::try_from(depth).unwrap_or(i64::MAX));
    }

    /// OpenMetrics text.
    pub fn encode(&self, ledger: &Ledger) -> Result<String, fmt::Error> {
        let writable = matches!(ledger.journal().health(), JournalHealth::Writable);
        self.journal_writable.set(i64::from(writable));
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        Ok(text)
    }

    /// The same in the classic text format, version 0.0.4.
    pub fn encode_classic(&self, ledger: &Ledger) -> Result<String, fmt::Error> {
        self.encode(ledger).map(|text| classic(&text))
    }
}

/// OpenMetrics text as classic text: the samples are the same; the classic format names a counter
/// with its `_total`, has no `info`, no units and no end mark.
fn classic(open: &str) -> String {
    let mut kinds = HashMap::new();
    for line in open.lines() {
        let described = line.strip_prefix("# TYPE ");
        if let Some((name, kind)) = described.and_then(|rest| rest.split_once(' ')) {
            kinds.insert(name, kind);
        }
    }
    let mut text = String::with_capacity(open.len());
    for line in open.lines() {
        if line == "# EOF" || line.starts_with("# UNIT ") {
            continue;
        }
        let mut words = line.splitn(4, ' ');
        let described = match (words.next(), words.next(), words.next(), words.next()) {
            (Some("#"), Some(what), Some(name), Some(rest)) => Some((what, name, rest)),
            _ => None,
        };
        let Some((what, name, rest)) = described else {
            text.push_str(line);
            text.push('\n');
            continue;
        };
        let kind = kinds.get(name).copied();
        let suffix = match kind {
            Some("counter") => "_total",
            Some("info") => "_info",
            _ => "",
        };
        let rest = match (what, rest) {
            ("TYPE", "info") => "gauge",
            ("TYPE", "unknown") => "untyped",
            (_, rest) => rest,
        };
        for part in ["# ", what, " ", name, suffix, " ", rest, "\n"] {
            text.push_str(part);
        }
    }
    text
}
