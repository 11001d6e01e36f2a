//! Modules of the VM's kernel, from the unpacked package that it was booted from.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, ensure};

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
    let cache = std::env::var_os("PARAMEDIC_CACHE").map_or_else(
        || {
            PathBuf::from(std::env::var_os("HOME").unwrap_or_else(|| "/root".into()))
                .join(".cache/paramedic")
        },
        PathBuf::from,
    );
    cache
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
    let Some(file) = find(folder, name) else {
        return Ok(());
    };
    let image = image(&file)?;
    for needed in depends(&image) {
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

fn find(folder: &Path, name: &str) -> Option<PathBuf> {
    let mut folders = Vec::new();
    for entry in fs::read_dir(folder).ok()?.flatten() {
        let path = entry.path();
        if path.is_dir() {
            folders.push(path);
            continue;
        }
        let file = entry.file_name().to_string_lossy().replace('-', "_");
        let rest = file.strip_prefix(&name.replace('-', "_"));
        if rest.is_some_and(|rest| rest == ".ko" || rest == ".ko.xz") {
            return Some(path);
        }
    }
    folders.iter().find_map(|folder| find(folder, name))
}

fn image(file: &Path) -> anyhow::Result<Vec<u8>> {
    if file.extension().is_none_or(|extension| extension != "xz") {
        return fs::read(file).with_context(|| format!("cannot read {}", file.display()));
    }
    let unpacked = Command::new("xz")
        .arg("-dc")
        .arg(file)
        .output()
        .context("cannot start xz")?;
    ensure!(
        unpacked.status.success(),
        "xz cannot unpack {}",
        file.display()
    );
    Ok(unpacked.stdout)
}

/// The `depends=` line of a module's `.modinfo`: the unpacked package has no modules.dep.
fn depends(image: &[u8]) -> Vec<String> {
    const KEY: &[u8] = b"\0depends=";
    let Some(at) = image.windows(KEY.len()).position(|window| window == KEY) else {
        return Vec::new();
    };
    let rest = &image[at + KEY.len()..];
    let end = rest.iter().position(|byte| *byte == 0).unwrap_or(0);
    String::from_utf8_lossy(&rest[..end])
        .split(',')
        .filter(|name| !name.is_empty())
        .map(str::to_owned)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::{depends, find};

    #[test]
    fn a_module_names_what_it_needs() {
        assert_eq!(depends(b"x\0depends=dm-mod,loop\0y"), ["dm-mod", "loop"]);
        assert!(depends(b"x\0depends=\0y").is_empty());
        assert!(depends(b"nothing").is_empty());
    }

    #[test]
    fn a_module_is_found_whichever_way_its_name_is_written() {
        let folder = tempfile::tempdir().unwrap();
        let below = folder.path().join("drivers/md");
        std::fs::create_dir_all(&below).unwrap();
        std::fs::write(below.join("dm-mod.ko.xz"), "").unwrap();
        assert_eq!(
            find(folder.path(), "dm_mod"),
            Some(below.join("dm-mod.ko.xz"))
        );
        assert_eq!(find(folder.path(), "dm"), None);
    }
}
