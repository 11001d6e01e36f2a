//! Faults of memory.

use std::{
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
};

use anyhow::{Context, ensure};
use paramedic_parts::cgroup::ROOT;

use super::{GUILTY, Injection, Leaf, Place, TEN, disk, rate, stalled, system};
use crate::mttr::slice::Slice;

/// What a filesystem takes for itself.
const FILESYSTEM_MIB: u64 = 96;
/// A swap file; larger than any working set of the matrix.
const SWAP_MIB: usize = 256;

pub(super) fn hold(place: &Place<'_>) -> anyhow::Result<Injection> {
    let mib = (place.figure("share") * system::memory_mib("MemAvailable")?).round();
    let leaf = Leaf::new(GUILTY)?.work(&["hold", "--mib", &mib.to_string()])?;
    Ok(Injection::new(vec![leaf], move |leaves| {
        let bytes: f64 = leaves[0].cgroup.get("memory.current")?.parse()?;
        let held = bytes / f64::from(1 << 20);
        ensure!(held > 0.97 * mib, "it holds {held:.0} of {mib} MiB");
        let left = system::memory_mib("MemAvailable")?;
        Ok(format!("it holds {held:.0} MiB, {left:.0} are left"))
    }))
}

pub(super) fn leak(place: &Place<'_>) -> anyhow::Result<Injection> {
    let begin = (place.figure("begin_share") * system::memory_mib("MemTotal")?).round();
    let speed = place.figure("mib_per_s").to_string();
    let begin_mib = begin.to_string();
    let leaf =
        Leaf::new(GUILTY)?.work(&["leak", "--begin-mib", &begin_mib, "--mib-per-s", &speed])?;
    Ok(Injection::new(vec![leaf], move |leaves| {
        let bytes = rate(|| Ok(leaves[0].cgroup.get("memory.current")?.parse()?))?;
        let speed = bytes / f64::from(1 << 20);
        let held: f64 = leaves[0].cgroup.get("memory.current")?.parse()?;
        ensure!(
            held >= begin * f64::from(1 << 20) && speed > 0.3 && speed < 20.0,
            "it grows by {speed:.1} MiB a second"
        );
        Ok(format!("it grows by {speed:.1} MiB a second"))
    }))
}

pub(super) fn oom(place: &Place<'_>) -> anyhow::Result<Injection> {
    let limit = place.count("limit_mib");
    let leaf = Leaf::new(GUILTY)?
        .limited("memory.max", &format!("{limit}M"))?
        .work(&["oom", "--mib", &(limit * 2).to_string()])?;
    Ok(Injection::new(vec![leaf], |leaves| {
        let kills = system::of_cgroup(&leaves[0], "memory.events", "oom_kill")?;
        ensure!(kills >= 2, "{kills} were killed");
        Ok(format!("{kills} were killed"))
    }))
}

/// A file with real bytes, made once.
fn data(folder: &Path, name: &str, mib: usize) -> anyhow::Result<PathBuf> {
    let path = folder.join(name);
    let bytes = (mib as u64) << 20;
    if fs::metadata(&path).is_ok_and(|there| there.len() == bytes) {
        return Ok(path);
    }
    let mut file =
        File::create(&path).with_context(|| format!("cannot make {}", path.display()))?;
    let piece = vec![7; 1 << 20];
    for _ in 0..mib {
        file.write_all(&piece)?;
    }
    file.sync_all()?;
    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed)?;
    Ok(path)
}

/// As many as keep a squeezed cgroup's disk busy.
const READERS: usize = 4;

/// From this share on a fault of memory hurts.
const STALLED: f64 = 0.12;

/// Page reads a second of a working set that does not fit.
fn refaults() -> anyhow::Result<f64> {
    rate(|| system::pages("workingset_refault"))
}

pub(super) fn thrash(place: &Place<'_>) -> anyhow::Result<Injection> {
    let mut leaves = Vec::new();
    let all = (place.count("cgroups") * place.count("working_mib")) as u64;
    let reads = disk::Takes::Reads(place.count("read_ms"));
    let (_, folder, undo) = disk::disk_that_takes("thrash", all + FILESYSTEM_MIB, reads)?;
    for nth in 0..place.count("cgroups") {
        let file = data(
            &folder,
            &format!("working-{nth}"),
            place.count("working_mib"),
        )?;
        let file = file.display().to_string();
        leaves.push(Leaf::new(&format!("pods/{nth}"))?.work(&["reread", "--file", &file])?);
    }
    let parent = Path::new(ROOT).join(Slice::path("pods").trim_start_matches('/'));
    let limit = format!("{}M", place.count("limit_mib"));
    system::write(parent.join("memory.max"), &limit)?;
    let pressure = parent.join("memory.pressure");
    let undone = move || fs::remove_dir(&parent).context("cannot remove the parent's cgroup");
    Ok(Injection::new(leaves, move |_| {
        let (again, stalled) = (refaults()?, stalled(&pressure)?);
        let said = format!("{again:.0} pages a second are read again, {stalled:.2} stalled");
        ensure!(again > 120.0 && stalled > STALLED, "{said}");
        Ok(said)
    })
    .ripens(TEN)
    .undoes_all(undo)
    .undoes(undone))
}

pub(super) fn squeeze(place: &Place<'_>) -> anyhow::Result<Injection> {
    let mib = place.count("working_mib") as u64 + FILESYSTEM_MIB;
    let reads = disk::Takes::Reads(place.count("read_ms"));
    let (_, folder, undo) = disk::disk_that_takes("squeeze", mib, reads)?;
    let file = data(&folder, "squeezed", place.count("working_mib"))?;
    let file = file.display().to_string();
    let limit = format!("{}M", place.count("limit_mib"));
    let mut leaf = Leaf::new(GUILTY)?.limited("memory.max", &limit)?;
    for _ in 0..READERS {
        leaf = leaf.work(&["reread", "--file", &file])?;
    }
    Ok(Injection::new(vec![leaf], |leaves| {
        let hits = rate(|| system::of_cgroup(&leaves[0], "memory.events", "max"))?;
        let pressure = leaves[0].cgroup.dir().join("memory.pressure");
        let (again, stalled) = (refaults()?, stalled(&pressure)?);
        let said = format!(
            "{hits:.0} hits of its limit and {again:.0} pages read again a second, {stalled:.2} stalled"
        );
        ensure!(hits > 0.3 && again > 50.0 && stalled > STALLED, "{said}");
        Ok(said)
    })
    .ripens(TEN)
    .undoes_all(undo))
}

pub(super) fn swap(place: &Place<'_>) -> anyhow::Result<Injection> {
    let file = data(place.folder, "swap", SWAP_MIB)?;
    fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
    let path = file.display().to_string();
    system::run("mkswap", &[&path])?;
    system::run("swapon", &[&path])?;
    let working = place.count("working_mib").to_string();
    let leaf = Leaf::new(GUILTY)?
        .limited("memory.max", &format!("{}M", place.count("limit_mib")))?
        .work(&["churn", "--mib", &working])?
        .work(&["churn", "--mib", &working])?;
    Ok(Injection::new(vec![leaf], |_| {
        let back = rate(|| system::pages("pswpin"))?;
        ensure!(back > 300.0, "{back:.0} pages a second come back");
        Ok(format!("{back:.0} pages a second come back"))
    })
    .undoes(move || system::run("swapoff", &[&path]).map(drop)))
}
