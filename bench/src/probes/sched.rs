//! The scheduler tier: ns added a context switch with its wake-up, beside the floor and runqlat.
//!
//! Two threads on one CPU hand a byte to and fro through pipes: each turn is a wake-up and a switch.

use std::{
    collections::BTreeMap,
    io::{Read as _, Write as _},
    time::Instant,
};

use anyhow::{Context, bail};
use paramedic::evidence::{
    KernelProbes as _,
    probes::{ProbeName, Probes, ProbesConfig},
};

use super::{Bench, agent::every_probe, floor, measure, peers::Which};
use crate::median;

/// Turns of one batch, and batches of one slice.
const TURNS: u32 = 4_000;
const BATCHES: usize = 9;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Variant {
    None,
    Floor,
    Ours,
    Runqlat,
}

/// ns of one switch.
fn switch_ns() -> anyhow::Result<f64> {
    let (mut there_out, mut there_in) = std::io::pipe()?;
    let (mut back_out, mut back_in) = std::io::pipe()?;
    std::thread::scope(|scope| {
        let echo = scope.spawn(move || {
            measure::pin(measure::cpu());
            measure::realtime();
            let mut byte = [0];
            // Ends when the other end is closed.
            while there_out.read_exact(&mut byte).is_ok() && back_in.write_all(&byte).is_ok() {}
        });
        let taken = measure::undisturbed(move || {
            let mut batches = Vec::new();
            let mut byte = [0];
            for _ in 0..BATCHES {
                let begun = Instant::now();
                for _ in 0..TURNS {
                    there_in.write_all(&byte)?;
                    back_out.read_exact(&mut byte)?;
                }
                batches.push(begun.elapsed().as_nanos() as f64 / f64::from(2 * TURNS));
            }
            Ok::<_, std::io::Error>(median(&batches))
        })?;
        echo.join()
            .map_err(|_| anyhow::anyhow!("the echo panicked"))?;
        taken.context("cannot use a pipe")
    })
}

fn tier() -> anyhow::Result<Probes> {
    let probes = Probes::start(&ProbesConfig {
        off: every_probe()
            .into_iter()
            .filter(|name| *name != ProbeName::Sched)
            .collect(),
        ..ProbesConfig::default()
    });
    if !probes.counting("sched") {
        bail!("the tier does not attach: {:?}", probes.statuses());
    }
    Ok(probes)
}

/// Runs the part.
pub(crate) fn run(bench: &mut Bench) -> anyhow::Result<()> {
    let mut variants = vec![Variant::None, Variant::Floor, Variant::Ours];
    if bench.peers {
        variants.push(Variant::Runqlat);
    }
    let mut taken: BTreeMap<Variant, Vec<f64>> = BTreeMap::new();
    for round in 0..bench.rounds {
        if Instant::now() > bench.until {
            break;
        }
        for turn in 0..variants.len() {
            let variant = variants[(turn + round) % variants.len()];
            let _floor = (variant == Variant::Floor).then(floor::sched).transpose()?;
            let _ours = (variant == Variant::Ours).then(tier).transpose()?;
            let _peer = (variant == Variant::Runqlat)
                .then(|| Which::Runqlat.start())
                .transpose()?;
            taken.entry(variant).or_default().push(switch_ns()?);
        }
    }
    let added = |variant: Variant| -> Vec<f64> {
        let of = |variant| taken.get(&variant).cloned().unwrap_or_default();
        of(variant)
            .iter()
            .zip(of(Variant::None))
            .map(|(with, none)| with - none)
            .collect()
    };
    let ratio = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a / b).collect::<Vec<f64>>();
    let (floor, ours, runqlat) = (
        added(Variant::Floor),
        added(Variant::Ours),
        added(Variant::Runqlat),
    );
    let report = &mut bench.report;
    report.raw("switch", "none, whole switch", "ns", &taken[&Variant::None]);
    report.raw("switch", "floor", "ns added", &floor);
    report.raw("switch", "ours", "ns added", &ours);
    report.raw("switch", "runqlat", "ns added", &runqlat);
    report.raw("switch", "ours over floor", "x", &ratio(&ours, &floor));
    if bench.peers {
        report.ratio("sched_over_runqlat", ratio(&ours, &runqlat), 0.45);
    }
    Ok(())
}
