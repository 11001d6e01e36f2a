use std::path::{Path, PathBuf};

use super::{DiagnosisConfig, RuleSet, cases, cases::CaseFile};

fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

#[test]
fn shipped_rules_have_no_findings() {
    let set = RuleSet::shipped().unwrap();
    assert!(set.rules().len() >= 11, "{}", set.rules().len());
    // What is embedded is what lies in the folder: no file is forgotten.
    let loaded = RuleSet::load(&[repository("rules")]).unwrap();
    let ids = |set: &RuleSet| {
        let mut ids: Vec<_> = set.rules().iter().map(|rule| rule.id.clone()).collect();
        ids.sort();
        ids
    };
    assert_eq!(ids(&set), ids(&loaded));
}

#[test]
fn all_cases_beside_the_rules_pass() {
    let mut ran = 0;
    let mut failed = Vec::new();
    for path in cases::find(&[repository("rules")]).unwrap() {
        let file = CaseFile::load(&path).unwrap();
        let rules = cases::rules_of(&path, &file).unwrap();
        for result in file.run(&rules, &DiagnosisConfig::default()) {
            ran += 1;
            if !result.differences.is_empty() {
                let differences = result.differences.join("; ");
                failed.push(format!(
                    "{}:{} {}: {differences}",
                    path.display(),
                    result.line,
                    result.name
                ));
            }
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
    assert!(ran >= 20, "{ran} cases");
}
