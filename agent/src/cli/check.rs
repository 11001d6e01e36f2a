//! `paramedic check rules FILE…`

use std::path::PathBuf;

use crate::diagnosis::{RuleSet, cases::CaseFile};

/// Prints the JSON Schema of rule files.
pub(super) fn print_schema() -> u8 {
    print!("{}", crate::diagnosis::rules::JSON_SCHEMA);
    0
}

/// Checks rule files, folders of them, and files of cases (`*.test.yaml`) named by themselves.
/// Prints a line a finding (`file:line:column: message`) and a summary; returns the exit code, 1 on
/// findings. No paths = the rules that the binary carries.
pub fn check_rules(paths: &[PathBuf]) -> u8 {
    let (tests, rules): (Vec<PathBuf>, Vec<PathBuf>) = paths.iter().cloned().partition(|path| {
        let name = path.to_string_lossy();
        name.ends_with(".test.yaml")
    });
    let mut findings = Vec::new();
    let mut summary = Vec::new();
    if !rules.is_empty() || tests.is_empty() {
        let set = if rules.is_empty() {
            RuleSet::shipped()
        } else {
            RuleSet::load(&rules)
        };
        match set {
            Ok(set) => summary.push(format!("{} hypotheses", set.rules().len())),
            Err(found) => findings.extend(found),
        }
    }
    for path in &tests {
        match CaseFile::load(path) {
            Ok(_) => summary.push(format!("{} is a file of cases", path.display())),
            Err(found) => findings.extend(found),
        }
    }
    for finding in &findings {
        println!("{finding}");
    }
    if findings.is_empty() {
        println!("ok: {}", summary.join(", "));
        return 0;
    }
    println!(
        "{} finding{}",
        findings.len(),
        if findings.len() == 1 { "" } else { "s" }
    );
    1
}
