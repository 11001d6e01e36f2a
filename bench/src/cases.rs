//! `bench cases`: how often the cause is named, over case folders (`docs/cases.md`), beside three
//! simple methods in the same run.

pub mod baselines;
pub mod report;
pub mod synthetic;

use std::{
    fs,
    path::{Path, PathBuf},
    time::Instant,
};

use anyhow::{Context, bail, ensure};
use paramedic::diagnosis::causal::{self, Case};

use report::{Found, Report};

/// Folders below the data that are looked into.
const DEPTH_MAX: usize = 8;

/// Options of `bench cases`.
#[derive(Debug, clap::Parser)]
#[command(name = "bench cases")]
pub struct Options {
    /// Folder with case folders below it
    #[arg(long, required_unless_present = "synthetic")]
    data: Option<PathBuf>,
    /// Made-up cases instead: how many
    #[arg(long, conflicts_with = "data")]
    synthetic: Option<u64>,
    /// JSON lines instead of text
    #[arg(long)]
    json: bool,
}

/// Ranks and scores every case; the last line is the summary.
pub fn run(options: &Options) -> anyhow::Result<()> {
    let mut report = Report::new(options.json);
    if let Some(count) = options.synthetic {
        for seed in 0..count {
            let made = synthetic::case(seed);
            score(&mut report, made.scenario, &made.case)?;
        }
    }
    if let Some(data) = &options.data {
        let mut folders = Vec::new();
        find(data, DEPTH_MAX, &mut folders)?;
        if folders.is_empty() {
            bail!(
                "no case below {}: a case is a folder with series.csv and alert.json",
                data.display()
            );
        }
        folders.sort();
        for folder in folders {
            let case = causal::read(&folder)?;
            let scenario = folder
                .parent()
                .and_then(|parent| parent.strip_prefix(data).ok())
                .map(|below| below.display().to_string())
                .filter(|below| !below.is_empty())
                .unwrap_or_else(|| "all".to_owned());
            if case.truth.is_some() {
                score(&mut report, &scenario, &case)?;
            } else {
                eprintln!("{}: no truth.json, not scored", folder.display());
            }
        }
    }
    report.finish()
}

/// Ranks one case by every method.
pub(crate) fn score(report: &mut Report, scenario: &str, case: &Case) -> anyhow::Result<()> {
    let truth = case.truth.as_ref().context("a case without truth")?;
    let begun = Instant::now();
    let ranking = causal::rank(case);
    let took = begun.elapsed();
    let sum: f64 = ranking
        .entities
        .iter()
        .map(|ranked| ranked.posterior)
        .sum::<f64>()
        + ranking.none;
    ensure!(
        (0.0..=1.0 + 1e-9).contains(&sum),
        "{}: posteriors sum to {sum}",
        case.name
    );
    let names: Vec<String> = ranking
        .entities
        .iter()
        .map(|ranked| ranked.entity.clone())
        .collect();
    let mut found = vec![Found::of("ours", &names, truth)];
    for (name, method) in baselines::ALL {
        found.push(Found::of(name, &method(case), truth));
    }
    let first = ranking.entities.first();
    report.add(report::Scored {
        scenario: scenario.to_owned(),
        metric: case.alert.metric.clone(),
        name: case.name.clone(),
        first: first
            .map(|ranked| ranked.entity.clone())
            .unwrap_or_default(),
        first_posterior: first.map_or(0.0, |ranked| ranked.posterior),
        truth: truth.entity.clone(),
        truth_posterior: ranking
            .entities
            .iter()
            .find(|ranked| ranked.entity == truth.entity)
            .map_or(0.0, |ranked| ranked.posterior),
        cause_right: truth.cause.as_ref().zip(first).map(|(cause, ranked)| {
            ranked.entity == truth.entity
                && ranked
                    .cause
                    .is_some_and(|kind| kind.as_str() == cause.to_ascii_lowercase())
        }),
        found,
        took,
    });
    Ok(())
}

fn find(dir: &Path, depth: usize, folders: &mut Vec<PathBuf>) -> anyhow::Result<()> {
    if causal::folder::is_case(dir) {
        folders.push(dir.to_owned());
        return Ok(());
    }
    if depth == 0 {
        return Ok(());
    }
    let entries = fs::read_dir(dir).with_context(|| format!("cannot list {}", dir.display()))?;
    for entry in entries {
        let path = entry?.path();
        if path.is_dir() {
            find(&path, depth - 1, folders)?;
        }
    }
    Ok(())
}
