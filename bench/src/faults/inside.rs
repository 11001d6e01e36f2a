//! A run, inside the VM: trial after trial, each told as soon as it is over.

use std::{collections::BTreeSet, path::PathBuf, thread};

use anyhow::ensure;
use paramedic_parts::chance::Rng;

use super::{
    agent::Kept,
    catalogue::{Catalogue, Fault},
    record::{self, NOTHING, Trial},
    trial::Bench,
};
use crate::mttr::slice::Slice;

/// A line of stdout that begins so is a trial.
pub const TRIAL: &str = "TRIAL ";

/// What to run.
#[derive(Clone, Debug, clap::Args)]
pub struct Inside {
    /// Only these hypotheses
    #[arg(long)]
    pub only: Vec<String>,
    /// Times that each fault is provoked
    #[arg(long, default_value_t = 5)]
    pub rounds: usize,
    /// Trials of a round in which nothing is wrong
    #[arg(long, default_value_t = 10)]
    pub quiet: usize,
    /// Seed of order and figures
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// A record of trials that need not be made again
    #[arg(long)]
    pub done: Option<PathBuf>,
    /// Rules of the agents, in place of the shipped ones
    #[arg(long)]
    pub rules: Option<PathBuf>,
    /// The matrix
    #[arg(long, default_value_os_t = Catalogue::shipped())]
    pub faults: PathBuf,
}

impl Inside {
    /// Runs it; every trial is a line of stdout.
    pub fn run(&self) -> anyhow::Result<()> {
        ensure!(
            std::env::var_os("PARAMEDIC_VM").is_some(),
            "faults fill memory, break filesystems and kill processes: only in `cargo xtask bench faults`"
        );
        let catalogue = Catalogue::load(&self.faults)?;
        let plan = self.plan(&catalogue.chosen(&self.only)?);
        let done: BTreeSet<_> = match &self.done {
            Some(file) => record::read(file)?.iter().map(Trial::key).collect(),
            None => BTreeSet::new(),
        };
        let folder = paramedic_parts::tools::temporary_folder()?;
        let slice = Slice::make()?;
        let kept = Kept {
            rules: self.rules.clone(),
            ..Kept::default()
        };
        let sighted = Bench::agent(&slice, &kept)?;
        let release = rustix::system::uname()
            .release()
            .to_string_lossy()
            .into_owned();
        let mut bench = Bench {
            slice: &slice,
            folder: folder.path(),
            cpus: thread::available_parallelism()?.get(),
            seed: self.seed,
            kernel: release,
            rules: self.rules.clone(),
            sighted,
        };
        for (nth, (fault, round)) in plan.iter().enumerate() {
            let name = fault.map_or(NOTHING, |fault| &fault.hypothesis);
            if done.contains(&(name.to_owned(), *round, self.seed)) {
                continue;
            }
            let mut rng = Rng(self.seed_of(name, *round));
            let trial = bench.trial(*fault, *round, &mut rng);
            eprintln!("{:>3}/{} {}", nth + 1, plan.len(), told(&trial));
            println!("{TRIAL}{}", serde_json::to_string(&trial)?);
        }
        bench.sighted.end()?;
        slice.clear()
    }

    /// Of one trial, whatever others are made.
    fn seed_of(&self, name: &str, round: usize) -> u64 {
        let mut seed = Rng(self.seed ^ (round as u64) << 32);
        let name = name.bytes().fold(0_u64, |sum, byte| {
            sum.wrapping_mul(31).wrapping_add(u64::from(byte))
        });
        seed.next() ^ name
    }

    /// Every fault once a round and the quiet trials, each round in an order of its own. The rounds of
    /// quiet trials are numbered through.
    fn plan<'a>(&self, faults: &[&'a Fault]) -> Vec<(Option<&'a Fault>, usize)> {
        let mut plan = Vec::new();
        for round in 0..self.rounds {
            let mut of_round: Vec<(Option<&Fault>, usize)> =
                faults.iter().map(|fault| (Some(*fault), round)).collect();
            of_round.extend((0..self.quiet).map(|nth| (None, round * self.quiet + nth)));
            Rng(self.seed.wrapping_mul(1000).wrapping_add(round as u64)).shuffle(&mut of_round);
            plan.append(&mut of_round);
        }
        plan
    }
}

/// A trial in one line.
pub fn told(trial: &Trial) -> String {
    let name = format!("{:<28}", trial.truth);
    if let Some(why) = &trial.void {
        let why = why.lines().next().unwrap_or_default();
        return format!("{name} void: {why}");
    }
    let Some(sighted) = &trial.sighted else {
        return format!("{name} no answer");
    };
    let (first, sure) = sighted.first();
    let right = if trial.accepts(first) { "ok " } else { "BAD" };
    let culprit = sighted
        .top
        .first()
        .and_then(|named| named.culprit.as_deref());
    let blind = trial.blind.as_ref().map_or_else(
        || trial.blind_void.clone().unwrap_or_default(),
        |blind| {
            let (first, sure) = blind.first();
            let mark = if blind.conclusive {
                "CONCLUSIVE"
            } else {
                "abstains"
            };
            format!("blind: {first} {sure:.2} {mark}")
        },
    );
    let mark = if sighted.conclusive {
        "conclusive"
    } else {
        "abstains"
    };
    format!(
        "{name} {right} {first} {sure:.2} {mark} {} [{}] {blind} ({:.0} s)",
        culprit.unwrap_or("-"),
        trial.held,
        trial.took_s
    )
}
