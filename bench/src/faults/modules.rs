//! Modules of the VM's kernel, from the unpacked package that it was booted from.

use std::{
    io,
    path::{Path, PathBuf},
};

use anyhow::ensure;
use paramedic_parts::{module, tools};

/// Loads a module after all that it needs; one that is built in or loaded already is fine.
pub fn load(name: &str) -> anyhow::Result<()> {
    let release = rustix::system::uname()
        .release()
        .to_string_lossy()
        .into_owned();
    let folder = modules(&release);
    ensure!(
        folder.is_dir(),
        "the modules of Linux {release} are not at {}: run `cargo xtask setup`",
        folder.display()
    );
    load_from(&folder, name, 0)
}

fn modules(release: &str) -> PathBuf {
    tools::cache()
        .join("kernels")
        .join(format!("linux-image-{release}"))
        .join("lib/modules")
        .join(release)
        .join("kernel")
}

/// Modules need one another at most this deep.
const DEPTH_MAX: usize = 16;

fn load_from(folder: &Path, name: &str, depth: usize) -> anyhow::Result<()> {
    ensure!(
        depth < DEPTH_MAX,
        "{name}: modules need each other in a circle"
    );
    // sysfs writes `_` where a file may have `-`.
    if Path::new("/sys/module")
        .join(name.replace('-', "_"))
        .is_dir()
    {
        return Ok(());
    }
    // Not a file: built in.
    let Some(file) = module::find(folder, name) else {
        return Ok(());
    };
    let image = module::read(&file)?;
    for needed in module::depends(&image) {
        load_from(folder, &needed, depth + 1)?;
    }
    // SAFETY: the image and an empty text of parameters are valid for the call, which copies both.
    let loaded = unsafe {
        libc::syscall(
            libc::SYS_init_module,
            image.as_ptr(),
            image.len(),
            c"".as_ptr(),
        )
    };
    let error = io::Error::last_os_error();
    ensure!(
        loaded == 0 || error.raw_os_error() == Some(libc::EEXIST),
        "cannot load {}: {error}",
        file.display()
    );
    Ok(())
}
