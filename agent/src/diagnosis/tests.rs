//! Tests of the stage as a whole: shipped rules and their cases, documentation, the two commands.

mod ranking;
mod readings;
mod rule_files;
mod turning;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use jiff::Timestamp;

use super::{DiagnosisConfig, RuleSet, cases, cases::CaseFile};
use crate::{
    cli::{check::check_rules, test_rules::test_rules},
    incident::{
        Alert, AlertStatus, CgroupFacts, CgroupId, Evidence, Fingerprint, Hypothesis, Reading,
        Source,
    },
};

fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

pub(super) fn alert(name: &str) -> Alert {
    let labels = BTreeMap::from([("alertname".to_owned(), name.to_owned())]);
    Alert {
        status: AlertStatus::Firing,
        fingerprint: Fingerprint::of(&labels),
        labels,
        annotations: BTreeMap::new(),
        starts_at: Timestamp::UNIX_EPOCH,
        ends_at: None,
    }
}

pub(super) fn webhook() -> Source {
    Source::Alertmanager {
        receiver: "paramedic".to_owned(),
    }
}

fn readings(pairs: &[(&str, f64)]) -> BTreeMap<String, Reading> {
    pairs
        .iter()
        .map(|(name, value)| ((*name).to_owned(), Reading::good(*value)))
        .collect()
}

pub(super) fn evidence(host: &[(&str, f64)]) -> Evidence {
    Evidence {
        window_s: 30.0,
        host: readings(host),
        ..Evidence::nothing(Timestamp::UNIX_EPOCH)
    }
}

pub(super) fn cgroup(id: u64, path: &str, leaf: bool, pairs: &[(&str, f64)]) -> CgroupFacts {
    CgroupFacts {
        id: CgroupId(id),
        path: path.to_owned(),
        leaf,
        readings: readings(pairs),
    }
}

/// Of no rule, and without evidence.
pub(super) fn hypothesis(id: &str, posterior: f64, prior: f64) -> Hypothesis {
    Hypothesis {
        id: id.to_owned(),
        title: String::new(),
        posterior,
        interval: None,
        prior,
        culprit: None,
        features: Vec::new(),
        notes: Vec::new(),
        recovery: Vec::new(),
        remedies: Vec::new(),
    }
}

#[test]
fn shipped_rules_have_no_findings() {
    let set = RuleSet::shipped().unwrap();
    assert!(set.rules().len() >= 30, "{}", set.rules().len());
    // What is embedded is what lies in the folder: no file is forgotten.
    let loaded = RuleSet::load(&[repository("rules")]).unwrap();
    let ids = |set: &RuleSet| {
        let mut ids: Vec<_> = set.rules().iter().map(|rule| rule.id.clone()).collect();
        ids.sort();
        ids
    };
    assert_eq!(ids(&set), ids(&loaded));
}

fn failures(path: &Path, ran: &mut usize) -> Vec<String> {
    let file = CaseFile::load(path).unwrap();
    let rules = cases::rules_of(path, &file).unwrap();
    let results = file.run(&rules, &DiagnosisConfig::default());
    *ran += results.len();
    results
        .into_iter()
        .filter(|result| !result.differences.is_empty())
        .map(|result| {
            let differences = result.differences.join("; ");
            format!(
                "{}:{} {}: {differences}",
                path.display(),
                result.line,
                result.name
            )
        })
        .collect()
}

#[test]
fn all_cases_beside_the_rules_pass() {
    let mut ran = 0;
    let files = cases::find(&[repository("rules")]).unwrap();
    let failed: Vec<String> = files
        .iter()
        .flat_map(|path| failures(path, &mut ran))
        .collect();
    assert!(failed.is_empty(), "{}", failed.join("\n"));
    assert!(ran >= 100, "{ran} cases");
}

/// The n-th YAML block of the documentation.
fn documented(n: usize) -> String {
    let text = fs::read_to_string(repository("docs/rules.md")).unwrap();
    let block = text.split("```yaml\n").nth(n + 1).unwrap();
    block.split("```").next().unwrap().to_owned()
}

#[test]
fn the_documented_example_works_as_documented() {
    let dir = tempfile::tempdir().unwrap();
    let rules = dir.path().join("queue.yaml");
    fs::write(&rules, documented(0)).unwrap();
    let tests = dir.path().join("queue.test.yaml");
    fs::write(&tests, documented(1)).unwrap();
    assert_eq!(check_rules(std::slice::from_ref(&rules)), 0);
    let mut ran = 0;
    assert_eq!(failures(&tests, &mut ran), Vec::<String>::new());
    assert_eq!(ran, 3);
}

#[test]
fn documentation_lists_every_derived_reading() {
    let text = fs::read_to_string(repository("docs/rules.md")).unwrap();
    for name in [
        "host.forks_per_cpu_s",
        "culprit.mem.exhausts_in_s",
        "top_share.",
        "bystanders.",
    ] {
        assert!(text.contains(name), "{name}");
    }
}

#[test]
fn commands_exit_with_1_on_findings_and_failures() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = dir.path().join(name);
        fs::write(&path, text).unwrap();
        path
    };
    assert_eq!(check_rules(&[repository("rules")]), 0);
    assert_eq!(check_rules(&[]), 0);
    assert_eq!(test_rules(&[repository("rules/cpu.yaml")]), 0);

    let bad = write("bad.yaml", "family: x\nhypotheses: []\n");
    assert_eq!(check_rules(&[bad]), 1);
    assert_eq!(check_rules(&[dir.path().join("absent.yaml")]), 1);
    assert_eq!(test_rules(&[dir.path().join("absent.yaml")]), 1);

    let good = write("queue.yaml", &documented(0));
    let wrong = documented(1).replace("ranking: [queue-stuck]", "ranking: [unknown]");
    let failing = write("queue.test.yaml", &format!("rules: [queue.yaml]\n{wrong}"));
    assert_eq!(check_rules(&[good, failing.clone()]), 0);
    assert_eq!(test_rules(&[failing]), 1);
    // A case that cannot fail is a finding.
    let empty = write("e.test.yaml", "cases:\n  - {case: a, expect: {}}\n");
    assert_eq!(check_rules(&[empty]), 1);
}

/// Every shipped rule has a case that it wins, and one where it must not win; all in one run.
#[test]
fn every_shipped_rule_has_positive_and_negative_cases() {
    let texts: Vec<String> = cases::find(&[repository("rules")])
        .unwrap()
        .iter()
        .map(|path| fs::read_to_string(path).unwrap())
        .collect();
    let count = |needle: &str| {
        texts
            .iter()
            .map(|text| text.matches(needle).count())
            .sum::<usize>()
    };
    for rule in RuleSet::shipped().unwrap().rules() {
        let wins = count(&format!("ranking: [{}", rule.id));
        assert!(wins >= 1, "{} wins no case", rule.id);
        let quiet = count("ranking: [unknown]");
        let loses =
            count(&format!("not: [{}", rule.id)) + count(&format!(", {}]", rule.id)) + quiet;
        assert!(loses >= 1, "{} loses no case", rule.id);
    }
}

#[test]
fn the_schema_has_the_keys_of_the_format() {
    let schema: serde_json::Value = serde_json::from_str(super::rules::JSON_SCHEMA).unwrap();
    let hypothesis = &schema["properties"]["hypotheses"]["items"];
    let keys: Vec<&String> = hypothesis["properties"]
        .as_object()
        .unwrap()
        .keys()
        .collect();
    let documented = documented(0);
    for line in documented
        .lines()
        .filter(|line| line.starts_with("    ") && !line.starts_with("     "))
    {
        let key = line.trim().split(':').next().unwrap();
        assert!(keys.iter().any(|known| *known == key), "{key}");
    }
    assert_eq!(schema["additionalProperties"], false);
    assert_eq!(hypothesis["additionalProperties"], false);
}
