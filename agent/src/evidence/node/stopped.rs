//! Filesystems that the kernel has stopped writing to, as its log tells. Since Linux 6.12 (and where the
//! change was taken back into older ones) an ext4 that has met an error no longer looks read-only in the
//! mount table nor to statvfs(3), until 6.15 tells it as `emergency_ro`; an XFS that was shut down never did.

use std::{
    collections::HashMap,
    fs::read_to_string,
    path::{Path, PathBuf},
};

/// Filesystems remembered at most.
const STOPPED_MAX: usize = 64;
/// What they say when they stop: texts of `ext4_handle_error`, `xfs_do_force_shutdown` (of any cause),
/// `__btrfs_handle_fs_error` and `f2fs_handle_critical_error`.
const STOPS: [&str; 4] = [
    "Remounting filesystem read-only",
    "has been shut down",
    "forced readonly",
    "Stopped filesystem due to reason",
];
/// What they say when they begin again, or go.
const BEGINS: [&str; 4] = [
    "mounted filesystem",
    "re-mounted",
    "Mounting ",
    "nmounting ",
];

/// Devices of filesystems that were stopped.
#[derive(Debug)]
pub(super) struct Stopped {
    /// Where the kernel lists block devices.
    devices: PathBuf,
    /// By the kernel's name of the device, its number as the mount table writes it.
    by_name: HashMap<String, String>,
}

impl Default for Stopped {
    fn default() -> Self {
        Self::at(Path::new("/sys/class/block"))
    }
}

impl Stopped {
    fn at(devices: &Path) -> Self {
        Self {
            devices: devices.to_owned(),
            by_name: HashMap::new(),
        }
    }

    /// Takes the text of one record of the kernel's own.
    pub(super) fn take(&mut self, text: &str) {
        let has = |words: &[&str]| words.iter().any(|word| text.contains(word));
        let (stops, begins) = (has(&STOPS), has(&BEGINS));
        if !stops && !begins {
            return;
        }
        let Some(name) = device(text) else { return };
        if !stops {
            self.by_name.remove(name);
            return;
        }
        // What is no block device, or gone by now, is in no mount table either.
        let number = read_to_string(self.devices.join(name.replace('/', "!")).join("dev"));
        if let Ok(number) = number
            && self.by_name.len() < STOPPED_MAX
        {
            self.by_name
                .insert(name.to_owned(), number.trim().to_owned());
        }
    }

    /// `major:minor` of each.
    pub(super) fn devices(&self) -> impl Iterator<Item = &str> {
        self.by_name.values().map(String::as_str)
    }
}

/// The device that a filesystem speaks of: `EXT4-fs (vda): …`, `XFS (dm-0): …`, `BTRFS: error (device
/// sda1: state EA) …`.
fn device(text: &str) -> Option<&str> {
    let (_, rest) = text.split_once('(')?;
    let (within, _) = rest.split_once(')')?;
    let named = within.strip_prefix("device ").unwrap_or(within);
    let name = named.split([':', ' ']).next()?;
    let of_name = |c: char| c.is_ascii_alphanumeric() || "-_/".contains(c);
    (!name.is_empty() && !name.starts_with('/') && name.chars().all(of_name)).then_some(name)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::{Stopped, device};

    /// As written by Linux 6.1, 6.12 and the sources of 6.18.
    #[test]
    fn every_filesystem_names_its_device() {
        assert_eq!(
            device("EXT4-fs (vda): Remounting filesystem read-only"),
            Some("vda")
        );
        let xfs = "XFS (dm-0): Filesystem has been shut down due to log error (0x2).";
        assert_eq!(device(xfs), Some("dm-0"));
        let btrfs = "BTRFS info (device sda1: state EA): forced readonly";
        assert_eq!(device(btrfs), Some("sda1"));
        assert_eq!(device("EXT4-fs (cciss/c0d0): x"), Some("cciss/c0d0"));
        for odd in ["", "(", "()", "(../x): y", "(/etc): y", "no brackets"] {
            assert_eq!(device(odd), None, "{odd}");
        }
    }

    #[test]
    fn it_is_stopped_until_it_is_mounted_again() {
        let folder = tempfile::tempdir().unwrap();
        for (name, number) in [("vda", "254:0\n"), ("dm-0", "253:0\n")] {
            fs::create_dir(folder.path().join(name)).unwrap();
            fs::write(folder.path().join(name).join("dev"), number).unwrap();
        }
        let mut stopped = Stopped::at(folder.path());
        let now = |stopped: &Stopped| {
            let mut devices: Vec<String> = stopped.devices().map(str::to_owned).collect();
            devices.sort();
            devices
        };
        stopped.take("EXT4-fs (vda): mounted filesystem 2b439d1c r/w with ordered data mode.");
        stopped.take("EXT4-fs error (device vda): trigger_test_error:129: comm sh: boo");
        assert!(now(&stopped).is_empty());
        stopped.take("EXT4-fs (vda): Remounting filesystem read-only");
        stopped.take("EXT4-fs (vda): Remounting filesystem read-only");
        stopped.take("XFS (dm-0): Filesystem has been shut down due to log error (0x2).");
        stopped.take("EXT4-fs (gone): Remounting filesystem read-only");
        assert_eq!(now(&stopped), ["253:0", "254:0"]);
        stopped.take("EXT4-fs (vda): unmounting filesystem 2b439d1c.");
        assert_eq!(now(&stopped), ["253:0"]);
        stopped.take("XFS (dm-0): Mounting V5 Filesystem 1ac8");
        assert!(now(&stopped).is_empty());
    }
}
