//! The tail of the latency while others burn every CPU.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context;
use serde_json::json;

use super::load::Load;
use super::ours::{Callers, Lane, Ours};
use super::report::Target;
use super::workloads::Slices;
use super::{Bench, fio};
use crate::median;

/// What a commit may take at the 99th percentile beside two burners, microseconds.
const P99_WANTED_US: f64 = 400.0;

const ROW: fio::Row = fio::Row {
    name: "fio 8k",
    block: 8192,
    in_flight: 1,
};

/// Two processes at nice 0, ended when dropped.
struct Burners(Vec<Child>);

impl Burners {
    fn start() -> anyhow::Result<Self> {
        let own = std::env::current_exe().context("cannot find this program")?;
        let mut burners = Self(Vec::new());
        for _ in 0..2 {
            let child = Command::new(&own)
                .args(["--burn", "30"])
                .stdin(Stdio::null())
                .spawn()
                .context("cannot start a burner")?;
            burners.0.push(child);
        }
        Ok(burners)
    }
}

impl Drop for Burners {
    fn drop(&mut self) {
        for child in &mut self.0 {
            if let Err(error) = child.kill().and_then(|()| child.wait()) {
                eprintln!("cannot end a burner: {error}");
            }
        }
    }
}

/// The burner itself.
pub(crate) fn burn(time: Duration) {
    let until = Instant::now() + time;
    let mut state = 1_u64;
    while Instant::now() < until {
        for _ in 0..1_000_000 {
            state = std::hint::black_box(state.wrapping_mul(6_364_136_223_846_793_005) + 1);
        }
    }
}

/// One writer of 4 KiB, and fio with the same bytes, each beside two burners; fio also alone.
///
/// Two figures a lane: until the record is durable, by the journal's own clock, and until its
/// caller knows, who is an ordinary thread and waits for its time slice like everybody.
pub(crate) fn tail_latency(bench: &mut Bench) -> anyhow::Result<()> {
    const PART: &str = "burners";
    let load = Load {
        writers: 1,
        bytes: 4096,
    };
    let mut pairs = [
        (Lane::Fast, Vec::new(), Vec::new()),
        (Lane::Safe, Vec::new(), Vec::new()),
    ];
    let mut device = Vec::new();
    let mut slices = Slices::new(&bench.dir)?;
    for round in 0..bench.rounds {
        if !bench.has_time(Duration::from_secs(8)) {
            break;
        }
        let alone = fio::write(&bench.dir, ROW, bench.slice)?;
        bench
            .report
            .sample(PART, "fio 8k, no burners", round, alone);
        device.push(alone.p99_us);
        let beside = {
            let _burners = Burners::start()?;
            fio::write(&bench.dir, ROW, bench.slice)?
        };
        bench.report.sample(PART, "fio 8k", round, beside);
        for (lane, durable, known) in &mut pairs {
            let dir = slices.fresh()?;
            let journal = Ours::open(&bench.runtime, &dir, *lane, 64 << 20)?;
            let sample = {
                let _burners = Burners::start()?;
                journal.load(&bench.runtime, load, bench.slice, 25 << 20, Callers::Tasks)?
            };
            durable.push(journal.stats()?.append.p99_us as f64 / P99_WANTED_US);
            journal.close(&bench.runtime)?;
            let subject = format!("4k_x1 {} lane", lane.name());
            bench.report.sample(PART, &subject, round, sample);
            known.push(sample.p99_us / P99_WANTED_US);
        }
    }
    let fio = json!({ "p99_us_of_fio_8k_without_burners": median(&device).round() });
    for (lane, durable, known) in pairs {
        for (pairs, when) in [(durable, "durable"), (known, "known_to_the_caller")] {
            bench.report.target(Target {
                name: format!("4k_x1_{}_p99_{when}_vs_400us", lane.name()),
                pairs,
                wanted: 1.0,
                lower_is_better: true,
                note: fio.clone(),
            });
        }
    }
    bench.report.end_of(PART);
    Ok(())
}
