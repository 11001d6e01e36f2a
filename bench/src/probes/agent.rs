//! The whole agent with nothing to do: its CPU time and memory.

use std::{
    fs,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use paramedic::evidence::{
    KernelProbes as _,
    probes::{ProbeName, Probes, ProbesConfig},
};

use super::Bench;

/// Until the start is over.
const WARM_UP: Duration = Duration::from_secs(5);
/// Each look at an idle agent.
const LOOK: Duration = Duration::from_secs(5);

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
            "state_dir: {}\nintake: {{listen: \"127.0.0.1:0\"}}\n",
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
    let (mut cpu, mut memory) = (Vec::new(), Vec::new());
    for _ in 0..bench.rounds.min(5) {
        let (begun, before) = (Instant::now(), cpu_s(pid)?);
        std::thread::sleep(LOOK);
        if let Some(status) = child.try_wait()? {
            bail!("the agent ended with {status}");
        }
        cpu.push((cpu_s(pid)? - before) / begun.elapsed().as_secs_f64() * 100.0);
        memory.push(resident_mib(pid)?);
    }
    bench
        .report
        .value("idle_agent_cpu_percent_of_a_core", cpu, 0.5);
    bench.report.value("idle_agent_rss_mib", memory, 40.0);
    Ok(())
}

/// Of all its threads.
fn cpu_s(pid: u32) -> anyhow::Result<f64> {
    let mut ns = 0.0;
    for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
        let text = fs::read_to_string(thread?.path().join("schedstat"))?;
        ns += text.split(' ').next().unwrap_or("0").parse::<f64>()?;
    }
    Ok(ns / 1e9)
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
