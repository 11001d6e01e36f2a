//! Own figures in OpenMetrics text. Labels are bounded: rule ids, action kinds, fixed words.

mod process;
mod standing;

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, PoisonError, atomic::AtomicU64},
};

use hdrhistogram::Histogram as Hdr;
use prometheus_client::{
    encoding::{
        EncodeLabelSet,
        text::{encode_eof, encode_registry},
    },
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
        info::Info,
    },
    registry::{Metric, Registry, Unit},
};

pub use standing::{ProbeStanding, QueueStanding, Standing};

use crate::{
    incident::{ActionKind, Diagnosis, Intent, Outcome, OutcomeKind, Refusal, Verdict},
    journal::JournalHealth,
    ledger::Ledger,
};

use process::OwnProcess;
use standing::Standings;

const OUTCOMES: [&str; 4] = ["healed", "no_effect", "worse", "unknown"];
/// Actions that are verified.
const ACTING: [ActionKind; 10] = [
    ActionKind::ThrottleCpu,
    ActionKind::CapMemory,
    ActionKind::CapPids,
    ActionKind::DeprioritiseCpu,
    ActionKind::ThrottleIo,
    ActionKind::FreezeCgroup,
    ActionKind::RaiseMemory,
    ActionKind::RaiseOomScore,
    ActionKind::KillProcess,
    ActionKind::KillCgroup,
];
const AGREEMENTS: [&str; 3] = ["agrees", "disagrees", "none"];
/// Those that an operator is told of; others appear when they happen.
const REQUESTS_REFUSED: [&str; 5] = ["unauthorized", "busy", "journal", "internal", "shape"];
const ACTIONS_REFUSED: [&str; 6] = [
    "policy",
    "protected",
    "budget",
    "inconclusive",
    "unsupported",
    "read-only",
];
const ROLLED_BACK: [&str; 4] = [
    "did_not_help",
    "lease_ended",
    "agent_restarted",
    "agent_gone",
];

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

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Agreement {
    consensus: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Told {
    sink: String,
    result: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Exported {
    result: &'static str,
}

type GaugeF64 = Gauge<f64, AtomicU64>;

/// A metric that starts as nothing, registered.
fn registered<M: Metric + Clone + Default>(registry: &mut Registry, name: &str, help: &str) -> M {
    let metric = M::default();
    registry.register(name, help, metric.clone());
    metric
}

/// Everything that the agent says of itself.
pub struct Metrics {
    registry: Registry,
    /// Names that carry no prefix of ours.
    process: Registry,
    standings: Arc<Standings>,
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
    episodes_failed: Counter,
    shadows: Family<Agreement, Counter>,
    hits: Counter,
    misses: Counter,
    hit_ratio: GaugeF64,
    notifications: Family<Told, Counter>,
    exported: Family<Exported, Counter>,
    journal_writable: Gauge,
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Metrics")
    }
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
        let standings = Arc::<Standings>::default();
        registry.register_collector(Box::new(standings.clone()));
        let mut process = Registry::default();
        process.register_collector(Box::new(OwnProcess));
        let diagnosis_seconds = Histogram::new(exponential_buckets(0.001, 2.0, 16));
        let (name, help) = (
            "diagnosis_duration",
            "From the alert being durable to its diagnosis",
        );
        registry.register_with_unit(name, help, Unit::Seconds, diagnosis_seconds.clone());
        // 1 ms to 1 h at three digits: 60 KiB, allocated once.
        let diagnosis_hdr =
            Mutex::new(Hdr::new_with_bounds(1, 3_600_000, 3).unwrap_or_else(|_| {
                unreachable!("the bounds are constants that hdrhistogram accepts")
            }));
        let own = &mut registry;
        let metrics = Self {
            alerts: registered(own, "alerts", "Alerts accepted, by what they did"),
            refused_requests: registered(own, "requests_refused", "Webhook requests refused"),
            diagnoses: registered(own, "diagnoses", "Diagnoses, by top hypothesis and verdict"),
            diagnosis_p99_seconds: registered(
                own,
                "diagnosis_duration_p99_seconds",
                "99th percentile of the same since the start",
            ),
            actions: registered(own, "actions", "Actions verified, by outcome"),
            healing_ratio: registered(
                own,
                "healing_success_ratio",
                "Healed over verified since the start; NaN before the first",
            ),
            healed: registered(own, "healed", "Actions that healed"),
            verified: registered(own, "verified", "Actions verified"),
            not_acted: registered(own, "actions_refused", "Episodes without an action"),
            rollbacks: registered(own, "rollbacks", "Effects undone"),
            episodes_failed: registered(
                own,
                "episodes_failed",
                "Episodes whose handling ended by an error, a panic or its deadline",
            ),
            shadows: registered(
                own,
                "shadow_answers",
                "Answers of the second strategy, by whether it agrees with the one that decides",
            ),
            hits: registered(
                own,
                "hypothesis_hits",
                "First causes that their remedy's success confirmed",
            ),
            misses: registered(
                own,
                "hypothesis_misses",
                "First causes whose remedy did not help or made it worse",
            ),
            hit_ratio: registered(
                own,
                "hypothesis_hit_ratio",
                "Hits over hits and misses since the start; NaN before the first",
            ),
            notifications: registered(
                own,
                "notifications",
                "Notifications, by sink and what became of them",
            ),
            exported: registered(
                own,
                "otlp_spans",
                "Spans for the collector of traces, by what became of them",
            ),
            journal_writable: registered(
                own,
                "journal_writable",
                "1 while the journal takes records",
            ),
            registry,
            process,
            standings,
            diagnosis_seconds,
            diagnosis_hdr,
        };
        metrics.begin_at_zero();
        metrics
    }

    /// Series that rules watch for their first increase must be there before it.
    fn begin_at_zero(&self) {
        self.healing_ratio.set(f64::NAN);
        self.hit_ratio.set(f64::NAN);
        for did in ["opened", "seen", "resolved", "ignored"] {
            self.accepted(did, 0);
        }
        drop(self.diagnoses.get_or_create(&Top {
            hypothesis: "none".to_owned(),
            verdict: "inconclusive",
        }));
        for kind in ACTING {
            for outcome in OUTCOMES {
                let action = kind.to_string();
                drop(self.actions.get_or_create(&Verified { action, outcome }));
            }
        }
        for consensus in AGREEMENTS {
            drop(self.shadows.get_or_create(&Agreement { consensus }));
        }
        for reason in REQUESTS_REFUSED {
            let reason = reason.to_owned();
            drop(self.refused_requests.get_or_create(&Reason { reason }));
        }
        for reason in ACTIONS_REFUSED {
            let reason = reason.to_owned();
            drop(self.not_acted.get_or_create(&Reason { reason }));
        }
        for reason in ROLLED_BACK {
            let reason = reason.to_owned();
            drop(self.rollbacks.get_or_create(&Reason { reason }));
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
        let [healed, no_effect, worse, unknown] = OUTCOMES;
        let word = match outcome.kind {
            OutcomeKind::Healed => healed,
            OutcomeKind::NoEffect => no_effect,
            OutcomeKind::Worse => worse,
            OutcomeKind::Unknown => unknown,
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
        match outcome.kind {
            OutcomeKind::Healed => self.hits.inc(),
            OutcomeKind::NoEffect | OutcomeKind::Worse => self.misses.inc(),
            OutcomeKind::Unknown => return,
        };
        let (hits, misses) = (self.hits.get() as f64, self.misses.get() as f64);
        self.hit_ratio.set(hits / (hits + misses));
    }

    /// An episode whose handling broke off.
    pub fn episode_failed(&self) {
        self.episodes_failed.inc();
    }

    /// What the shadow said beside the deciding strategy; `None` = nothing in time.
    pub fn shadowed(&self, consensus: Option<bool>) {
        let [agrees, disagrees, none] = AGREEMENTS;
        let consensus = match consensus {
            Some(true) => agrees,
            Some(false) => disagrees,
            None => none,
        };
        self.shadows.get_or_create(&Agreement { consensus }).inc();
    }

    /// What became of notifications to a sink: `sent`, `failed` or `dropped`.
    pub fn notified(&self, sink: &str, result: &'static str, count: u64) {
        let sink = sink.to_owned();
        self.notifications
            .get_or_create(&Told { sink, result })
            .inc_by(count);
    }

    /// What became of spans: `sent`, `failed`, `refused` or `dropped`.
    pub fn exported(&self, result: &'static str, count: u64) {
        self.exported
            .get_or_create(&Exported { result })
            .inc_by(count);
    }

    #[cfg(test)]
    pub(crate) fn exports(&self, result: &'static str) -> u64 {
        self.exported.get_or_create(&Exported { result }).get()
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

    /// OpenMetrics text.
    pub fn encode(&self, ledger: &Ledger, standing: Standing) -> Result<String, fmt::Error> {
        self.standings.set(standing, ledger.journal().stats());
        let writable = matches!(ledger.journal().health(), JournalHealth::Writable);
        self.journal_writable.set(i64::from(writable));
        let mut text = String::new();
        encode_registry(&mut text, &self.registry)?;
        encode_registry(&mut text, &self.process)?;
        encode_eof(&mut text)?;
        Ok(text)
    }

    /// The same in the classic text format, version 0.0.4.
    pub fn encode_classic(
        &self,
        ledger: &Ledger,
        standing: Standing,
    ) -> Result<String, fmt::Error> {
        self.encode(ledger, standing).map(|text| classic(&text))
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
