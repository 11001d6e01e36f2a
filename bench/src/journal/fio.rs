//! What the disk can do: fio, overwriting a file that was allocated, written and synced before.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};
use serde_json::Value;

use super::Sample;

const FILE: &str = "fio.dat";
const FILE_BYTES: usize = 512 << 20;

/// How fio writes or reads.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Row {
    pub(crate) name: &'static str,
    /// Of one transfer, bytes.
    pub(crate) block: usize,
    pub(crate) in_flight: u32,
}

/// Fails with the way out if fio is not there.
pub(crate) fn available() -> anyhow::Result<()> {
    Command::new("fio")
        .arg("--version")
        .stdout(Stdio::null())
        .status()
        .map(|_| ())
        .context("cannot start fio: run `cargo xtask bench journal`, which installs it")
}

/// Lays out the file: allocated, filled with bytes that no device compresses, synced.
pub(crate) fn prepare(dir: &Path) -> anyhow::Result<()> {
    let path = dir.join(FILE);
    let mut file = File::create_new(&path).context("cannot make fio's file")?;
    let chunk = super::load::noise(1 << 20);
    for _ in 0..FILE_BYTES / chunk.len() {
        file.write_all(&chunk)
            .context("cannot fill fio's file (512 MiB)")?;
    }
    file.sync_all().context("cannot sync fio's file")?;
    Ok(())
}

/// One slice of synced overwriting, `O_DIRECT | O_DSYNC`.
pub(crate) fn write(dir: &Path, row: Row, slice: Duration) -> anyhow::Result<Sample> {
    let mut command = base(&dir.join(FILE), row);
    command.args(["--rw=write", "--sync=dsync", "--overwrite=1"]);
    command.arg(format!("--size={FILE_BYTES}"));
    command.arg("--time_based");
    command.arg(format!("--runtime={}ms", slice.as_millis()));
    measured(&mut command, "write")
}

/// Reads `path` once from its beginning to its end, `O_DIRECT`.
pub(crate) fn read(path: &Path, bytes: u64, row: Row) -> anyhow::Result<Sample> {
    let mut command = base(path, row);
    command.args(["--rw=read", "--readonly"]);
    command.arg(format!("--size={bytes}"));
    measured(&mut command, "read")
}

fn base(path: &Path, row: Row) -> Command {
    let engine = if row.in_flight == 1 {
        "psync"
    } else {
        "io_uring"
    };
    let mut command = Command::new("fio");
    command.args(["--name=row", "--direct=1", "--output-format=json"]);
    command.arg(format!("--filename={}", path.display()));
    command.arg(format!("--bs={}", row.block));
    command.arg(format!("--ioengine={engine}"));
    command.arg(format!("--iodepth={}", row.in_flight));
    command
}

fn measured(command: &mut Command, way: &str) -> anyhow::Result<Sample> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .context("cannot start fio")?;
    if !output.status.success() {
        bail!(
            "fio ended with {}: {}",
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    // fio may print notes before the object.
    let text = String::from_utf8_lossy(&output.stdout);
    let begin = text.find('{').context("fio printed no JSON")?;
    let value: Value = serde_json::from_str(&text[begin..]).context("fio's JSON")?;
    let row = &value["jobs"][0][way];
    let number = |value: &Value| {
        value
            .as_f64()
            .context("fio's JSON lacks a figure that is needed")
    };
    let at = |q: &str| number(&row["clat_ns"]["percentile"][q]).map(|ns| ns / 1e3);
    Ok(Sample {
        ops: row["total_ios"].as_u64().unwrap_or(0),
        per_s: number(&row["iops"])?,
        bytes_per_s: number(&row["bw_bytes"])?,
        p50_us: at("50.000000")?,
        p99_us: at("99.000000")?,
        rotated: false,
        memory: 0.0,
    })
}
