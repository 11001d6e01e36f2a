//! What a case expects, and how a diagnosis differs from it.

use std::fmt;

use serde::Deserialize;

use crate::{
    diagnosis::RuleSet,
    incident::{Diagnosis, Verdict},
};

/// What must come out; what is not said is not tested.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Expect {
    /// Ids, most probable first, `unknown` among them; the beginning of the ranking.
    #[serde(default)]
    ranking: Vec<String>,
    /// Ids that must not be excluded, and not be on top.
    #[serde(default)]
    not: Vec<String>,
    #[serde(default)]
    verdict: Option<ExpectedVerdict>,
    /// Part of the reason for an inconclusive verdict.
    #[serde(default)]
    because: Option<String>,
    /// Path of the first one's culprit, or `none`.
    #[serde(default)]
    culprit: Option<String>,
    /// `ACTION@LEVEL` of the best remedy when conclusive, else `none`.
    #[serde(default)]
    action: Option<String>,
    /// Bounds of the first one's posterior.
    #[serde(default)]
    posterior_at_least: Option<f64>,
    #[serde(default)]
    posterior_below: Option<f64>,
    /// Ids that must be excluded.
    #[serde(default)]
    excluded: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum ExpectedVerdict {
    Conclusive,
    Inconclusive,
}

impl Expect {
    pub(super) fn says_something(&self) -> bool {
        !self.ranking.is_empty()
            || !self.not.is_empty()
            || !self.excluded.is_empty()
            || self.verdict.is_some()
            || self.because.is_some()
            || self.culprit.is_some()
            || self.action.is_some()
            || self.posterior_at_least.is_some()
            || self.posterior_below.is_some()
    }

    pub(super) fn differences(&self, rules: &RuleSet, got: &Diagnosis) -> Vec<String> {
        let mut differences = Differences::default();
        let ranking = ranking(got);
        let named = self.ranking.iter().chain(&self.not).chain(&self.excluded);
        for id in named.filter(|id| *id != UNKNOWN && rules.get(id).is_none()) {
            differences.0.push(format!("no rule has the id {id:?}"));
        }
        let beginning = &ranking[..ranking.len().min(self.ranking.len().max(1))];
        if !self.ranking.is_empty() && beginning != self.ranking {
            differences.differ("ranking", self.ranking.join(", "), shown(got));
        }
        for id in self.not.iter().filter(|id| ranking.first() == Some(*id)) {
            differences.differ("top", format!("not {id}"), shown(got));
        }
        for id in &self.excluded {
            if !got.excluded.iter().any(|(excluded, _)| excluded == id) {
                differences.differ("excluded", id, shown(got));
            }
        }
        self.verdict_differences(got, &mut differences);
        let top = got.top.first();
        let culprit = top
            .and_then(|top| top.culprit.as_ref())
            .map_or("none", |culprit| culprit.path.as_str());
        differences.unless_equal("culprit", self.culprit.as_deref(), culprit);
        let remedy = top.and_then(|top| top.remedies.first());
        let action = remedy
            .filter(|_| got.verdict == Verdict::Conclusive)
            .map_or_else(
                || "none".to_owned(),
                |remedy| format!("{}@{:?}", remedy.action, remedy.level).to_lowercase(),
            );
        differences.unless_equal("action", self.action.as_deref(), &action);
        let posterior = top.map_or(0.0, |top| top.posterior);
        if let Some(bound) = self.posterior_at_least.filter(|bound| posterior < *bound) {
            differences.differ(
                "posterior",
                format!(">= {bound}"),
                format!("{posterior:.3}"),
            );
        }
        if let Some(bound) = self.posterior_below.filter(|bound| posterior >= *bound) {
            differences.differ("posterior", format!("< {bound}"), format!("{posterior:.3}"));
        }
        differences.0
    }

    fn verdict_differences(&self, got: &Diagnosis, differences: &mut Differences) {
        let (kind, why) = match &got.verdict {
            Verdict::Conclusive => (ExpectedVerdict::Conclusive, ""),
            Verdict::Inconclusive(why) => (ExpectedVerdict::Inconclusive, why.as_str()),
        };
        if let Some(expected) = self.verdict.filter(|expected| *expected != kind) {
            let got = format!("{kind:?} {why} [{}]", shown(got));
            differences.differ("verdict", format!("{expected:?}"), got);
        }
        if let Some(because) = self.because.as_ref().filter(|part| !why.contains(*part)) {
            differences.differ("because", because, why);
        }
    }
}

const UNKNOWN: &str = "unknown";

fn ranking(diagnosis: &Diagnosis) -> Vec<String> {
    let mut all: Vec<(f64, &str)> = diagnosis
        .top
        .iter()
        .map(|hypothesis| (hypothesis.posterior, hypothesis.id.as_str()))
        .collect();
    let place = all
        .iter()
        .take_while(|(posterior, _)| *posterior > diagnosis.unknown)
        .count();
    all.insert(place, (diagnosis.unknown, UNKNOWN));
    all.into_iter().map(|(_, id)| id.to_owned()).collect()
}

fn shown(diagnosis: &Diagnosis) -> String {
    let mut all: Vec<String> = diagnosis
        .top
        .iter()
        .map(|top| format!("{} {:.3}", top.id, top.posterior))
        .collect();
    all.push(format!("{UNKNOWN} {:.3}", diagnosis.unknown));
    all.join(", ")
}

#[derive(Default)]
struct Differences(Vec<String>);

impl Differences {
    fn differ(&mut self, what: &str, expected: impl fmt::Display, got: impl fmt::Display) {
        self.0
            .push(format!("{what}: expected {expected}; got {got}"));
    }

    fn unless_equal(&mut self, what: &str, expected: Option<&str>, got: &str) {
        if let Some(expected) = expected.filter(|expected| *expected != got) {
            self.differ(what, expected, got);
        }
    }
}
