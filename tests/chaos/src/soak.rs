//! The agent under a trickle of alerts for minutes or hours: does it grow, or slow down?
//!
//! Label sets come again and again, so that everything that is remembered a label set or an incident
//! reaches its bound early; a quarter of the time is left for that. What follows is judged by a trend
//! test over all of it, not by its two ends (`trend`).

mod trend;

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use jiff::Timestamp;
use paramedic_parts::{Agent, chance::Rng, payload};
use serde_json::{Map, Value, json};

use trend::{Trend, trend};

/// Samples of a run, whatever its length.
const SAMPLES: u32 = 240;
/// One part of so many is left out: caches and histories fill.
const WARM_UP_PART: usize = 4;
/// Label sets in turn.
const LABEL_SETS: u64 = 64;

/// For how long, and how much.
#[derive(Debug, clap::Args)]
pub struct Soak {
    /// Hours
    #[arg(long, conflicts_with = "minutes")]
    hours: Option<f64>,
    /// Minutes; 10 unless said otherwise
    #[arg(long)]
    minutes: Option<f64>,
    /// Alerts a second: half of them fire, half resolve
    #[arg(long, default_value_t = 4.0)]
    rate: f64,
    /// Probes are loaded, where the kernel lets them
    #[arg(long)]
    probes: bool,
    /// One object as the last line
    #[arg(long)]
    json: bool,
}

/// A figure, and how much more of it in a day is no longer steady: a share of its level, and a floor below
/// which nothing matters.
#[derive(Debug)]
struct Figure {
    name: &'static str,
    share_a_day: f64,
    floor_a_day: f64,
    values: Vec<f64>,
}

fn figures() -> [Figure; 5] {
    let figure = |name, share_a_day, floor_a_day| Figure {
        name,
        share_a_day,
        floor_a_day,
        values: Vec::new(),
    };
    [
        figure("anon_rss_mib", 0.25, 16.0),
        figure("open_files", 0.1, 4.0),
        figure("threads", 0.1, 4.0),
        figure("accept_ms", 0.5, 5.0),
        figure("cpu_share", 0.5, 0.02),
    ]
}

impl Soak {
    /// Runs it; whether everything is steady.
    pub fn run(&self) -> anyhow::Result<bool> {
        let minutes = self.minutes.or(self.hours.map(|hours| hours * 60.0));
        let seconds = minutes.unwrap_or(10.0) * 60.0;
        ensure!(seconds >= 60.0, "a soak takes a minute at least");
        ensure!(self.rate > 0.0 && self.rate <= 1000.0, "--rate: up to 1000");
        // Remembered for as long as the warm-up takes, so that it is full by then.
        let history_s = (seconds / WARM_UP_PART as f64 / 2.0)
            .clamp(10.0, 900.0)
            .round();
        let probes = self.probes;
        let mut agent = Agent::start(&format!(
            "state_dir: $STATE\nintake: {{listen: $LISTEN}}\nincidents_max: 50\n\
             evidence: {{history_s: {history_s}, window_s: 1}}\nprobes: {{enabled: {probes}}}\n\
             journal: {{writer_realtime: false}}\n"
        ))?;
        let begun = Instant::now();
        let each = Duration::from_secs_f64(seconds / f64::from(SAMPLES));
        let mut figures = figures();
        let mut rng = Rng(1);
        let (mut sent, mut cpu_before) = (0_u64, cpu_s(&mut agent)?);
        for sample in 1..=SAMPLES {
            let (from, until) = (Instant::now(), begun + each * sample);
            let mut latencies = Vec::new();
            while Instant::now() < until {
                latencies.push(tell(&agent, sent)?);
                sent += 1;
                // Poisson arrivals, and the last moment is kept.
                let uniform = (rng.below(1 << 20) + 1) as f64 / f64::from(1 << 20);
                let pause = Duration::from_secs_f64((-uniform.ln() / self.rate).min(5.0));
                thread::sleep(pause.min(until.saturating_duration_since(Instant::now())));
            }
            latencies.sort_by(f64::total_cmp);
            let cpu = cpu_s(&mut agent)?;
            let share = (cpu - cpu_before) / from.elapsed().as_secs_f64().max(1e-3);
            cpu_before = cpu;
            let values = [
                status(&mut agent, "RssAnon")? / 1024.0,
                files(&mut agent)?,
                status(&mut agent, "Threads")?,
                latencies.get(latencies.len() / 2).copied().unwrap_or(0.0),
                share,
            ];
            for (figure, value) in figures.iter_mut().zip(values) {
                figure.values.push(value);
            }
        }
        let incidents = agent.incidents()?.len();
        let ended = agent.terminate()?.success();
        ensure!(ended, "the agent did not end well");
        Ok(self.tell(&figures, each, sent, incidents))
    }

    /// Prints what was found; whether all of it is steady.
    fn tell(&self, figures: &[Figure], each: Duration, sent: u64, incidents: usize) -> bool {
        let hours = each.as_secs_f64() * f64::from(SAMPLES) / 3600.0;
        println!("soak: {hours:.3} h, {sent} alerts, {incidents} incidents kept in memory");
        let mut all = Map::new();
        let mut steady = true;
        for figure in figures {
            let left_out = figure.values.len() / WARM_UP_PART;
            let judged = figure.values.iter().skip(left_out);
            let judged: Vec<f64> = judged.copied().collect();
            let found = trend(&judged);
            let day = 86_400.0 / each.as_secs_f64();
            let grows_a_day = found.slope * day;
            let bound = (found.median * figure.share_a_day).max(figure.floor_a_day);
            // Both: it is no chance, and it matters. A short run cannot tell a slow leak from none, and
            // says how much it could have missed.
            let drifts = found.is_up() && grows_a_day > bound;
            steady &= !drifts;
            println!(
                "  {:<12} median {:>8.3}, {:+.3} a day (at most {:+.3} by 95 %, bound {:+.3}), p {:.4}: {}",
                figure.name,
                found.median,
                grows_a_day,
                found.slope_max * day,
                bound,
                found.p_up,
                if drifts { "DRIFTS" } else { "steady" },
            );
            all.insert(figure.name.to_owned(), line(&found, day, bound, drifts));
        }
        if self.json {
            let verdict = if steady { "steady" } else { "drifts" };
            let line = json!({
                "hours": hours, "alerts": sent, "rate": self.rate, "samples": SAMPLES,
                "figures": all, "verdict": verdict,
            });
            println!("{line}");
        }
        steady
    }
}

fn line(found: &Trend, day: f64, bound: f64, drifts: bool) -> Value {
    json!({
        "median": found.median, "grows_a_day": found.slope * day,
        "grows_a_day_at_most": found.slope_max * day, "bound_a_day": bound, "p": found.p_up,
        "drifts": drifts,
    })
}

/// One alert, firing and resolved in turn; milliseconds until it was accepted.
fn tell(agent: &Agent, nth: u64) -> anyhow::Result<f64> {
    let set = nth / 2 % LABEL_SETS;
    let labels = json!({"alertname": "Soak", "set": set.to_string(), "severity": "info"});
    let now = Timestamp::now();
    let body = if nth.is_multiple_of(2) {
        payload::firing(&labels, &json!({"summary": "a trickle"}), now)
    } else {
        payload::resolved(&labels, now, now)
    };
    let begun = Instant::now();
    let answer = agent.post("/webhook", &body.to_string())?;
    ensure!(
        matches!(answer.status, 200 | 503),
        "{}: {}",
        answer.status,
        answer.body
    );
    Ok(begun.elapsed().as_secs_f64() * 1e3)
}

fn status(agent: &mut Agent, field: &str) -> anyhow::Result<f64> {
    let text = std::fs::read_to_string(format!("/proc/{}/status", agent.process()?.pid()))?;
    let value = text.lines().find_map(|line| {
        let (name, rest) = line.split_once(':')?;
        (name == field).then(|| rest.split_whitespace().next()?.parse().ok())?
    });
    value.with_context(|| format!("no {field}"))
}

fn files(agent: &mut Agent) -> anyhow::Result<f64> {
    let dir = format!("/proc/{}/fd", agent.process()?.pid());
    Ok(std::fs::read_dir(dir)?.count() as f64)
}

/// CPU time so far, seconds.
fn cpu_s(agent: &mut Agent) -> anyhow::Result<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", agent.process()?.pid()))?;
    // After the name, which may hold anything: fields 14 and 15 of proc(5), in ticks.
    let fields = stat.rsplit_once(')').context("no name")?.1;
    let ticks = fields.split_whitespace().skip(11).take(2);
    let ticks: f64 = ticks.filter_map(|field| field.parse::<f64>().ok()).sum();
    Ok(ticks / rustix::param::clock_ticks_per_second() as f64)
}
