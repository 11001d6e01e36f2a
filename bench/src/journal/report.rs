//! Raw rows as they come, then the targets: text for people, JSON for programs.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::{Map, Value, json};

use super::Sample;
use crate::{median, round};

/// A ratio over the rounds beside what is wanted.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub(crate) name: String,
    /// One ratio a round.
    pub(crate) pairs: Vec<f64>,
    pub(crate) wanted: f64,
    pub(crate) lower_is_better: bool,
    /// What a reader of the figure must know; `null` for nothing.
    pub(crate) note: Value,
}

impl Target {
    pub(crate) fn ratio(&self) -> f64 {
        median(&self.pairs)
    }

    pub(crate) fn met(&self) -> bool {
        if self.lower_is_better {
            self.ratio() <= self.wanted
        } else {
            self.ratio() >= self.wanted
        }
    }
}

#[derive(Serialize)]
struct Row<'a> {
    part: &'a str,
    subject: &'a str,
    round: usize,
    #[serde(flatten)]
    sample: Sample,
}

/// Collects and prints.
pub(crate) struct Report {
    json: bool,
    /// Samples by part and subject, in order of first appearance.
    rows: Vec<(String, String)>,
    samples: BTreeMap<(String, String), Vec<Sample>>,
    targets: Vec<Target>,
}

impl Report {
    pub(crate) fn new(json: bool) -> Self {
        Self {
            json,
            rows: Vec::new(),
            samples: BTreeMap::new(),
            targets: Vec::new(),
        }
    }

    /// One slice.
    pub(crate) fn sample(&mut self, part: &str, subject: &str, round: usize, sample: Sample) {
        if self.json {
            self.print(&json!(Row {
                part,
                subject,
                round,
                sample
            }));
        }
        let key = (part.to_owned(), subject.to_owned());
        if !self.samples.contains_key(&key) {
            self.rows.push(key.clone());
        }
        self.samples.entry(key).or_default().push(sample);
    }

    /// A fact that is no slice.
    pub(crate) fn fact(&self, part: &str, fact: &Value) {
        if self.json {
            self.print(&json!({ "part": part, "fact": fact }));
        } else {
            println!("{part}: {}", words(fact));
        }
    }

    pub(crate) fn target(&mut self, target: Target) {
        if !target.pairs.is_empty() {
            self.targets.push(target);
        }
    }

    /// The medians of a part, for people.
    pub(crate) fn end_of(&self, part: &str) {
        if self.json {
            return;
        }
        println!(
            "\n{part:<38}{:>12}{:>10}{:>11}{:>11}{:>8}",
            "per second", "MB/s", "p50 us", "p99 us", "rounds"
        );
        for key in self.rows.iter().filter(|key| key.0 == part) {
            let samples = &self.samples[key];
            let of =
                |value: fn(&Sample) -> f64| median(&samples.iter().map(value).collect::<Vec<_>>());
            let mark = if samples.iter().any(|s| s.rotated) {
                " (rotated)"
            } else {
                ""
            };
            println!(
                "  {:<36}{:>12.0}{:>10.1}{:>11.0}{:>11.0}{:>8}{mark}",
                key.1,
                of(|s| s.per_s),
                of(|s| s.bytes_per_s / 1e6),
                of(|s| s.p50_us),
                of(|s| s.p99_us),
                samples.len()
            );
        }
    }

    fn print(&self, value: &Value) {
        debug_assert!(self.json);
        println!("{value}");
    }

    /// Every target; the last line of JSON output.
    pub(crate) fn finish(&self) {
        if self.json {
            let all: Map<String, Value> = self
                .targets
                .iter()
                .map(|target| (target.name.clone(), object(target)))
                .collect();
            println!("{}", Value::Object(all));
            return;
        }
        println!(
            "\n{:<44}{:>8}{:>16}{:>9}{:>7}",
            "target (median of ratios within rounds)", "ratio", "lowest-highest", "wanted", ""
        );
        for target in &self.targets {
            let lowest = target.pairs.iter().copied().fold(f64::INFINITY, f64::min);
            let highest = target.pairs.iter().copied().fold(0.0, f64::max);
            let sign = if target.lower_is_better { "<=" } else { ">=" };
            println!(
                "  {:<42}{:>8.2}{:>16}{:>9}  {}",
                target.name,
                target.ratio(),
                format!("{lowest:.2}-{highest:.2}"),
                format!("{sign} {:.2}", target.wanted),
                if target.met() { "met" } else { "missed" }
            );
        }
        let met = self.targets.iter().filter(|target| target.met()).count();
        println!("{met} of {} targets met", self.targets.len());
    }
}

fn object(target: &Target) -> Value {
    let mut value = json!({
        "ratio": round(target.ratio()),
        "target": target.wanted,
        "lower_is_better": target.lower_is_better,
        "met": target.met(),
        "pairs": target.pairs.iter().map(|pair| round(*pair)).collect::<Vec<_>>(),
    });
    if !target.note.is_null() {
        value["note"] = target.note.clone();
    }
    value
}

fn words(fact: &Value) -> String {
    let Some(object) = fact.as_object() else {
        return fact.to_string();
    };
    let parts: Vec<String> = object
        .iter()
        .map(|(name, value)| match value {
            Value::String(text) => format!("{name} {text}"),
            other => format!("{name} {other}"),
        })
        .collect();
    parts.join(", ")
}
