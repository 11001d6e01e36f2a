//! `cargo xtask bench mttr`: a boot of the VM a round, then the report over all of them.

use std::{
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, ensure};
use clap::Parser;

use crate::{
    build,
    kernels::Series,
    setup, sh,
    vm::{self, Vm},
};

/// Where a round keeps its record, on the VM's disk.
const GUEST_FOLDER: &str = "/run/disk/mttr";
/// The record's name; `bench-mttr` writes it.
const RECORD: &str = "run.json";
/// Of one round: some fifteen scenarios under five strategies, a minute each.
const ROUND_WITHIN: Duration = Duration::from_mins(150);

/// What to measure.
#[derive(Clone, Debug, Parser)]
#[command(name = "cargo xtask bench mttr", max_term_width = 100)]
#[expect(clippy::struct_excessive_bools, reason = "flags of a command line")]
struct Options {
    /// The scenarios that are marked as quick, three rounds
    #[arg(long)]
    quick: bool,
    /// Only this scenario; may be repeated
    #[arg(long)]
    scenario: Vec<String>,
    /// Only this strategy; may be repeated
    #[arg(long)]
    strategy: Vec<String>,
    /// Rounds: each has every trial once, in an order of its own. 3 with --quick, else 5
    #[arg(long)]
    rounds: Option<usize>,
    /// Seed of the orders
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Which kernel
    #[arg(long, value_enum, default_value = "6.12")]
    kernel: Series,
    /// Memory of the VM in MiB
    #[arg(long, default_value_t = 2048)]
    memory: u32,
    /// End with one JSON object as the last line
    #[arg(long)]
    json: bool,
    /// Where records and report go
    #[arg(long, default_value = "target/mttr")]
    out: PathBuf,
    /// Fail on significant regressions against the report.json of an earlier run
    #[arg(long)]
    compare: Option<PathBuf>,
    /// Make the report anew from the records in --out; measure nothing
    #[arg(long)]
    report_only: bool,
    /// Build the agent and the bench with optimisation; as the demo and the tests have them
    /// otherwise
    #[arg(long)]
    optimised: bool,
}

/// Measures and reports; the result is the exit code.
pub fn mttr(args: &[OsString]) -> anyhow::Result<u8> {
    let options: Options = match super::options("cargo xtask bench mttr", args)? {
        Ok(options) => options,
        Err(code) => return Ok(code),
    };
    setup::setup(&setup::Part::ALL)?;
    let program = built(&options)?;
    let out = sh::root().join(&options.out);
    if !options.report_only {
        fs::create_dir_all(&out).with_context(|| format!("cannot make {}", out.display()))?;
        let rounds = options.rounds.unwrap_or(if options.quick { 3 } else { 5 });
        for old in records(&out)? {
            fs::remove_dir_all(old.parent().unwrap_or(&old)).context("cannot clear old records")?;
        }
        for round in 0..rounds {
            eprintln!("xtask: round {} of {rounds}", round + 1);
            one(&options, &program, &out, round)?;
        }
    }
    let records = records(&out)?;
    ensure!(!records.is_empty(), "no record in {}", out.display());
    let mut report = Command::new(&program);
    report.arg("report").arg("--out").arg(&out);
    for record in &records {
        report.arg("--record").arg(record);
    }
    report.args(options.json.then_some("--json"));
    if let Some(base) = &options.compare {
        report.arg("--compare").arg(base);
    }
    sh::exit_code(&mut report)
}

/// Builds the agent with its probes and the bench; the bench's program.
fn built(options: &Options) -> anyhow::Result<PathBuf> {
    build::build_probes(&sh::root())?;
    let mut cargo = sh::cargo();
    cargo.args(["build", "--quiet", "--package", "paramedic-bench"]);
    cargo.args(["--bin", "bench-mttr", "--package", "paramedic"]);
    cargo.args(["--bin", "paramedic"]);
    if options.optimised {
        cargo.args(["--profile", "measure"]);
    }
    sh::run(&mut cargo)?;
    let profile = if options.optimised {
        "measure"
    } else {
        "debug"
    };
    Ok(sh::built(profile, "bench-mttr"))
}

/// One round in a boot of its own. What the emulator breaks is repeated whole.
fn one(options: &Options, program: &Path, out: &Path, round: usize) -> anyhow::Result<()> {
    let folder = out.join(format!("round-{round}"));
    let vm = Vm {
        series: options.kernel,
        timeout: ROUND_WITHIN,
        memory_mib: options.memory,
        disk_mib: 1024,
        rescue: Some((GUEST_FOLDER.into(), folder.clone())),
        ..Vm::default()
    };
    let mut command: Vec<OsString> = vec![program.into(), "inside".into()];
    let mut add = |name: &str, value: &str| {
        command.extend([OsString::from(name), OsString::from(value)]);
    };
    add("--out", GUEST_FOLDER);
    add("--round", &round.to_string());
    add("--seed", &options.seed.to_string());
    for scenario in &options.scenario {
        add("--scenario", scenario);
    }
    for strategy in &options.strategy {
        add("--strategy", strategy);
    }
    if options.quick {
        command.push("--quick".into());
    }
    let status = vm::retrying(|| {
        if folder.exists() {
            fs::remove_dir_all(&folder).context("cannot clear a round that broke off")?;
        }
        // Trials are told on stderr: the last line of stdout is the report's.
        vm.run(&command, |line| eprintln!("{line}"))
    })?;
    ensure!(status == 0, "round {} ended with {status}", round + 1);
    ensure!(
        folder.join(RECORD).is_file(),
        "round {} left no record",
        round + 1
    );
    Ok(())
}

/// The rounds' records that are there, in their order.
fn records(out: &Path) -> anyhow::Result<Vec<PathBuf>> {
    if !out.is_dir() {
        return Ok(Vec::new());
    }
    let mut found: Vec<PathBuf> = fs::read_dir(out)
        .with_context(|| format!("cannot read {}", out.display()))?
        .flatten()
        .map(|entry| entry.path().join(RECORD))
        .filter(|record| record.is_file())
        .collect();
    found.sort();
    Ok(found)
}
