//! `cargo xtask test journal`: the journal's long run.
//!
//! 1. The simulated disk: random crashes by the million, every flip, truncation, misdirected block,
//!    the k-th failure of every call, repairs, and the mutations that must be noticed.
//! 2. `kill -9` of a real writer, a thousand times, on this machine's disk.
//! 3. Power cuts: a VM writes to an ext4 disk whose every write and flush is recorded; thousands of
//!    prefixes of the recording, torn at 512 bytes, are recovered and checked.
//!
//! `PARAMEDIC_SEEDS`, `PARAMEDIC_KILLS` and `PARAMEDIC_CUTS` change how much; 0 leaves
//! that part out, and the closing lines then don't speak of it.

use std::{
    ffi::OsString,
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, ensure};

use crate::{
    kernels::Series,
    sh,
    vm::{self, Vm},
};

/// From here on an unoptimised build would take longer than an optimised one takes to compile.
const SEEDS_FOR_RELEASE: u64 = 100_000;

/// Runs all three; the result is the exit code.
pub fn journal() -> anyhow::Result<u8> {
    let mut told = Vec::new();
    let mut ok = simulated(&mut told)?;
    let program = crash_program()?;
    let folder = Folder::new()?;
    ok &= kills(&program, &folder.0, &mut told)?;
    for series in Series::ALL {
        ok &= power_cuts(&program, &folder.0, series, &mut told)?;
    }
    println!("\njournal:");
    for line in &told {
        println!("  {line}");
    }
    println!("{}", if ok { "0 lost" } else { "FAILED: see above" });
    Ok(u8::from(!ok))
}

fn number(name: &str, default: u64) -> anyhow::Result<u64> {
    std::env::var(name).map_or(Ok(default), |text| {
        text.parse()
            .with_context(|| format!("{name}={text} is not a number"))
    })
}

/// The library's own tests; what they count stands in lines `journal: …`.
fn simulated(told: &mut Vec<String>) -> anyhow::Result<bool> {
    let seeds = number("PARAMEDIC_SEEDS", 1_000_000)?;
    if seeds == 0 {
        return Ok(true);
    }
    let mut command = sh::cargo();
    command.args(["test", "--package", "paramedic", "--lib"]);
    if seeds >= SEEDS_FOR_RELEASE {
        command.arg("--release");
    }
    command
        .args(["journal::", "--", "--nocapture"])
        .env("PARAMEDIC_SEEDS", seeds.to_string());
    stream(&mut command, |line| {
        // libtest prints a test's name without a line end before what the test prints.
        if let Some((_, counted)) = line.split_once("journal: ") {
            told.push(counted.to_owned());
        }
    })
}

fn crash_program() -> anyhow::Result<PathBuf> {
    sh::run(sh::cargo().args([
        "build",
        "--package",
        "paramedic-tests",
        "--bin",
        "journal-crash",
    ]))?;
    Ok(sh::built("debug", "journal-crash"))
}

fn kills(program: &Path, folder: &Path, told: &mut Vec<String>) -> anyhow::Result<bool> {
    let rounds = number("PARAMEDIC_KILLS", 1000)?;
    if rounds == 0 {
        return Ok(true);
    }
    let mut command = Command::new(program);
    command
        .arg("kill")
        .arg(folder.join("kill"))
        .args(["--rounds", &rounds.to_string()]);
    stream(&mut command, |line| told.push(line.to_owned()))
}

/// Records a workload of some lives in the VM, then cuts the power at many points of it.
fn power_cuts(
    program: &Path,
    folder: &Path,
    series: Series,
    told: &mut Vec<String>,
) -> anyhow::Result<bool> {
    let cuts = number("PARAMEDIC_CUTS", 2000)?;
    if cuts == 0 {
        return Ok(true);
    }
    let vm = Vm {
        series,
        disk_mib: 32,
        record_to: Some(folder.to_owned()),
        ..Vm::default()
    };
    let mut command: Vec<OsString> = vec![program.into(), "write".into(), "/run/disk".into()];
    command.extend(
        "--markers /run/disk/acks --lives 4 --life-ms 5000"
            .split(' ')
            .map(OsString::from),
    );
    println!("recording on Linux {}", series.name());
    let status = vm::retrying(|| vm.run(&command, |line| println!("{line}")))?;
    ensure!(status == 0, "the writer in the VM ended with {status}");
    // In memory: thousands of disks are made and thrown away.
    let work = Scratch::new()?;
    let mut replay = Command::new(program);
    replay
        .arg("replay")
        .arg("--base")
        .arg(folder.join("base"))
        .arg("--log")
        .arg(folder.join("log"))
        .arg("--work")
        .arg(&work.0)
        .args(["--cuts", &cuts.to_string()]);
    let fine = stream(&mut replay, |line| {
        told.push(format!("Linux {}: {line}", series.name()));
    })?;
    if fine {
        fs::remove_dir_all(&work.0)?;
    }
    Ok(fine)
}

/// Runs a command, shows its output and hands it on; whether it exited 0.
fn stream(command: &mut Command, mut each: impl FnMut(&str)) -> anyhow::Result<bool> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start {}", command.get_program().display()))?;
    let stdout = child.stdout.take().context("stdout is a pipe")?;
    for line in BufReader::new(stdout).lines() {
        let line = line?;
        println!("{line}");
        each(&line);
    }
    Ok(child.wait()?.success())
}

/// On this machine's disk, below the build's own folder.
struct Folder(PathBuf);

impl Folder {
    fn new() -> anyhow::Result<Self> {
        let path = sh::root()
            .join("target/journal-crash")
            .join(std::process::id().to_string());
        fs::create_dir_all(&path).with_context(|| format!("cannot make {}", path.display()))?;
        Ok(Self(path))
    }
}

/// In memory. Kept when a replay fails: its message names the disk that shows it.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> anyhow::Result<Self> {
        let path = Path::new("/dev/shm").join(format!("paramedic-journal-{}", std::process::id()));
        fs::create_dir_all(&path).with_context(|| format!("cannot make {}", path.display()))?;
        Ok(Self(path))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).unwrap_or_default();
    }
}
