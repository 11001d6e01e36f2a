//! Debian's cloud kernels, unpacked into the cache without being installed.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};
use paramedic_parts::module;

use crate::sh;

/// A kernel series that tests run on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Series {
    /// Debian 12's own.
    #[value(name = "6.1")]
    V6_1,
    /// Debian 12's backport.
    #[value(name = "6.12")]
    V6_12,
}

impl Series {
    /// All that tests cover.
    pub const ALL: [Self; 2] = [Self::V6_12, Self::V6_1];

    /// As people write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::V6_1 => "6.1",
            Self::V6_12 => "6.12",
        }
    }

    /// Whether a Debian package is this series' signed cloud kernel.
    fn matches(self, package: &str) -> bool {
        let Some(version) = package
            .strip_prefix("linux-image-")
            .and_then(|rest| rest.strip_suffix("-cloud-amd64"))
        else {
            return false;
        };
        match self {
            Self::V6_1 => version.strip_prefix("6.1.0-").is_some_and(digits),
            Self::V6_12 => version
                .strip_prefix("6.12.")
                .and_then(|rest| rest.strip_suffix("+deb12"))
                .is_some_and(digits),
        }
    }
}

fn digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())
}

/// An unpacked kernel.
#[derive(Clone, Debug)]
pub struct Kernel {
    /// Release, e.g. `6.12.117+deb12-cloud-amd64`.
    pub release: String,
    /// The folder of the unpacked package.
    pub dir: PathBuf,
}

impl Kernel {
    /// The bootable image.
    pub fn image(&self) -> PathBuf {
        self.dir
            .join("boot")
            .join(format!("vmlinuz-{}", self.release))
    }

    /// The file of a module, if it is one.
    pub fn module(&self, name: &str) -> Option<PathBuf> {
        module::find(
            &self
                .dir
                .join("lib/modules")
                .join(&self.release)
                .join("kernel"),
            name,
        )
    }

    /// The unpacked kernel of a series, if there is one; the newest.
    pub fn unpacked(cache: &Path, series: Series) -> Option<Self> {
        let mut found: Vec<Self> = fs::read_dir(cache.join("kernels"))
            .ok()?
            .flatten()
            .filter_map(|entry| {
                let name = entry.file_name().into_string().ok()?;
                let release = name.strip_prefix("linux-image-")?.to_owned();
                let kernel = Self {
                    release,
                    dir: entry.path(),
                };
                (series.matches(&name) && kernel.image().is_file()).then_some(kernel)
            })
            .collect();
        found.sort_by_key(|kernel| version_key(&kernel.release));
        found.pop()
    }

    /// Downloads and unpacks the newest kernel of a series.
    pub fn fetch(cache: &Path, series: Series) -> anyhow::Result<Self> {
        let listed = sh::output(
            "apt-cache",
            &["search", "--names-only", "^linux-image-6\\..*-cloud-amd64$"],
        )?;
        let mut packages: Vec<&str> = listed
            .lines()
            .filter_map(|line| line.split_whitespace().next())
            .filter(|package| series.matches(package))
            .collect();
        packages.sort_by_key(|package| version_key(package));
        let Some(newest) = packages.pop() else {
            bail!(
                "the package lists have no Linux {} cloud kernel: run apt-get update",
                series.name()
            );
        };
        let dir = cache.join("kernels").join(newest);
        sh::unpack(newest, &dir)?;
        Self::unpacked(cache, series).with_context(|| {
            format!(
                "{newest} was unpacked to {} but has no image",
                dir.display()
            )
        })
    }
}

/// Numbers in order of appearance: enough to sort Debian's kernel names.
fn version_key(name: &str) -> Vec<u64> {
    name.split(|c: char| !c.is_ascii_digit())
        .filter_map(|part| part.parse().ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::{Series, version_key};

    #[test]
    fn the_signed_cloud_kernels_are_told_from_their_relatives() {
        assert!(Series::V6_12.matches("linux-image-6.12.117+deb12-cloud-amd64"));
        assert!(!Series::V6_12.matches("linux-image-6.12.117+deb12-cloud-amd64-unsigned"));
        assert!(!Series::V6_12.matches("linux-image-6.12.117+deb12-rt-amd64"));
        assert!(Series::V6_1.matches("linux-image-6.1.0-56-cloud-amd64"));
        assert!(!Series::V6_1.matches("linux-image-6.12.117+deb12-cloud-amd64"));
        assert!(
            version_key("linux-image-6.12.117+deb12") > version_key("linux-image-6.12.9+deb12")
        );
    }
}
