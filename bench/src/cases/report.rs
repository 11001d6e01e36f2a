//! Scores over cases, by scenario and metric: text for people, JSON lines for programs.

use std::{collections::BTreeMap, time::Duration};

use anyhow::ensure;
use paramedic::diagnosis::causal::Truth;
use serde_json::{Map, Value, json};

/// Where a method has the truth.
#[derive(Clone, Debug)]
pub struct Found {
    /// Method.
    pub method: &'static str,
    /// From 1; `None` when it is not in the list.
    pub place: Option<usize>,
}

impl Found {
    /// Finds the truth in a ranking.
    pub fn of(method: &'static str, ranking: &[String], truth: &Truth) -> Self {
        let place = ranking.iter().position(|entity| *entity == truth.entity);
        Self {
            method,
            place: place.map(|at| at + 1),
        }
    }
}

/// One case by every method.
#[derive(Clone, Debug)]
pub struct Scored {
    /// Group of cases.
    pub scenario: String,
    /// What alerted.
    pub metric: String,
    /// The case.
    pub name: String,
    /// Whom we name first.
    pub first: String,
    /// And how sure we are.
    pub first_posterior: f64,
    /// Who it was.
    pub truth: String,
    /// And how likely we took it for.
    pub truth_posterior: f64,
    /// Whether the family of the cause is right too, where it is known.
    pub cause_right: Option<bool>,
    /// Ours first, then the simple ones.
    pub found: Vec<Found>,
    /// Our time.
    pub took: Duration,
}

/// Collects and prints.
pub struct Report {
    json: bool,
    scored: Vec<Scored>,
}

impl Report {
    /// Text or JSON.
    pub fn new(json: bool) -> Self {
        Self {
            json,
            scored: Vec::new(),
        }
    }

    /// One case.
    pub fn add(&mut self, scored: Scored) {
        let places: Map<String, Value> = scored
            .found
            .iter()
            .map(|found| (found.method.to_owned(), json!(found.place)))
            .collect();
        if self.json {
            println!(
                "{}",
                json!({
                    "scenario": scored.scenario, "case": scored.name, "metric": scored.metric,
                    "truth": scored.truth, "truth_posterior": scored.truth_posterior,
                    "first": scored.first, "posterior": scored.first_posterior,
                    "place": places, "ms": scored.took.as_secs_f64() * 1e3,
                })
            );
        } else {
            let place = scored.found[0]
                .place
                .map_or("-".to_owned(), |place| place.to_string());
            println!(
                "{:<24} {:<14} place {place:>2}  {:.2} {}  (truth {:.2} {})",
                scored.scenario,
                scored.name,
                scored.first_posterior,
                scored.first,
                scored.truth_posterior,
                scored.truth
            );
        }
        self.scored.push(scored);
    }

    /// Prints the summary as the last line; an error when nothing was scored.
    pub fn finish(self) -> anyhow::Result<()> {
        ensure!(!self.scored.is_empty(), "no case was scored");
        let all: Vec<&Scored> = self.scored.iter().collect();
        let mut summary = summary(&all);
        let groups = |of: &dyn Fn(&Scored) -> String| {
            let mut groups: BTreeMap<String, Vec<&Scored>> = BTreeMap::new();
            for scored in &self.scored {
                groups.entry(of(scored)).or_default().push(scored);
            }
            let figures = groups
                .into_iter()
                .map(|(name, group)| (name, Value::Object(self::summary(&group))));
            Value::Object(figures.collect())
        };
        summary.insert(
            "by_scenario".into(),
            groups(&|scored| scored.scenario.clone()),
        );
        summary.insert(
            "by_scenario_and_metric".into(),
            groups(&|scored| format!("{}/{}", scored.scenario, scored.metric)),
        );
        if self.json {
            println!("{}", Value::Object(summary));
            return Ok(());
        }
        let table = [("all", Value::Object(summary.clone()))];
        let scenarios = summary["by_scenario_and_metric"]
            .as_object()
            .cloned()
            .unwrap_or_default();
        println!(
            "\n{:<34} {:>5} {:>6} {:>6} {:>6} {:>6}   best baseline",
            "", "cases", "top1", "top3", "top5", "mrr"
        );
        for (name, figures) in scenarios
            .iter()
            .map(|(name, f)| (name.as_str(), f.clone()))
            .chain(table)
        {
            let number = |key: &str| figures[key].as_f64().unwrap_or(f64::NAN);
            println!(
                "{name:<34} {:>5} {:>6.3} {:>6.3} {:>6.3} {:>6.3}   {:.3} {:.3}",
                number("cases"),
                number("top1"),
                number("top3"),
                number("top5"),
                number("mrr"),
                number("best_baseline_top1"),
                number("best_baseline_top3"),
            );
        }
        Ok(())
    }
}

/// Figures of a group of cases.
fn summary(group: &[&Scored]) -> Map<String, Value> {
    let count = group.len() as f64;
    let within = |method: usize, places: usize| {
        let hit = |scored: &&&Scored| scored.found[method].place.is_some_and(|at| at <= places);
        group.iter().filter(hit).count() as f64 / count
    };
    let mrr = |method: usize| {
        let parts = group
            .iter()
            .map(|s| s.found[method].place.map_or(0.0, |at| 1.0 / at as f64));
        parts.sum::<f64>() / count
    };
    let methods = group.first().map_or(0, |scored| scored.found.len());
    let best = |places| {
        (1..methods)
            .map(|method| within(method, places))
            .fold(0.0, f64::max)
    };
    let mut times: Vec<f64> = group.iter().map(|s| s.took.as_secs_f64() * 1e3).collect();
    times.sort_by(f64::total_cmp);
    let known: Vec<bool> = group
        .iter()
        .filter_map(|scored| scored.cause_right)
        .collect();
    let brier = group.iter().map(|scored| {
        let right = f64::from(u8::from(scored.found[0].place == Some(1)));
        (scored.first_posterior - right).powi(2)
    });
    let mut figures = Map::new();
    figures.insert("cases".into(), json!(group.len()));
    figures.insert("top1".into(), json!(within(0, 1)));
    figures.insert("top3".into(), json!(within(0, 3)));
    figures.insert("top5".into(), json!(within(0, 5)));
    figures.insert("mrr".into(), json!(mrr(0)));
    figures.insert("best_baseline_top1".into(), json!(best(1)));
    figures.insert("best_baseline_top3".into(), json!(best(3)));
    figures.insert("best_baseline_top5".into(), json!(best(5)));
    figures.insert("brier".into(), json!(brier.sum::<f64>() / count));
    figures.insert("ms_p50".into(), json!(times[times.len() / 2]));
    figures.insert("ms_max".into(), json!(times[times.len() - 1]));
    if !known.is_empty() {
        let right = known.iter().filter(|right| **right).count();
        figures.insert("cause".into(), json!(right as f64 / known.len() as f64));
    }
    let baselines: Map<String, Value> = (1..methods)
        .map(|method| {
            let figures = json!({
                "top1": within(method, 1), "top3": within(method, 3), "top5": within(method, 5), "mrr": mrr(method),
            });
            (group[0].found[method].method.to_owned(), figures)
        })
        .collect();
    figures.insert("baselines".into(), Value::Object(baselines));
    figures
}
