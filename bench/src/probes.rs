//! What the probes cost, beside the floor (empty programs on the same tracepoints) and the peers
//! (libbpf-tools, bpftrace).
//!
//! Absolute costs move from machine to machine, and from minute to minute on a shared one. So every
//! variant is measured in every round, in an order that turns; within a round the round's own cost
//! without any probe is taken off; a ratio is taken inside one round, and the result is the median
//! over the rounds. The measured thread runs in the real-time class on one CPU meanwhile.
//!
//! Everything runs in a child of the cgroup v2 root, made and removed here: where cgroups are of the
//! first version, all processes share one id.

use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clap::Parser;
use serde_json::json;

mod agent;
mod cgroup;
mod exec;
mod floor;
mod measure;
mod peers;
mod report;
mod sched;
mod syscalls;

use report::Report;

/// What to measure and how to say it.
#[derive(Clone, Debug, Parser)]
#[command(name = "cargo xtask bench probes", max_term_width = 100)]
pub struct Options {
    /// Raw medians as JSON lines, and one object with every target as the last line
    #[arg(long)]
    pub json: bool,
    /// Three rounds: about a minute
    #[arg(long)]
    pub quick: bool,
    /// Only this part: `syscalls`, `sched`, `exec`, `agent`
    #[arg(long)]
    pub only: Option<String>,
    /// Rounds instead of the usual number
    #[arg(long)]
    pub rounds: Option<usize>,
    /// Leave the peers out
    #[arg(long)]
    pub no_peers: bool,
}

/// What every part needs.
pub(crate) struct Bench {
    pub(crate) rounds: usize,
    pub(crate) peers: bool,
    pub(crate) until: Instant,
    pub(crate) report: Report,
    /// Our own cgroup, and one that nobody is in.
    pub(crate) own: cgroup::Child,
    pub(crate) other: cgroup::Child,
}

/// Measures one part.
type Part = fn(&mut Bench) -> anyhow::Result<()>;

/// What is not measured by then is left out, and said so.
const BUDGET: Duration = Duration::from_mins(9);

/// Runs the parts and prints the report.
///
/// # Errors
/// What keeps a part from being measured at all: no root, no probes, no cgroup v2.
pub fn run(options: &Options) -> anyhow::Result<()> {
    if !rustix::process::geteuid().is_root() {
        bail!("loading probes needs root: run it with sudo");
    }
    if paramedic::evidence::probes::Probes::object().is_empty() {
        bail!("built without probes: run `cargo xtask build` first");
    }
    let own = cgroup::Child::new("paramedic-bench").context("cannot make a cgroup of our own")?;
    own.enter()?;
    let mut bench = Bench {
        rounds: options.rounds.unwrap_or(if options.quick { 3 } else { 9 }),
        peers: !options.no_peers,
        until: Instant::now() + BUDGET,
        report: Report::new(options.json),
        own,
        other: cgroup::Child::new("paramedic-bench-other")?,
    };
    let machine = json!({
        "kernel": rustix::system::uname().release().to_string_lossy(),
        "cpus": std::thread::available_parallelism().map_or(1, usize::from),
        "rounds": bench.rounds,
    });
    bench.report.fact("machine", &machine);
    let wanted = |name: &str| options.only.as_deref().is_none_or(|only| only == name);
    let parts: [(&str, Part); 4] = [
        ("syscalls", syscalls::run),
        ("sched", sched::run),
        ("exec", exec::run),
        ("agent", agent::run),
    ];
    for (name, part) in parts {
        if wanted(name) {
            if Instant::now() > bench.until {
                bench.report.fact(name, &json!("left out: no time"));
                continue;
            }
            part(&mut bench).with_context(|| format!("part {name}"))?;
        }
    }
    bench.report.finish();
    Ok(())
}
