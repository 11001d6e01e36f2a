//! The loads, each beside fio's row of the same bytes in flight and beside the peers.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use serde_json::json;

use super::load::Load;
use super::ours::{Callers, Lane, Ours};
use super::report::Target;
use super::{Bench, Sample, fio, target};

/// One load, and what it must reach.
struct Workload {
    name: &'static str,
    lane: Lane,
    load: Load,
    /// The disk's own way of taking these bytes, and the wanted share of its bytes (or, where
    /// one write carries one record, of its operations).
    fio: Option<(fio::Row, Share, f64)>,
    raft: Option<f64>,
    okaywal: Option<f64>,
    segment_mib: u64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Share {
    Operations,
    Bytes,
}

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;

const fn load(writers: usize, bytes: usize) -> Load {
    Load { writers, bytes }
}

const fn row(name: &'static str, block: usize, in_flight: u32) -> fio::Row {
    fio::Row {
        name,
        block,
        in_flight,
    }
}

const TARGETS: [Workload; 6] = [
    // A record of 4 KiB and its header take two blocks: fio writes 8 KiB.
    Workload {
        name: "4k_x1",
        lane: Lane::Safe,
        load: load(1, 4 * KIB),
        fio: Some((row("fio 8k", 8 * KIB, 1), Share::Operations, 0.92)),
        raft: None,
        okaywal: None,
        segment_mib: 64,
    },
    Workload {
        name: "4k_x16",
        lane: Lane::Safe,
        load: load(16, 4 * KIB),
        fio: Some((row("fio 64k", 64 * KIB, 1), Share::Bytes, 0.75)),
        raft: Some(2.5),
        okaywal: Some(2.2),
        segment_mib: 128,
    },
    Workload {
        name: "4k_x64",
        lane: Lane::Safe,
        load: load(64, 4 * KIB),
        fio: Some((row("fio 256k", 256 * KIB, 1), Share::Bytes, 0.65)),
        raft: Some(2.5),
        okaywal: Some(2.2),
        segment_mib: 256,
    },
    Workload {
        name: "256b_x64",
        lane: Lane::Fast,
        load: load(64, 256),
        fio: None,
        raft: Some(2.2),
        okaywal: Some(2.2),
        segment_mib: 128,
    },
    Workload {
        name: "64k_x64",
        lane: Lane::Safe,
        load: load(64, 64 * KIB),
        fio: Some((row("fio 1M x 4", MIB, 4), Share::Bytes, 0.90)),
        raft: Some(2.2),
        okaywal: Some(2.2),
        segment_mib: 512,
    },
    Workload {
        name: "1m_x16",
        lane: Lane::Safe,
        load: load(16, 1_000_000),
        fio: None,
        raft: Some(3.5),
        okaywal: Some(2.2),
        segment_mib: 512,
    },
];

/// Rows without a target: the other lane, other numbers of writers, a thread a caller.
const OTHERS: [(&str, Lane, Load, Callers, u64); 11] = [
    ("256b_x1", Lane::Fast, load(1, 256), Callers::Tasks, 64),
    ("256b_x16", Lane::Fast, load(16, 256), Callers::Tasks, 64),
    ("256b_x64", Lane::Safe, load(64, 256), Callers::Tasks, 128),
    ("256b_x64", Lane::Fast, load(64, 256), Callers::Threads, 128),
    ("4k_x1", Lane::Fast, load(1, 4 * KIB), Callers::Tasks, 128),
    ("4k_x16", Lane::Fast, load(16, 4 * KIB), Callers::Tasks, 256),
    ("4k_x64", Lane::Fast, load(64, 4 * KIB), Callers::Tasks, 512),
    (
        "4k_x64",
        Lane::Safe,
        load(64, 4 * KIB),
        Callers::Threads,
        512,
    ),
    ("64k_x1", Lane::Safe, load(1, 64 * KIB), Callers::Tasks, 512),
    (
        "64k_x16",
        Lane::Safe,
        load(16, 64 * KIB),
        Callers::Tasks,
        512,
    ),
    ("1m_x1", Lane::Safe, load(1, 1_000_000), Callers::Tasks, 512),
];

/// Records from which the memory for batches is asked about.
const MEMORY_FROM: usize = 64 * KIB;
/// Time that a round takes at most, kept from the end.
const KEPT: Duration = Duration::from_secs(15);
const KEPT_QUICK: Duration = Duration::from_secs(6);

/// Measures every wanted workload, round by round.
pub(crate) fn run(bench: &mut Bench, wanted: &dyn Fn(&str) -> bool) -> anyhow::Result<()> {
    for workload in &TARGETS {
        if wanted(workload.name) {
            workload.run(bench)?;
        }
    }
    if !bench.quick && wanted("others") {
        others(bench)?;
    }
    Ok(())
}

impl Workload {
    fn run(&self, bench: &mut Bench) -> anyhow::Result<()> {
        let mut rounds: Vec<Vec<(&'static str, Sample)>> = Vec::new();
        let mut slices = Slices::new(&bench.dir)?;
        let keep = if bench.quick { KEPT_QUICK } else { KEPT };
        for round in 0..bench.rounds {
            if !bench.has_time(keep) {
                let said =
                    json!({ "left_out": format!("rounds from {round} on, for want of time") });
                bench.report.fact(self.name, &said);
                break;
            }
            let mut subjects = vec!["journal"];
            subjects.extend(self.fio.as_ref().map(|(row, ..)| row.name));
            if cfg!(feature = "peers") {
                subjects.extend(self.raft.map(|_| "raft-engine"));
                subjects.extend(self.okaywal.map(|_| "okaywal"));
            }
            // Who comes first, and beside whom, turns.
            let turn = round % subjects.len();
            subjects.rotate_left(turn);
            let mut samples = Vec::new();
            for subject in subjects {
                let sample = self
                    .slice(bench, &mut slices, subject)
                    .with_context(|| format!("{} of {subject}", self.name))?;
                bench.report.sample(self.name, subject, round, sample);
                samples.push((subject, sample));
            }
            rounds.push(samples);
        }
        self.conclude(bench, &rounds);
        Ok(())
    }

    fn slice(&self, bench: &Bench, slices: &mut Slices, subject: &str) -> anyhow::Result<Sample> {
        let bytes_max = (self.segment_mib << 20) / 10 * 9;
        match subject {
            "journal" => {
                let dir = slices.fresh()?;
                ours(
                    bench,
                    &dir,
                    self.lane,
                    self.load,
                    Callers::Tasks,
                    self.segment_mib,
                )
            }
            "raft-engine" | "okaywal" => {
                peer(bench, &slices.fresh()?, subject, self.load, bytes_max)
            }
            _ => {
                let (row, ..) = self.fio.as_ref().context("a row of fio")?;
                fio::write(&bench.dir, *row, bench.slice)
            }
        }
    }

    fn conclude(&self, bench: &mut Bench, rounds: &[Vec<(&'static str, Sample)>]) {
        let ratios = |other: &str, of: fn(&Sample) -> f64| -> Vec<f64> {
            let find = |round: &[(&str, Sample)], name: &str| {
                round
                    .iter()
                    .find(|(subject, _)| *subject == name)
                    .map(|(_, s)| of(s))
            };
            rounds
                .iter()
                .filter_map(|round| Some(find(round, "journal")? / find(round, other)?))
                .collect()
        };
        let mut found = Vec::new();
        if let Some((row, share, wanted)) = self.fio {
            let of = match share {
                Share::Operations => |s: &Sample| s.per_s,
                Share::Bytes => |s: &Sample| s.bytes_per_s,
            };
            let name = format!("{}_vs_{}", self.name, row.name.replace(' ', "_"));
            found.push(target(&name, ratios(row.name, of), wanted));
        }
        for (peer, wanted) in [("raft-engine", self.raft), ("okaywal", self.okaywal)] {
            if let Some(wanted) = wanted {
                let name = format!("{}_vs_{peer}", self.name);
                found.push(target(&name, ratios(peer, |s| s.per_s), wanted));
            }
        }
        let held = |round: &Vec<(&str, Sample)>| {
            let ours = round.iter().find(|(subject, _)| *subject == "journal");
            ours.map(|(_, sample)| sample.memory)
        };
        if self.load.bytes >= MEMORY_FROM {
            found.push(Target {
                name: format!("{}_buffers_vs_bound", self.name),
                pairs: rounds.iter().filter_map(held).collect(),
                wanted: 1.0,
                lower_is_better: true,
                note: serde_json::Value::Null,
            });
        }
        for target in found {
            bench.report.target(target);
        }
        bench.report.end_of(self.name);
    }
}

fn others(bench: &mut Bench) -> anyhow::Result<()> {
    let mut slices = Slices::new(&bench.dir)?;
    for round in 0..3 {
        for (name, lane, load, callers, segment_mib) in OTHERS {
            if !bench.has_time(KEPT) {
                return Ok(());
            }
            let sample = ours(bench, &slices.fresh()?, lane, load, callers, segment_mib)?;
            let subject = format!(
                "{name} {} lane{}",
                lane.name(),
                if callers == Callers::Threads {
                    ", threads"
                } else {
                    ""
                }
            );
            bench.report.sample("others", &subject, round, sample);
        }
    }
    bench.report.end_of("others");
    Ok(())
}

fn ours(
    bench: &Bench,
    dir: &Path,
    lane: Lane,
    load: Load,
    callers: Callers,
    segment_mib: u64,
) -> anyhow::Result<Sample> {
    let segment = segment_mib << 20;
    let journal = Ours::open(&bench.runtime, dir, lane, segment)?;
    // A lone record fills whole blocks, many share them: the smaller of both bounds.
    let alone = (load.bytes + 176).next_multiple_of(4096) as u64;
    let each = if load.writers == 1 {
        alone
    } else {
        load.bytes as u64 + 1200
    };
    let bytes_max = segment / 10 * 9 / each * load.bytes as u64;
    let sample = journal.load(&bench.runtime, load, bench.slice, bytes_max, callers)?;
    journal.close(&bench.runtime)?;
    Ok(sample)
}

#[cfg(feature = "peers")]
fn peer(
    bench: &Bench,
    dir: &Path,
    name: &str,
    load: Load,
    bytes_max: u64,
) -> anyhow::Result<Sample> {
    match name {
        "raft-engine" => super::peers::raft(dir, load, bench.slice, bytes_max),
        _ => super::peers::okaywal(dir, load, bench.slice, bytes_max),
    }
}

#[cfg(not(feature = "peers"))]
fn peer(_: &Bench, _: &Path, name: &str, _: Load, _: u64) -> anyhow::Result<Sample> {
    anyhow::bail!("{name} is measured with `--features peers` only")
}

/// Directories of slices, a new one for each. They are removed together, when nothing is being
/// measured: the filesystem discards what is freed, and the device works on that for seconds.
pub(crate) struct Slices {
    root: PathBuf,
    count: usize,
}

impl Slices {
    pub(crate) fn new(dir: &Path) -> anyhow::Result<Self> {
        let root = dir.join("slices");
        std::fs::create_dir(&root).with_context(|| format!("cannot make {}", root.display()))?;
        Ok(Self { root, count: 0 })
    }

    pub(crate) fn fresh(&mut self) -> anyhow::Result<PathBuf> {
        self.count += 1;
        let path = self.root.join(self.count.to_string());
        std::fs::create_dir(&path).with_context(|| format!("cannot make {}", path.display()))?;
        Ok(path)
    }
}

impl Drop for Slices {
    fn drop(&mut self) {
        let settled = std::fs::remove_dir_all(&self.root).and_then(|()| {
            let above = self.root.parent().unwrap_or(&self.root);
            Ok(rustix::fs::syncfs(std::fs::File::open(above)?)?)
        });
        if let Err(error) = settled {
            eprintln!("cannot remove {}: {error}", self.root.display());
        }
    }
}
