//! The report: one page that needs nothing else, Markdown, JSON. Pure but for [`Report::write`].

mod html;
mod markdown;
mod svg;

use std::{fs, path::PathBuf};

use anyhow::{Context, ensure};
use serde_json::{Value, json};

use super::{
    compare,
    record::Run,
    summary::{self, Of, Summary},
};

/// What to make a report of.
#[derive(Clone, Debug, clap::Args)]
pub struct Report {
    /// The rounds' records
    #[arg(long, required = true)]
    pub record: Vec<PathBuf>,
    /// Where report.html, report.md and report.json go
    #[arg(long)]
    pub out: PathBuf,
    /// End with one JSON object as the last line
    #[arg(long)]
    pub json: bool,
    /// A report.json to compare with
    #[arg(long)]
    pub compare: Option<PathBuf>,
}

impl Report {
    /// Writes it, and prints the Markdown; fails on significant regressions.
    pub fn write(&self) -> anyhow::Result<()> {
        let mut runs = Vec::new();
        for file in &self.record {
            let text = fs::read_to_string(file)
                .with_context(|| format!("cannot read {}", file.display()))?;
            let run: Run = serde_json::from_str(&text)
                .with_context(|| format!("{} is no record of a run", file.display()))?;
            runs.push(run);
        }
        let summary = summary::summarise(&runs).context("no rounds")?;
        fs::create_dir_all(&self.out)
            .with_context(|| format!("cannot make {}", self.out.display()))?;
        let markdown = markdown::page(&summary);
        for (name, text) in [
            ("report.html", html::page(&summary)),
            ("report.md", markdown.clone()),
            ("report.json", serde_json::to_string_pretty(&summary)?),
        ] {
            let file = self.out.join(name);
            fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))?;
        }
        println!("{markdown}");
        println!("The report: {}", self.out.join("report.html").display());
        let mut found = Vec::new();
        if let Some(file) = &self.compare {
            let text = fs::read_to_string(file)
                .with_context(|| format!("cannot read {}", file.display()))?;
            let base: Summary = serde_json::from_str(&text)
                .with_context(|| format!("{} is no report.json", file.display()))?;
            found = compare::regressions(&base, &summary);
        }
        if self.json {
            println!("{}", last_line(&summary, &found));
        }
        ensure!(found.is_empty(), "regressions: {}", found.join("; "));
        Ok(())
    }
}

fn last_line(summary: &Summary, regressions: &[String]) -> Value {
    let headline = &summary.headline;
    let by_scenario: serde_json::Map<String, Value> = summary
        .scenarios
        .iter()
        .map(|of| (of.about.name.clone(), scenario(of)))
        .collect();
    json!({
        "healed_share": headline.healed_share,
        "made_worse": headline.made_worse,
        "false_alarms_acted": headline.false_alarms_acted,
        "false_alarm_trials": headline.false_alarm_trials,
        "agent_trials": headline.agent_trials,
        "alert_over_floor": headline.alert_over_floor,
        "local_over_floor": headline.local_over_floor,
        "over_script": headline.over_script,
        "trials": headline.trials,
        "void": headline.void,
        "regressions": regressions,
        "scenarios": by_scenario,
    })
}

fn scenario(of: &Of) -> Value {
    let rows: serde_json::Map<String, Value> = of
        .rows
        .iter()
        .map(|row| {
            let figures = json!({
                "trials": row.trials, "healed": row.healed, "broken": row.broken,
                "made_worse": row.harmed, "mttr_p50_s": row.p50_s, "mttr_p95_s": row.p95_s,
            });
            (row.strategy.name().to_owned(), figures)
        })
        .collect();
    json!({
        "floor_s": of.floor_s,
        "alert_over_floor": of.alert_over_floor,
        "local_over_floor": of.local_over_floor,
        "over_script": of.over_script,
        "strategies": rows,
    })
}

/// Seconds for people; a dash where there are none.
fn seconds(value: Option<f64>) -> String {
    value.map_or_else(|| "–".to_owned(), |value| format!("{value:.1}"))
}

/// A ratio for people.
fn ratio(value: Option<f64>) -> String {
    value.map_or_else(|| "–".to_owned(), |value| format!("{value:.2}"))
}

/// The headline's figures: name, value, what is wanted, and whether that is met.
fn targets(summary: &Summary) -> Vec<(&'static str, String, &'static str, Option<bool>)> {
    let headline = &summary.headline;
    let share = headline.healed_share.map(|share| share * 100.0);
    vec![
        (
            "faults healed",
            share.map_or_else(|| "–".to_owned(), |share| format!("{share:.0} %")),
            "≥ 95 %",
            share.map(|share| share >= 95.0),
        ),
        (
            "made worse",
            format!("{} of {}", headline.made_worse, headline.agent_trials),
            "0",
            (headline.agent_trials > 0).then_some(headline.made_worse == 0),
        ),
        (
            "false alarms acted upon",
            format!(
                "{} of {}",
                headline.false_alarms_acted, headline.false_alarm_trials
            ),
            "0",
            (headline.false_alarm_trials > 0).then_some(headline.false_alarms_acted == 0),
        ),
        (
            "alert path over the floor",
            ratio(headline.alert_over_floor),
            "≤ 1.25",
            headline.alert_over_floor.map(|value| value <= 1.25),
        ),
        (
            "local path over the floor",
            ratio(headline.local_over_floor),
            "≤ 0.50",
            headline.local_over_floor.map(|value| value <= 0.5),
        ),
        (
            "alert path over the script",
            ratio(headline.over_script),
            "< 1",
            headline.over_script.map(|value| value < 1.0),
        ),
    ]
}

#[cfg(test)]
pub(crate) mod tests;
