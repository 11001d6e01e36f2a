//! A storm of programs executed: CPU time a program, with the always-on probes and with execsnoop.
//!
//! CPU time of the storm and of whoever reads the events, not the time on the wall: on a machine that
//! others use too, that is the part that is ours.

use std::{fs, process::Command, time::Instant};

use anyhow::{Context, bail};
use paramedic::evidence::{
    KernelProbes as _, ProbeState,
    probes::{ProbeName, Probes, ProbesConfig},
};
use serde_json::json;

use super::{Bench, peers::Which};

/// Programs in one slice; their parent is suspended until each has executed (vfork).
const PROGRAMS: u32 = 400;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Variant {
    None,
    Ours,
    Execsnoop,
}

/// CPU microseconds a program, those of the reader of the events included.
fn storm(reader: Option<u32>) -> anyhow::Result<f64> {
    let before = cpu_us(reader)?;
    let begun = Instant::now();
    for _ in 0..PROGRAMS {
        let status = Command::new("/bin/true")
            .status()
            .context("cannot start /bin/true")?;
        if !status.success() {
            bail!("/bin/true ended with {status}");
        }
    }
    // The readers of events work in batches.
    std::thread::sleep(std::time::Duration::from_millis(60));
    if begun.elapsed().as_secs() > 30 {
        bail!("{PROGRAMS} programs took {} s", begun.elapsed().as_secs());
    }
    Ok((cpu_us(reader)? - before) / f64::from(PROGRAMS))
}

/// Of this process with its ended children, and of another.
fn cpu_us(other: Option<u32>) -> anyhow::Result<f64> {
    let mut sum = 0.0;
    for who in [libc::RUSAGE_SELF, libc::RUSAGE_CHILDREN] {
        let mut usage = std::mem::MaybeUninit::<libc::rusage>::uninit();
        // SAFETY: fills the structure, which is then initialised.
        let usage = unsafe {
            if libc::getrusage(who, usage.as_mut_ptr()) != 0 {
                bail!("getrusage: {}", std::io::Error::last_os_error());
            }
            usage.assume_init()
        };
        for time in [usage.ru_utime, usage.ru_stime] {
            sum += time.tv_sec as f64 * 1e6 + time.tv_usec as f64;
        }
    }
    if let Some(pid) = other {
        let text = fs::read_to_string(format!("/proc/{pid}/schedstat"))?;
        let ns: f64 = text.split(' ').next().unwrap_or("0").parse()?;
        sum += ns / 1e3;
    }
    Ok(sum)
}

/// Runs the part.
pub(crate) fn run(bench: &mut Bench) -> anyhow::Result<()> {
    let mut variants = vec![Variant::None, Variant::Ours];
    if bench.peers {
        variants.push(Variant::Execsnoop);
    }
    let (mut none, mut ours, mut theirs) = (Vec::new(), Vec::new(), Vec::new());
    let mut lost = 0;
    let mut seen = 0;
    for round in 0..bench.rounds {
        if Instant::now() > bench.until {
            break;
        }
        for turn in 0..variants.len() {
            match variants[(turn + round) % variants.len()] {
                Variant::None => none.push(storm(None)?),
                Variant::Ours => {
                    // What is always on, and no recorder: its sampling is the idle agent's cost.
                    let probes = Probes::start(&ProbesConfig {
                        off: vec![ProbeName::Syscalls],
                        ..ProbesConfig::default()
                    });
                    if !probes.counting("exec") {
                        bail!("the probes do not attach: {:?}", probes.statuses());
                    }
                    ours.push(storm(None)?);
                    let attached = probes.statuses();
                    let attached = attached
                        .iter()
                        .filter(|probe| probe.state == ProbeState::Attached);
                    for probe in attached {
                        lost += probe.drops;
                        seen += probe.events;
                    }
                }
                Variant::Execsnoop => {
                    let peer = Which::Execsnoop.start()?;
                    theirs.push(storm(Some(peer.pid()))?);
                }
            }
        }
    }
    let slowed = |with: &[f64]| -> Vec<f64> {
        with.iter()
            .zip(&none)
            .map(|(with, none)| with / none - 1.0)
            .collect()
    };
    let report = &mut bench.report;
    report.raw("exec storm", "none", "us CPU a program", &none);
    report.raw("exec storm", "ours", "us CPU a program", &ours);
    report.raw("exec storm", "execsnoop", "us CPU a program", &theirs);
    report.fact("exec storm events", &json!({ "seen": seen, "lost": lost }));
    report.ratio("exec_storm_slowdown", slowed(&ours), 0.08);
    report.value("exec_storm_lost", vec![lost as f64], 0.0);
    if bench.peers {
        report.fact(
            "execsnoop_slowdown",
            &json!(crate::median(&slowed(&theirs))),
        );
    }
    Ok(())
}
