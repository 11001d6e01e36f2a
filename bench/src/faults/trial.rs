//! One trial: a neighbour, a fault, the alert, what two agents make of it, and everything back.

use std::{
    fs,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use paramedic_parts::{cgroup::ROOT, chance::Rng, wait_for};

use super::{
    agent::{Agent, Kept},
    catalogue::{Fault, draw},
    inject::{self, GUILTY, Injection, Leaf, Place},
    record::{NOTHING, Trial},
    work::Habits,
};
use crate::mttr::slice::Slice;

/// For a fault to take hold.
const HOLDS_WITHIN: Duration = Duration::from_secs(45);
/// For a fault to show itself once more after the diagnosis.
const LASTS_WITHIN: Duration = Duration::from_secs(4);
/// A window of evidence and a little more.
const WINDOW: Duration = Duration::from_millis(3600);
/// `cpu.weight` of the agents, as `CPUWeight=` of their unit gives.
const AGENT_WEIGHT: &str = "1000";
/// Alerts of trials in which nothing is wrong: what tends to fire for nothing.
const FALSE_ALARMS: [&str; 5] = [
    "HostCpuSaturated",
    "HostOutOfMemory",
    "HostDiskSlow",
    "ServiceErrors",
    "ContainerSlow",
];

/// What every trial of a run shares.
pub struct Bench<'a> {
    /// Cgroups.
    pub slice: &'a Slice,
    /// On a disk.
    pub folder: &'a Path,
    /// CPUs.
    pub cpus: usize,
    /// Of the run.
    pub seed: u64,
    /// Kernel release.
    pub kernel: String,
    /// Rules in place of the shipped ones.
    pub rules: Option<PathBuf>,
    /// The agent that sees everything; it lives as long as the run.
    pub sighted: Agent,
}

impl Bench<'_> {
    /// Starts an agent in its own cgroup, ready.
    pub fn agent(slice: &Slice, kept: &Kept) -> anyhow::Result<Agent> {
        let mut agent = slice.within("paramedic", AGENT_WEIGHT, || Agent::start(kept))?;
        agent.ready()?;
        Ok(agent)
    }

    /// Runs one trial of a fault, or of none. What fails in it makes it void, with the reason.
    pub fn trial(&mut self, fault: Option<&Fault>, round: usize, rng: &mut Rng) -> Trial {
        let begun = Instant::now();
        let culprit = fault.and_then(|fault| fault.culprit);
        let mut trial = Trial {
            truth: fault.map_or(NOTHING, |fault| &fault.hypothesis).to_owned(),
            accept: fault.map(|fault| fault.accept.clone()).unwrap_or_default(),
            round,
            seed: self.seed,
            kernel: self.kernel.clone(),
            figures: fault.map(|fault| fault.draw(rng)).unwrap_or_default(),
            neighbour: habits(fault.is_none(), self.folder, rng),
            culprit: culprit.map(|_| Slice::path(GUILTY)),
            void: None,
            held: String::new(),
            sighted: None,
            blind: None,
            blind_void: None,
            left: Vec::new(),
            took_s: 0.0,
        };
        let alert = fault.map_or_else(
            || {
                let any = rng.below(FALSE_ALARMS.len() as u64);
                FALSE_ALARMS[usize::try_from(any).unwrap_or(0)]
            },
            |fault| &fault.alert,
        );
        if let Err(error) = self.run(fault, alert, &mut trial) {
            trial.void = Some(format!("{error:#}"));
        }
        trial.took_s = begun.elapsed().as_secs_f64();
        trial
    }

    fn run(&mut self, fault: Option<&Fault>, alert: &str, trial: &mut Trial) -> anyhow::Result<()> {
        if !self.sighted.alive() {
            let kept = Kept {
                rules: self.rules.clone(),
                ..Kept::default()
            };
            self.sighted = Self::agent(self.slice, &kept)?;
        }
        let neighbour = Neighbour::start(&trial.neighbour)?;
        let Some(fault) = fault else {
            // Its start is no steady state.
            thread::sleep(WINDOW * 2);
            "nothing is wrong".clone_into(&mut trial.held);
            trial.sighted = Some(self.sighted.diagnosis(alert, &instance(trial))?);
            return neighbour.end();
        };
        let figures = trial.figures.clone();
        let place = Place {
            folder: self.folder,
            cpus: self.cpus,
            figures: &figures,
        };
        let mut injection = inject::prepare(fault.kind, &place).context("cannot prepare it")?;
        let asked = self.ask(fault, &mut injection, alert, trial);
        trial.left = injection.end();
        let ended = neighbour.end();
        asked.and(ended)
    }

    /// The fault begins; both agents are told of it.
    fn ask(
        &self,
        fault: &Fault,
        injection: &mut Injection,
        alert: &str,
        trial: &mut Trial,
    ) -> anyhow::Result<()> {
        thread::sleep(injection.ripen);
        injection.begin().context("cannot begin it")?;
        trial.held = wait_for("hold of the fault", HOLDS_WITHIN, || injection.check())?;
        thread::sleep(injection.settle);
        let answer = self.sighted.diagnosis(alert, &instance(trial))?;
        // It must have lasted until it was diagnosed.
        lasts(injection)?;
        trial.sighted = Some(answer);
        if fault.blind.is_empty() {
            return Ok(());
        }
        match self.blind(fault, injection, alert, trial) {
            Ok(answer) => trial.blind = Some(answer),
            Err(error) => trial.blind_void = Some(format!("{error:#}")),
        }
        Ok(())
    }

    fn blind(
        &self,
        fault: &Fault,
        injection: &Injection,
        alert: &str,
        trial: &Trial,
    ) -> anyhow::Result<super::record::Answer> {
        let mut files = Vec::new();
        for hidden in &fault.blind.hide {
            files.extend(hidden_files(hidden, injection)?);
        }
        let probes = fault.blind.probes.iter().map(|probe| {
            let name = serde_json::to_value(probe).unwrap_or_default();
            name.as_str().unwrap_or_default().to_owned()
        });
        let kept = Kept {
            rules: self.rules.clone(),
            probes: probes.collect(),
            files,
        };
        let agent = Self::agent(self.slice, &kept)?;
        thread::sleep(WINDOW.max(injection.settle.min(Duration::from_secs(6))));
        let answer = agent.diagnosis(alert, &instance(trial))?;
        lasts(injection)?;
        agent.end()?;
        Ok(answer)
    }
}

/// Fails unless the fault is still in force; one that comes and goes is given some looks.
fn lasts(injection: &Injection) -> anyhow::Result<()> {
    wait_for("sign of the fault at the end", LASTS_WITHIN, || {
        injection.check()
    })
    .map(drop)
}

/// Each trial has an alert of its own.
fn instance(trial: &Trial) -> String {
    format!("{}-{}", trial.truth, trial.round)
}

/// The files that a word of `hide` stands for.
fn hidden_files(hidden: &str, injection: &Injection) -> anyhow::Result<Vec<PathBuf>> {
    if let Some(name) = hidden.strip_prefix("cgroup:") {
        let mut found = Vec::new();
        below(&Path::new(ROOT).join("mttr.slice"), name, &mut found);
        ensure!(!found.is_empty(), "no cgroup has {name}");
        return Ok(found);
    }
    if let Some(name) = hidden.strip_prefix("process:") {
        let mut pids = Vec::new();
        for leaf in &injection.leaves {
            pids.extend(leaf.cgroup.pids()?);
        }
        // A cgroup does not list members that have ended.
        pids.extend(children(&pids)?);
        pids.sort_unstable();
        pids.dedup();
        let path = |pid: u32| PathBuf::from(format!("/proc/{pid}/{name}"));
        return Ok(pids.into_iter().map(path).collect());
    }
    // Of the process itself: its own files keep their place when it becomes the agent.
    Ok(vec![PathBuf::from(hidden)])
}

/// Processes whose parent is one of these.
fn children(parents: &[u32]) -> anyhow::Result<Vec<u32>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")
        .context("cannot read /proc")?
        .flatten()
    {
        let Some(pid) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok())
        else {
            continue;
        };
        // Gone meanwhile.
        let Ok(stat) = fs::read_to_string(entry.path().join("stat")) else {
            continue;
        };
        let after_name = stat.rsplit_once(") ").map_or("", |(_, rest)| rest);
        let parent = after_name.split_whitespace().nth(1);
        if parent
            .and_then(|word| word.parse().ok())
            .is_some_and(|parent| parents.contains(&parent))
        {
            found.push(pid);
        }
    }
    Ok(found)
}

fn below(folder: &Path, name: &str, found: &mut Vec<PathBuf>) {
    let file = folder.join(name);
    if file.is_file() {
        found.push(file);
    }
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            below(&entry.path(), name, found);
        }
    }
}

/// A noisy neighbour; where nothing is wrong, a noisier one.
fn habits(louder: bool, folder: &Path, rng: &mut Rng) -> Habits {
    let cpus = if louder { [0.1, 0.9] } else { [0.05, 0.35] };
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "at most 200"
    )]
    let mib = draw([10.0, 120.0], rng).round() as usize;
    Habits {
        cpus: draw(cpus, rng),
        mib,
        writes_per_s: draw([0.5, 8.0], rng),
        execs_per_s: draw([0.2, 2.0], rng),
        connects_per_s: draw([0.5, 10.0], rng),
        folder: folder.to_owned(),
    }
}

struct Neighbour(Leaf);

impl Neighbour {
    fn start(habits: &Habits) -> anyhow::Result<Self> {
        let arguments = habits.arguments();
        let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let mut leaf = Leaf::new("neighbour")?.work(&words)?;
        leaf.start()?;
        Ok(Self(leaf))
    }

    fn end(self) -> anyhow::Result<()> {
        self.0.cgroup.remove()
    }
}
