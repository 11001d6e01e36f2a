//! `cargo xtask bench faults`: the fault matrix in the VM, then the figures.
//!
//! Every trial is written to the record on this machine as soon as it is over. A boot that breaks off is
//! followed by another that goes on after the last trial; so does `--resume`.

use std::{
    ffi::OsString,
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, bail, ensure};
use clap::Parser;

use crate::{
    build,
    kernels::Series,
    setup, sh,
    vm::{self, Vm},
};

/// Of one boot.
const BOOT_WITHIN: Duration = Duration::from_hours(4);
/// A line of the guest's stdout that begins so is a trial.
const TRIAL: &str = "TRIAL ";
/// In the folder of a kernel's run.
const RECORD: &str = "trials.jsonl";
/// Trials of a round in which nothing is wrong.
const QUIET: usize = 10;

/// What to measure.
#[derive(Clone, Debug, Parser)]
#[command(name = "cargo xtask bench faults", max_term_width = 100)]
#[expect(clippy::struct_excessive_bools, reason = "flags of a command line")]
struct Options {
    /// Every fault once
    #[arg(long)]
    quick: bool,
    /// Only this hypothesis; may be repeated
    #[arg(long)]
    only: Vec<String>,
    /// Times that each fault is provoked. 1 with --quick, else 5
    #[arg(long)]
    rounds: Option<usize>,
    /// Trials of a round in which nothing is wrong. 0 with --only, else 10
    #[arg(long)]
    quiet: Option<usize>,
    /// Seed of orders and figures
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Rules of the agents, a file or folder, in place of the shipped ones
    #[arg(long)]
    rules: Option<PathBuf>,
    /// Which kernel
    #[arg(long, value_enum, default_value = "6.12")]
    kernel: Series,
    /// Memory of the VM in MiB
    #[arg(long, default_value_t = 2048)]
    memory: u32,
    /// End with one JSON object as the last line
    #[arg(long)]
    json: bool,
    /// Where records and reports go, a folder a kernel
    #[arg(long, default_value = "target/faults")]
    out: PathBuf,
    /// Keep the trials of an earlier run that broke off, and go on after them
    #[arg(long)]
    resume: bool,
    /// Make the report anew from the record; measure nothing
    #[arg(long)]
    report_only: bool,
}

/// Measures and reports; the result is the exit code.
pub fn faults(args: &[OsString]) -> anyhow::Result<u8> {
    let options: Options = match super::options("cargo xtask bench faults", args)? {
        Ok(options) => options,
        Err(code) => return Ok(code),
    };
    let folder = sh::root().join(&options.out).join(options.kernel.name());
    let record = writable(&folder, options.resume || options.report_only)?;
    setup::setup(&setup::Part::ALL)?;
    let program = built()?;
    let mut check = Command::new(&program);
    check.arg("check");
    for only in &options.only {
        check.arg("--only").arg(only);
    }
    if sh::exit_code(&mut check)? != 0 {
        return Ok(2);
    }
    if !options.report_only {
        measure(&options, &program, &record)?;
    }
    let mut report = Command::new(&program);
    report.arg("report").arg("--record").arg(&record);
    report.arg("--out").arg(&folder);
    report.args(options.json.then_some("--json"));
    sh::exit_code(&mut report)
}

/// The record in a folder that can be written, empty unless it is to be kept.
fn writable(folder: &Path, keep: bool) -> anyhow::Result<PathBuf> {
    fs::create_dir_all(folder).with_context(|| {
        format!(
            "cannot make {}: name another folder by --out",
            folder.display()
        )
    })?;
    let record = folder.join(RECORD);
    let mut options = File::options();
    options.create(true).append(true);
    let file = options.open(&record).with_context(|| {
        format!(
            "cannot write {}: name another folder by --out",
            record.display()
        )
    })?;
    if !keep {
        file.set_len(0)
            .with_context(|| format!("cannot clear {}", record.display()))?;
    }
    Ok(record)
}

/// Builds the agent with its probes and the bench; the bench's program.
fn built() -> anyhow::Result<PathBuf> {
    build::build_probes(&sh::root())?;
    let mut cargo = sh::cargo();
    // Of the whole workspace, as the tests have them: with other features all would be built anew.
    cargo.args(["build", "--quiet", "--workspace", "--exclude", "agent-ebpf"]);
    cargo.args(["--bin", "bench-faults", "--bin", "paramedic"]);
    sh::run(&mut cargo)?;
    Ok(sh::built("debug", "bench-faults"))
}

/// Boots until all trials are there. What the emulator breaks is gone on with.
fn measure(options: &Options, program: &Path, record: &Path) -> anyhow::Result<()> {
    let vm = Vm {
        series: options.kernel,
        timeout: BOOT_WITHIN,
        memory_mib: options.memory,
        disk_mib: 2048,
        // A machine that builds beside the run would make every trial one of a slow disk.
        flushes: false,
        ..Vm::default()
    };
    let rounds = options.rounds.unwrap_or(if options.quick { 1 } else { 5 });
    let quiet = options
        .quiet
        .unwrap_or(if options.only.is_empty() { QUIET } else { 0 });
    let mut command: Vec<OsString> = vec![program.into(), "inside".into()];
    let mut add = |name: &str, value: &dyn AsRef<std::ffi::OsStr>| {
        command.extend([OsString::from(name), value.as_ref().to_owned()]);
    };
    add("--done", &record);
    add("--rounds", &rounds.to_string());
    add("--quiet", &quiet.to_string());
    add("--seed", &options.seed.to_string());
    if let Some(rules) = &options.rules {
        let rules = rules
            .canonicalize()
            .with_context(|| format!("no rules at {}", rules.display()))?;
        add("--rules", &rules);
    }
    for only in &options.only {
        add("--only", only);
    }
    let mut file = File::options()
        .append(true)
        .open(record)
        .with_context(|| format!("cannot open {}", record.display()))?;
    let status = vm::retrying(|| {
        let mut unwritten = None;
        let status = vm.run(&command, |line| {
            let Some(trial) = line.strip_prefix(TRIAL) else {
                eprintln!("{line}");
                return;
            };
            if let Err(error) = writeln!(file, "{trial}") {
                unwritten.get_or_insert(error);
            }
        })?;
        if let Some(error) = unwritten {
            bail!("cannot write {}: {error}", record.display());
        }
        Ok(status)
    })?;
    ensure!(
        status == 0,
        "the run ended with {status}; `--resume` goes on after its last trial"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::writable;

    #[test]
    fn a_folder_that_cannot_be_written_is_told_with_the_way_out() {
        let said = format!(
            "{:#}",
            writable(Path::new("/dev/null/faults"), false).unwrap_err()
        );
        assert!(said.contains("/dev/null/faults"), "{said}");
        assert!(said.contains("--out"), "{said}");
    }

    #[test]
    fn a_record_is_cleared_unless_it_is_to_be_gone_on_with() {
        let folder = tempfile::tempdir().unwrap();
        let record = writable(folder.path(), false).unwrap();
        std::fs::write(&record, "{}\n").unwrap();
        assert_eq!(
            std::fs::read_to_string(writable(folder.path(), true).unwrap()).unwrap(),
            "{}\n"
        );
        assert_eq!(
            std::fs::read_to_string(writable(folder.path(), false).unwrap()).unwrap(),
            ""
        );
    }
}
