//! Kernel modules of an unpacked package, which has no modules.dep.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, ensure};

/// The file of a module below a folder, if it is one. sysfs writes `_` where a file may have `-`.
pub fn find(folder: &Path, name: &str) -> Option<PathBuf> {
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

/// A module's image, unpacked if it is packed by xz.
///
/// # Errors
/// It can't be read, or not be unpacked.
pub fn read(file: &Path) -> anyhow::Result<Vec<u8>> {
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

/// Names of the modules that an image needs first: the `depends=` line of its `.modinfo`.
pub fn depends(image: &[u8]) -> Vec<String> {
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
    fn a_modules_needs_are_read_from_its_own_words() {
        assert_eq!(
            depends(b"x\0depends=virtio,virtio_ring\0y"),
            ["virtio", "virtio_ring"]
        );
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
