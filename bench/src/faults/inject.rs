//! Faults that can be begun, checked from outside the agent, and taken back.

mod cpu;
mod disk;
mod machine;
mod memory;
mod network;
mod process;
pub(super) mod system;

use std::{
    path::Path,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use anyhow::Context;
use paramedic_parts::Cgroup;

use super::{catalogue::Figures, kind::Kind};
use crate::mttr::slice::Slice;

/// Whatever is started ends by itself after this long.
const AT_MOST: Duration = Duration::from_mins(3);
/// Over which a rate is taken when a fault is checked.
const RATE_OVER: Duration = Duration::from_millis(600);
/// The fault's own cgroup.
pub const GUILTY: &str = "fault";

/// What an injection may use.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    /// Of this run, on a disk.
    pub folder: &'a Path,
    /// CPUs of the node.
    pub cpus: usize,
    /// The figures of this trial.
    pub figures: &'a Figures,
}

impl Place<'_> {
    /// A figure; the catalogue has checked that it is there.
    pub fn figure(&self, name: &str) -> f64 {
        self.figures.get(name).copied().unwrap_or(1.0)
    }

    /// The same as a whole number.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "figures are above 0 and far below 2^32"
    )]
    pub fn count(&self, name: &str) -> usize {
        self.figure(name).round() as usize
    }
}

/// A cgroup and what runs in it once the fault begins.
#[derive(Debug)]
pub struct Leaf {
    /// The cgroup.
    pub cgroup: Cgroup,
    programs: Vec<Command>,
    /// Processes that were started.
    pub pids: Vec<u32>,
}

impl Leaf {
    /// An empty one below the run's slice.
    pub fn new(name: &str) -> anyhow::Result<Self> {
        Ok(Self {
            cgroup: Slice::child(name)?,
            programs: Vec::new(),
            pids: Vec::new(),
        })
    }

    /// One of our own programs.
    pub fn work(mut self, arguments: &[&str]) -> anyhow::Result<Self> {
        self.programs.push(own(arguments)?);
        Ok(self)
    }

    /// One of our own programs, in another network namespace.
    pub fn work_in(mut self, namespace: &str, arguments: &[&str]) -> anyhow::Result<Self> {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", namespace]);
        command.arg(std::env::current_exe()?).arg("work");
        command.args(arguments);
        self.programs.push(command);
        Ok(self)
    }

    /// Writes one of its files at once.
    pub fn limited(self, file: &str, value: &str) -> anyhow::Result<Self> {
        self.cgroup.set(file, value)?;
        Ok(self)
    }

    /// Starts what is to run in it.
    pub fn start(&mut self) -> anyhow::Result<()> {
        for command in self.programs.drain(..) {
            self.pids.push(self.cgroup.spawn(command, AT_MOST)?);
        }
        Ok(())
    }
}

/// One of our own programs.
pub fn own(arguments: &[&str]) -> anyhow::Result<Command> {
    let mut command = Command::new(std::env::current_exe().context("our own program's path")?);
    command.arg("work").args(arguments);
    Ok(command)
}

type Step = Box<dyn FnOnce(&mut [Leaf]) -> anyhow::Result<()>>;
type Check = Box<dyn Fn(&[Leaf]) -> anyhow::Result<String>>;

/// How something is taken back; done when dropped, should what comes after it fail.
pub struct Undo(Option<Box<dyn FnOnce() -> anyhow::Result<()>>>);

impl Undo {
    fn new(back: impl FnOnce() -> anyhow::Result<()> + 'static) -> Self {
        Self(Some(Box::new(back)))
    }

    fn run(mut self) -> anyhow::Result<()> {
        self.0.take().map_or(Ok(()), |back| back())
    }
}

impl Drop for Undo {
    fn drop(&mut self) {
        if let Some(back) = self.0.take()
            && let Err(error) = back()
        {
            eprintln!("{error:#}");
        }
    }
}

/// A fault, ready to begin.
pub struct Injection {
    /// Cgroups of the fault; the guilty one first.
    pub leaves: Vec<Leaf>,
    begin: Vec<Step>,
    check: Check,
    release: Vec<Undo>,
    undo: Vec<Undo>,
    /// How long the node is watched before it begins: some readers look every ten seconds only.
    pub ripen: Duration,
    /// How long it lasts before the alert.
    pub settle: Duration,
}

/// A fault is noticed by readers that look every five seconds.
const FIVE: Duration = Duration::from_millis(6500);
/// A fault is noticed by readers that look every ten seconds.
const TEN: Duration = Duration::from_millis(11_500);
/// Longer than the window of evidence.
const USUAL: Duration = Duration::from_millis(4500);

impl Injection {
    /// Of these cgroups; `check` says what it saw when the fault is in force, and fails otherwise.
    pub fn new(
        leaves: Vec<Leaf>,
        check: impl Fn(&[Leaf]) -> anyhow::Result<String> + 'static,
    ) -> Self {
        Self {
            leaves,
            begin: Vec::new(),
            check: Box::new(check),
            release: Vec::new(),
            undo: Vec::new(),
            ripen: Duration::from_secs(1),
            settle: USUAL,
        }
    }

    /// Done at the begin, after the programs were started.
    fn begins(mut self, step: impl FnOnce(&mut [Leaf]) -> anyhow::Result<()> + 'static) -> Self {
        self.begin.push(Box::new(step));
        self
    }

    /// Done at the end, before anything is killed.
    fn releases(mut self, undo: impl FnOnce() -> anyhow::Result<()> + 'static) -> Self {
        self.release.push(Undo::new(undo));
        self
    }

    /// Done at the end, after everything was killed; the last one first.
    fn undoes(mut self, undo: impl FnOnce() -> anyhow::Result<()> + 'static) -> Self {
        self.undo.push(Undo::new(undo));
        self
    }

    /// The same of what was prepared, in its order.
    fn undoes_all(mut self, undo: impl IntoIterator<Item = Undo>) -> Self {
        self.undo.extend(undo);
        self
    }

    fn settles(mut self, settle: Duration) -> Self {
        self.settle = settle;
        self
    }

    fn ripens(mut self, ripen: Duration) -> Self {
        self.ripen = ripen;
        self
    }

    /// Begins.
    pub fn begin(&mut self) -> anyhow::Result<()> {
        for leaf in &mut self.leaves {
            leaf.start()?;
        }
        for step in self.begin.drain(..) {
            step(&mut self.leaves)?;
        }
        Ok(())
    }

    /// What is seen of it from outside.
    pub fn check(&self) -> anyhow::Result<String> {
        (self.check)(&self.leaves)
    }

    /// Ends it and takes everything back; every failure is told, none stops the rest.
    pub fn end(mut self) -> Vec<String> {
        let mut failed = Vec::new();
        let mut note = |done: anyhow::Result<()>| {
            if let Err(error) = done {
                failed.push(format!("{error:#}"));
            }
        };
        for undo in self.release.drain(..).rev() {
            note(undo.run());
        }
        for leaf in self.leaves.drain(..).rev() {
            note(leaf.cgroup.remove());
        }
        for undo in self.undo.drain(..).rev() {
            note(undo.run());
        }
        failed
    }
}

/// Prepares a fault: what is there before it begins is there afterwards.
pub fn prepare(kind: Kind, place: &Place<'_>) -> anyhow::Result<Injection> {
    match kind {
        Kind::Burn => cpu::burn(place),
        Kind::Quota => cpu::quota(place),
        Kind::Crowd => cpu::crowd(place),
        Kind::Herd => cpu::herd(place),
        Kind::Starved => cpu::starved(place),
        Kind::Futexes => cpu::futexes(place),
        Kind::Hold => memory::hold(place),
        Kind::Leak => memory::leak(place),
        Kind::Oom => memory::oom(place),
        Kind::Thrash => memory::thrash(place),
        Kind::Swap => memory::swap(place),
        Kind::Squeeze => memory::squeeze(place),
        Kind::Writers => disk::writers(place),
        Kind::Fill => disk::fill(place),
        Kind::Inodes => disk::inodes(place),
        Kind::SlowDisk => disk::slow(place),
        Kind::Fsyncs => disk::fsyncs(place),
        Kind::Raid => disk::raid(place),
        Kind::Readonly => disk::readonly(place),
        Kind::DiskErrors => disk::errors(place),
        Kind::Hang => disk::hang(place),
        Kind::Forks => process::forks(place),
        Kind::Crashes => process::crashes(place),
        Kind::Zombies => process::zombies(place),
        Kind::Files => process::files(place),
        Kind::Threads => process::threads(place),
        Kind::Pids => process::pids(place),
        Kind::Tasks => process::tasks(place),
        Kind::FileTable => process::file_table(place),
        Kind::Packets => network::packets(place),
        Kind::Drops => network::drops(place),
        Kind::Loss => network::loss(place),
        Kind::Ports => network::ports(place),
        Kind::Conntrack => network::conntrack(place),
        Kind::Backlog => network::backlog(place),
        Kind::Refused => network::refused(place),
        Kind::NoRoute => network::no_route(place),
        Kind::Clock => machine::clock(place),
        Kind::KernelError => machine::kernel_error(place),
    }
}

/// Share of the time in which somebody waits, by a file of pressure.
fn stalled(pressure: &Path) -> anyhow::Result<f64> {
    let total_us = rate(|| {
        let text = system::read(pressure)?;
        let some = text.lines().next().unwrap_or_default();
        let total = some.split("total=").nth(1).unwrap_or("0");
        Ok(total.trim().parse()?)
    })?;
    Ok(total_us / 1e6)
}

/// How fast a counter goes, a second.
fn rate(count: impl Fn() -> anyhow::Result<u64>) -> anyhow::Result<f64> {
    let (begun, before) = (Instant::now(), count()?);
    thread::sleep(RATE_OVER);
    let after = count()?;
    Ok(after.saturating_sub(before) as f64 / begun.elapsed().as_secs_f64())
}
