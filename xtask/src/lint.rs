//! `cargo xtask lint`: what a reviewer should not have to say.

use std::{fs, path::Path, process::Command};

use anyhow::bail;

use crate::{build, sh};

/// Longest source file, lines. One idea fits.
const FILE_LINES_MAX: usize = 600;

/// Runs every check; fails at the first that finds something.
pub fn lint() -> anyhow::Result<()> {
    tidy(&sh::root())?;
    sh::run(sh::cargo().args(["fmt", "--all", "--check"]))?;
    sh::run(
        sh::cargo()
            .args([
                "clippy",
                "--quiet",
                "--workspace",
                "--exclude",
                "agent-ebpf",
                "--all-targets",
            ])
            .args(["--", "-D", "warnings"]),
    )?;
    build::clippy_probes(&sh::root())?;
    sh::run(
        sh::cargo()
            .args([
                "doc",
                "--quiet",
                "--workspace",
                "--exclude",
                "agent-ebpf",
                "--no-deps",
            ])
            .env("RUSTDOCFLAGS", "-D warnings"),
    )
}

/// House rules that no other tool knows.
fn tidy(root: &Path) -> anyhow::Result<()> {
    let listed = Command::new("git")
        .args(["ls-files", "*.rs"])
        .current_dir(root)
        .output()?;
    let mut found = Vec::new();
    for file in String::from_utf8_lossy(&listed.stdout).lines() {
        let Ok(text) = fs::read_to_string(root.join(file)) else {
            continue;
        };
        let lines = text.lines().count();
        if lines > FILE_LINES_MAX {
            found.push(format!("{file}: {lines} lines, at most {FILE_LINES_MAX}"));
        }
        if file.ends_with("/mod.rs") {
            found.push(format!("{file}: a module is name.rs and name/"));
        }
    }
    if !found.is_empty() {
        bail!("not tidy:\n{}", found.join("\n"));
    }
    Ok(())
}
