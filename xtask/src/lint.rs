//! `cargo xtask lint`: what a reviewer should not have to say.

use std::{fs, path::Path, process::Command};

use anyhow::{Context, bail};

use crate::{build, setup, sh};

/// Longest source file, lines. One idea fits.
const FILE_LINES_MAX: usize = 600;

/// Runs every check; fails at the first that finds something.
pub fn lint() -> anyhow::Result<()> {
    tidy(&sh::root())?;
    sh::run(sh::cargo().args(["fmt", "--all", "--check"]))?;
    let of_the_host = ["--quiet", "--workspace", "--exclude", "agent-ebpf"];
    sh::run(sh::cargo().arg("clippy").args(of_the_host).args([
        "--all-targets",
        "--",
        "-D",
        "warnings",
    ]))?;
    build::clippy_probes(&sh::root())?;
    sh::run(
        sh::cargo()
            .arg("doc")
            .args(of_the_host)
            .arg("--no-deps")
            .env("RUSTDOCFLAGS", "-D warnings"),
    )?;
    // Advisories would need the network, and a clean tree must not turn red by itself.
    sh::run(
        Command::new(setup::cargo_deny()?)
            .args(["--log-level", "error", "--locked"])
            .args(["check", "licenses", "bans", "sources"])
            .current_dir(sh::root()),
    )
}

/// House rules that no other tool knows.
fn tidy(root: &Path) -> anyhow::Result<()> {
    let listed = Command::new("git")
        .args(["ls-files", "--cached", "--others", "--exclude-standard"])
        .arg("*.rs")
        .current_dir(root)
        .output()
        .context("cannot start git")?;
    // From an archive without git there is nothing to go by, and an empty list is no clean one.
    anyhow::ensure!(
        listed.status.success(),
        "git ls-files: {}",
        String::from_utf8_lossy(&listed.stderr).trim()
    );
    let mut found = Vec::new();
    for file in String::from_utf8_lossy(&listed.stdout).lines() {
        // Deleted, and not yet committed so.
        let Ok(text) = fs::read_to_string(root.join(file)) else {
            continue;
        };
        found.extend(untidy(file, &text));
    }
    if !found.is_empty() {
        bail!("not tidy:\n{}", found.join("\n"));
    }
    Ok(())
}

/// What is wrong with one source file.
fn untidy(file: &str, text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let lines = text.lines().count();
    if lines > FILE_LINES_MAX {
        found.push(format!("{file}: {lines} lines, at most {FILE_LINES_MAX}"));
    }
    if file.ends_with("/mod.rs") {
        found.push(format!("{file}: a module is name.rs and name/"));
    }
    // Tests beside a module say what they test by their names.
    let tests = file.ends_with("/tests.rs") || file.contains("/tests/");
    if !tests && !text.trim_start().starts_with("//!") && !text.starts_with("#![") {
        found.push(format!("{file}: does not say what it is for (`//!` first)"));
    }
    for (nth, line) in text.lines().enumerate() {
        if line.trim_start().starts_with("// TODO") || line.trim_start().starts_with("// FIXME") {
            found.push(format!("{file}:{}: do it, or file an issue", nth + 1));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::untidy;

    #[test]
    fn each_house_rule_finds_its_breach() {
        assert!(untidy("a/src/b.rs", "//! What.\nfn x() {}\n").is_empty());
        assert!(untidy("a/src/tests/b.rs", "use super::*;\n").is_empty());
        for (file, text) in [
            ("a/src/b.rs", "fn x() {}\n".to_owned()),
            ("a/src/b/mod.rs", "//! What.\n".to_owned()),
            ("a/src/b.rs", format!("//! What.\n{}", "\n".repeat(700))),
            ("a/src/b.rs", "//! What.\n    // TODO later\n".to_owned()),
        ] {
            assert_eq!(untidy(file, &text).len(), 1, "{file}");
        }
    }
}
