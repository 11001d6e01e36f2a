//! `cargo xtask deploy`: what gets the agent onto nodes, rendered into a folder.
//!
//! Everything comes from `agent/deploy` as it stands there; only the image's name is filled in. The image
//! is written as an OCI layout without any daemon, and twice the same inputs give the same digest.

mod image;
mod sbom;
mod tar;

#[cfg(test)]
mod tests;

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, bail, ensure};
use clap::{Subcommand, ValueEnum};

use crate::sh;

/// What to render.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Target {
    /// A base that advises, and an overlay that acts.
    Kustomize,
    /// A chart.
    Helm,
    /// Units and configuration, as they lie on a node.
    Systemd,
    /// An OCI image layout with one layer.
    Image,
}

#[derive(Debug, Subcommand)]
pub enum Deploy {
    /// Write what is needed for one way of deployment into a folder, which must not be there yet
    Render {
        #[arg(value_enum)]
        target: Target,
        /// The folder
        dir: PathBuf,
        /// Name of the image in manifests
        #[arg(long, default_value = "paramedic:latest")]
        image: String,
        /// The statically linked agent for the image; it is built if none is named
        #[arg(long)]
        binary: Option<PathBuf>,
    },
    /// Write a bill of materials of the agent (CycloneDX 1.5)
    Sbom {
        /// The file
        file: PathBuf,
    },
}

/// The image's name as it stands in the manifests.
const IMAGE: &str = "paramedic:latest";

/// Runs the command.
pub fn deploy(command: &Deploy) -> anyhow::Result<()> {
    match command {
        Deploy::Render {
            target,
            dir,
            image,
            binary,
        } => {
            ensure!(!dir.exists(), "{} is there already", dir.display());
            render(*target, dir, image, binary.as_deref())
        }
        Deploy::Sbom { file } => {
            let text = sbom::bill(&sh::root())?;
            fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))
        }
    }
}

fn render(target: Target, dir: &Path, image: &str, binary: Option<&Path>) -> anyhow::Result<()> {
    let shipped = sh::root().join("agent/deploy");
    match target {
        Target::Kustomize => copy(&shipped.join("kubernetes"), dir, image),
        Target::Helm => copy(&shipped.join("helm"), dir, image),
        Target::Systemd => {
            for (name, place) in SYSTEMD {
                let to = dir.join(place);
                let parent = to.parent().context("a file has a folder")?;
                fs::create_dir_all(parent)
                    .with_context(|| format!("cannot make {}", parent.display()))?;
                fs::copy(shipped.join("systemd").join(name), &to)
                    .with_context(|| format!("cannot write {}", to.display()))?;
            }
            Ok(())
        }
        Target::Image => {
            let binary = match binary {
                Some(binary) => binary.to_owned(),
                None => build()?,
            };
            let program =
                fs::read(&binary).with_context(|| format!("cannot read {}", binary.display()))?;
            if let Some(loader) = image::loader(&program)? {
                bail!(
                    "{} is linked dynamically (it wants {loader}), and there is nothing else in the \
                     image: leave --binary out, or build it with RUSTFLAGS=-Ctarget-feature=+crt-static",
                    binary.display()
                );
            }
            let digest = image::write(dir, &program, &sbom::bill(&sh::root())?)?;
            println!("{digest}");
            Ok(())
        }
    }
}

/// Each unit and the place where systemd looks for it.
const SYSTEMD: [(&str, &str); 4] = [
    (
        "paramedic.service",
        "usr/lib/systemd/system/paramedic.service",
    ),
    (
        "paramedic-guardian.service",
        "usr/lib/systemd/system/paramedic-guardian.service",
    ),
    ("paramedic.slice", "usr/lib/systemd/system/paramedic.slice"),
    ("paramedic.yaml", "etc/paramedic/paramedic.yaml"),
];

/// Copies a tree of text files with the image's name filled in.
fn copy(from: &Path, to: &Path, image: &str) -> anyhow::Result<()> {
    fs::create_dir_all(to).with_context(|| format!("cannot make {}", to.display()))?;
    let listed = fs::read_dir(from).with_context(|| format!("cannot list {}", from.display()))?;
    for entry in listed {
        let entry = entry?;
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        if entry.file_type()?.is_dir() {
            copy(&source, &target, image)?;
        } else {
            let text = fs::read_to_string(&source)
                .with_context(|| format!("cannot read {}", source.display()))?;
            fs::write(&target, text.replace(IMAGE, image))
                .with_context(|| format!("cannot write {}", target.display()))?;
        }
    }
    Ok(())
}

/// The agent as one static program: glibc's own static archive, no interpreter.
fn build() -> anyhow::Result<PathBuf> {
    let triple = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let target = sh::root().join("target/static");
    sh::run(
        sh::cargo()
            .args(["build", "--release", "--locked", "-p", "paramedic"])
            // With a named target build scripts and macros are left alone.
            .args(["--target", &triple, "--target-dir"])
            .arg(&target)
            .env("RUSTFLAGS", "-Ctarget-feature=+crt-static"),
    )?;
    Ok(target.join(triple).join("release/paramedic"))
}
