//! How a made-up system is measured and written down.

use paramedic::diagnosis::causal::{Case, CaseAlert, Column, Table, Truth};

use super::{
    Rng,
    world::{Fault, Shown, World},
};

/// How metrics are called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Names {
    /// latency, availability, requests.
    Usual,
    /// Milliseconds, ratios, other words.
    Other,
    /// As Prometheus has them: only growing.
    Counters,
    /// Medians and tails instead of means.
    Percentiles,
}

/// What is different about a case.
#[derive(Clone, Copy, Debug)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is one difficulty, on or off"
)]
pub struct Shape {
    /// Five rows in all, one before the onset.
    pub short: bool,
    /// Whether there is another day's baseline.
    pub baseline: bool,
    /// Whether calls are known.
    pub topology: bool,
    /// Whether services call each other in a circle.
    pub cycle: bool,
    /// A fifth of all cells is empty, and a tenth of the services are not in the topology.
    pub missing: bool,
    /// How metrics are called.
    pub names: Names,
    /// Whether requests are counted.
    pub traffic: bool,
    /// Whether the alert fires several rows after the onset.
    pub late_alert: bool,
}

impl Shape {
    /// An hour before and half an hour after the onset by the minute, everything there.
    pub const PLAIN: Self = Self {
        short: false,
        baseline: true,
        topology: true,
        cycle: false,
        missing: false,
        names: Names::Usual,
        traffic: true,
        late_alert: false,
    };

    pub(super) fn case(self, world: &World, seed: u64) -> Case {
        let mut rng = Rng::new(seed ^ 0xabcd);
        let (step, activity): (f64, Vec<f64>) = if self.short {
            (300.0, vec![0.0, 0.5, 1.0, 1.0, 0.1])
        } else {
            let before = std::iter::repeat_n(0.0, 60);
            (60.0, before.chain(std::iter::repeat_n(1.0, 30)).collect())
        };
        let start = 1.7e9;
        let onset = activity
            .iter()
            .position(|active| *active > 0.0)
            .unwrap_or(0);
        let late = if self.late_alert { 5 } else { 0 };
        let mut series = self.table(world, &mut rng, start, step, &activity, false);
        let quiet = vec![0.0; 200];
        let mut baseline = self
            .baseline
            .then(|| self.table(world, &mut rng, start - 1e7, step, &quiet, true));
        if self.missing {
            for table in std::iter::once(&mut series).chain(&mut baseline) {
                for column in &mut table.columns {
                    for value in column.values.iter_mut().filter(|_| rng.unit() < 0.2) {
                        *value = None;
                    }
                }
            }
        }
        let hidden = |at: usize| self.missing && at % 10 == 9;
        let edges = world
            .edges()
            .filter(|(a, b)| self.topology && !hidden(*a) && !hidden(*b));
        Case {
            name: format!("seed-{seed}"),
            series,
            baseline,
            topology: edges.map(|(a, b)| (name(a), name(b))).collect(),
            alert: CaseAlert {
                entity: name(0),
                metric: self.alert_metric(world.fault).to_owned(),
                starts_at: start
                    + step * (onset + late) as f64
                    + if self.short { 0.4 * step } else { 0.0 },
            },
            truth: Some(Truth {
                entity: name(world.culprit),
                cause: Some(world.fault.family().to_owned()),
            }),
        }
    }

    fn alert_metric(self, fault: Fault) -> &'static str {
        let errors = fault == Fault::Errors;
        match (self.names, errors) {
            (Names::Usual | Names::Percentiles, false) => "latency",
            (Names::Usual | Names::Percentiles, true) => "availability",
            (Names::Other, false) => "response_time_ms",
            (Names::Other, true) => "success_rate",
            (Names::Counters, false) => "http_request_duration_seconds",
            (Names::Counters, true) => "http_errors_total",
        }
    }

    fn table(
        self,
        world: &World,
        rng: &mut Rng,
        start: f64,
        step: f64,
        activity: &[f64],
        other_day: bool,
    ) -> Table {
        let rows: Vec<Vec<Shown>> = activity
            .iter()
            .map(|active| world.row(rng, *active, other_day))
            .collect();
        let mut table = Table {
            times: (0..rows.len())
                .map(|row| start + step * row as f64)
                .collect(),
            columns: Vec::new(),
        };
        for at in 0..world.len() {
            let shown: Vec<Shown> = rows.iter().map(|row| row[at]).collect();
            self.columns(&mut table, at, &shown);
        }
        table
    }

    fn columns(self, table: &mut Table, at: usize, shown: &[Shown]) {
        let busy = |shown: &Shown| shown.requests > 0.0;
        let well = |shown: &Shown| 1.0 - shown.failed / shown.requests;
        let mut put = |metric: &str, statistic: &str, value: &dyn Fn(&Shown) -> Option<f64>| {
            table.columns.push(Column {
                entity: name(at),
                metric: metric.to_owned(),
                statistic: statistic.to_owned(),
                values: shown.iter().map(value).collect(),
            });
        };
        match self.names {
            Names::Usual => {
                put("latency", "Average", &|s| busy(s).then_some(s.latency));
                put("latency", "p99", &|s| busy(s).then_some(4.0 * s.latency));
                put("availability", "Average", &|s| {
                    busy(s).then(|| 100.0 * well(s))
                });
            }
            Names::Other => {
                put("response_time_ms", "mean", &|s| {
                    busy(s).then_some(1e3 * s.latency)
                });
                put("success_rate", "", &|s| busy(s).then(|| well(s)));
            }
            Names::Percentiles => {
                put("latency", "p50", &|s| busy(s).then_some(0.7 * s.latency));
                put("latency", "p90", &|s| busy(s).then_some(2.0 * s.latency));
                put("latency", "p99", &|s| busy(s).then_some(4.0 * s.latency));
                put("availability", "mean", &|s| busy(s).then(|| well(s)));
            }
            Names::Counters => {}
        }
        let traffic = match self.names {
            Names::Other => "calls",
            _ => "requests",
        };
        if self.traffic && self.names != Names::Counters {
            put(traffic, "Sum", &|s| Some(s.requests));
        }
        put("cpu_usage", "mean", &|s| Some(s.cpu));
        put("memory_working_set_bytes", "mean", &|s| Some(s.memory));
        put("disk_write_bytes", "mean", &|s| Some(s.io));
        if self.names == Names::Counters {
            let mut grow = |metric: &str, value: &dyn Fn(&Shown) -> f64| {
                let mut sum = 1e4;
                let values = shown.iter().enumerate().map(|(row, shown)| {
                    // A restart in the middle of the quiet.
                    sum = if row == 20 && at.is_multiple_of(3) {
                        0.0
                    } else {
                        sum
                    } + value(shown);
                    Some(sum)
                });
                table.columns.push(Column {
                    entity: name(at),
                    metric: metric.to_owned(),
                    statistic: String::new(),
                    values: values.collect(),
                });
            };
            grow("http_request_duration_seconds_sum", &|s| {
                s.latency * s.requests
            });
            grow("http_request_duration_seconds_count", &|s| s.requests);
            grow("http_errors_total", &|s| s.failed);
        }
    }
}

/// Names without meaning, and in no order.
fn name(at: usize) -> String {
    format!("s{:03}", (at * 617 + 311) % 1000)
}
