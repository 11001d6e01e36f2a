//! How full the local filesystems are.

use std::path::PathBuf;

use super::highest::raise;

/// The fullest filesystem by space and by inodes, 0 to 1.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Fullest {
    /// Space, as `df` counts it: what is kept for root is neither used nor free.
    pub used: Option<f64>,
    /// Inodes, of filesystems that have a fixed number.
    pub inodes_used: Option<f64>,
}

/// Asks every mount point; what can't be asked is left out.
pub(super) fn fullest(mount_points: &[PathBuf]) -> Fullest {
    let mut fullest = Fullest::default();
    for mount_point in mount_points {
        let Ok(stat) = rustix::fs::statvfs(mount_point) else {
            continue;
        };
        let used = stat.f_blocks.saturating_sub(stat.f_bfree);
        raise(&mut fullest.used, share(used, used + stat.f_bavail));
        let inodes = stat.f_files.saturating_sub(stat.f_ffree);
        raise(&mut fullest.inodes_used, share(inodes, stat.f_files));
    }
    fullest
}

fn share(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| part as f64 / whole as f64)
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::{fullest, raise, share};

    #[test]
    fn the_fullest_counts_and_what_is_gone_does_not() {
        let dir = tempfile::tempdir().unwrap();
        let here = fullest(&[dir.path().to_owned()]);
        let used = here.used.unwrap();
        assert!((0.0..=1.0).contains(&used));
        let both = fullest(&[dir.path().to_owned(), PathBuf::from("/nowhere/at/all")]);
        assert!((both.used.unwrap() - used).abs() < 0.05);
        assert_eq!(fullest(&[]).used, None);
    }

    #[test]
    fn no_inodes_is_not_full() {
        assert_eq!(share(0, 0), None);
        let mut highest = Some(0.5);
        raise(&mut highest, None);
        raise(&mut highest, Some(0.7));
        raise(&mut highest, Some(0.1));
        assert_eq!(highest, Some(0.7));
    }
}
