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
    choose::{Stratum, interleaved},
    target::ACTIONS,
    watch::Place,
};

/// Runs without a crash of the very same case, until one comes by the place of the first crash.
const COUNTS_MAX: usize = 3;
/// How often other places are chosen for runs that did not come to theirs.
const ROUNDS_MAX: usize = 4;

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
    /// A line a run
    #[arg(long)]
    each: bool,
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
            let started = Instant::now();
            let report = case.run(number, disk.path());
            if self.each {
                let took_s = started.elapsed().as_secs_f64();
                let fired = report.as_ref().map(|report| &report.fired);
                println!("remedy-crash: {case:?}: {took_s:.1} s, {fired:?}");
            }
            report
        };
        let kinds: Vec<ActionKind> = ACTIONS
            .into_iter()
            .filter(|kind| self.action.is_empty() || self.action.contains(&kind.to_string()))
            .collect();
        ensure!(!kinds.is_empty(), "no such action: {:?}", self.action);
        let mut rng = Rng(self.seed);
        let mut strata = self.strata(&kinds, &mut rng, &run)?;
        for stratum in &mut strata {
            rng.shuffle(&mut stratum.calls);
        }
        let mut all = interleaved(&strata).into_iter();
        let wanted = match self.points {
            0 => all.len(),
            points => points,
        };
        let (known, mut sums) = (all.len(), BTreeMap::<String, Sum>::new());
        println!(
            "remedy-crash: {} crash points of {known} to go, after {} s",
            wanted.min(known),
            begun.elapsed().as_secs()
        );
        let mut shorter = 0;
        for _ in 0..ROUNDS_MAX {
            let done: usize = sums.values().map(|sum| sum.points).sum();
            let chosen: Vec<Case> = all.by_ref().take(wanted - done).collect();
            for (case, report) in chosen.iter().zip(parallel(self.jobs, &chosen, &run)?) {
                let reached = add(
                    sums.entry(case.kind.to_string()).or_default(),
                    *case,
                    &report,
                );
                shorter += usize::from(!reached);
            }
        }
        if shorter > 0 {
            println!(
                "remedy-crash: {shorter} runs had ended before their crash; others were chosen, and \
                 these are not counted"
            );
        }
        Ok(told(&sums, wanted.min(known), begun))
    }

    /// What can be crashed, and how many calls there are: each is counted in a run of the very same case
    /// without that crash. No more of them than there are crash points to choose.
    fn strata(
        &self,
        kinds: &[ActionKind],
        rng: &mut Rng,
        run: &(impl Fn(Case) -> anyhow::Result<Report> + Sync),
    ) -> anyhow::Result<Vec<Stratum>> {
        let mut cases = Vec::new();
        for kind in kinds {
            for heals in [true, false] {
                cases.extend(Plan::CRASHES.map(|plan| Case {
                    kind: *kind,
                    heals,
                    plan,
                    at: usize::MAX,
                    first: Place::Call(0),
                }));
            }
        }
        rng.shuffle(&mut cases);
        if self.points > 0 {
            cases.truncate(self.points);
        }
        // The run without any crash serves all plans that have one crash.
        let mut calm: Vec<Case> = cases
            .iter()
            .map(|case| Case {
                plan: Plan::Calm,
                ..*case
            })
            .collect();
        calm.sort_by_key(|case| (case.kind.to_string(), case.heals));
        calm.dedup_by_key(|case| (case.kind, case.heals));
        let mut counted = BTreeMap::new();
        for (case, report) in calm.iter().zip(parallel(self.jobs, &calm, run)?) {
            ensure!(
                report.wrong.is_empty(),
                "without a crash: {:?}",
                report.wrong
            );
            let effects = report.points.iter().filter(|p| p.effect.is_some()).count();
            // Half of them set values, half of them take them back.
            ensure!(effects >= 2, "{case:?} wrote {effects} values");
            let first = if case.heals {
                Place::Effect(effects / 2 + 1)
            } else {
                Place::AfterEffect(effects / 2)
            };
            let key = (case.kind.to_string(), case.heals);
            counted.insert(key, (first, report.points.len()));
        }
        let mut strata = Vec::new();
        let mut stepped = Vec::new();
        for case in cases {
            let (first, calls) = counted[&(case.kind.to_string(), case.heals)];
            let case = Case { first, ..case };
            match case.plan {
                Plan::Recovery | Plan::GuardianAtWork => stepped.push(case),
                _ => strata.push(Stratum::of(case, calls)),
            }
        }
        for _ in 0..COUNTS_MAX {
            let reports = parallel(self.jobs, &stepped, run)?;
            let mut again = Vec::new();
            for (case, report) in stepped.iter().zip(reports) {
                ensure!(report.wrong.is_empty(), "{case:?}: {:?}", report.wrong);
                if report.first_fired {
                    strata.push(Stratum::of(*case, report.points.len()));
                } else {
                    again.push(*case);
                }
            }
            stepped = again;
        }
        for case in &stepped {
            println!(
                "remedy-crash: {case:?} is left out: {COUNTS_MAX} runs ended before the first of its \
                 two crashes"
            );
        }
        Ok(strata)
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

/// Whether it came to its crash.
fn add(sum: &mut Sum, case: Case, report: &Report) -> bool {
    if !report.wrong.is_empty() {
        sum.failed += 1;
        println!("FAILED {:?}:", report.fired);
        for line in &report.wrong {
            println!("  {line}");
        }
    }
    // Threads take turns: once in a while a life makes a call fewer.
    let Some((_, phase)) = report.fired else {
        println!(
            "remedy-crash: {case:?} ended after {} calls, before its crash",
            report.points.len()
        );
        return false;
    };
    sum.points += 1;
    *sum.by_plan.entry(format!("{:?}", case.plan)).or_default() += 1;
    *sum.by_phase.entry(phase).or_default() += 1;
    true
}

/// Prints the sums; whether there are as many as were wanted, and nothing failed.
fn told(sums: &BTreeMap<String, Sum>, wanted: usize, begun: Instant) -> bool {
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
        "crash points: {points} of {wanted}, {failed} in between, left over or repeated, in {} s",
        begun.elapsed().as_secs()
    );
    // All of them cannot be had where lives differ by a call.
    failed == 0 && points > 0 && points * 10 >= wanted * 9
}
