//! Reads rule files; the only I/O of this stage.

use std::{
    fs,
    path::{Path, PathBuf},
};

use super::{FILE_BYTES_MAX, Finding, RuleSet, check::Checker};

/// The rules that the binary carries, a file a cause family.
const SHIPPED: &[(&str, &str)] = &[
    ("rules/cpu.yaml", include_str!("../../../../rules/cpu.yaml")),
    (
        "rules/memory.yaml",
        include_str!("../../../../rules/memory.yaml"),
    ),
    (
        "rules/disk.yaml",
        include_str!("../../../../rules/disk.yaml"),
    ),
    (
        "rules/process.yaml",
        include_str!("../../../../rules/process.yaml"),
    ),
    (
        "rules/locks.yaml",
        include_str!("../../../../rules/locks.yaml"),
    ),
    (
        "rules/network.yaml",
        include_str!("../../../../rules/network.yaml"),
    ),
    (
        "rules/system.yaml",
        include_str!("../../../../rules/system.yaml"),
    ),
    (
        "rules/topology.yaml",
        include_str!("../../../../rules/topology.yaml"),
    ),
];

impl RuleSet {
    /// The rules that the binary carries. That they have no findings is a test of this module.
    pub fn shipped() -> Result<Self, Vec<Finding>> {
        Self::parse(SHIPPED.iter().map(|(file, text)| (Path::new(file), *text)))
    }

    /// Reads files and folders (their `*.yaml` except `*.test.yaml`, by name) as one set.
    pub fn load(paths: &[PathBuf]) -> Result<Self, Vec<Finding>> {
        let mut findings = Vec::new();
        let mut texts = Vec::new();
        for path in rule_files(paths, &mut findings) {
            match read(&path) {
                Ok(text) => texts.push((path, text)),
                Err(finding) => findings.push(finding),
            }
        }
        let parsed = Self::parse(
            texts
                .iter()
                .map(|(path, text)| (path.as_path(), text.as_str())),
        );
        match parsed {
            Ok(set) if findings.is_empty() => Ok(set),
            Ok(_) => Err(findings),
            Err(more) => {
                findings.extend(more);
                Err(findings)
            }
        }
    }

    /// Parses texts as one set; the paths are for findings only. Pure.
    pub fn parse<'a>(
        texts: impl IntoIterator<Item = (&'a Path, &'a str)>,
    ) -> Result<Self, Vec<Finding>> {
        let mut checker = Checker::default();
        for (path, text) in texts {
            match serde_saphyr::from_str(text) {
                Ok(file) => checker.file(path, file),
                Err(error) => checker.findings.push(syntax(path, &error)),
            }
        }
        checker.finish()
    }
}

/// A parser's error as a finding.
pub(in crate::diagnosis) fn syntax(path: &Path, error: &serde_saphyr::Error) -> Finding {
    let (line, column) = error
        .location()
        .map_or((0, 0), |at| (at.line(), at.column()));
    let said = error.without_snippet().to_string();
    // The position stands in front already.
    let message = said
        .split(&format!(" at line {line}, column {column}"))
        .collect::<String>();
    Finding {
        file: path.to_owned(),
        line,
        column,
        message,
    }
}

/// One file's text, refused above the limit.
pub(in crate::diagnosis) fn read(path: &Path) -> Result<String, Finding> {
    let whole = |message: String| Finding {
        file: path.to_owned(),
        line: 0,
        column: 0,
        message,
    };
    let size = fs::metadata(path)
        .map_err(|error| whole(format!("cannot read: {error}")))?
        .len();
    if size > FILE_BYTES_MAX as u64 {
        return Err(whole(format!(
            "{size} bytes; a file has {FILE_BYTES_MAX} at most"
        )));
    }
    fs::read_to_string(path).map_err(|error| whole(format!("cannot read: {error}")))
}

/// Whether a file holds test cases.
pub(in crate::diagnosis) fn is_test(path: &Path) -> bool {
    path.to_str()
        .is_some_and(|path| path.ends_with(".test.yaml"))
}

/// The `*.yaml` files of a folder, by name.
pub(in crate::diagnosis) fn yaml_files(dir: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.extension().is_some_and(|end| end == "yaml") && path.is_file() {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

fn rule_files(paths: &[PathBuf], findings: &mut Vec<Finding>) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for path in paths {
        if !path.is_dir() {
            files.push(path.clone());
            continue;
        }
        let found = yaml_files(path).map(|mut found| {
            found.retain(|path| !is_test(path));
            found
        });
        let message = match found {
            Ok(found) if found.is_empty() => "no *.yaml in this folder".to_owned(),
            Ok(found) => {
                files.extend(found);
                continue;
            }
            Err(error) => format!("cannot read: {error}"),
        };
        findings.push(Finding {
            file: path.clone(),
            line: 0,
            column: 0,
            message,
        });
    }
    files
}
