//! `paramedic record`: the evidence of the next while in a file, for `paramedic diagnose --replay`.

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use jiff::SignedDuration;

use super::EXIT_OK;
use crate::{
    config::Config,
    evidence::{
        Recorder,
        probes::Probes,
        recording::{SECONDS_MAX, Writer},
    },
};

/// Time between two records.
const EVERY: Duration = Duration::from_secs(1);

/// Arguments of `paramedic record`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// How long, e.g. 60s or 5m; an hour at most
    #[arg(long = "for", value_name = "TIME", default_value = "60s")]
    time: SignedDuration,
    /// Configuration file; the defaults if left out
    #[arg(long)]
    config: Option<PathBuf>,
    /// The file to make; an existing one is not written over
    file: PathBuf,
}

/// Watches this host, the syscall pair included, and writes down each second what a diagnosis would be
/// given.
pub(super) fn record(args: &Args) -> anyhow::Result<u8> {
    let seconds = u64::try_from(args.time.as_secs()).unwrap_or(0);
    if !(1..=SECONDS_MAX).contains(&seconds) {
        bail!(
            "--for {}: 1 to {SECONDS_MAX} seconds can be recorded",
            args.time
        );
    }
    let config = Config::load_or_shipped(args.config.as_deref())?;
    let release = rustix::system::uname();
    let release = release.release().to_string_lossy().into_owned();
    let mut writer = Writer::create(&args.file, release)?;
    let probes = Arc::new(Probes::start(&config.probes));
    let recorder = Recorder::start(&config.evidence, probes).context("cannot start the readers")?;
    recorder.watch_syscalls(true);
    let begun = Instant::now();
    for second in 1..=seconds {
        let due = begun + EVERY * u32::try_from(second).unwrap_or(u32::MAX);
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        writer.add(&recorder.evidence(config.evidence.window()))?;
    }
    let records = writer.finish()?;
    println!(
        "{records} seconds are in {}: `paramedic diagnose --replay {}`",
        args.file.display(),
        args.file.display()
    );
    Ok(EXIT_OK)
}
