//! Which crashes, several at once, and the sums.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Instant,
};

use anyhow::{Context, ensure};
use paramedic::incident::ActionKind;
use paramedic_tests::{chance::Rng, tools};

use crate::{
    case::{Case, Plan, Report},
    target::ACTIONS,
};

/// Arguments.
#[derive(Debug, clap::Args)]
pub struct Sweep {
    /// At most so many crash points, spread over all; 0 for all
    #[arg(long, default_value_t = 0)]
    points: usize,
    /// Which, where not all of them
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// At once
    #[arg(long, default_value_t = 4)]
    jobs: usize,
    /// Only these actions
    #[arg(long)]
    action: Vec<String>,
}

/// Of one action.
#[derive(Debug, Default)]
struct Sum {
    points: usize,
    failed: usize,
    by_plan: BTreeMap<String, usize>,
    by_phase: BTreeMap<&'static str, usize>,
}

impl Sweep {
    /// True when all is well.
    pub fn run(&self) -> anyhow::Result<bool> {
        let begun = Instant::now();
        let disk = tools::temporary_folder()?;
        let numbers = AtomicUsize::new(0);
        let run = |case: Case| {
            let number = numbers.fetch_add(1, Ordering::Relaxed);
            case.run(number, disk.path())
        };
        let kinds: Vec<ActionKind> = ACTIONS
            .into_iter()
            .filter(|kind| self.action.is_empty() || self.action.contains(&kind.to_string()))
            .collect();
        ensure!(!kinds.is_empty(), "no such action: {:?}", self.action);
        let mut bare = Vec::new();
        for kind in kinds {
            bare.extend([true, false].map(|heals| (kind, heals)));
        }
        let mut chosen = self.all(&bare, &run)?;
        let all = chosen.len();
        // Any number of them is spread over actions, lives and calls alike, and the same every time.
        let mut rng = Rng(self.seed);
        for at in 1..chosen.len() {
            let other = usize::try_from(rng.below(at as u64 + 1))?;
            chosen.swap(at, other);
        }
        if self.points > 0 {
            chosen.truncate(self.points);
        }
        println!(
            "remedy-crash: {} crash points of {all} to go, after {} s",
            chosen.len(),
            begun.elapsed().as_secs()
        );
        let reports = parallel(self.jobs, &chosen, &run)?;
        let mut sums: BTreeMap<String, Sum> = BTreeMap::new();
        for (case, report) in chosen.iter().zip(reports) {
            add(
                sums.entry(case.kind.to_string()).or_default(),
                *case,
                &report,
            );
        }
        Ok(told(&sums, begun))
    }

    /// Every call of every life that can be killed, as runs without a crash show them.
    fn all(
        &self,
        bare: &[(ActionKind, bool)],
        run: &(impl Fn(Case) -> anyhow::Result<Report> + Sync),
    ) -> anyhow::Result<Vec<Case>> {
        let unharmed = |(kind, heals)| Case {
            kind,
            heals,
            plan: Plan::Calm,
            at: 0,
            first: 0,
        };
        let calm: Vec<Case> = bare.iter().copied().map(unharmed).collect();
        let reports = parallel(self.jobs, &calm, run)?;
        let mut cases = Vec::new();
        let mut stepped = Vec::new();
        for (case, report) in calm.iter().zip(reports) {
            ensure!(
                report.wrong.is_empty(),
                "without a crash: {:?}",
                report.wrong
            );
            let effects: Vec<usize> = report
                .points
                .iter()
                .enumerate()
                .filter_map(|(at, point)| point.effect.as_ref().map(|_| at + 1))
                .collect();
            // Half of them set values, half of them take them back.
            ensure!(effects.len() >= 2, "{case:?} wrote {effects:?}");
            let first = if case.heals {
                effects[effects.len() / 2]
            } else {
                effects[effects.len() / 2 - 1] + 1
            };
            for plan in [Plan::Recovery, Plan::GuardianAtWork] {
                let at = usize::MAX / 2;
                stepped.push(Case {
                    plan,
                    at,
                    first,
                    ..*case
                });
            }
            let plans = [
                Plan::Agent,
                Plan::AgentThenGuardian,
                Plan::Guardian,
                Plan::Both,
            ];
            for at in 1..=report.points.len() {
                cases.extend(plans.map(|plan| Case { plan, at, ..*case }));
            }
        }
        let reports = parallel(self.jobs, &stepped, run)?;
        for (case, report) in stepped.iter().zip(reports) {
            ensure!(report.wrong.is_empty(), "{case:?}: {:?}", report.wrong);
            let calls = 1..=report.points.len();
            cases.extend(calls.map(|at| Case { at, ..*case }));
        }
        Ok(cases)
    }
}

/// Runs all of them, some at a time; the reports in the order of the cases.
fn parallel(
    jobs: usize,
    cases: &[Case],
    run: &(impl Fn(Case) -> anyhow::Result<Report> + Sync),
) -> anyhow::Result<Vec<Report>> {
    let next = AtomicUsize::new(0);
    let done: Mutex<BTreeMap<usize, anyhow::Result<Report>>> = Mutex::default();
    thread::scope(|scope| {
        for _ in 0..jobs.max(1) {
            scope.spawn(|| {
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    let Some(case) = cases.get(at) else { return };
                    let report = run(*case);
                    let mut done = done.lock().unwrap_or_else(PoisonError::into_inner);
                    done.insert(at, report);
                }
            });
        }
    });
    let done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    ensure!(done.len() == cases.len(), "a case panicked");
    done.into_values()
        .collect::<anyhow::Result<Vec<Report>>>()
        .context("the test itself failed")
}

fn add(sum: &mut Sum, case: Case, report: &Report) {
    if !report.wrong.is_empty() {
        sum.failed += 1;
        println!("FAILED {:?}:", report.fired);
        for line in &report.wrong {
            println!("  {line}");
        }
    }
    // Threads take turns: once in a while a life makes a call fewer.
    let Some((_, phase)) = report.fired else {
        return;
    };
    sum.points += 1;
    *sum.by_plan.entry(format!("{:?}", case.plan)).or_default() += 1;
    *sum.by_phase.entry(phase).or_default() += 1;
}

fn told(sums: &BTreeMap<String, Sum>, begun: Instant) -> bool {
    let (mut points, mut failed) = (0, 0);
    for (action, sum) in sums {
        points += sum.points;
        failed += sum.failed;
        println!(
            "crash points of {action}: {} survived of {}; killed {:?}; while {:?}",
            sum.points - sum.failed.min(sum.points),
            sum.points,
            sum.by_plan,
            sum.by_phase
        );
    }
    println!(
        "crash points: {points}, {failed} in between, left over or repeated, in {} s",
        begun.elapsed().as_secs()
    );
    failed == 0 && points > 0
}
