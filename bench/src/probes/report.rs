//! Raw medians as they come, then the targets: text for people, JSON for programs.

use serde_json::{Map, Value, json};

use crate::{median, round};

/// One figure beside what is wanted of it. All are better when lower.
#[derive(Clone, Debug)]
struct Target {
    name: &'static str,
    /// `ratio` or `value`.
    kind: &'static str,
    /// One a round.
    rounds: Vec<f64>,
    wanted: f64,
}

/// Collects and prints.
pub(crate) struct Report {
    json: bool,
    targets: Vec<Target>,
    raw: Map<String, Value>,
}

impl Report {
    pub(crate) fn new(json: bool) -> Self {
        Self {
            json,
            targets: Vec::new(),
            raw: Map::new(),
        }
    }

    /// A fact that is no target.
    pub(crate) fn fact(&mut self, part: &str, fact: &Value) {
        if self.json {
            println!("{}", json!({ "part": part, "fact": fact }));
        } else {
            println!("{part}: {fact}");
        }
        self.raw.insert(part.to_owned(), fact.clone());
    }

    /// A raw figure, its median over the rounds.
    pub(crate) fn raw(&mut self, part: &str, what: &str, unit: &str, rounds: &[f64]) {
        let value = round(median(rounds));
        if self.json {
            println!(
                "{}",
                json!({ "part": part, "what": what, "unit": unit, "median": value, "rounds": rounds.len() })
            );
        } else {
            println!("  {part:<22}{what:<22}{value:>12.1} {unit}");
        }
        let of_part = self.raw.entry(part.to_owned()).or_insert_with(|| json!({}));
        if let Some(of_part) = of_part.as_object_mut() {
            of_part.insert(what.to_owned(), json!(value));
        }
    }

    pub(crate) fn ratio(&mut self, name: &'static str, rounds: Vec<f64>, wanted: f64) {
        self.push(name, "ratio", rounds, wanted);
    }

    pub(crate) fn value(&mut self, name: &'static str, rounds: Vec<f64>, wanted: f64) {
        self.push(name, "value", rounds, wanted);
    }

    fn push(&mut self, name: &'static str, kind: &'static str, rounds: Vec<f64>, wanted: f64) {
        if !rounds.is_empty() {
            self.targets.push(Target {
                name,
                kind,
                rounds,
                wanted,
            });
        }
    }

    /// Every target; the last line of JSON output.
    pub(crate) fn finish(&self) {
        let met = |target: &&Target| median(&target.rounds) <= target.wanted;
        if self.json {
            let mut all: Map<String, Value> = self
                .targets
                .iter()
                .map(|target| {
                    let value = json!({
                        target.kind: round(median(&target.rounds)),
                        "target": target.wanted,
                        "lower_is_better": true,
                        "met": met(&target),
                        "rounds": target.rounds.iter().map(|value| round(*value)).collect::<Vec<_>>(),
                    });
                    (target.name.to_owned(), value)
                })
                .collect();
            all.insert("raw".to_owned(), Value::Object(self.raw.clone()));
            println!("{}", Value::Object(all));
            return;
        }
        println!(
            "\n{:<34}{:>10}{:>20}{:>12}",
            "target (median over rounds)", "", "lowest-highest", "wanted"
        );
        for target in &self.targets {
            let lowest = target.rounds.iter().copied().fold(f64::INFINITY, f64::min);
            let highest = target
                .rounds
                .iter()
                .copied()
                .fold(f64::NEG_INFINITY, f64::max);
            println!(
                "{:<34}{:>10.3}{:>20}{:>12}  {}",
                target.name,
                median(&target.rounds),
                format!("{lowest:.2}-{highest:.2}"),
                format!("<= {}", target.wanted),
                if met(&target) { "met" } else { "missed" }
            );
        }
        let count = self.targets.iter().filter(met).count();
        println!("{count} of {} targets met", self.targets.len());
    }
}
