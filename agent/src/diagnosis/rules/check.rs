//! What a rule must fulfil beyond its shape. All findings of all files are reported at once.

mod evidence;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Duration,
};

use regex::{Regex, RegexBuilder};
use serde_saphyr::{Location, Spanned};

use crate::{
    diagnosis::features,
    incident::{ActionKind, FeatureTest, Level, Suggestion},
};

use evidence::{Declared, between};

use super::{
    Applies, Exclusion, FEATURES_MAX, Finding, HYPOTHESES_MAX, ID_BYTES_MAX, ITEMS_MAX,
    LINE_BYTES_MAX, RECOVERY_S_MAX, Rule, RuleSet, Selector, SeriesQuery, TEXT_BYTES_MAX, schema,
};

/// Compiled size of one alert pattern: refuses patterns that would cost megabytes.
const REGEX_BYTES_MAX: usize = 64 << 10;

/// Collects rules and findings over all files of a set.
#[derive(Default)]
pub(super) struct Checker {
    rules: Vec<Rule>,
    pub findings: Vec<Finding>,
    /// Where each id was first used.
    ids: BTreeMap<String, (PathBuf, u64)>,
    /// First query of each series name: one name means one query in the whole set.
    queries: BTreeMap<String, String>,
    path: PathBuf,
}

impl Checker {
    pub(super) fn file(&mut self, path: &Path, file: schema::File) {
        path.clone_into(&mut self.path);
        if file.hypotheses.value.is_empty() {
            self.find(&file.hypotheses, "no hypotheses in this file");
        }
        for hypothesis in file.hypotheses.value {
            let rule = self.hypothesis(hypothesis);
            self.rules.push(rule);
        }
    }

    pub(super) fn finish(mut self) -> Result<RuleSet, Vec<Finding>> {
        if self.rules.len() > HYPOTHESES_MAX {
            self.findings.push(Finding {
                file: self.path.clone(),
                line: 0,
                column: 0,
                message: format!(
                    "{} hypotheses in all; a set has {HYPOTHESES_MAX} at most",
                    self.rules.len()
                ),
            });
        }
        if self.findings.is_empty() {
            return Ok(RuleSet::of(self.rules));
        }
        self.findings.sort();
        Err(self.findings)
    }

    fn find<T>(&mut self, at: &Spanned<T>, message: impl Into<String>) {
        self.find_at(at.referenced, message);
    }

    fn find_at(&mut self, at: Location, message: impl Into<String>) {
        self.findings.push(Finding {
            file: self.path.clone(),
            line: at.line(),
            column: at.column(),
            message: message.into(),
        });
    }

    fn hypothesis(&mut self, raw: schema::Hypothesis) -> Rule {
        let at = raw.id.referenced;
        self.unique_id(&raw.id);
        for line in [Some(&raw.title), raw.runbook.as_ref()]
            .into_iter()
            .flatten()
        {
            self.text(line, LINE_BYTES_MAX);
        }
        self.text(&raw.description, TEXT_BYTES_MAX);
        if !(raw.prior.value > 0.0 && raw.prior.value < 1.0) {
            self.find(&raw.prior, between("prior", raw.prior.value));
        }
        self.count(at, "exclusions", raw.exclude.len(), ITEMS_MAX);
        self.count(at, "series", raw.series.len(), ITEMS_MAX);
        self.count(at, "recovery tests", raw.recovery.len(), ITEMS_MAX);
        self.count(at, "remedies", raw.remedies.len(), ITEMS_MAX);
        self.count(at, "features", raw.features.value.len(), FEATURES_MAX);

        let applies = self.applies(at, raw.applies);
        let series = self.series(raw.series);
        let has_culprit = raw.culprit.is_some();
        let culprit = raw.culprit.map(|selector| self.selector(selector));
        let scope = Declared {
            series: &series,
            culprit: has_culprit,
        };
        let exclude = raw
            .exclude
            .into_iter()
            .map(|raw| {
                self.text(&raw.because, LINE_BYTES_MAX);
                let test = self.test(&scope, raw.reading, raw.at_least, raw.below);
                Exclusion {
                    test,
                    because: raw.because.value,
                }
            })
            .collect();
        let features = self.features(&scope, raw.features);
        let recovery: Vec<FeatureTest> = raw
            .recovery
            .into_iter()
            .map(|raw| self.test(&scope, raw.reading, raw.at_least, raw.below))
            .collect();
        for remedy in &raw.remedies {
            self.remedy(remedy, has_culprit, !recovery.is_empty());
        }
        let recovery_within = self.recovery_within(raw.recovery_within_s);
        Rule {
            id: raw.id.value,
            file: self.path.clone(),
            title: raw.title.value,
            description: raw.description.value.trim().to_owned(),
            runbook: raw.runbook.map(|runbook| runbook.value),
            prior: raw.prior.value,
            declared_prior: raw.prior.value,
            applies,
            exclude,
            culprit,
            features,
            series,
            recovery,
            recovery_within,
            remedies: raw
                .remedies
                .into_iter()
                .map(|remedy| remedy.value)
                .collect(),
        }
    }

    fn unique_id(&mut self, id: &Spanned<String>) {
        self.id(id);
        let here = (self.path.clone(), id.referenced.line());
        if let Some((file, line)) = self.ids.insert(id.value.clone(), here) {
            let first = format!("{}:{line}", file.display());
            self.find(
                id,
                format!("the id {:?} is used already at {first}", id.value),
            );
        }
    }

    fn id(&mut self, id: &Spanned<String>) {
        let fits = (1..=ID_BYTES_MAX).contains(&id.value.len())
            && id
                .value
                .bytes()
                .all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-'));
        if !fits {
            self.find(
                id,
                format!(
                    "{:?} is not 1 to {ID_BYTES_MAX} characters of a-z, 0-9 and '-'",
                    id.value
                ),
            );
        }
    }

    fn text(&mut self, text: &Spanned<String>, max: usize) {
        let len = text.value.trim().len();
        if len == 0 {
            self.find(text, "must not be empty");
        } else if len > max {
            self.find(text, format!("{len} bytes; {max} at most"));
        }
        // Shown in terminals: an escape sequence must not get there. Descriptions have lines.
        if text
            .value
            .chars()
            .any(|c| c.is_control() && !(c == '\n' && max > LINE_BYTES_MAX))
        {
            self.find(text, "has control characters");
        }
    }

    fn count(&mut self, at: Location, what: &str, count: usize, max: usize) {
        if count > max {
            self.find_at(at, format!("{count} {what}; {max} at most"));
        }
    }

    fn applies(&mut self, at: Location, raw: schema::Applies) -> Applies {
        self.count(at, "alert patterns", raw.alerts.len(), ITEMS_MAX);
        let mut alerts: Vec<Regex> = Vec::new();
        for pattern in raw.alerts {
            self.text(&pattern, TEXT_BYTES_MAX);
            let anchored = format!("^(?:{})$", pattern.value);
            match RegexBuilder::new(&anchored)
                .size_limit(REGEX_BYTES_MAX)
                .build()
            {
                Ok(regex) => alerts.push(regex),
                Err(error) => {
                    let said = error.to_string();
                    let last = said.lines().last().unwrap_or_default();
                    let last = last.trim_start_matches("error: ").to_owned();
                    self.find(&pattern, format!("not a regular expression: {last}"));
                }
            }
        }
        Applies {
            alerts,
            triggers: raw.triggers,
        }
    }

    fn series(&mut self, raw: Vec<schema::Series>) -> Vec<SeriesQuery> {
        let mut series = Vec::new();
        for query in raw {
            let name = &query.name.value;
            let fits = (1..=ID_BYTES_MAX).contains(&name.len())
                && name
                    .bytes()
                    .all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'_'));
            if !fits {
                self.find(
                    &query.name,
                    format!("{name:?} is not a name of a-z, 0-9 and '_'"),
                );
            }
            self.text(&query.promql, TEXT_BYTES_MAX);
            if let Some(problem) = placeholder_problem(&query.promql.value) {
                self.find(&query.promql, problem);
            }
            let promql = query.promql.value.trim().to_owned();
            let first = self
                .queries
                .entry(name.clone())
                .or_insert_with(|| promql.clone());
            if *first != promql {
                let message = format!("the series {name:?} is another query elsewhere: {first}");
                self.find(&query.name, message);
            }
            series.push(SeriesQuery {
                name: name.clone(),
                promql_template: promql,
            });
        }
        series
    }

    fn selector(&mut self, raw: schema::Selector) -> Selector {
        if !features::is_of_cgroup(&raw.by.value) {
            self.find(
                &raw.by,
                format!(
                    "{:?} is not a reading of cgroups, such as cpu.cores",
                    raw.by.value
                ),
            );
        }
        if !(raw.min_share.value > 0.0 && raw.min_share.value <= 1.0) {
            self.find(&raw.min_share, "min_share must be above 0 and at most 1");
        }
        Selector {
            by: raw.by.value,
            min_share: raw.min_share.value,
            required: raw.required,
        }
    }

    fn remedy(&mut self, remedy: &Spanned<Suggestion>, has_culprit: bool, has_recovery: bool) {
        let Suggestion {
            action,
            amount,
            level,
            dry_run: _,
        } = &remedy.value;
        let on_cgroup = !matches!(action, ActionKind::Notify | ActionKind::Collect);
        if on_cgroup && !has_culprit {
            self.find(remedy, format!("{action} needs a `culprit` to act upon"));
        }
        if on_cgroup && *level == Level::Act && !has_recovery {
            self.find(
                remedy,
                format!("{action} at level act needs `recovery` tests to verify it"),
            );
        }
        if amount.is_some_and(|amount| !(amount.is_finite() && amount > 0.0)) {
            self.find(remedy, "an `amount` must be above 0");
        }
    }

    fn recovery_within(&mut self, raw: Option<Spanned<f64>>) -> Duration {
        let Some(raw) = raw else {
            return schema::RECOVERY_WITHIN;
        };
        if (1.0..=RECOVERY_S_MAX).contains(&raw.value) {
            return Duration::from_secs_f64(raw.value);
        }
        self.find(
            &raw,
            format!("recovery_within_s must be within 1 to {RECOVERY_S_MAX}"),
        );
        schema::RECOVERY_WITHIN
    }
}

/// Whether every `{{…}}` of a template is closed, holds a label's name, and stands for a matcher's
/// value (sampling refuses the rest when it fills the template in).
fn placeholder_problem(template: &str) -> Option<String> {
    let mut rest = template;
    while let Some((before, after)) = rest.split_once("{{") {
        let Some((name, tail)) = after.split_once("}}") else {
            return Some("a placeholder `{{` is not closed by `}}`".to_owned());
        };
        let name = name.trim();
        let mut bytes = name.bytes();
        let fits = bytes
            .next()
            .is_some_and(|b| b.is_ascii_alphabetic() || b == b'_')
            && bytes.all(|b| b.is_ascii_alphanumeric() || b == b'_');
        if !fits {
            return Some(format!(
                "the placeholder {name:?} is not the name of a label"
            ));
        }
        if !before.trim_end().ends_with(['=', '~']) {
            return Some(format!(
                "the placeholder {name:?} must be a matcher's value, without quotes: \
                 LABEL={{{{{name}}}}}"
            ));
        }
        rest = tail;
    }
    None
}
