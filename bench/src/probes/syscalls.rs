//! The syscall pair: ns added a call, in each of its modes, beside the floor and the peers.

use std::{collections::BTreeMap, time::Instant};

use anyhow::{Context, bail};
use paramedic::{
    evidence::{
        KernelProbes as _, SyscallMode, SyscallPlan,
        probes::{ProbeName, Probes, ProbesConfig},
    },
    incident::CgroupId,
};

use super::{Bench, floor, measure, peers::Which};
use crate::median;

/// What is called.
const CALLS: [(&str, fn()); 3] = [
    ("getppid", || {
        // SAFETY: has no side effect.
        unsafe { libc::syscall(libc::SYS_getppid) };
    }),
    ("read", || {
        // SAFETY: fails at once: there is no such descriptor.
        unsafe { libc::syscall(libc::SYS_read, -1, std::ptr::null_mut::<u8>(), 0) };
    }),
    ("clock_gettime", || {
        let mut time = libc::timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        // SAFETY: a valid timespec; by number, so that it is a call and not the vDSO.
        unsafe {
            libc::syscall(
                libc::SYS_clock_gettime,
                libc::CLOCK_MONOTONIC,
                &raw mut time,
            )
        };
    }),
];

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Variant {
    None,
    Floor,
    /// Attached with an empty watch set.
    Idle,
    /// Only another cgroup is watched.
    Unwatched,
    Watched,
    Sampled,
    /// Everybody, our cgroup in the others' row.
    All,
    /// Attached once and detached again.
    Detached,
    Syscount,
    Bpftrace,
}

const VARIANTS: [Variant; 10] = [
    Variant::None,
    Variant::Floor,
    Variant::Idle,
    Variant::Unwatched,
    Variant::Watched,
    Variant::Sampled,
    Variant::All,
    Variant::Detached,
    Variant::Syscount,
    Variant::Bpftrace,
];

impl Variant {
    fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Floor => "floor",
            Self::Idle => "idle",
            Self::Unwatched => "unwatched",
            Self::Watched => "watched",
            Self::Sampled => "sampled",
            Self::All => "all",
            Self::Detached => "detached",
            Self::Syscount => "syscount -L",
            Self::Bpftrace => "bpftrace",
        }
    }

    fn is_peer(self) -> bool {
        matches!(self, Self::Syscount | Self::Bpftrace)
    }
}

/// Probes with nothing but the pair.
fn pair() -> anyhow::Result<Probes> {
    use ProbeName::Syscalls;
    let off = super::agent::every_probe()
        .into_iter()
        .filter(|name| *name != Syscalls)
        .collect();
    let probes = Probes::start(&ProbesConfig {
        off,
        ..ProbesConfig::default()
    });
    if let Some(bad) = probes
        .statuses()
        .into_iter()
        .find(|status| status.why.is_some())
    {
        bail!("{bad:?}");
    }
    Ok(probes)
}

/// Runs the part.
#[allow(
    clippy::too_many_lines,
    reason = "one measurement after another, in the order in which they are interleaved"
)]
pub(crate) fn run(bench: &mut Bench) -> anyhow::Result<()> {
    let probes = pair()?;
    let own = CgroupId(bench.own.id()?);
    let other = CgroupId(bench.other.id()?);
    let (mut attach, mut detach) = (Vec::new(), Vec::new());
    // By call and variant, ns a call, one a round.
    let mut taken: BTreeMap<(&str, Variant), Vec<f64>> = BTreeMap::new();
    let variants: Vec<Variant> = VARIANTS
        .into_iter()
        .filter(|variant| bench.peers || !variant.is_peer())
        .collect();
    for round in 0..bench.rounds {
        if Instant::now() > bench.until {
            break;
        }
        for turn in 0..variants.len() {
            let variant = variants[(turn + round) % variants.len()];
            let plan = match variant {
                Variant::Idle => Some(SyscallPlan::only([])),
                Variant::Unwatched => Some(SyscallPlan::only([other])),
                Variant::Watched => Some(SyscallPlan::only([own])),
                Variant::Sampled => Some(SyscallPlan {
                    sampled: true,
                    ..SyscallPlan::only([own])
                }),
                Variant::All => Some(SyscallPlan::all([other])),
                Variant::Detached => Some(SyscallPlan::all([own])),
                _ => None,
            };
            if let Some(plan) = &plan {
                // A tracepoint that lost its last listener a moment ago is attached to again only when
                // every CPU has noticed; alerts are further apart.
                std::thread::sleep(std::time::Duration::from_millis(60));
                let (attached, took_ms) = measure::undisturbed(|| {
                    let begun = Instant::now();
                    let attached = probes.watch(plan);
                    (attached, begun.elapsed().as_secs_f64() * 1e3)
                })?;
                if !attached {
                    bail!("the pair does not attach: {:?}", probes.statuses());
                }
                attach.push(took_ms);
            }
            if variant == Variant::Detached {
                probes.watch(&SyscallPlan::default());
            }
            let _floor = (variant == Variant::Floor)
                .then(floor::syscalls)
                .transpose()?;
            let _peer = match variant {
                Variant::Syscount => Some(Which::Syscount.start()?),
                Variant::Bpftrace => Some(Which::Bpftrace.start()?),
                _ => None,
            };
            for (name, call) in CALLS {
                taken
                    .entry((name, variant))
                    .or_default()
                    .push(measure::call_ns(call)?);
            }
            if plan.is_some_and(|plan| plan.mode != SyscallMode::Off) {
                let begun = Instant::now();
                probes.watch(&SyscallPlan::default());
                if variant != Variant::Detached {
                    detach.push(begun.elapsed().as_secs_f64() * 1e3);
                }
            }
        }
    }
    let added = |name: &str, variant: Variant| -> anyhow::Result<Vec<f64>> {
        let of = |variant| taken.get(&(name, variant)).context("not measured");
        let none = of(Variant::None)?;
        Ok(of(variant)?.iter().zip(none).map(|(a, b)| a - b).collect())
    };
    for (name, _) in CALLS {
        for variant in &variants {
            let ns = &taken[&(name, *variant)];
            if *variant == Variant::None {
                bench.report.raw(name, "none, whole call", "ns", ns);
            } else {
                let label = variant.name();
                bench
                    .report
                    .raw(name, label, "ns added", &added(name, *variant)?);
            }
        }
    }
    // Of each round the median over the three calls.
    let over = |a: Variant, b: Variant| -> anyhow::Result<Vec<f64>> {
        let mut by_call = Vec::new();
        for (name, _) in CALLS {
            let (a, b) = (added(name, a)?, added(name, b)?);
            by_call.push(a.iter().zip(&b).map(|(a, b)| a / b).collect::<Vec<_>>());
        }
        let rounds = by_call.first().map_or(0, Vec::len);
        Ok((0..rounds)
            .map(|round| median(&by_call.iter().map(|call| call[round]).collect::<Vec<_>>()))
            .collect())
    };
    let report = &mut bench.report;
    report.ratio(
        "watched_over_floor",
        over(Variant::Watched, Variant::Floor)?,
        1.9,
    );
    report.ratio("idle_over_floor", over(Variant::Idle, Variant::Floor)?, 1.1);
    report.ratio(
        "sampled_over_floor",
        over(Variant::Sampled, Variant::Floor)?,
        1.4,
    );
    if bench.peers {
        report.ratio(
            "watched_over_syscount",
            over(Variant::Watched, Variant::Syscount)?,
            0.55,
        );
        report.ratio(
            "unwatched_over_syscount",
            over(Variant::Unwatched, Variant::Syscount)?,
            0.36,
        );
        report.ratio(
            "watched_over_bpftrace",
            over(Variant::Watched, Variant::Bpftrace)?,
            0.35,
        );
    }
    // Of a call without any probe; the noise of two equal measurements is some per cent.
    let mut detached = Vec::new();
    for (name, _) in CALLS {
        let none = &taken[&(name, Variant::None)];
        let added = added(name, Variant::Detached)?;
        detached.extend(added.iter().zip(none).map(|(added, none)| added / none));
    }
    report.ratio("detached_added", detached, 0.05);
    report.value("attach_ms", attach, 5.0);
    report.value("detach_ms", detach, 5.0);
    Ok(())
}
