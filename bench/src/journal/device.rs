//! What a commit costs the device, counted where it can't be hidden: at a block device of our
//! own, a loop image with journaled ext4.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};
use serde_json::{Value, json};

use super::Bench;
use super::load::Load;
use super::ours::{Callers, Lane, Ours};
use super::report::Target;

const IMAGE_BYTES: u64 = 768 << 20;
const PART: &str = "flushes";

/// Mounted, and taken apart when dropped.
struct Loop {
    device: String,
    mount: PathBuf,
    mounted: bool,
}

impl Loop {
    fn new(dir: &Path) -> anyhow::Result<Self> {
        let image = dir.join("ext4.img");
        let file = File::create_new(&image).context("cannot make an image")?;
        rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, IMAGE_BYTES)
            .context("cannot allocate an image")?;
        drop(file);
        let image = image.display().to_string();
        let device = said("losetup", &["--find", "--show", &image])?;
        let mut made = Self {
            device,
            mount: dir.join("ext4"),
            mounted: false,
        };
        said(
            "mkfs.ext4",
            &["-q", "-E", "lazy_itable_init=0", &made.device],
        )?;
        std::fs::create_dir(&made.mount)?;
        let mount = made.mount.display().to_string();
        said("mount", &["-t", "ext4", &made.device, &mount])?;
        made.mounted = true;
        Ok(made)
    }

    /// Bytes written and flushes, since the device exists.
    fn counted(&self) -> anyhow::Result<(u64, u64)> {
        let name = self.device.trim_start_matches("/dev/");
        let path = format!("/sys/block/{name}/stat");
        let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
        let fields: Vec<u64> = text
            .split_whitespace()
            .filter_map(|field| field.parse().ok())
            .collect();
        // Documentation/block/stat.rst: sectors of 512 bytes written, flush requests completed.
        match (fields.get(6), fields.get(15)) {
            (Some(sectors), Some(flushes)) => Ok((sectors * 512, *flushes)),
            _ => bail!("{path} counts no flushes on this kernel"),
        }
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let mount = self.mount.display().to_string();
        let mut undone = Ok(String::new());
        if self.mounted {
            undone = said("umount", &[&mount]);
        }
        if let Err(error) = undone.and_then(|_| said("losetup", &["--detach", &self.device])) {
            eprintln!("cannot take {} apart: {error:#}", self.device);
        }
    }
}

fn said(program: &str, args: &[&str]) -> anyhow::Result<String> {
    let output = Command::new(program)
        .args(args)
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot start {program}"))?;
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr);
        bail!("{program} {}: {}", args.join(" "), text.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// Flushes and bytes beyond our own for every batch, both lanes, 16 writers of 4 KiB.
pub(crate) fn flushes(bench: &mut Bench) -> anyhow::Result<()> {
    let device = match Loop::new(&bench.dir) {
        Ok(device) => device,
        Err(error) => {
            let why = json!({ "not_measured": format!("{error:#}") });
            bench.report.fact(PART, &why);
            return Ok(());
        }
    };
    for lane in [Lane::Fast, Lane::Safe] {
        let path = device.mount.join(lane.name());
        let journal = Ours::open(&bench.runtime, &path, lane, 256 << 20)?;
        let mut flushes = Vec::new();
        let mut metadata = Vec::new();
        for round in 0..6 {
            let measured = one(bench, &device, &journal, round)?;
            flushes.push(measured.0);
            metadata.push(measured.1);
        }
        journal.close(&bench.runtime)?;
        std::fs::remove_dir_all(&path)?;
        for (what, pairs, wanted) in [
            ("flushes_per_batch", flushes, 1.0),
            ("metadata_bytes_per_batch", metadata, 0.0),
        ] {
            bench.report.target(Target {
                name: format!("{what}_{}", lane.name()),
                pairs,
                wanted,
                lower_is_better: true,
                note: Value::Null,
            });
        }
    }
    bench.report.end_of(PART);
    let image = bench.dir.join("ext4.img");
    drop(device);
    std::fs::remove_file(image)?;
    Ok(())
}

fn one(
    bench: &mut Bench,
    device: &Loop,
    journal: &Ours,
    round: usize,
) -> anyhow::Result<(f64, f64)> {
    // What preparing has left dirty is not the commits' doing.
    let dir = File::open(&device.mount)?;
    rustix::fs::syncfs(&dir).context("cannot sync the image")?;
    let before = (device.counted()?, journal.stats()?);
    let load = Load {
        writers: 16,
        bytes: 4096,
    };
    let slice = Duration::from_millis(200);
    let sample = journal.load(&bench.runtime, load, slice, 24 << 20, Callers::Tasks)?;
    let after = (device.counted()?, journal.stats()?);
    let batches = (after.1.commits - before.1.commits) as f64;
    let ours = after.1.written_bytes - before.1.written_bytes;
    let flushes = (after.0.1 - before.0.1) as f64 / batches;
    let beyond = (after.0.0 - before.0.0).saturating_sub(ours) as f64 / batches;
    bench
        .report
        .sample(PART, "4k_x16 on a loop image", round, sample);
    let fact = json!({ "round": round, "batches": batches,
        "flushes_per_batch": flushes, "bytes_beyond_per_batch": beyond });
    bench.report.fact(PART, &fact);
    Ok((flushes, beyond))
}
