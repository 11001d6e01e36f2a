//! The agent's record, read back from outside by `paramedic journal dump`, and what must hold of it.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Context;
use jiff::Timestamp;
use serde_json::Value;

use crate::{
    senders::{Spell, Told},
    verdict::{Invariant, Verdict},
    world::World,
};

/// What the journal has of one episode, in the order of writing.
#[derive(Debug, Default)]
pub struct Episode {
    /// Of the opening.
    spell: Option<Spell>,
    entries: Vec<Value>,
}

impl Episode {
    fn count(&self, name: &str) -> usize {
        self.entries
            .iter()
            .filter(|entry| entry["entry"] == name)
            .count()
    }

    fn position(&self, name: &str) -> Option<usize> {
        self.entries.iter().position(|entry| entry["entry"] == name)
    }

    /// Whether its handling has ended.
    fn closed(&self) -> bool {
        self.count("closed") > 0
    }
}

/// Everything that the fast lane holds.
#[derive(Debug)]
pub struct Record {
    pub episodes: BTreeMap<String, Episode>,
}

impl Record {
    /// Reads it beside a running agent, or of a dead one.
    pub fn read(world: &World) -> anyhow::Result<Self> {
        Self::parse(&world.read(&["journal", "dump"])?)
    }

    fn parse(dump: &str) -> anyhow::Result<Self> {
        let mut episodes: BTreeMap<String, Episode> = BTreeMap::new();
        for line in dump.lines() {
            let line: Value = serde_json::from_str(line).context("a line of the dump")?;
            if line["lane"] != "fast" {
                continue;
            }
            let id = line["episode"].as_str().context("no episode")?;
            let episode = episodes.entry(id.to_owned()).or_default();
            let entry = line["payload"].clone();
            if entry["entry"] == "opened" {
                episode.spell = Some(spell(&entry["episode"]["alert"])?);
            }
            episode.entries.push(entry);
        }
        Ok(Self { episodes })
    }

    /// Episodes whose handling has not ended.
    pub fn unfinished(&self) -> usize {
        self.episodes
            .values()
            .filter(|episode| !episode.closed())
            .count()
    }

    /// Invariant 1, against what was answered 200.
    pub fn check_accepted(&self, told: &Told, verdict: &Verdict) {
        let mut opened: BTreeMap<Spell, Vec<&str>> = BTreeMap::new();
        let mut resolved: BTreeSet<u64> = BTreeSet::new();
        for (id, episode) in &self.episodes {
            if let Some(spell) = episode.spell {
                opened.entry(spell).or_default().push(id);
                if episode.count("resolved") > 0 {
                    resolved.insert(spell.0);
                }
            }
        }
        for spell in &told.firing {
            let found = opened.get(spell).map_or(0, Vec::len);
            verdict.hold(Invariant::Durable, found > 0, || {
                format!("firing {spell:x?} was answered 200 and is not in the journal")
            });
        }
        for (fingerprint, start) in &told.resolved {
            let episodes = opened.get(&(*fingerprint, *start));
            let ended = episodes.into_iter().flatten().any(|id| {
                self.episodes
                    .get(*id)
                    .is_some_and(|episode| episode.count("resolved") > 0)
            });
            verdict.hold(Invariant::Durable, ended, || {
                format!(
                    "the end of ({fingerprint:x}, {start}) was answered 200 and is not in the journal"
                )
            });
        }
        for (spell, ids) in &opened {
            verdict.hold(Invariant::OneAction, ids.len() == 1, || {
                format!("{spell:x?} has {} episodes: {ids:?}", ids.len())
            });
        }
    }

    /// Invariants 2, 3 and 5, of every episode.
    pub fn check_order(&self, verdict: &Verdict) {
        for (id, episode) in &self.episodes {
            verdict.hold(Invariant::Durable, episode.spell.is_some(), || {
                format!("{id} has records and no opening")
            });
            let of = |name| episode.count(name);
            let decided = of("refused") + of("intended");
            let most = decided.max(of("applied")).max(of("rolled_back"));
            verdict.hold(Invariant::OneAction, most <= 1, || {
                let names: Vec<_> = episode
                    .entries
                    .iter()
                    .map(|entry| &entry["entry"])
                    .collect();
                format!("{id} was decided or acted upon more than once: {names:?}")
            });
            let intended = episode.position("intended");
            for name in ["applied", "verified", "rolled_back"] {
                if let Some(at) = episode.position(name) {
                    let after = intended.is_some_and(|intended| intended < at);
                    verdict.hold(Invariant::IntentFirst, after, || {
                        format!("{id}: {name} without an intent before it")
                    });
                }
            }
            let last = episode
                .entries
                .iter()
                .take(intended.unwrap_or(episode.entries.len()))
                .rfind(|entry| entry["entry"] == "diagnosed");
            if let Some(last) = last {
                let text = last["diagnosis"]["verdict"].to_string();
                let below = text.contains("inconclusive");
                verdict.hold(Invariant::Bar, !(below && intended.is_some()), || {
                    format!("{id} was acted upon although: {text}")
                });
            } else {
                verdict.hold(Invariant::Bar, intended.is_none(), || {
                    format!("{id} was acted upon without a diagnosis")
                });
            }
        }
    }
}

fn spell(alert: &Value) -> anyhow::Result<Spell> {
    let fingerprint = alert["fingerprint"].as_str().context("no fingerprint")?;
    let start: Timestamp = alert["starts_at"].as_str().context("no start")?.parse()?;
    Ok((u64::from_str_radix(fingerprint, 16)?, start.as_second()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const FINGERPRINT: u64 = 0xab;
    const START: &str = "2026-01-01T00:00:00Z";

    fn line(id: &str, payload: &Value) -> String {
        json!({"lane": "fast", "episode": id, "payload": payload}).to_string() + "\n"
    }

    fn entry(id: &str, name: &str) -> String {
        line(id, &json!({"entry": name}))
    }

    fn opened(id: &str) -> String {
        let alert = json!({"fingerprint": "ab", "starts_at": START});
        line(id, &json!({"entry": "opened", "episode": {"alert": alert}}))
    }

    fn diagnosed(id: &str, verdict: &str) -> String {
        let diagnosis = json!({"verdict": {"verdict": verdict}});
        line(id, &json!({"entry": "diagnosed", "diagnosis": diagnosis}))
    }

    fn told() -> Told {
        let start: Timestamp = START.parse().unwrap();
        let spell = (FINGERPRINT, start.as_second());
        let mut told = Told::default();
        told.firing.insert(spell);
        told.resolved.insert(spell);
        told
    }

    /// What does not hold of a record, by the numbers of the invariants.
    fn violated(dump: &str) -> Vec<String> {
        let verdict = Verdict::default();
        let record = Record::parse(dump).unwrap();
        record.check_accepted(&told(), &verdict);
        record.check_order(&verdict);
        let said = verdict.violations();
        said.iter()
            .map(|line| line.split(' ').next().unwrap().to_owned())
            .collect()
    }

    #[test]
    fn a_whole_record_holds_and_each_breach_is_seen() {
        let names = [
            "intended",
            "applied",
            "verified",
            "rolled_back",
            "resolved",
            "closed",
        ];
        let rest: String = names.iter().map(|name| entry("ep-1", name)).collect();
        let whole = opened("ep-1") + &diagnosed("ep-1", "conclusive") + &rest;
        assert_eq!(violated(&whole), Vec::<String>::new());
        let without = |name: &str| -> String {
            let lines = whole.lines().filter(|line| !line.contains(name));
            lines.flat_map(|line| [line, "\n"]).collect()
        };
        let twice = |name: &str| whole.clone() + &entry("ep-1", name);
        for (dump, expected) in [
            (String::new(), vec!["1", "1"]),
            (without("resolved"), vec!["1"]),
            (whole.clone() + &opened("ep-2"), vec!["2"]),
            (twice("intended"), vec!["2"]),
            (twice("refused"), vec!["2"]),
            (twice("applied"), vec!["2"]),
            (without("intended"), vec!["3", "3", "3"]),
            (without("diagnosed"), vec!["5"]),
            (whole.replace("conclusive", "inconclusive"), vec!["5"]),
            (whole.clone() + &entry("ep-3", "closed"), vec!["1"]),
        ] {
            assert_eq!(violated(&dump), expected, "{dump}");
        }
    }
}
