//! The whole agent with nothing to do: its CPU time, that of its probes, and its memory.
//!
//! "Nothing to do" is the agent's own affair: the machine may be busy, and the probes then are too.
//! Local triggers are watched as ever, but open no episode within the minute that this takes.

use std::{
    collections::BTreeMap,
    fs,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use aya::sys::{Stats, enable_stats};
use paramedic::evidence::{
    KernelProbes as _,
    probes::{ProbeName, Probes, ProbesConfig},
};

use serde_json::json;

use super::Bench;

/// Until the start is over.
const WARM_UP: Duration = Duration::from_secs(5);
/// Each look at an idle agent; it measures its own probes every ten seconds, so each has that in it.
const LOOK: Duration = Duration::from_secs(10);
/// Looks: a minute.
const LOOKS: usize = 6;

/// The names of all probes of this build.
pub(crate) fn every_probe() -> Vec<ProbeName> {
    let none = Probes::start(&ProbesConfig {
        enabled: false,
        ..ProbesConfig::default()
    });
    none.statuses()
        .iter()
        .filter_map(|status| serde_json::from_value(serde_json::json!(status.name)).ok())
        .collect()
}

/// Runs the part.
pub(crate) fn run(bench: &mut Bench) -> anyhow::Result<()> {
    let program = std::env::current_exe()?.with_file_name("paramedic");
    if !program.is_file() {
        bail!("{} is not built", program.display());
    }
    let folder = tempfile::tempdir_in("target")?;
    let config = folder.path().join("paramedic.yaml");
    fs::write(
        &config,
        format!(
            "state_dir: {}\nintake: {{listen: \"127.0.0.1:0\"}}\npressure: {{hold_s: 3600}}\n",
            folder.path().canonicalize()?.join("state").display()
        ),
    )?;
    let mut child = Command::new(&program)
        .arg("run")
        .arg("--config")
        .arg(&config)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .with_context(|| format!("cannot start {}", program.display()))?;
    let looked = look(&mut child, bench);
    child.kill().unwrap_or_default();
    child.wait()?;
    looked
}

fn look(child: &mut std::process::Child, bench: &mut Bench) -> anyhow::Result<()> {
    std::thread::sleep(WARM_UP);
    let pid = child.id();
    // The kernel counts the probes' time while this is open; the agent itself asks it to now and then.
    let _measuring = enable_stats(Stats::RunTime).context("cannot measure the probes")?;
    let (mut agent, mut probes, mut all, mut memory) = (vec![], vec![], vec![], vec![]);
    let mut threads: BTreeMap<String, f64> = BTreeMap::new();
    for _ in 0..bench.rounds.min(LOOKS) {
        let (begun, before, programs) = (Instant::now(), cpu_s(pid)?, programs_s(pid)?);
        std::thread::sleep(LOOK);
        if let Some(status) = child.try_wait()? {
            bail!("the agent ended with {status}");
        }
        let percent = |seconds: f64| seconds / begun.elapsed().as_secs_f64() * 100.0;
        let now = cpu_s(pid)?;
        let of_probes = programs_s(pid)? - programs;
        threads.clear();
        for ((id, name), seconds) in now {
            let then = before.get(&(id, name.clone())).copied().unwrap_or(0.0);
            *threads.entry(name).or_default() += seconds - then;
        }
        let own: f64 = threads.values().sum();
        for seconds in threads.values_mut() {
            *seconds = percent(*seconds);
        }
        agent.push(percent(own));
        probes.push(percent(of_probes));
        all.push(percent(own + of_probes));
        memory.push(resident_mib(pid)?);
    }
    let report = &mut bench.report;
    report.raw("idle agent", "own threads", "% of a CPU", &agent);
    report.raw("idle agent", "its probes", "% of a CPU", &probes);
    report.fact("idle threads, % of a CPU, last look", &json!(threads));
    report.value("idle_agent_cpu_percent_of_a_core", all, 0.5);
    report.value("idle_agent_rss_mib", memory, 40.0);
    Ok(())
}

/// Time that its programs have run, as far as it was measured.
fn programs_s(pid: u32) -> anyhow::Result<f64> {
    let mut ns = 0.0;
    for file in fs::read_dir(format!("/proc/{pid}/fdinfo"))? {
        // One may be closed by now.
        let text = fs::read_to_string(file?.path()).unwrap_or_default();
        let field = text
            .lines()
            .find_map(|line| line.strip_prefix("run_time_ns:"));
        ns += field.map_or(Ok(0.0), |field| field.trim().parse::<f64>())?;
    }
    Ok(ns / 1e9)
}

/// CPU time by thread.
fn cpu_s(pid: u32) -> anyhow::Result<BTreeMap<(String, String), f64>> {
    let mut threads = BTreeMap::new();
    for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
        let thread = thread?;
        let read = |name: &str| fs::read_to_string(thread.path().join(name));
        // One may have ended by now.
        let (Ok(name), Ok(text)) = (read("comm"), read("schedstat")) else {
            continue;
        };
        let ns: f64 = text.split(' ').next().unwrap_or("0").parse()?;
        let id = thread.file_name().to_string_lossy().into_owned();
        threads.insert((id, name.trim().to_owned()), ns / 1e9);
    }
    Ok(threads)
}

fn resident_mib(pid: u32) -> anyhow::Result<f64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let kib: f64 = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .and_then(|rest| rest.trim().strip_suffix(" kB"))
        .context("no VmRSS")?
        .trim()
        .parse()?;
    Ok(kib / 1024.0)
}
