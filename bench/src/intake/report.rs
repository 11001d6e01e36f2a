//! Rows as they come, then the targets: text for people, JSON for programs.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::{disk::Sync, load::Slice, servers::Kind};
use crate::{median, round};

pub(super) struct Report {
    json: bool,
    connections: usize,
    syncs: Vec<Sync>,
    slices: BTreeMap<(usize, Kind), Vec<Slice>>,
}

/// What a ratio should be.
const DURABLE_OVER_BARE: f64 = 0.60;
const P99_OVER_SYNC_P99: f64 = 2.0;

impl Report {
    pub(super) fn new(json: bool, connections: usize) -> Self {
        Self {
            json,
            connections,
            syncs: Vec::new(),
            slices: BTreeMap::new(),
        }
    }

    pub(super) fn sync(&mut self, round: usize, sync: &Sync) {
        if self.json {
            println!("{}", json!({ "round": round, "disk_sync": sync }));
        }
        self.syncs.push(*sync);
    }

    pub(super) fn slice(&mut self, round: usize, kind: Kind, alerts: usize, slice: Slice) {
        if self.json {
            let row = json!({ "round": round, "server": kind.name(), "alerts": alerts,
                "slice": slice });
            println!("{row}");
        }
        self.slices.entry((alerts, kind)).or_default().push(slice);
    }

    fn of(&self, alerts: usize, kind: Kind, value: fn(&Slice) -> f64) -> Vec<f64> {
        let slices = self.slices.get(&(alerts, kind));
        slices.map_or_else(Vec::new, |slices| slices.iter().map(value).collect())
    }

    /// One ratio a round.
    fn pairs(above: &[f64], below: &[f64]) -> Vec<f64> {
        let pairs = above.iter().zip(below);
        pairs.map(|(a, b)| a / b.max(f64::MIN_POSITIVE)).collect()
    }

    fn durable_over(&self, alerts: usize, other: Kind) -> Vec<f64> {
        let rate = |slice: &Slice| slice.requests_per_s;
        Self::pairs(
            &self.of(alerts, Kind::Durable, rate),
            &self.of(alerts, other, rate),
        )
    }

    fn p99_over_sync(&self, alerts: usize) -> Vec<f64> {
        let syncs: Vec<f64> = self.syncs.iter().map(|sync| sync.p99_us).collect();
        Self::pairs(&self.of(alerts, Kind::Durable, |s| s.p99_us), &syncs)
    }

    /// What no log on this disk can exceed with so many callers that each wait for one sync, over
    /// the bare handler: by Little's law, callers / time of a sync.
    fn limit_over_bare(&self, alerts: usize) -> Vec<f64> {
        let limit = |sync: &Sync| self.connections as f64 / (sync.p50_us / 1e6);
        let limits: Vec<f64> = self.syncs.iter().map(limit).collect();
        Self::pairs(&limits, &self.of(alerts, Kind::Bare, |s| s.requests_per_s))
    }

    pub(super) fn finish(&self) {
        if self.json {
            println!("{}", self.object());
        } else {
            self.table();
        }
    }

    fn object(&self) -> Value {
        let raw: Vec<Value> = self
            .slices
            .keys()
            .map(|&(alerts, kind)| {
                let of = |value: fn(&Slice) -> f64| round(median(&self.of(alerts, kind, value)));
                json!({ "server": kind.name(), "alerts_per_request": alerts,
                    "requests_per_s": of(|s| s.requests_per_s),
                    "alerts_per_s": of(|s| s.alerts_per_s),
                    "p50_us": of(|s| s.p50_us), "p99_us": of(|s| s.p99_us),
                    "cpu_us": of(|s| s.cpu_us), "rss_mib": of(|s| s.rss_mib), "refused": of(|s| s.refused as f64) })
            })
            .collect();
        let sync = |value: fn(&Sync) -> f64| {
            round(median(&self.syncs.iter().map(value).collect::<Vec<_>>()))
        };
        json!({
            "durable_over_bare": target(&self.durable_over(1, Kind::Bare), DURABLE_OVER_BARE, false),
            "p99_over_sync_p99": target(&self.p99_over_sync(1), P99_OVER_SYNC_P99, true),
            "raw": {
                "connections": self.connections,
                "medians": raw,
                "disk_sync_p50_us": sync(|s| s.p50_us),
                "disk_sync_p99_us": sync(|s| s.p99_us),
                "durable_over_bare_10_alerts": round(median(&self.durable_over(10, Kind::Bare))),
                "p99_over_sync_p99_10_alerts": round(median(&self.p99_over_sync(10))),
                "durable_over_script": round(median(&self.durable_over(1, Kind::Script))),
                "one_sync_a_request_over_bare": round(median(&self.limit_over_bare(1))),
            },
        })
    }

    fn table(&self) {
        println!(
            "{:<10}{:>8}{:>12}{:>12}{:>11}{:>11}{:>9}{:>9}{:>9}",
            "server",
            "alerts",
            "requests/s",
            "alerts/s",
            "p50 us",
            "p99 us",
            "CPU us",
            "RSS MiB",
            "refused"
        );
        for &(alerts, kind) in self.slices.keys() {
            let of = |value: fn(&Slice) -> f64| median(&self.of(alerts, kind, value));
            println!(
                "{:<10}{alerts:>8}{:>12.0}{:>12.0}{:>11.0}{:>11.0}{:>9.1}{:>9.1}{:>9.0}",
                kind.name(),
                of(|s| s.requests_per_s),
                of(|s| s.alerts_per_s),
                of(|s| s.p50_us),
                of(|s| s.p99_us),
                of(|s| s.cpu_us),
                of(|s| s.rss_mib),
                of(|s| s.refused as f64),
            );
        }
        let syncs =
            |value: fn(&Sync) -> f64| median(&self.syncs.iter().map(value).collect::<Vec<_>>());
        println!(
            "disk sync: p50 {:.0} us, p99 {:.0} us",
            syncs(|s| s.p50_us),
            syncs(|s| s.p99_us)
        );
        for (name, pairs, wanted, sign) in [
            (
                "durable_over_bare",
                self.durable_over(1, Kind::Bare),
                DURABLE_OVER_BARE,
                ">=",
            ),
            (
                "p99_over_sync_p99",
                self.p99_over_sync(1),
                P99_OVER_SYNC_P99,
                "<=",
            ),
        ] {
            println!("{name}: {:.2}, wanted {sign} {wanted:.2}", median(&pairs));
        }
        println!(
            "durable_over_script: {:.1}; one sync a request would allow {:.2} of bare",
            median(&self.durable_over(1, Kind::Script)),
            median(&self.limit_over_bare(1))
        );
    }
}

fn target(pairs: &[f64], wanted: f64, lower_is_better: bool) -> Value {
    let ratio = median(pairs);
    let met = if lower_is_better {
        ratio <= wanted
    } else {
        ratio >= wanted
    };
    json!({ "ratio": round(ratio), "target": wanted, "lower_is_better": lower_is_better,
        "met": met, "pairs": pairs.iter().map(|pair| round(*pair)).collect::<Vec<_>>() })
}
