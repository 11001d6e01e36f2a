//! How the agent's parts stand, asked at each scrape: queues, probes, breakers, the journal, the process.

use std::{
    fmt,
    sync::{Mutex, PoisonError},
};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
};

use crate::journal::{JournalStats, LaneStats};

/// One kernel probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProbeStanding {
    /// Its name, one of a dozen.
    pub name: &'static str,
    /// `attached`, `standby`, `fallback` or `off`.
    pub state: &'static str,
    /// Events seen.
    pub events: u64,
    /// Events lost or not attributed.
    pub lost: u64,
}

/// One queue of episodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueStanding {
    /// Whose; tenants are bounded by configuration.
    pub tenant: String,
    /// Episodes waiting.
    pub depth: usize,
    /// Most that ever waited.
    pub high_water: usize,
    /// Episodes being handled.
    pub running: usize,
}

/// What the other stages say of themselves. They do not know this module; `app` fills it in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// A queue a tenant.
    pub queues: Vec<QueueStanding>,
    /// Kernel probes.
    pub probes: Vec<ProbeStanding>,
    /// Breakers by what they guard, and whether each refuses calls.
    pub breakers: Vec<(String, bool)>,
}

/// States of a probe, as the label says them.
const PROBE_STATES: [&str; 4] = ["attached", "standby", "fallback", "off"];

/// Encodes the last standing and the journal's counters.
#[derive(Debug, Default)]
pub(super) struct Standings {
    last: Mutex<(Standing, Option<JournalStats>)>,
}

impl Standings {
    pub(super) fn set(&self, standing: Standing, journal: JournalStats) {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = (standing, Some(journal));
    }
}

type Labelled<'a> = ([(&'static str, &'a str); 1], f64);

/// One family of gauges with one label.
fn gauges<'a>(
    encoder: &mut DescriptorEncoder,
    (name, help): (&str, &str),
    rows: impl Iterator<Item = Labelled<'a>>,
) -> fmt::Result {
    let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
    for (labels, value) in rows {
        ConstGauge::new(value).encode(metric.encode_family(&labels)?)?;
    }
    Ok(())
}

/// The same of counters.
fn counters<'a>(
    encoder: &mut DescriptorEncoder,
    (name, help): (&str, &str),
    rows: impl Iterator<Item = ([(&'static str, &'a str); 1], u64)>,
) -> fmt::Result {
    let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
    for (labels, value) in rows {
        ConstCounter::new(value).encode(metric.encode_family(&labels)?)?;
    }
    Ok(())
}

impl Collector for Standings {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let (standing, journal) = &*last;
        queues(&mut encoder, &standing.queues)?;
        probes(&mut encoder, &standing.probes)?;
        gauges(
            &mut encoder,
            ("breaker_open", "1 while calls to this are refused or tried"),
            standing
                .breakers
                .iter()
                .map(|(name, open)| ([("breaker", name.as_str())], f64::from(u8::from(*open)))),
        )?;
        lanes(&mut encoder, journal.as_ref())
    }
}

fn queues(encoder: &mut DescriptorEncoder, queues: &[QueueStanding]) -> fmt::Result {
    let mut family = |name, help, of: fn(&QueueStanding) -> usize| {
        let rows = queues
            .iter()
            .map(|queue| ([("tenant", queue.tenant.as_str())], of(queue) as f64));
        gauges(encoder, (name, help), rows)
    };
    family("queue_depth", "Episodes waiting", |q| q.depth)?;
    family(
        "queue_depth_highest",
        "Most episodes that waited at a time since the start",
        |q| q.high_water,
    )?;
    family("episodes_running", "Episodes being handled", |q| q.running)
}

fn probes(encoder: &mut DescriptorEncoder, probes: &[ProbeStanding]) -> fmt::Result {
    let (name, help) = ("probe_state", "1 for the state that a kernel probe is in");
    let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
    for probe in probes {
        for state in PROBE_STATES {
            let labels = [("probe", probe.name), ("state", state)];
            let is = f64::from(u8::from(probe.state == state));
            ConstGauge::new(is).encode(metric.encode_family(&labels)?)?;
        }
    }
    counters(
        encoder,
        ("probe_events", "Events that a kernel probe saw"),
        probes.iter().map(|p| ([("probe", p.name)], p.events)),
    )?;
    counters(
        encoder,
        (
            "probe_lost_events",
            "Events that a kernel probe lost or could not attribute",
        ),
        probes.iter().map(|p| ([("probe", p.name)], p.lost)),
    )
}

fn lanes(encoder: &mut DescriptorEncoder, journal: Option<&JournalStats>) -> fmt::Result {
    let lanes: Vec<(&str, &LaneStats)> = journal
        .into_iter()
        .flat_map(|stats| [("fast", stats.fast.as_ref()), ("safe", stats.safe.as_ref())])
        .filter_map(|(name, stats)| stats.map(|stats| (name, stats)))
        .collect();
    let rows = |of: fn(&LaneStats) -> u64| {
        lanes
            .iter()
            .map(move |(name, stats)| ([("lane", *name)], of(stats)))
    };
    let seconds =
        |of: fn(&LaneStats) -> u64| rows(of).map(|(labels, us)| (labels, us as f64 / 1e6));
    counters(
        encoder,
        ("journal_records", "Records made durable"),
        rows(|lane| lane.records),
    )?;
    counters(
        encoder,
        (
            "journal_refused",
            "Calls that the journal refused or failed",
        ),
        rows(|lane| lane.refused),
    )?;
    counters(
        encoder,
        ("journal_written_bytes", "Bytes written for records"),
        rows(|lane| lane.written_bytes),
    )?;
    gauges(
        encoder,
        (
            "journal_lag_seconds",
            "Age of the batch that is being written; 0 when idle",
        ),
        seconds(|lane| lane.lag_us),
    )?;
    gauges(
        encoder,
        (
            "journal_sync_p99_seconds",
            "99th percentile of writing and syncing one batch since the start",
        ),
        seconds(|lane| lane.sync.p99_us),
    )?;
    gauges(
        encoder,
        (
            "journal_append_p99_seconds",
            "99th percentile from a call to its acknowledgement since the start",
        ),
        seconds(|lane| lane.append.p99_us),
    )?;
    gauges(
        encoder,
        (
            "journal_space_low",
            "1 while the disk has no room for another segment",
        ),
        rows(|lane| u64::from(lane.space_low)).map(|(labels, is)| (labels, is as f64)),
    )
}
