//! Running other programs: argument vectors, no shell, errors that name the command.

use std::{
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, bail};

/// The workspace's root.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .map_or_else(PathBuf::new, Path::to_owned)
}

pub use paramedic_parts::tools::cache;

/// Runs a command with our own stdout and stderr; fails unless it exits 0.
pub fn run(command: &mut Command) -> anyhow::Result<()> {
    let status = command
        .status()
        .with_context(|| format!("cannot start {}", describe(command)))?;
    if !status.success() {
        bail!("{} ended with {status}", describe(command));
    }
    Ok(())
}

/// A command's stdout as text; fails unless it exits 0.
pub fn output(program: &str, args: &[&str]) -> anyhow::Result<String> {
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::null());
    let output = command
        .output()
        .with_context(|| format!("cannot start {}", describe(&command)))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!(
            "{} ended with {}: {}",
            describe(&command),
            output.status,
            said.trim()
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// `cargo` of the toolchain that built us, free of what `cargo run` told us about ourselves: some
/// build scripts watch `CARGO_MANIFEST_DIR` or `CARGO_PKG_NAME`, and everything above them would be
/// built anew whenever `cargo build` and `cargo xtask build` take turns.
pub fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root());
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(is_about_the_package) {
            command.env_remove(name);
        }
    }
    command
}

/// A program that cargo has built: by the folder of its profile (`debug`, `measure`) and its name.
pub fn built(profile: &str, program: &str) -> PathBuf {
    let target =
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from);
    target.join(profile).join(program)
}

/// Runs a command with our own stdout and stderr; its exit code, 1 if a signal ended it.
pub fn exit_code(command: &mut Command) -> anyhow::Result<u8> {
    let status = command
        .status()
        .with_context(|| format!("cannot start {}", describe(command)))?;
    Ok(status
        .code()
        .and_then(|code| u8::try_from(code).ok())
        .unwrap_or(1))
}

/// Whether cargo sets this variable for the program that it runs, to describe its package.
fn is_about_the_package(variable: &str) -> bool {
    variable.starts_with("CARGO_PKG_") || variable.starts_with("CARGO_MANIFEST_")
}

/// Our own program's file. A build may have replaced it since we began: then `/proc/self/exe` names
/// the old one as deleted, and the new one will do.
pub fn own_program() -> anyhow::Result<PathBuf> {
    let program = std::env::current_exe().context("cannot tell our own program's path")?;
    let replaced = program
        .to_str()
        .and_then(|path| path.strip_suffix(" (deleted)"));
    Ok(replaced.map_or_else(|| program.clone(), PathBuf::from))
}

/// Downloads a Debian package and unpacks it into `dir`, whole or not at all.
pub fn unpack(package: &str, dir: &Path) -> anyhow::Result<()> {
    let parent = dir
        .parent()
        .context("a folder to unpack into has a parent")?;
    let part = parent.join(format!(".{package}.part"));
    if part.exists() {
        fs::remove_dir_all(&part).with_context(|| format!("cannot clear {}", part.display()))?;
    }
    fs::create_dir_all(part.join("tree"))
        .with_context(|| format!("cannot make {}", part.display()))?;
    run(Command::new("apt-get")
        .args(["download", "-qq", "-o", "APT::Sandbox::User=root", package])
        .current_dir(&part)
        .stdout(Stdio::null()))?;
    let archive = fs::read_dir(&part)?
        .flatten()
        .map(|entry| entry.path())
        .find(|path| path.extension() == Some(OsStr::new("deb")))
        .with_context(|| format!("apt-get download {package} left no package behind"))?;
    run(Command::new("dpkg")
        .arg("-x")
        .arg(&archive)
        .arg(part.join("tree")))?;
    if dir.exists() {
        fs::remove_dir_all(dir)?;
    }
    fs::rename(part.join("tree"), dir)
        .with_context(|| format!("cannot place {}", dir.display()))?;
    fs::remove_dir_all(&part)?;
    Ok(())
}

fn describe(command: &Command) -> String {
    let mut words = vec![command.get_program().to_string_lossy().into_owned()];
    words.extend(
        command
            .get_args()
            .map(|arg| arg.to_string_lossy().into_owned()),
    );
    format!("`{}`", words.join(" "))
}
