//! Cases for rules: evidence in, ranking out, in YAML beside the rules (`cpu.test.yaml` beside
//! `cpu.yaml`). They run through the same [`diagnose`] as live evidence.

mod expect;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use jiff::Timestamp;
use serde::Deserialize;
use serde_saphyr::Spanned;

use expect::Expect;

use crate::incident::{
    Alert, AlertStatus, CgroupFacts, CgroupId, Diagnosis, Evidence, Fingerprint, Reading, Series,
    Source,
};

use super::{
    DiagnosisConfig, Finding, RuleSet, diagnose, features,
    rules::{self, load},
};

/// A file of cases.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CaseFile {
    /// Rule files or folders to test, relative to this file. Empty = all rules beside it.
    #[serde(default)]
    pub rules: Vec<PathBuf>,
    /// Backgrounds by name, for cases to start from.
    #[serde(default)]
    backgrounds: BTreeMap<String, Background>,
    cases: Vec<Case>,
}

/// What a case adds to nothing, or to a background: a number, `{partial: number}`, or `null` to
/// take a reading away.
type Readings = BTreeMap<String, Option<Value>>;

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(untagged)]
enum Value {
    Good(f64),
    Partial { partial: f64 },
}

impl Value {
    fn reading(self) -> Reading {
        match self {
            Self::Good(value) => Reading::good(value),
            Self::Partial { partial } => Reading::partial(partial),
        }
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Background {
    host: Readings,
    cgroups: BTreeMap<String, Readings>,
    series: BTreeMap<String, f64>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    #[serde(rename = "case")]
    name: Spanned<String>,
    /// Name of a background.
    #[serde(default)]
    on: Option<String>,
    /// The alert's labels.
    #[serde(default)]
    alert: BTreeMap<String, String>,
    /// A local trigger instead of an alert: `cpu`, `memory` or `io`.
    #[serde(default)]
    trigger: Option<String>,
    #[serde(default)]
    host: Readings,
    #[serde(default)]
    cgroups: BTreeMap<String, Readings>,
    #[serde(default)]
    series: BTreeMap<String, f64>,
    expect: Expect,
}

/// How one case went.
#[derive(Debug)]
pub struct CaseResult {
    /// Its name.
    pub name: String,
    /// Where it stands in its file.
    pub line: u64,
    /// What differs, one line each; empty = ok.
    pub differences: Vec<String>,
    /// The diagnosis, for explanations.
    pub diagnosis: Diagnosis,
}

impl CaseFile {
    /// Reads a file and checks that its readings and backgrounds exist.
    pub fn load(path: &Path) -> Result<Self, Vec<Finding>> {
        let text = load::read(path).map_err(|finding| vec![finding])?;
        Self::parse(path, &text)
    }

    /// As [`CaseFile::load`], from text. Pure.
    pub fn parse(path: &Path, text: &str) -> Result<Self, Vec<Finding>> {
        let file: Self =
            serde_saphyr::from_str(text).map_err(|error| vec![load::syntax(path, &error)])?;
        let mut findings = Vec::new();
        let mut find = |line: u64, column: u64, message: String| {
            findings.push(Finding {
                file: path.to_owned(),
                line,
                column,
                message,
            });
        };
        for (name, background) in &file.backgrounds {
            for reading in unknown_readings(&background.host, &background.cgroups) {
                find(0, 0, format!("background {name:?}: no reading {reading:?}"));
            }
        }
        let mut names = BTreeSet::new();
        for case in &file.cases {
            let at = case.name.referenced;
            let mut find = |message| find(at.line(), at.column(), message);
            if !names.insert(case.name.value.as_str()) {
                find("a second case of this name".to_owned());
            }
            for reading in unknown_readings(&case.host, &case.cgroups) {
                find(format!("no reading {reading:?}"));
            }
            if let Some(on) = case
                .on
                .as_ref()
                .filter(|on| !file.backgrounds.contains_key(*on))
            {
                find(format!("no background {on:?}"));
            }
            if !case.expect.says_something() {
                find("expects nothing: this case cannot fail".to_owned());
            }
        }
        if findings.is_empty() {
            Ok(file)
        } else {
            Err(findings)
        }
    }

    /// Runs every case.
    pub fn run(&self, rules: &RuleSet, config: &DiagnosisConfig) -> Vec<CaseResult> {
        self.cases
            .iter()
            .map(|case| {
                let evidence = self.evidence(case);
                let (alert, source) = case.alert();
                let diagnosis = diagnose(rules, &alert, &source, &evidence, config);
                CaseResult {
                    name: case.name.value.clone(),
                    line: case.name.referenced.line(),
                    differences: case.expect.differences(rules, &diagnosis),
                    diagnosis,
                }
            })
            .collect()
    }

    fn evidence(&self, case: &Case) -> Evidence {
        let background = case.on.as_ref().and_then(|on| self.backgrounds.get(on));
        let mut host = BTreeMap::new();
        let mut cgroups: BTreeMap<String, BTreeMap<String, Reading>> = BTreeMap::new();
        let mut series = BTreeMap::new();
        let layers = background
            .map(|b| (&b.host, &b.cgroups, &b.series))
            .into_iter()
            .chain([(&case.host, &case.cgroups, &case.series)]);
        for (on_host, on_cgroups, on_series) in layers {
            lay(&mut host, on_host);
            for (path, readings) in on_cgroups {
                lay(cgroups.entry(path.clone()).or_default(), readings);
            }
            series.extend(on_series.clone());
        }
        let paths: Vec<String> = cgroups.keys().cloned().collect();
        let is_leaf = |path: &str| {
            let below = format!("{}/", path.trim_end_matches('/'));
            !paths
                .iter()
                .any(|other| other != path && other.starts_with(&below))
        };
        Evidence {
            window_s: 30.0,
            host,
            cgroups: cgroups
                .into_iter()
                .zip(100..)
                .map(|((path, readings), id)| CgroupFacts {
                    id: CgroupId(id),
                    leaf: is_leaf(&path),
                    path,
                    readings,
                })
                .collect(),
            series: series
                .into_iter()
                .map(|(name, value)| Series {
                    name,
                    labels: BTreeMap::new(),
                    start_s: 0,
                    step_s: 1,
                    values: vec![Some(value)],
                    stats: None,
                })
                .collect(),
            ..Evidence::nothing(Timestamp::UNIX_EPOCH)
        }
    }
}

fn lay(onto: &mut BTreeMap<String, Reading>, readings: &Readings) {
    for (name, value) in readings {
        match value {
            Some(value) => {
                onto.insert(name.clone(), value.reading());
            }
            None => {
                onto.remove(name);
            }
        }
    }
}

fn unknown_readings(host: &Readings, cgroups: &BTreeMap<String, Readings>) -> Vec<String> {
    let of_host = host.keys().map(|name| format!("host.{name}"));
    let of_cgroups = cgroups
        .values()
        .flat_map(BTreeMap::keys)
        .map(|name| format!("culprit.{name}"));
    of_host
        .chain(of_cgroups)
        .filter(|name| features::scope(name).is_none())
        .collect()
}

impl Case {
    fn alert(&self) -> (Alert, Source) {
        let alert = Alert {
            status: AlertStatus::Firing,
            labels: self.alert.clone(),
            annotations: BTreeMap::new(),
            starts_at: Timestamp::UNIX_EPOCH,
            ends_at: None,
            fingerprint: Fingerprint::of(&self.alert),
        };
        let source = match &self.trigger {
            Some(resource) => Source::Pressure {
                resource: resource.clone(),
            },
            None => Source::Alertmanager {
                receiver: "paramedic".to_owned(),
            },
        };
        (alert, source)
    }
}

/// Case files and the rules that each tests, for paths as given on the command line: a folder means
/// its `*.test.yaml`, `x.test.yaml` itself, and `x.yaml` the `x.test.yaml` beside it.
pub fn find(paths: &[PathBuf]) -> Result<Vec<PathBuf>, Vec<Finding>> {
    let mut files = BTreeSet::new();
    let mut findings = Vec::new();
    for path in paths {
        if !path.is_dir() {
            let beside = if load::is_test(path) {
                path.clone()
            } else {
                path.with_extension("test.yaml")
            };
            files.insert(beside);
            continue;
        }
        let found = load::yaml_files(path).map(|mut found| {
            found.retain(|path| load::is_test(path));
            found
        });
        let message = match found {
            Ok(found) if found.is_empty() => "no *.test.yaml in this folder".to_owned(),
            Ok(found) => {
                files.extend(found);
                continue;
            }
            Err(error) => format!("cannot read: {error}"),
        };
        findings.push(rules::Finding {
            file: path.clone(),
            line: 0,
            column: 0,
            message,
        });
    }
    if findings.is_empty() {
        Ok(files.into_iter().collect())
    } else {
        Err(findings)
    }
}

/// The rules that a case file tests.
pub fn rules_of(path: &Path, file: &CaseFile) -> Result<RuleSet, Vec<Finding>> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    if file.rules.is_empty() {
        return RuleSet::load(&[folder.to_owned()]);
    }
    let paths: Vec<PathBuf> = file.rules.iter().map(|rules| folder.join(rules)).collect();
    RuleSet::load(&paths)
}
