//! The journal beside the disk's own limits (fio) and its peers (raft-engine, okaywal).
//!
//! Disks are shared and their speed swings tenfold within hours, so no absolute figure means
//! anything. What is compared are *adjacent slices* of at most a second: a round runs fio, this
//! journal and the peers one after another, in an order that turns round by round; a ratio is
//! taken inside one round; the result is the median over the rounds.
//!
//! CPUs are shared too. Everything measured (fio, the peers' threads, our runtime) runs in the
//! real-time class at the lowest priority, so that what the neighbours compile does not decide
//! the result; `--fair` leaves them in the ordinary class. The tail beside two burners is always
//! measured in the ordinary class.
//!
//! Every log overwrites space that was prepared before its slice, as it would in steady state;
//! a slice in which a segment ended is marked `rotated`.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::Parser;
use serde_json::json;

mod burners;
mod device;
mod fio;
mod load;
mod ours;
#[cfg(feature = "peers")]
mod peers;
mod recovery;
mod report;
mod sample;
mod schedule;
mod workloads;

pub use sample::Sample;

use report::{Report, Target};

/// What to measure and how to say it.
#[derive(Clone, Debug, Parser)]
#[command(name = "cargo xtask bench journal", max_term_width = 100)]
pub struct Options {
    /// Raw rows as JSON lines, and one object with every target as the last line
    #[arg(long)]
    pub json: bool,
    /// Six rounds of short slices: under two minutes
    #[arg(long)]
    pub quick: bool,
    /// Only the parts whose name contains this: a workload, `flushes`, `burners`, `recovery`
    #[arg(long)]
    pub only: Option<String>,
    /// Rounds instead of the usual number
    #[arg(long)]
    pub rounds: Option<usize>,
    /// Stay in the ordinary scheduling class
    #[arg(long)]
    pub fair: bool,
    /// A directory on the disk to be measured
    #[arg(long, default_value = "target/bench-journal")]
    pub dir: PathBuf,
    /// Internal: burn one CPU until killed, at most this many seconds
    #[arg(long, hide = true)]
    pub burn: Option<u64>,
}

/// Time for everything, whatever the disk does: what is not measured by then is left out, and
/// said so.
const BUDGET: Duration = Duration::from_secs(570);
const BUDGET_QUICK: Duration = Duration::from_secs(110);

/// What every part needs.
pub(crate) struct Bench {
    pub(crate) dir: PathBuf,
    pub(crate) rounds: usize,
    /// Of one measured stretch.
    pub(crate) slice: Duration,
    pub(crate) quick: bool,
    pub(crate) until: Instant,
    pub(crate) runtime: tokio::runtime::Runtime,
    pub(crate) report: Report,
}

impl Bench {
    /// Whether there is time for another round; the last part keeps none.
    pub(crate) fn has_time(&self, keep: Duration) -> bool {
        Instant::now() + keep < self.until
    }
}

/// Runs the parts and prints the report.
///
/// # Errors
/// What keeps a part from being measured at all: no fio, no space, a failing log.
pub fn run(options: &Options) -> anyhow::Result<()> {
    if let Some(seconds) = options.burn {
        burners::burn(Duration::from_secs(seconds));
        return Ok(());
    }
    fio::available()?;
    std::fs::create_dir_all(&options.dir)
        .with_context(|| format!("cannot make {}", options.dir.display()))?;
    let dir = tempfile::Builder::new()
        .prefix("run-")
        .tempdir_in(&options.dir)
        .context("cannot make a directory for the run")?;
    let budget = if options.quick { BUDGET_QUICK } else { BUDGET };
    let mut bench = Bench {
        dir: dir.path().to_owned(),
        rounds: options.rounds.unwrap_or(if options.quick { 6 } else { 8 }),
        slice: Duration::from_millis(if options.quick { 250 } else { 500 }),
        quick: options.quick,
        until: Instant::now() + budget,
        runtime: runtime()?,
        report: Report::new(options.json),
    };
    let wanted = |name: &str| {
        options
            .only
            .as_ref()
            .is_none_or(|part| name.contains(part.as_str()))
    };
    fio::prepare(&bench.dir)?;
    // First, because it wants the ordinary class.
    if wanted("burners") {
        burners::tail_latency(&mut bench)?;
    }
    let class = if options.fair {
        "ordinary".to_owned()
    } else {
        schedule::realtime().map_or_else(
            |error| format!("ordinary, real-time refused: {error}"),
            |()| "real-time".to_owned(),
        )
    };
    let machine = json!({ "scheduling": class });
    bench.report.fact("machine", &machine);
    // Its workers inherit the class.
    bench.runtime = runtime()?;
    if wanted("flushes") {
        device::flushes(&mut bench)?;
    }
    if wanted("recovery") {
        recovery::run(&mut bench)?;
    }
    workloads::run(&mut bench, &wanted)?;
    bench.report.finish();
    Ok(())
}

/// Two workers, which inherit the scheduling class of this thread.
pub(crate) fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_time()
        .build()
        .context("cannot start a runtime")
}

pub(crate) fn target(name: &str, pairs: Vec<f64>, wanted: f64) -> Target {
    Target {
        name: name.to_owned(),
        pairs,
        wanted,
        lower_is_better: false,
        note: json!(null),
    }
}
