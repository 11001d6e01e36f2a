//! Storms against the real agent, each made from a seed: it is killed, stopped, starved of disk, memory
//! and descriptors, lied to and flooded, and then looked at from outside.
//!
//! - `storms`: many seeds, or one again (`--seed`); the last line of `--json` is one object;
//! - `soak`: a trickle of alerts for minutes or hours, judged by its trends;
//! - `born`: what becomes the agent, under a filter that makes its disk slow or broken.
//!
//! What is shaken and what is checked stands in docs/chaos.md. Needs root: the agent's disk is a small
//! tmpfs, in a mount namespace of this program's own.
//!
//! Exit codes: 0 all invariants held, 1 some did not, 2 a storm could not be carried out.

mod disk;
mod faults;
mod malformed;
mod prometheus;
mod record;
mod schedule;
mod senders;
mod soak;
mod storm;
mod verdict;
mod world;

use std::{
    collections::BTreeMap,
    process::ExitCode,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Instant,
};

use clap::{Parser, Subcommand};
use serde_json::json;

use schedule::Schedule;
use storm::Outcome;
use verdict::Verdict;

#[derive(Debug, Parser)]
#[command(name = "chaos")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Many storms, or one again
    Storms(Storms),
    /// A trickle of alerts for a long time, judged by its trends
    Soak(soak::Soak),
    /// What becomes the agent
    #[command(hide = true)]
    Born(disk::Born),
}

#[derive(Debug, clap::Args)]
struct Storms {
    /// How many
    #[arg(long, default_value_t = 50)]
    seeds: u64,
    /// The first seed
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// This seed alone, with its schedule told
    #[arg(long)]
    seed: Option<u64>,
    /// Storms at a time
    #[arg(long, default_value_t = 2)]
    jobs: u64,
    /// Keep what every storm leaves; a violated one's is kept always
    #[arg(long)]
    keep: bool,
    /// One object as the last line
    #[arg(long)]
    json: bool,
}

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Born(born) => born.become_it().map(|()| true),
        Command::Soak(soak) => soak.run(),
        Command::Storms(storms) => world::own_mounts().and_then(|()| storms.run()),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            eprintln!("chaos: {error:#}");
            ExitCode::from(2)
        }
    }
}

/// Of all storms.
#[derive(Debug, Default)]
struct Sums {
    verdict: Verdict,
    faults: BTreeMap<&'static str, u64>,
    storms: u64,
    lives: u64,
    accepted: u64,
    episodes: u64,
    requests: u64,
    longest_s: f64,
    /// Seeds with a violation.
    bad: Vec<u64>,
    /// Seeds whose storm could not be carried out.
    broken: Vec<u64>,
}

impl Storms {
    fn run(&self) -> anyhow::Result<bool> {
        let begun = Instant::now();
        let (first, count) = self.seed.map_or((self.from, self.seeds), |seed| (seed, 1));
        let next = AtomicU64::new(0);
        let sums = Mutex::new(Sums::default());
        thread::scope(|scope| {
            for _ in 0..self.jobs.clamp(1, count.max(1)) {
                scope.spawn(|| {
                    loop {
                        let nth = next.fetch_add(1, Ordering::Relaxed);
                        if nth >= count {
                            return;
                        }
                        let schedule = Schedule::of(first + nth);
                        let outcome = storm::run(&schedule, self.keep);
                        let mut sums = sums.lock().unwrap_or_else(PoisonError::into_inner);
                        self.tell(&schedule, outcome, &mut sums);
                    }
                });
            }
        });
        let sums = sums.into_inner().unwrap_or_else(PoisonError::into_inner);
        let violations = sums.verdict.violations().len();
        println!(
            "chaos: {} storms, {} lives of the agent, {} requests, {} alerts accepted, {} episodes: {} \
             violations in {:.0} s; longest storm {:.1} s",
            sums.storms,
            sums.lives,
            sums.requests,
            sums.accepted,
            sums.episodes,
            violations,
            begun.elapsed().as_secs_f64(),
            sums.longest_s,
        );
        if self.json {
            let line = json!({
                "seeds": sums.storms, "violations": violations, "by_invariant": sums.verdict.json(),
                "by_fault": sums.faults, "seconds": begun.elapsed().as_secs_f64(),
                "lives": sums.lives, "accepted": sums.accepted, "episodes": sums.episodes,
                "requests": sums.requests, "longest_storm_s": sums.longest_s,
                "seeds_violated": sums.bad, "seeds_not_carried_out": sums.broken,
            });
            println!("{line}");
        }
        anyhow::ensure!(
            sums.broken.is_empty(),
            "storms of seeds {:?} could not be carried out",
            sums.broken
        );
        Ok(violations == 0)
    }

    fn tell(&self, schedule: &Schedule, outcome: anyhow::Result<Outcome>, sums: &mut Sums) {
        let outcome = match outcome {
            Ok(outcome) => outcome,
            Err(error) => {
                println!("{schedule}\nNOT CARRIED OUT: {error:#}");
                sums.broken.push(schedule.seed);
                return;
            }
        };
        let violations = outcome.verdict.violations();
        if !violations.is_empty() {
            println!("{schedule}");
            for line in &violations {
                println!("VIOLATED {line}");
            }
            println!("again: cargo xtask chaos --seed {}", schedule.seed);
            sums.bad.push(schedule.seed);
        } else if self.seed.is_some() {
            println!("{schedule}");
        }
        if let Some(kept) = &outcome.kept {
            println!(
                "seed {}: everything is in {}",
                schedule.seed,
                kept.display()
            );
        }
        println!(
            "seed {}: {} lives, {} requests, {} accepted, {} episodes, {} violations, {:.1} s",
            schedule.seed,
            outcome.lives,
            outcome.requests,
            outcome.accepted,
            outcome.episodes,
            violations.len(),
            outcome.seconds,
        );
        sums.verdict.add(&outcome.verdict);
        for (fault, count) in &outcome.faults {
            *sums.faults.entry(fault).or_default() += count;
        }
        sums.storms += 1;
        sums.lives += outcome.lives;
        sums.accepted += outcome.accepted;
        sums.episodes += outcome.episodes;
        sums.requests += outcome.requests;
        sums.longest_s = sums.longest_s.max(outcome.seconds);
    }
}
