//! Faults of disks and filesystems. Disks are loop devices over files in memory, so that no fault
//! touches the disk that the agent's journal is on.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
};

use anyhow::{Context, ensure};
use paramedic_parts::wait_for;

use super::{FIVE, GUILTY, Injection, Leaf, Place, TEN, Undo, rate, stalled, system};
use crate::faults::modules;

/// Files behind the loop devices: memory in the VM.
const MEMORY: &str = "/dev/shm";
/// Where the filesystems of faults are mounted.
const MOUNTS: &str = "/run/faults";
/// Of a device that is only read.
const DEVICE_MIB: u64 = 16;
/// Of a device that is written and flushed: room for a filesystem with a journal.
const FLUSHED_MIB: u64 = 64;
/// Of one with a file that is written in no order.
const WRITTEN_MIB: u64 = 128;
const SECTORS_A_MIB: u64 = 2048;
/// For a device to be let go.
const LET_GO: std::time::Duration = std::time::Duration::from_secs(10);

/// A loop device, and how to take it away.
fn disk(name: &str, mib: u64) -> anyhow::Result<(String, Undo)> {
    modules::load("loop")?;
    let file = Path::new(MEMORY).join(name);
    File::create(&file)
        .and_then(|made| made.set_len(mib << 20))
        .with_context(|| format!("cannot make {}", file.display()))?;
    let device = attach(&file.display().to_string())?;
    let gone = device.clone();
    let undo = Undo::new(move || {
        system::run("losetup", &["-d", &gone])?;
        fs::remove_file(&file).with_context(|| format!("cannot remove {}", file.display()))
    });
    Ok((device, undo))
}

fn attach(file: &str) -> anyhow::Result<String> {
    system::run("losetup", &["--find", "--show", file])
}

/// Maps a table over devices; the node of the mapped device.
fn map(name: &str, table: &str) -> anyhow::Result<(String, Undo)> {
    modules::load("dm-mod")?;
    let arguments = ["--noudevrules", "--noudevsync"];
    let file = Path::new(MEMORY).join(format!("{name}.table"));
    fs::write(&file, table).with_context(|| format!("cannot write {}", file.display()))?;
    let lines = file.display().to_string();
    let made = [&["create"][..], &arguments, &[name, lines.as_str()]].concat();
    system::run("dmsetup", &made)?;
    let gone = name.to_owned();
    // What `/dev/mapper` has is udev's matter; the kernel makes this one itself.
    let node = node_of(name)?;
    let undo = Undo::new(move || {
        // A reader that was just killed may still hold it.
        wait_for("free device", LET_GO, || {
            let removed = [&["remove"][..], &arguments, &[gone.as_str()]].concat();
            system::run("dmsetup", &removed).map(drop)
        })
    });
    Ok((node, undo))
}

/// The node that the kernel gave a mapped device.
fn node_of(name: &str) -> anyhow::Result<String> {
    let devices = fs::read_dir("/sys/block").context("cannot read /sys/block")?;
    let ours = devices.flatten().find(|device| {
        let told = fs::read_to_string(device.path().join("dm/name"));
        told.is_ok_and(|told| told.trim() == name)
    });
    let device = ours.with_context(|| format!("no mapped device is named {name}"))?;
    Ok(format!("/dev/{}", device.file_name().display()))
}

/// Makes an ext4 on a device and mounts it.
fn mount(
    device: &str,
    name: &str,
    make: &[&str],
    options: &str,
) -> anyhow::Result<(PathBuf, Undo)> {
    let arguments = [&["-q", "-F", "-m", "0"][..], make, &[device]].concat();
    system::run("mkfs.ext4", &arguments)?;
    let point = Path::new(MOUNTS).join(name);
    fs::create_dir_all(&point).with_context(|| format!("cannot make {}", point.display()))?;
    let to = point.display().to_string();
    system::run("mount", &["-t", "ext4", "-o", options, device, &to])?;
    let undo = Undo::new(move || {
        wait_for("free filesystem", LET_GO, || {
            system::run("umount", &[&to]).map(drop)
        })
    });
    Ok((point, undo))
}

/// Used shares of space and inodes.
fn used(point: &Path) -> anyhow::Result<(f64, f64)> {
    let told =
        rustix::fs::statvfs(point).with_context(|| format!("cannot ask {}", point.display()))?;
    let share = |free: u64, all: u64| 1.0 - free as f64 / all.max(1) as f64;
    Ok((
        share(told.f_bavail, told.f_blocks),
        share(told.f_favail, told.f_files),
    ))
}

pub(super) fn fill(place: &Place<'_>) -> anyhow::Result<Injection> {
    let (device, gone) = disk("full", place.count("mib") as u64)?;
    let (point, unmounted) = mount(&device, "full", &[], "defaults")?;
    let share = place.figure("percent") / 100.0;
    let seen = point.clone();
    Ok(Injection::new(Vec::new(), move |_| {
        let (space, inodes) = used(&seen)?;
        ensure!(space >= 0.975, "{space:.3} of its space is used");
        Ok(format!(
            "{space:.3} of its space is used, {inodes:.3} of its inodes"
        ))
    })
    .begins(move |_| {
        let told = rustix::fs::statvfs(&point)?;
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "less than the filesystem"
        )]
        let bytes = ((told.f_bavail * told.f_frsize) as f64 * share) as u64;
        let file = File::create(point.join("log"))?;
        let mode = rustix::fs::FallocateFlags::empty();
        Ok(rustix::fs::fallocate(&file, mode, 0, bytes)?)
    })
    .ripens(TEN)
    .undoes_all([gone, unmounted]))
}

pub(super) fn inodes(place: &Place<'_>) -> anyhow::Result<Injection> {
    let (device, gone) = disk("inodes", 32)?;
    let count = place.count("inodes").to_string();
    let (point, unmounted) = mount(&device, "inodes", &["-N", &count], "defaults")?;
    let seen = point.clone();
    Ok(Injection::new(Vec::new(), move |_| {
        let (space, inodes) = used(&seen)?;
        ensure!(inodes >= 0.975, "{inodes:.3} of its inodes are used");
        Ok(format!(
            "{inodes:.3} of its inodes are used, {space:.3} of its space"
        ))
    })
    .begins(move |_| {
        // Until it may not: that is the fault.
        let mut number = 0_u64;
        while File::create(point.join(format!("session-{number}"))).is_ok() {
            number += 1;
        }
        Ok(())
    })
    .ripens(TEN)
    .undoes_all([gone, unmounted]))
}

/// Makes an ext4 meet an error, as a bad block under its metadata does.
pub(super) fn ext4_error(device: &str) -> anyhow::Result<()> {
    let name = device.trim_start_matches("/dev/");
    system::write(
        format!("/sys/fs/ext4/{name}/trigger_fs_error"),
        "provoked by the fault matrix",
    )
}

pub(super) fn readonly(place: &Place<'_>) -> anyhow::Result<Injection> {
    let (device, gone) = disk("readonly", place.count("mib") as u64)?;
    let (point, unmounted) = mount(&device, "readonly", &[], "errors=remount-ro")?;
    Ok(Injection::new(Vec::new(), move |_| {
        let file = point.join("written");
        let refused = File::create(&file).err();
        let error = refused.with_context(|| format!("{} can be written", file.display()))?;
        Ok(format!("a new file is refused: {error}"))
    })
    .begins(move |_| ext4_error(&device))
    .ripens(TEN)
    .settles(TEN)
    .undoes_all([gone, unmounted]))
}

/// An ext4 that reports errors and goes on, and its device.
pub(super) fn forgiving() -> anyhow::Result<(String, Vec<Undo>)> {
    let (device, gone) = disk("forgiving", DEVICE_MIB)?;
    let (_, unmounted) = mount(&device, "forgiving", &[], "errors=continue")?;
    Ok((device, vec![gone, unmounted]))
}

/// Requests that a device has completed, and their milliseconds.
fn completed(device: &str) -> anyhow::Result<(u64, u64)> {
    let node = fs::metadata(device).with_context(|| format!("no device {device}"))?;
    let number = std::os::unix::fs::MetadataExt::rdev(&node);
    let (major, minor) = (rustix::fs::major(number), rustix::fs::minor(number));
    let text = system::read(format!("/sys/dev/block/{major}:{minor}/stat"))?;
    let figures: Vec<u64> = text
        .split_whitespace()
        .filter_map(|word| word.parse().ok())
        .collect();
    ensure!(figures.len() >= 8, "{device} has no statistics");
    Ok((figures[0] + figures[4], figures[3] + figures[7]))
}

pub(super) fn slow(place: &Place<'_>) -> anyhow::Result<Injection> {
    modules::load("dm-delay")?;
    let (below, gone) = disk("slow", DEVICE_MIB)?;
    let (sectors, delay) = (DEVICE_MIB * SECTORS_A_MIB, place.count("delay_ms"));
    let table = format!("0 {sectors} delay {below} 0 {delay}");
    let (device, unmapped) = map("faults-slow", &table)?;
    let threads = place.count("threads").to_string();
    let leaf = Leaf::new(GUILTY)?.work(&["read", "--device", &device, "--threads", &threads])?;
    Ok(Injection::new(vec![leaf], move |_| {
        let (before, waited) = completed(&device)?;
        wait_for("slow requests", LET_GO, || {
            ensure!(completed(&device)?.0 >= before + 2, "no request completed");
            Ok(())
        })?;
        let (after, then) = completed(&device)?;
        let each = (then - waited) as f64 / (after - before) as f64;
        ensure!(each >= 100.0, "a request takes {each:.0} ms");
        Ok(format!("a request takes {each:.0} ms"))
    })
    .ripens(TEN)
    .undoes_all([gone, unmapped]))
}

pub(super) fn hang(place: &Place<'_>) -> anyhow::Result<Injection> {
    let (below, gone) = disk("hang", DEVICE_MIB)?;
    let sectors = DEVICE_MIB * SECTORS_A_MIB;
    let (device, unmapped) = map("faults-hang", &format!("0 {sectors} linear {below} 0"))?;
    let threads = place.count("threads");
    let leaf = Leaf::new(GUILTY)?.work(&[
        "read",
        "--device",
        &device,
        "--threads",
        &threads.to_string(),
        "--rest-ms",
        "20",
    ])?;
    Ok(Injection::new(vec![leaf], move |_| {
        let text = system::read("/proc/stat")?;
        let blocked = system::field(&text, "procs_blocked").unwrap_or(0);
        ensure!(blocked * 2 > threads as u64, "{blocked} tasks are blocked");
        Ok(format!("{blocked} tasks are blocked"))
    })
    .begins(|_| {
        // They read first: a device that nobody opened hangs nobody.
        std::thread::sleep(std::time::Duration::from_millis(500));
        let suspend = [
            "suspend",
            "--noudevsync",
            "--nolockfs",
            "--noflush",
            "faults-hang",
        ];
        system::run("dmsetup", &suspend).map(drop)
    })
    .releases(|| system::run("dmsetup", &["resume", "--noudevsync", "faults-hang"]).map(drop))
    .undoes_all([gone, unmapped]))
}

pub(super) fn errors(place: &Place<'_>) -> anyhow::Result<Injection> {
    let (below, gone) = disk("errors", DEVICE_MIB)?;
    let half = DEVICE_MIB * SECTORS_A_MIB / 2;
    let table = format!("0 {half} linear {below} 0\n{half} {half} error");
    let (mapped, unmapped) = map("faults-errors", &table)?;
    // A device of its own above it: its requests fail as those of a disk do.
    let device = attach(&mapped)?;
    let above = device.clone();
    let detached = Undo::new(move || system::run("losetup", &["-d", &above]).map(drop));
    let threads = place.count("threads").to_string();
    let leaf = Leaf::new(GUILTY)?.work(&[
        "read",
        "--device",
        &device,
        "--threads",
        &threads,
        "--rest-ms",
        "30",
    ])?;
    Ok(Injection::new(vec![leaf], move |_| {
        let (before, _) = completed(&device)?;
        wait_for("requests", LET_GO, || {
            ensure!(completed(&device)?.0 > before + 4, "no request completed");
            Ok(())
        })?;
        let mut block = [0_u8; 4096];
        let file = File::open(&device)?;
        let place = half * 512 + 65_536;
        let failed = std::os::unix::fs::FileExt::read_at(&file, &mut block, place).err();
        let error = failed.context("its second half can be read")?;
        Ok(format!("a read fails: {error}"))
    })
    .undoes_all([gone, unmapped, detached]))
}

/// Of dm-delay's `delay_is_fast`, and a little more.
const LONG_MS: usize = 60;

/// What the fault asks of its disk: milliseconds of each. The other takes long, and hardly comes.
#[derive(Clone, Copy, Debug)]
pub(super) enum Takes {
    Reads(usize),
    Writes(usize),
}

/// A filesystem on a disk whose reads and writes take as many milliseconds as those of disks do: the VM's
/// own is as quick as memory, and what waits for it waits for a CPU. The mapped device, the folder, and
/// how to take it away.
pub(super) fn disk_that_takes(
    name: &str,
    mib: u64,
    takes: Takes,
) -> anyhow::Result<(String, PathBuf, Vec<Undo>)> {
    modules::load("dm-delay")?;
    let (below, gone) = disk(name, mib)?;
    let sectors = mib * SECTORS_A_MIB;
    // Where all delays are short, newer kernels wait for their end with a thread that takes a whole CPU.
    let (read_ms, write_ms) = match takes {
        Takes::Reads(ms) => (ms, LONG_MS),
        Takes::Writes(ms) => (LONG_MS, ms),
    };
    let table = format!("0 {sectors} delay {below} 0 {read_ms} {below} 0 {write_ms}");
    let (device, unmapped) = map(&format!("faults-{name}"), &table)?;
    let (point, unmounted) = mount(&device, name, &[], "defaults")?;
    Ok((device, point, vec![gone, unmapped, unmounted]))
}

pub(super) fn writers(place: &Place<'_>) -> anyhow::Result<Injection> {
    let (_, point, undo) = disk_that_takes(
        "writers",
        WRITTEN_MIB,
        Takes::Writes(place.count("write_ms")),
    )?;
    let file = point.join("written").display().to_string();
    let leaf = Leaf::new(GUILTY)?.work(&[
        "write",
        "--file",
        &file,
        "--threads",
        &place.count("threads").to_string(),
        "--kib",
        &place.count("kib").to_string(),
    ])?;
    Ok(Injection::new(vec![leaf], |leaves| {
        let stalled = stalled(&leaves[0].cgroup.dir().join("io.pressure"))?;
        ensure!(stalled > 0.5, "it waits for I/O {stalled:.2} of the time");
        Ok(format!("it waits for I/O {stalled:.2} of the time"))
    })
    .ripens(TEN)
    .undoes_all(undo))
}

pub(super) fn fsyncs(place: &Place<'_>) -> anyhow::Result<Injection> {
    let (device, point, undo) = disk_that_takes(
        "fsyncs",
        FLUSHED_MIB,
        Takes::Writes(place.count("write_ms")),
    )?;
    let folder = point.display().to_string();
    let threads = place.count("threads").to_string();
    let leaf = Leaf::new(GUILTY)?.work(&["fsync", "--folder", &folder, "--threads", &threads])?;
    Ok(Injection::new(vec![leaf], move |_| {
        // A mapped device does not count its flushes: blocks of the filesystem's journal they are.
        let requests = rate(|| Ok(completed(&device)?.0))?;
        ensure!(requests > 50.0, "{requests:.0} requests a second");
        Ok(format!("{requests:.0} requests a second"))
    })
    .ripens(TEN)
    .undoes_all(undo))
}

const ARRAY: &str = "/sys/block/md127/md";

pub(super) fn raid(place: &Place<'_>) -> anyhow::Result<Injection> {
    modules::load("md-mod")?;
    modules::load("raid1")?;
    let mut undo: Vec<Undo> = Vec::new();
    let mut members = Vec::new();
    for nth in 0..place.count("disks") {
        let (device, gone) = disk(&format!("member-{nth}"), DEVICE_MIB)?;
        undo.push(gone);
        members.push(device.trim_start_matches("/dev/").to_owned());
    }
    system::write("/sys/module/md_mod/parameters/new_array", "md127")?;
    let set = |file: &str, value: &str| system::write(Path::new(ARRAY).join(file), value);
    set("metadata_version", "none")?;
    set("level", "raid1")?;
    set("raid_disks", &members.len().to_string())?;
    set("component_size", &(DEVICE_MIB * 1024 - 64).to_string())?;
    for (slot, member) in members.iter().enumerate() {
        let number = system::read(format!("/sys/class/block/{member}/dev"))?;
        set("new_dev", number.trim())?;
        set(&format!("dev-{member}/slot"), &slot.to_string())?;
    }
    set("array_state", "active")?;
    undo.push(Undo::new(|| {
        system::write(Path::new(ARRAY).join("array_state"), "clear")
    }));
    let lost = members.first().cloned().context("an array has members")?;
    Ok(Injection::new(Vec::new(), |_| {
        let degraded = system::read(Path::new(ARRAY).join("degraded"))?;
        ensure!(degraded.trim() != "0", "the array is whole");
        Ok(format!("{} disks are missing", degraded.trim()))
    })
    .begins(move |_| {
        let state = Path::new(ARRAY).join(format!("dev-{lost}/state"));
        system::write(state, "faulty")
    })
    .settles(FIVE)
    .undoes_all(undo))
}
