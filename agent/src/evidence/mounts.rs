//! Mounts: where cgroup v2 is, and which filesystems are local disks.

use std::{
    collections::{HashMap, HashSet},
    path::PathBuf,
};

use procfs::{
    FromRead,
    process::{MountInfo, MountInfos},
};

/// Filesystems on local block devices. A list of what is known to answer at once rather than of what
/// is known to hang: `statvfs` on a dead NFS server, a 9p share or a FUSE daemon never comes back.
const LOCAL: &[&str] = &[
    "bcachefs", "btrfs", "exfat", "ext2", "ext3", "ext4", "f2fs", "jfs", "nilfs2", "ntfs3",
    "reiserfs", "vfat", "xfs", "zfs",
];
/// Filesystems asked for their usage at most: each is a system call a few seconds apart.
const FILESYSTEMS_MAX: usize = 64;

/// What the mount table told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Mounts {
    /// Mount point of cgroup v2, alone or beside v1 (hybrid). One that shows the whole hierarchy is
    /// preferred to one that shows a part.
    pub cgroup2: Option<PathBuf>,
    /// Mount points of writable local filesystems, one a device.
    pub local: Vec<PathBuf>,
    /// Local filesystems beyond the limit.
    pub left_out: usize,
    /// Devices of local filesystems, `major:minor`.
    seen: HashSet<String>,
    /// Of these, those that were writable when they were first seen …
    writable: HashSet<String>,
    /// … and are no longer.
    gone: HashSet<String>,
}

impl Mounts {
    /// Reads `/proc/self/mountinfo`; `earlier` is what was read before.
    pub(super) fn read(earlier: &Self) -> Option<Self> {
        MountInfos::from_file("/proc/self/mountinfo")
            .ok()
            .map(|infos| Self::of(&infos, earlier))
    }

    /// Filesystems that were writable and are no longer. `stopped` are the devices of those of which the
    /// kernel's log says so. `None` where there is no local filesystem.
    pub(super) fn gone_readonly<'a>(
        &self,
        stopped: impl Iterator<Item = &'a str>,
    ) -> Option<usize> {
        let told =
            stopped.filter(|device| self.seen.contains(*device) && !self.gone.contains(*device));
        (!self.seen.is_empty()).then(|| self.gone.len() + told.count())
    }

    fn of(infos: &MountInfos, earlier: &Self) -> Self {
        let cgroup2 = |whole: bool| {
            infos
                .0
                .iter()
                .find(|mount| mount.fs_type == "cgroup2" && (!whole || mount.root == "/"))
        };
        let mut devices = HashSet::new();
        // A read-only filesystem does not fill up (and an image of one is always full).
        let local: Vec<PathBuf> = infos
            .0
            .iter()
            .filter(|mount| LOCAL.contains(&mount.fs_type.as_str()))
            .filter(|mount| !mount.mount_options.contains_key("ro"))
            .filter(|mount| devices.insert(mount.majmin.clone()))
            .map(|mount| mount.mount_point.clone())
            .collect();
        // A filesystem that meets an error makes itself read-only as a whole, at every mount point; one
        // that was mounted so, or is looked at through a read-only bind, is as its owner wants it.
        let mut whole: HashMap<&str, bool> = HashMap::new();
        for mount in &infos.0 {
            if LOCAL.contains(&mount.fs_type.as_str()) {
                let writable = !mount.super_options.contains_key("ro");
                *whole.entry(&mount.majmin).or_default() |= writable;
            }
        }
        let says_so = |mount: &&MountInfo| mount.super_options.contains_key("emergency_ro");
        let broken: HashSet<&str> = infos
            .0
            .iter()
            .filter(says_so)
            .map(|mount| mount.majmin.as_str())
            .collect();
        let is_gone = |device: &str| {
            broken.contains(device)
                || (earlier.writable.contains(device) && whole.get(device) == Some(&false))
        };
        let gone = whole.keys().filter(|device| is_gone(device));
        let gone = gone.map(|device| (*device).to_owned()).collect();
        let still = |device: &&String| whole.contains_key(device.as_str());
        let mut writable: HashSet<String> =
            earlier.writable.iter().filter(still).cloned().collect();
        let now = whole.iter().filter(|(_, writable)| **writable);
        writable.extend(now.map(|(device, _)| (*device).to_owned()));
        let seen = whole.keys().map(|device| (*device).to_owned()).collect();
        let left_out = local.len().saturating_sub(FILESYSTEMS_MAX);
        Self {
            cgroup2: cgroup2(true)
                .or_else(|| cgroup2(false))
                .map(|mount| mount.mount_point.clone()),
            local: local.into_iter().take(FILESYSTEMS_MAX).collect(),
            left_out,
            seen,
            writable,
            gone,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use procfs::{FromRead, process::MountInfos};

    use super::Mounts;

    fn mounts(text: &str) -> Mounts {
        after(&Mounts::default(), text)
    }

    fn after(earlier: &Mounts, text: &str) -> Mounts {
        Mounts::of(&MountInfos::from_read(text.as_bytes()).unwrap(), earlier)
    }

    const HYBRID: &str = "\
22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
30 22 0:26 / /sys/fs/cgroup ro,nosuid - tmpfs tmpfs ro
31 30 0:27 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
32 30 0:28 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
40 22 254:0 /var/lib /mnt/bind rw,relatime shared:1 - ext4 /dev/vda rw
41 22 0:40 / /mnt/nfs rw - nfs4 server:/export rw
42 22 7:1 / /snap/core ro,nodev - squashfs /dev/loop1 ro
43 22 254:16 / /data rw - xfs /dev/vdb rw
44 22 254:32 / /media ro - ext4 /dev/vdc ro
45 22 0:41 / /mnt/share rw - virtiofs share rw
";

    #[test]
    fn a_hybrid_host_has_its_v2_mount_found() {
        assert_eq!(
            mounts(HYBRID).cgroup2,
            Some(PathBuf::from("/sys/fs/cgroup/unified"))
        );
    }

    #[test]
    fn only_writable_local_filesystems_each_once() {
        assert_eq!(
            mounts(HYBRID).local,
            [PathBuf::from("/"), PathBuf::from("/data")]
        );
    }

    #[test]
    fn the_whole_hierarchy_is_preferred_to_a_part() {
        let text = "\
31 30 0:28 /../pod /part rw - cgroup2 cgroup2 rw
32 30 0:28 / /whole rw - cgroup2 cgroup2 rw
";
        assert_eq!(mounts(text).cgroup2, Some(PathBuf::from("/whole")));
        assert_eq!(mounts("1 0 0:1 / / rw - ext4 a rw\n").cgroup2, None);
    }

    #[test]
    fn a_filesystem_that_became_read_only_is_told_from_one_that_always_was() {
        let line = |device: &str, options: &str| {
            format!("22 1 {device} / /d{device} rw,relatime shared:1 - ext4 /dev/x {options}\n")
        };
        let healthy = line("254:0", "rw") + &line("254:1", "ro");
        let first = mounts(&healthy);
        let gone = |mounts: &Mounts| mounts.gone_readonly(std::iter::empty());
        assert_eq!(gone(&first), Some(0), "one was mounted so");
        let second = after(&first, &(line("254:0", "ro") + &line("254:1", "ro")));
        assert_eq!(gone(&second), Some(1));
        let third = after(&second, &line("254:0", "ro"));
        assert_eq!(gone(&third), Some(1), "it is remembered");
        assert_eq!(gone(&after(&third, &healthy)), Some(0));
        // Newer kernels say so themselves, whenever it happened.
        let told = mounts(&line("254:0", "rw,emergency_ro"));
        assert_eq!(gone(&told), Some(1));
        assert_eq!(gone(&mounts("")), None);
        // Others say so in the kernel's log only; one that is told twice is one, and one that is not
        // mounted is none.
        let log = || ["254:0", "259:9"].into_iter();
        assert_eq!(first.gone_readonly(log()), Some(1));
        assert_eq!(third.gone_readonly(log()), Some(1));
        assert_eq!(mounts("").gone_readonly(log()), None);
    }
}
