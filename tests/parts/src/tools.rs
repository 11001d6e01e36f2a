//! Where programs are found.

use std::{env, path::PathBuf};

use anyhow::{Context, bail};

/// `package/usr/bin/program` below the tools' folder, as `cargo xtask setup` unpacks it.
///
/// The folder is `PARAMEDIC_TOOLS`, or `tools` in `PARAMEDIC_CACHE`, or `~/.cache/paramedic/tools`.
pub fn tool(package: &str) -> anyhow::Result<PathBuf> {
    let program = folder().join(package).join("usr/bin").join(package);
    if !program.is_file() {
        bail!(
            "{package} is not at {}: run `cargo xtask setup`, or set PARAMEDIC_TOOLS",
            program.display()
        );
    }
    Ok(program)
}

/// Another program of such a package: `promtool` of `prometheus`, `amtool` of `prometheus-alertmanager`.
pub fn beside(package: &str, program: &str) -> anyhow::Result<PathBuf> {
    let found = tool(package)?.with_file_name(program);
    if !found.is_file() {
        bail!("{package} has no {program} at {}", found.display());
    }
    Ok(found)
}

fn folder() -> PathBuf {
    if let Some(tools) = env::var_os("PARAMEDIC_TOOLS") {
        return tools.into();
    }
    cache().join("tools")
}

/// Where downloads are kept: `PARAMEDIC_CACHE`, or `~/.cache/paramedic`.
pub fn cache() -> PathBuf {
    env::var_os("PARAMEDIC_CACHE").map_or_else(
        || {
            let home = env::var_os("HOME").unwrap_or_else(|| "/root".into());
            PathBuf::from(home).join(".cache/paramedic")
        },
        PathBuf::from,
    )
}

/// The agent's binary: `PARAMEDIC_BIN`, or `paramedic` in the folder of the running program or
/// above it (`target/debug/deps/…` -> `target/debug`).
pub fn agent_binary() -> anyhow::Result<PathBuf> {
    if let Some(binary) = env::var_os("PARAMEDIC_BIN") {
        let binary = PathBuf::from(binary);
        if !binary.is_file() {
            bail!("PARAMEDIC_BIN: no file at {}", binary.display());
        }
        return Ok(binary);
    }
    let own = env::current_exe().context("cannot tell the running program's path")?;
    let found = own
        .ancestors()
        .skip(1)
        .take(2)
        .map(|folder| folder.join("paramedic"))
        .find(|binary| binary.is_file());
    found.with_context(|| {
        format!(
            "no paramedic near {}: run `cargo build -p paramedic`, or set PARAMEDIC_BIN",
            own.display()
        )
    })
}

/// A temporary folder on a real disk: below `PARAMEDIC_TEST_DIR`, or the VM's disk, or the
/// system's own place. The journal wants a disk, and the VM's `/tmp` is memory.
pub fn temporary_folder() -> anyhow::Result<tempfile::TempDir> {
    let in_vm = env::var_os("PARAMEDIC_VM").map(|_| PathBuf::from("/run/disk"));
    let base = env::var_os("PARAMEDIC_TEST_DIR")
        .map(PathBuf::from)
        .or_else(|| in_vm.filter(|disk| disk.is_dir()))
        .unwrap_or_else(env::temp_dir);
    tempfile::Builder::new()
        .prefix("paramedic-")
        .tempdir_in(&base)
        .with_context(|| format!("cannot make a folder in {}", base.display()))
}
