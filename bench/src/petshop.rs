//! `bench petshop`: the PetShop dataset (Hardt et al., 2023) as cases.
//!
//! Layout: `SCENARIO/graph.csv` (row calls column), `SCENARIO/noissue/metrics.csv[.gz]`, and
//! `SCENARIO/ISSUES/issue_*/{metrics.csv,target.json}`. Scenarios without `noissue` are not scored.

use std::{
    fs::{self, File},
    io::{BufReader, Read},
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};
use paramedic::diagnosis::causal::{self, Case, CaseAlert, Column, Table, Truth};
use serde::Deserialize;

use crate::cases::{report::Report, score};

/// Options of `bench petshop`.
#[derive(Debug, clap::Parser)]
#[command(name = "bench petshop")]
pub struct Options {
    /// Folder with a folder a scenario
    #[arg(long)]
    data: PathBuf,
    /// Name of the folders of issues in each scenario
    #[arg(long, default_value = "train")]
    issues: String,
    /// Also write every issue as a case folder below this one
    #[arg(long)]
    write: Option<PathBuf>,
    /// JSON lines instead of text
    #[arg(long)]
    json: bool,
}

#[derive(Deserialize)]
struct Target {
    target: Alerted,
    root_cause: Root,
}

#[derive(Deserialize)]
struct Alerted {
    node: String,
    metric: String,
    timestamp: f64,
}

#[derive(Deserialize)]
struct Root {
    node: String,
}

/// Converts and scores every issue.
pub fn run(options: &Options) -> anyhow::Result<()> {
    let mut report = Report::new(options.json);
    for scenario in folders(&options.data)? {
        let name = file_name(&scenario);
        let normal = ["metrics.csv.gz", "metrics.csv"]
            .map(|file| scenario.join("noissue").join(file))
            .into_iter()
            .find(|file| file.is_file());
        let issues = scenario.join(&options.issues);
        let Some(normal) = normal.filter(|_| issues.is_dir()) else {
            eprintln!(
                "{name}: no noissue file or no {}, not scored",
                options.issues
            );
            continue;
        };
        let baseline = table(&normal)?;
        let topology = topology(&scenario.join("graph.csv"))?;
        for issue in folders(&issues)? {
            let case = case(&issue, &baseline, &topology)?;
            if let Some(dir) = &options.write {
                causal::write(&case, &dir.join(&name).join(&case.name))?;
            }
            score(&mut report, &name, &case)?;
        }
    }
    report.finish()
}

fn case(dir: &Path, baseline: &Table, topology: &[(String, String)]) -> anyhow::Result<Case> {
    let file = dir.join("target.json");
    let text =
        fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
    let target: Target =
        serde_json::from_str(&text).with_context(|| format!("cannot parse {}", file.display()))?;
    Ok(Case {
        name: file_name(dir),
        series: table(&dir.join("metrics.csv"))?,
        baseline: Some(baseline.clone()),
        topology: topology.to_vec(),
        alert: CaseAlert {
            entity: target.target.node,
            metric: target.target.metric,
            starts_at: target.target.timestamp,
        },
        truth: Some(Truth {
            entity: target.root_cause.node,
            cause: None,
        }),
    })
}

fn folders(dir: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let entries = fs::read_dir(dir).with_context(|| format!("cannot list {}", dir.display()))?;
    let mut found = Vec::new();
    for entry in entries {
        let path = entry?.path();
        if path.is_dir() {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

fn file_name(path: &Path) -> String {
    path.file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}

fn text(path: &Path) -> anyhow::Result<String> {
    let open = || format!("cannot read {}", path.display());
    let mut reader = BufReader::new(File::open(path).with_context(open)?);
    let mut text = String::new();
    if path.extension().is_some_and(|end| end == "gz") {
        flate2::read::GzDecoder::new(reader)
            .read_to_string(&mut text)
            .with_context(open)?;
    } else {
        reader.read_to_string(&mut text).with_context(open)?;
    }
    Ok(text)
}

/// Three header lines (node, metric, statistic), a line that names the index, then the rows.
fn table(path: &Path) -> anyhow::Result<Table> {
    let text = text(path)?;
    let mut lines = text.lines();
    let mut header = || -> anyhow::Result<Vec<String>> {
        let line = lines
            .next()
            .with_context(|| format!("{}: no header", path.display()))?;
        Ok(cells(line))
    };
    let (nodes, metrics, statistics) = (header()?, header()?, header()?);
    let mut table = Table {
        times: Vec::new(),
        columns: (1..nodes.len())
            .map(|at| Column {
                entity: nodes[at].clone(),
                metric: metrics[at].clone(),
                statistic: statistics[at].clone(),
                values: Vec::new(),
            })
            .collect(),
    };
    for line in lines {
        let cells = cells(line);
        let Ok(time) = cells[0].parse::<f64>() else {
            continue;
        };
        if cells.len() != nodes.len() {
            bail!(
                "{}: {} cells, {} columns",
                path.display(),
                cells.len(),
                nodes.len()
            );
        }
        table.times.push(time);
        for (column, cell) in table.columns.iter_mut().zip(&cells[1..]) {
            column
                .values
                .push(cell.parse().ok().filter(|value: &f64| value.is_finite()));
        }
    }
    Ok(table)
}

fn topology(path: &Path) -> anyhow::Result<Vec<(String, String)>> {
    let text = text(path)?;
    let mut lines = text.lines();
    let names = cells(
        lines
            .next()
            .with_context(|| format!("{}: empty", path.display()))?,
    );
    let mut edges = Vec::new();
    for line in lines {
        let row = cells(line);
        for (callee, cell) in names.iter().zip(&row).skip(1) {
            if cell.parse::<f64>().is_ok_and(|edge| edge != 0.0) && row[0] != *callee {
                edges.push((row[0].clone(), callee.clone()));
            }
        }
    }
    Ok(edges)
}

/// Cells of a line; no field of this dataset holds a comma.
fn cells(line: &str) -> Vec<String> {
    line.trim_end_matches('\r')
        .split(',')
        .map(|cell| cell.trim_matches('"').to_owned())
        .collect()
}
