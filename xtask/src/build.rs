//! Building: the probes for the BPF target, then the agent that embeds them.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, bail};

use crate::{setup, sh};

/// Debian's compiler that comes with its own library sources.
const DEBIAN_RUSTC: &str = "/usr/bin/rustc";
const BPF_TARGET: &str = "bpfel-unknown-none";
/// What every compilation for the BPF target needs: BTF comes from debug information.
const BPF_FLAGS: [&str; 2] = ["-Cdebuginfo=2", "-Clink-arg=--btf"];

/// Builds the probes to `target/bpf/paramedic-probes.o`. Cargo knows what has changed; the copy is
/// left alone if it is the same, so that the agent is not rebuilt for nothing.
pub fn build_probes(root: &Path) -> anyhow::Result<PathBuf> {
    sh::run(bpf_cargo(root, "build", &[])?.arg("--quiet"))
        .context("the probes do not build: `cargo xtask setup` installs their compiler")?;
    let built = bpf_target_dir(root)
        .join(BPF_TARGET)
        .join("release/paramedic-probes");
    let object = fs::read(&built).with_context(|| format!("cannot read {}", built.display()))?;
    let place = root.join("target/bpf/paramedic-probes.o");
    if fs::read(&place).is_ok_and(|there| there == object) {
        return Ok(place);
    }
    let folder = root.join("target/bpf");
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let part = root.join("target/bpf/paramedic-probes.part");
    fs::write(&part, &object).with_context(|| format!("cannot write {}", part.display()))?;
    fs::rename(&part, &place).with_context(|| format!("cannot place {}", place.display()))?;
    Ok(place)
}

/// Lints the probes twice. rustc's own lints run on the BPF target, by the compiler that builds the
/// object; clippy runs on the host's target, because the toolchain that has clippy has no library
/// sources to build `core` for BPF from, and the other one has no clippy.
pub fn clippy_probes(root: &Path) -> anyhow::Result<()> {
    sh::run(bpf_cargo(root, "check", &["-Dwarnings"])?.arg("--quiet"))?;
    sh::run(
        sh::cargo()
            .args(["clippy", "--quiet", "--package", "agent-ebpf"])
            .arg("--target-dir")
            .arg(root.join("target/bpf-clippy"))
            .args(["--", "-D", "warnings"])
            // Without `std` there is no unwinding: the panic handler must be final.
            .env("CARGO_PROFILE_DEV_PANIC", "abort"),
    )
}

/// Probes, then everything of the host.
pub fn build() -> anyhow::Result<()> {
    build_probes(&sh::root())?;
    sh::run(sh::cargo().args(["build", "--workspace", "--exclude", "agent-ebpf"]))
}

/// Apart from the host's, so that neither throws away the other's work; not below `target/bpf`,
/// which the agent's build script watches.
fn bpf_target_dir(root: &Path) -> PathBuf {
    root.join("target/bpf-build")
}

/// `cargo ACTION` of the probes for the BPF target.
fn bpf_cargo(root: &Path, action: &str, more_flags: &[&str]) -> anyhow::Result<Command> {
    let mut command = sh::cargo();
    command
        .args([action, "--release", "--package", "agent-ebpf", "--locked"])
        .args(["-Z", "build-std=core", "--target", BPF_TARGET])
        .arg("--target-dir")
        .arg(bpf_target_dir(root))
        // build-std and the inline assembler for BPF are unstable: the versions are pinned instead.
        .env("RUSTC_BOOTSTRAP", "1")
        .env(
            "CARGO_ENCODED_RUSTFLAGS",
            [&BPF_FLAGS, more_flags].concat().join("\u{1f}"),
        )
        // bpf-linker optimises the whole program itself.
        .env("CARGO_PROFILE_RELEASE_LTO", "off")
        .env_remove("RUSTC")
        .env_remove("RUSTC_WRAPPER")
        .env_remove("RUSTC_WORKSPACE_WRAPPER")
        .env_remove("RUSTFLAGS");
    if has_sources(DEBIAN_RUSTC) {
        command.env("RUSTC", DEBIAN_RUSTC);
    } else if !has_sources("rustc") {
        bail!(
            "no Rust compiler with its library's sources: run `cargo xtask setup`, or \
             `rustup component add rust-src`"
        );
    }
    let mut path = vec![setup::cargo_bin()?];
    path.extend(std::env::split_paths(
        &std::env::var_os("PATH").unwrap_or_default(),
    ));
    command.env("PATH", std::env::join_paths(path)?);
    Ok(command)
}

/// Whether `core` can be built with this compiler.
fn has_sources(rustc: &str) -> bool {
    sh::output(rustc, &["--print", "sysroot"]).is_ok_and(|sysroot| {
        Path::new(sysroot.trim())
            .join("lib/rustlib/src/rust/library/core/Cargo.toml")
            .is_file()
    })
}
