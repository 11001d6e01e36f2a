//! One storm: the agent is started, told stories, shaken, let alone, and looked at.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

use anyhow::Context;

use crate::{
    faults,
    prometheus::{Mode, Prometheus},
    record::Record,
    schedule::{MARKER, ProbesAre, Schedule},
    senders::Senders,
    verdict::{Invariant, Verdict},
    world::World,
};

/// For everything that was accepted to be handled once the storm is over.
const HANDLED_WITHIN: Duration = Duration::from_mins(1);
/// Of this agent, whatever comes: resident memory in MiB, threads, and descriptors once it is quiet.
const RSS_MIB_MAX: u64 = 256;
const THREADS_MAX: u64 = 64;
const FILES_MAX: u64 = 128;
/// For descriptors of connections that have ended to be closed.
const QUIET_WITHIN: Duration = Duration::from_secs(20);
/// For another guardian after one was killed: the agent looks every 2 s.
const GUARDED_WITHIN: Duration = Duration::from_secs(20);

/// What one storm was.
#[derive(Debug)]
pub struct Outcome {
    pub verdict: Verdict,
    /// Faults by name.
    pub faults: BTreeMap<&'static str, u64>,
    pub lives: u64,
    pub accepted: u64,
    pub episodes: u64,
    pub requests: u64,
    pub seconds: f64,
    /// Where everything lies, if it was kept.
    pub kept: Option<PathBuf>,
}

/// What the faults work on.
pub struct Scene<'a> {
    pub world: World,
    pub prometheus: &'a Prometheus,
    pub senders: &'a Senders<'a>,
    pub verdict: &'a Verdict,
    pub faults: BTreeMap<&'static str, u64>,
}

/// Runs a schedule.
///
/// # Errors
/// The storm itself could not be carried out: this says nothing of the agent.
pub fn run(schedule: &Schedule, keep: bool) -> anyhow::Result<Outcome> {
    let begun = Instant::now();
    let verdict = Verdict::default();
    let prometheus = Prometheus::start()?;
    let world = World::new(&schedule.setting, prometheus.address())?;
    let senders = Senders::new(world.address(), &schedule.stories, schedule.seed);
    let mut scene = Scene {
        world,
        prometheus: &prometheus,
        senders: &senders,
        verdict: &verdict,
        faults: BTreeMap::new(),
    };
    scene.begin()?;
    let shaken = thread::scope(|scope| {
        let tellers: Vec<_> = (0..schedule.stories.len())
            .map(|story| {
                let senders = &senders;
                scope.spawn(move || senders.tell(story))
            })
            .collect();
        for replica in 0..2 {
            let senders = &senders;
            let seed = schedule.seed ^ (replica + 1);
            scope.spawn(move || senders.repeat(seed));
        }
        let shaken = scene.shake(schedule);
        senders.last_spells();
        for teller in tellers {
            teller.join().unwrap_or_default();
        }
        senders.finish();
        shaken
    });
    shaken?;
    scene.end(schedule)?;
    let told = senders.told();
    let record = Record::read(&scene.world)?;
    let violated = !verdict.violations().is_empty();
    let kept = (keep || violated).then(|| scene.world.keep()).transpose()?;
    let outcome = Outcome {
        faults: std::mem::take(&mut scene.faults),
        lives: scene.world.lives,
        accepted: (told.firing.len() + told.resolved.len()) as u64,
        episodes: record.episodes.len() as u64,
        requests: told.statuses.values().sum(),
        seconds: begun.elapsed().as_secs_f64(),
        kept,
        verdict: Verdict::default(),
    };
    drop(told);
    drop(scene);
    Ok(Outcome { verdict, ..outcome })
}

impl Scene<'_> {
    /// A life begins; not being ready in time is the agent's failure.
    pub fn begin(&mut self) -> anyhow::Result<()> {
        let started = self.world.start();
        let said = started.as_ref().err().map(|error| format!("{error:#}"));
        self.verdict.hold(Invariant::Ready, started.is_ok(), || {
            said.unwrap_or_default()
        });
        started.map(drop)
    }

    fn shake(&mut self, schedule: &Schedule) -> anyhow::Result<()> {
        for step in &schedule.steps {
            thread::sleep(Duration::from_millis(step.after_ms));
            *self.faults.entry(step.fault.name()).or_default() += 1;
            faults::enact(self, step.fault)?;
            self.revive()?;
        }
        self.prometheus.set(Mode::Plausible);
        Ok(())
    }

    /// A dead agent is what a service manager would start again; only some faults may have killed it.
    fn revive(&mut self) -> anyhow::Result<()> {
        if self.world.lives_on() {
            return Ok(());
        }
        self.begin()
    }

    /// Nothing is wrong any more: what must be true then.
    fn end(&mut self, schedule: &Schedule) -> anyhow::Result<()> {
        self.figures()?;
        self.accepted();
        if schedule.ends_by_kill {
            // As it stands when the last answer was given: with the power off, so to speak.
            self.world.kill()?;
            self.intact();
            let told = self.senders.told();
            Record::read(&self.world)?.check_accepted(&told, self.verdict);
            drop(told);
            self.begin()?;
        }
        self.handled()?;
        self.guarded();
        self.probes(schedule.setting.probes)?;
        self.metrics()?;
        let well = self.world.terminate();
        let said = format!("after SIGTERM: {well:?}");
        self.verdict
            .hold(Invariant::Ready, well.is_ok_and(|well| well), || said);
        self.intact();
        let record = Record::read(&self.world)?;
        record.check_accepted(&self.senders.told(), self.verdict);
        record.check_order(self.verdict);
        self.leftovers()?;
        Ok(())
    }

    /// Every story was taken to its end, and nothing well-formed was refused for good.
    fn accepted(&self) {
        let told = self.senders.told();
        self.verdict
            .hold(Invariant::Ready, told.untold.is_empty(), || {
                format!(
                    "never taken: {:?}; answers {:?}",
                    told.untold, told.statuses
                )
            });
        self.verdict
            .hold(Invariant::Durable, told.refused.is_empty(), || {
                format!(
                    "a well-formed request was refused for good: {:?}",
                    told.refused
                )
            });
    }

    fn intact(&self) {
        let checked = self.world.read(&["journal", "check"]);
        let said = checked.as_ref().err().map(|error| format!("{error:#}"));
        self.verdict.hold(Invariant::Durable, checked.is_ok(), || {
            said.unwrap_or_default()
        });
    }

    fn handled(&mut self) -> anyhow::Result<()> {
        let begun = Instant::now();
        loop {
            let left = Record::read(&self.world)?.unfinished();
            if left == 0 || begun.elapsed() > HANDLED_WITHIN {
                self.verdict.hold(Invariant::Ready, left == 0, || {
                    format!("{left} accepted episodes are not handled")
                });
                return Ok(());
            }
            thread::sleep(Duration::from_millis(150));
        }
    }

    /// Memory, threads, descriptors: bounded, and given back.
    fn figures(&self) -> anyhow::Result<()> {
        let rss_mib = self.world.status("VmHWM")? / 1024;
        let threads = self.world.status("Threads")?;
        self.verdict
            .hold(Invariant::Cheap, rss_mib <= RSS_MIB_MAX, || {
                format!("{rss_mib} MiB of memory")
            });
        self.verdict
            .hold(Invariant::Cheap, threads <= THREADS_MAX, || {
                format!("{threads} threads")
            });
        let begun = Instant::now();
        loop {
            let files = self.world.files()?;
            let few = files <= FILES_MAX;
            if few || begun.elapsed() > QUIET_WITHIN {
                self.verdict
                    .hold(Invariant::Cheap, few, || format!("{files} open files"));
                return Ok(());
            }
            thread::sleep(Duration::from_millis(100));
        }
    }

    fn guarded(&mut self) {
        if !self.faults.contains_key("kill-guardian") {
            return;
        }
        let begun = Instant::now();
        while self.world.guardians().is_empty() && begun.elapsed() < GUARDED_WITHIN {
            thread::sleep(Duration::from_millis(50));
        }
        let guardians = self.world.guardians().len();
        self.verdict.hold(Invariant::Leased, guardians == 1, || {
            format!("{guardians} guardians after one was killed")
        });
    }

    /// A probe that is not attached says why, and what stands in for it.
    fn probes(&self, are: ProbesAre) -> anyhow::Result<()> {
        let answer =
            paramedic_parts::http::get(self.world.address(), "/api/v1/recorder?window_s=1")?;
        let glance = answer.json()?;
        let probes = glance["probes"].as_array().context("no list of probes")?;
        for probe in probes {
            let attached = matches!(probe["state"].as_str(), Some("attached" | "standby"));
            let said = probe["why"].as_str().is_some_and(|why| !why.is_empty());
            let held = match are {
                ProbesAre::On => attached || said,
                ProbesAre::Refused => !attached && said,
                ProbesAre::Off => !attached,
            };
            self.verdict
                .hold(Invariant::Probes, held, || format!("{are:?}: {probe}"));
        }
        Ok(())
    }

    /// Of metrics only those of labels: they are rule ids and fixed words.
    fn metrics(&self) -> anyhow::Result<()> {
        let text = paramedic_parts::http::get(self.world.address(), "/metrics")?.ok()?;
        self.verdict
            .hold(Invariant::LabelsAreData, !text.contains(MARKER), || {
                "an alert's label became a metric's".to_owned()
            });
        let writable = text
            .lines()
            .any(|line| line.starts_with("paramedic_journal_writable 1"));
        self.verdict.hold(Invariant::Ready, writable, || {
            "the metrics say that the journal is not writable".to_owned()
        });
        Ok(())
    }

    /// What an agent leaves behind.
    fn leftovers(&self) -> anyhow::Result<()> {
        let escaped = self.prometheus.escaped();
        self.verdict
            .hold(Invariant::LabelsAreData, escaped.is_empty(), || {
                format!("questions with a label's value outside a string: {escaped:?}")
            });
        let mut named = Vec::new();
        let mut leases = Vec::new();
        let mut folders = vec![self.world.state()];
        while let Some(folder) = folders.pop() {
            for file in std::fs::read_dir(&folder)? {
                let path = file?.path();
                let name = path.display().to_string();
                if name.contains(MARKER) {
                    named.push(name.clone());
                }
                if path.extension().is_some_and(|end| end == "lease") {
                    leases.push(name);
                }
                if path.is_dir() {
                    folders.push(path);
                }
            }
        }
        self.verdict
            .hold(Invariant::LabelsAreData, named.is_empty(), || {
                format!("an alert's label became a path: {named:?}")
            });
        self.verdict.hold(Invariant::Leased, leases.is_empty(), || {
            format!("leases are left: {leases:?}")
        });
        let log = self.world.log();
        let panic = log.lines().find(|line| line.contains("panicked at"));
        self.verdict.hold(Invariant::Ready, panic.is_none(), || {
            format!("the agent panicked: {panic:?}")
        });
        Ok(())
    }
}
