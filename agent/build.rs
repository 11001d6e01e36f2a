//! Carries the probes' object into the binary, if it has been built.
//!
//! Someone without a BPF toolchain can build everything else: the binary then says at run time that
//! it has no probes, and every probe falls back.

use std::{
    env, fs, io,
    path::{Path, PathBuf},
};

fn main() -> io::Result<()> {
    let place = PathBuf::from(variable("OUT_DIR")?).join("paramedic-probes.o");
    println!("cargo:rerun-if-env-changed=PARAMEDIC_PROBES");
    let object = if let Some(given) = env::var_os("PARAMEDIC_PROBES") {
        println!("cargo:rerun-if-changed={}", given.display());
        fs::read(&given).map_err(|error| {
            io::Error::new(
                error.kind(),
                format!("PARAMEDIC_PROBES: {}: {error}", given.display()),
            )
        })?
    } else {
        built_earlier(Path::new(&variable("CARGO_MANIFEST_DIR")?))
    };
    // Only if it differs: the binary is built again when this file is touched.
    if fs::read(&place).map_or(true, |there| there != object) {
        fs::write(&place, &object)?;
    }
    Ok(())
}

/// What `cargo xtask build` left in the workspace's target folder, or nothing with a warning.
fn built_earlier(manifest_dir: &Path) -> Vec<u8> {
    let folder = manifest_dir
        .parent()
        .unwrap_or(manifest_dir)
        .join("target/bpf");
    // Cargo runs this script again and again while a watched path is missing; the folder is made so
    // that it does so only when the object comes. Where that fails, the cost is only that.
    fs::create_dir_all(&folder).unwrap_or_default();
    println!("cargo:rerun-if-changed={}", folder.display());
    fs::read(folder.join("paramedic-probes.o")).unwrap_or_else(|_| {
        println!(
            "cargo:warning=building without kernel probes: run `cargo xtask setup` once, then \
             `cargo xtask build`"
        );
        Vec::new()
    })
}

fn variable(name: &str) -> io::Result<std::ffi::OsString> {
    env::var_os(name).ok_or_else(|| io::Error::other(format!("cargo did not set {name}")))
}
