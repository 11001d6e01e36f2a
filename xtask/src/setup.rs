//! `cargo xtask setup`: installs what is missing, says what it does, does nothing the second time.
//!
//! Compilers and QEMU come as system packages. Prometheus, Alertmanager, the node exporter and the
//! kernels are only unpacked into the cache: installed, they would start services or boot entries
//! on somebody's machine.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, bail};

use crate::{
    kernels::{Kernel, Series},
    sh,
};

/// What a command needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Building the probes.
    Bpf,
    /// Booting kernels.
    Vm,
    /// Prometheus, Alertmanager, node exporter, faults, a browser.
    Stack,
    /// Benchmarks; installed by them alone.
    Bench,
}

impl Part {
    /// What building, testing and the demo need.
    pub const ALL: [Self; 3] = [Self::Bpf, Self::Vm, Self::Stack];

    fn packages(self) -> &'static [&'static str] {
        match self {
            // g++ and the -dev packages: bpf-linker links LLVM statically or by its own libraries.
            Self::Bpf => &[
                "rustc-web",
                "rust-web-src",
                "llvm-22-dev",
                "g++",
                "pkg-config",
                "zlib1g-dev",
                "libzstd-dev",
                "libxml2-dev",
            ],
            Self::Vm => &[
                "qemu-system-x86",
                "qemu-system-common",
                "busybox-static",
                "e2fsprogs",
                "xz-utils",
                "iproute2",
                "systemd",
            ],
            // The browser opens the page in a test; its font makes pictures readable.
            Self::Stack => &["stress-ng", "chromium", "fonts-dejavu-core"],
            Self::Bench => &["fio", "e2fsprogs", "libbpf-tools", "bpftrace", "dmsetup"],
        }
    }
}

/// Unpacked, not installed: `(package, program inside it)`.
const TOOLS: [(&str, &str); 3] = [
    ("prometheus", "usr/bin/prometheus"),
    ("prometheus-alertmanager", "usr/bin/prometheus-alertmanager"),
    (
        "prometheus-node-exporter",
        "usr/bin/prometheus-node-exporter",
    ),
];

/// bpf-linker that goes with rustc-web 1.96 and LLVM 22.
const BPF_LINKER: &str = "0.13.0";

/// cargo-deny that builds under rustc 1.95.
const CARGO_DENY: &str = "0.20.2";

/// Installs what the parts need and have not.
pub fn setup(parts: &[Part]) -> anyhow::Result<()> {
    let mut apt = Apt::default();
    let missing: Vec<&str> = parts
        .iter()
        .flat_map(|part| part.packages())
        .copied()
        .filter(|name| !installed(name))
        .collect();
    if !missing.is_empty() {
        apt.install(&missing)?;
    }
    if parts.contains(&Part::Bpf) {
        bpf_linker()?;
    }
    if parts.contains(&Part::Stack) {
        for (package, program) in TOOLS {
            let dir = tools().join(package);
            if !dir.join(program).is_file() {
                apt.update()?;
                say(&format!("unpacking {package} into {}", dir.display()));
                sh::unpack(package, &dir)?;
            }
        }
    }
    if parts.contains(&Part::Vm) {
        for series in Series::ALL {
            if Kernel::unpacked(&sh::cache(), series).is_none() {
                apt.update()?;
                say(&format!(
                    "unpacking the newest Linux {} cloud kernel",
                    series.name()
                ));
                Kernel::fetch(&sh::cache(), series)?;
            }
        }
    }
    if parts.len() == Part::ALL.len() {
        say("everything is there");
    }
    Ok(())
}

/// Folder of the unpacked tools.
pub fn tools() -> PathBuf {
    sh::cache().join("tools")
}

fn say(what: &str) {
    eprintln!("setup: {what}");
}

fn installed(package: &str) -> bool {
    Command::new("dpkg-query")
        .args(["-W", "-f", "${db:Status-Status}", package])
        .stderr(Stdio::null())
        .output()
        .is_ok_and(|output| output.stdout == b"installed")
}

/// The machine's package manager; its lists are refreshed once, and only when something is due.
#[derive(Default)]
struct Apt {
    updated: bool,
}

impl Apt {
    fn update(&mut self) -> anyhow::Result<()> {
        if self.updated {
            return Ok(());
        }
        require_apt("package lists")?;
        say("apt-get update");
        sh::run(
            Command::new("apt-get")
                .args(["update", "-qq"])
                .stdout(Stdio::null()),
        )?;
        self.updated = true;
        Ok(())
    }

    fn install(&mut self, packages: &[&str]) -> anyhow::Result<()> {
        require_apt(&packages.join(" "))?;
        self.update()?;
        say(&format!("apt-get install {}", packages.join(" ")));
        sh::run(
            Command::new("apt-get")
                .args(["install", "-y", "-qq", "--no-install-recommends"])
                .args(packages)
                .env("DEBIAN_FRONTEND", "noninteractive")
                .stdin(Stdio::null())
                .stdout(Stdio::null()),
        )
    }
}

fn require_apt(what: &str) -> anyhow::Result<()> {
    if !Path::new("/usr/bin/apt-get").exists() {
        bail!("this machine has no apt-get: install the equivalents of these yourself: {what}");
    }
    if !rustix::process::geteuid().is_root() {
        bail!(
            "installing needs root: run `sudo apt-get install {what}`, or this command with sudo"
        );
    }
    Ok(())
}

/// Where `cargo install` puts programs.
pub fn cargo_bin() -> anyhow::Result<PathBuf> {
    let home = std::env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cargo")))
        .context("neither CARGO_HOME nor HOME is set")?;
    Ok(home.join("bin"))
}

/// cargo-deny's program, installed if it is not there: only linting needs it.
pub fn cargo_deny() -> anyhow::Result<PathBuf> {
    let program = cargo_bin()?.join("cargo-deny");
    let version = Command::new(&program).arg("--version").output();
    if version.is_ok_and(|output| output.status.success()) {
        return Ok(program);
    }
    say(&format!(
        "cargo install cargo-deny {CARGO_DENY} (about two minutes on two cores)"
    ));
    sh::run(
        sh::cargo()
            .args(["install", "--quiet", "--locked", "cargo-deny"])
            .args(["--version", CARGO_DENY])
            .stdin(Stdio::null()),
    )?;
    Ok(program)
}

fn bpf_linker() -> anyhow::Result<()> {
    let program = cargo_bin()?.join("bpf-linker");
    let version = Command::new(&program).arg("--version").output();
    if version.is_ok_and(|output| String::from_utf8_lossy(&output.stdout).contains(BPF_LINKER)) {
        return Ok(());
    }
    say(&format!(
        "cargo install bpf-linker {BPF_LINKER} (under two minutes)"
    ));
    let path = std::env::var("PATH").unwrap_or_default();
    sh::run(
        sh::cargo()
            .args([
                "install",
                "--quiet",
                "bpf-linker",
                "--version",
                BPF_LINKER,
                "--force",
            ])
            .args(["--no-default-features", "--features", "llvm-22"])
            .env("LLVM_PREFIX", "/usr/lib/llvm-22")
            .env("PATH", format!("/usr/lib/llvm-22/bin:{path}"))
            .stdin(Stdio::null()),
    )
}
