//! The durable intake beside its ceiling and beside what people run today.
//!
//! Three servers take the same requests, each in a process of its own so that its memory can be
//! read off: `bare` is an axum handler that only parses the body with our own parser (nothing that
//! accepts these alerts can be faster), `durable` is intake, gate, queue and journal as the agent
//! wires them, with a handler that does nothing, and `script` starts one fixed program an alert and
//! answers when it has ended, as webhook executors do.
//!
//! Every request is the captured one of an Alertmanager with another fingerprint, so each alert
//! opens an episode and must be synced: nothing is answered from memory. The disk's own sync time
//! is measured between the slices of each round, in the same folder. Figures of one round are
//! compared with each other only; the result is the median of the rounds.

mod disk;
mod load;
mod report;
mod servers;

use std::path::PathBuf;

use anyhow::{Context, ensure};
use clap::Parser;

use load::{Load, Slice};
use servers::{Child, Kind};

/// What to measure and how to say it.
#[derive(Clone, Debug, Parser)]
#[command(name = "cargo xtask bench intake", max_term_width = 100)]
pub struct Options {
    /// Raw rows as JSON lines, and one object with every figure as the last line
    #[arg(long)]
    pub json: bool,
    /// Three rounds of short slices
    #[arg(long)]
    pub quick: bool,
    /// Rounds instead of the usual number
    #[arg(long)]
    pub rounds: Option<usize>,
    /// Connections, each with one request at a time
    #[arg(long, default_value_t = 64)]
    pub connections: usize,
    /// A directory on the disk to be measured
    #[arg(long, default_value = "target/bench-intake")]
    pub dir: PathBuf,
    /// Only this server, one long slice: for a profiler
    #[arg(long, value_enum)]
    pub only: Option<Kind>,
    /// Internal: be this server
    #[arg(long, hide = true, value_enum)]
    pub serve: Option<Kind>,
}

/// Alerts of one request.
const GROUPS: [usize; 2] = [1, 10];

/// Runs the benchmark, or is one of its servers.
///
/// # Errors
/// What could not be started or measured.
pub fn run(options: &Options) -> anyhow::Result<()> {
    std::fs::create_dir_all(&options.dir)
        .with_context(|| format!("cannot make {}", options.dir.display()))?;
    if let Some(kind) = options.serve {
        return servers::serve(kind, &options.dir);
    }
    let runtime = servers::runtime()?;
    let slice_ms = if options.quick { 1000 } else { 2500 };
    if let Some(kind) = options.only {
        let slice = one(options, &runtime, kind, 1, 5 * slice_ms)?;
        println!("{}", serde_json::to_string(&slice)?);
        return Ok(());
    }
    let rounds = options.rounds.unwrap_or(if options.quick { 3 } else { 7 });
    let mut report = report::Report::new(options.json, options.connections);
    for round in 0..rounds {
        let sync = disk::syncs(&options.dir, slice_ms)?;
        report.sync(round, &sync);
        for alerts in GROUPS {
            // In turn, so that no server always runs after the same neighbour.
            for kind in rotated(round) {
                let slice = one(options, &runtime, kind, alerts, slice_ms)?;
                ensure!(
                    slice.acknowledged > 0,
                    "{kind:?} acknowledged nothing; {} refused",
                    slice.refused
                );
                report.slice(round, kind, alerts, slice);
            }
        }
    }
    report.finish();
    Ok(())
}

fn rotated(round: usize) -> [Kind; 3] {
    let mut kinds = [Kind::Bare, Kind::Durable, Kind::Script];
    kinds.rotate_left(round % 3);
    kinds
}

fn one(
    options: &Options,
    runtime: &tokio::runtime::Runtime,
    kind: Kind,
    alerts: usize,
    slice_ms: u64,
) -> anyhow::Result<Slice> {
    let child = Child::start(kind, &options.dir)?;
    let load = Load {
        address: child.address,
        connections: options.connections,
        alerts,
        slice_ms,
    };
    let mut slice = runtime.block_on(load.run())?;
    slice.rss_mib = child.peak_rss_mib()?;
    let all = slice.acknowledged + slice.refused + slice.warm_up;
    slice.cpu_us = child.cpu_us()? / (all.max(1) as f64);
    child.end()?;
    Ok(slice)
}
