//! `cargo xtask demo`: a real fault, a real alert, a real cure, told as it happens.
//!
//! This file chooses where it runs and closes the story; [`inside`] is the run itself, the same on
//! this machine and in the VM.

mod follow;
mod inside;
mod neighbour;
mod report;
mod scenario;
mod story;

use std::{
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context;

pub use inside::Inside;
pub use neighbour::serve;
pub use scenario::Scenario;

use crate::{
    build,
    kernels::Series,
    sh,
    vm::{self, Vm},
};
use report::Report;
use story::Story;

/// Where the run keeps what it leaves, on the VM's disk.
const GUEST_FOLDER: &str = "/run/disk/demo";
/// The run's own name for its result, in its folder.
const RESULT: &str = "result.json";
/// What the remedies need of cgroup v2, handed down by the root.
const CONTROLLERS: [&str; 4] = ["cpu", "memory", "pids", "io"];
/// Boot, start, fault, cure; each step has its own shorter deadline.
const VM_TIMEOUT: Duration = Duration::from_mins(8);

/// What to show.
#[derive(Clone, Debug, clap::Args)]
pub struct Demo {
    /// The fault
    #[arg(long, value_enum, default_value = "cpu-hog")]
    scenario: Scenario,
    /// End with one JSON object as the last line of stdout
    #[arg(long)]
    json: bool,
    /// Keep this run's record in a folder of its own; the next run replaces it otherwise
    #[arg(long)]
    keep: bool,
    /// In the VM on this kernel, even where this machine would do
    #[arg(long, value_enum)]
    kernel: Option<Series>,
}

/// Runs the demo; the result is the exit code.
pub fn demo(args: &Demo) -> anyhow::Result<u8> {
    // Another agent was asked for, a release build for instance.
    if std::env::var_os("PARAMEDIC_BIN").is_none() {
        build::build()?;
    }
    let story = Story::new();
    let folder = record_folder(args)?;
    let why = match args.kernel {
        Some(_) => Some("asked for by --kernel".to_owned()),
        None => unfit(),
    };
    let code = match why {
        None => {
            let inside = Inside {
                scenario: args.scenario,
                folder: folder.clone(),
            };
            inside.run()?
        }
        Some(why) => {
            let series = args.kernel.unwrap_or(Series::V6_12);
            story.note(&format!(
                "In a VM with Linux {} in place of this machine: {why}. Emulated, so a few times slower.",
                series.name()
            ));
            in_vm(args, series, &folder)?
        }
    };
    let file = folder.join(RESULT);
    if !file.is_file() {
        story.note("There is no result: the run ended before its incident did.");
        return Ok(code.max(1));
    }
    let text =
        fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
    let mut report: Report =
        serde_json::from_str(&text).with_context(|| format!("{}", file.display()))?;
    report.record = shown(&folder.join("incident.txt"));
    close(story, &report, &folder);
    if args.json {
        println!("{}", serde_json::to_string(&report)?);
    }
    Ok(code)
}

/// Why this machine itself will not do, if so.
fn unfit() -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("limits on cgroups need root".to_owned());
    }
    let handed_down = fs::read_to_string("/sys/fs/cgroup/cgroup.subtree_control");
    let Ok(handed_down) = handed_down else {
        return Some("its /sys/fs/cgroup is not cgroup v2".to_owned());
    };
    let missing: Vec<&str> = CONTROLLERS
        .into_iter()
        .filter(|wanted| handed_down.split_whitespace().all(|has| has != *wanted))
        .collect();
    (!missing.is_empty()).then(|| format!("its cgroup v2 lacks {}", missing.join(", ")))
}

fn in_vm(args: &Demo, series: Series, folder: &Path) -> anyhow::Result<u8> {
    let colour = if story::colour() {
        ("CLICOLOR_FORCE", "1")
    } else {
        ("NO_COLOR", "1")
    };
    let vm = Vm {
        series,
        timeout: VM_TIMEOUT,
        memory_mib: 2048,
        disk_mib: 1024,
        env: vec![(colour.0.to_owned(), colour.1.to_owned())],
        rescue: Some((GUEST_FOLDER.into(), folder.to_owned())),
        ..Vm::default()
    };
    let command: [OsString; 4] = [
        sh::own_program()?.into(),
        "demo-inside".into(),
        args.scenario.name().into(),
        GUEST_FOLDER.into(),
    ];
    let status = vm::retrying(|| vm.run(&command, |line| println!("{line}")))?;
    Ok(u8::try_from(status).unwrap_or(1))
}

/// An empty folder below `target/demo`.
fn record_folder(args: &Demo) -> anyhow::Result<PathBuf> {
    let mut name = args.scenario.name().to_owned();
    if args.keep {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?;
        name = format!("{name}-{}", now.as_secs());
    }
    let folder = sh::root().join("target/demo").join(name);
    if folder.exists() {
        fs::remove_dir_all(&folder)
            .with_context(|| format!("cannot clear {}", folder.display()))?;
    }
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    Ok(folder)
}

fn close(story: Story, report: &Report, folder: &Path) {
    story.blank();
    if let (true, Some(mttr)) = (report.verified, report.mttr_s) {
        story.headline(&format!(
            "MTTR {mttr:.1} s, from the fault to the verified recovery; nobody had to do anything."
        ));
    }
    if let Some(web) = &report.neighbour {
        story.note(&web.told());
    }
    story.blank();
    let id: String = report.incident.chars().take(15).collect();
    let state = shown(&folder.join("state"));
    let binary = shown(&sh::root().join("target/debug/paramedic"));
    story.note(&format!("The record: {}", report.record));
    story.note("Look further, without the agent, in the journal that it left:");
    for what in [
        "list".to_owned(),
        format!("show {id}"),
        format!("export {id}"),
    ] {
        story.note(&format!("  {binary} incidents {what} --state-dir {state}"));
    }
}

/// Relative to the current folder where that is shorter.
fn shown(path: &Path) -> String {
    let here = std::env::current_dir().unwrap_or_default();
    let path = path.strip_prefix(&here).unwrap_or(path);
    path.display().to_string()
}
