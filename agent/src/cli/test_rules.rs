//! `paramedic test rules FILE…`

use std::path::PathBuf;

use crate::diagnosis::{
    DiagnosisConfig, Finding,
    cases::{self, CaseFile},
    explain,
};

/// Runs the cases beside the given rules (a folder, `x.yaml`, or `x.test.yaml`), prints ok or FAIL a
/// case with what differs and the explanation, and a summary; returns the exit code, 1 on failures
/// and findings.
pub fn test_rules(paths: &[PathBuf]) -> u8 {
    let config = DiagnosisConfig::default();
    let (mut passed, mut failed) = (0, 0);
    let files = match cases::find(paths) {
        Ok(files) => files,
        Err(findings) => return report(&findings),
    };
    for path in &files {
        let loaded = CaseFile::load(path)
            .and_then(|file| cases::rules_of(path, &file).map(|rules| (file, rules)));
        let (file, rules) = match loaded {
            Ok(loaded) => loaded,
            Err(findings) => {
                report(&findings);
                failed += 1;
                continue;
            }
        };
        println!("{}", path.display());
        for result in file.run(&rules, &config) {
            if result.differences.is_empty() {
                println!("  ok    {}", result.name);
                passed += 1;
                continue;
            }
            failed += 1;
            println!("  FAIL  {} (line {})", result.name, result.line);
            for difference in &result.differences {
                println!("        {difference}");
            }
            for line in explain(&result.diagnosis).lines() {
                println!("        | {line}");
            }
        }
    }
    println!("{passed} passed, {failed} failed");
    u8::from(failed > 0 || passed == 0)
}

fn report(findings: &[Finding]) -> u8 {
    for finding in findings {
        println!("{finding}");
    }
    1
}
