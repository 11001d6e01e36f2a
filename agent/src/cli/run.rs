//! `paramedic run` and `paramedic check config`.

use std::path::{Path, PathBuf};

use anyhow::Context;
use tracing::{info, warn};

use super::{EXIT_FINDINGS, EXIT_OK};
use crate::{
    app::{App, privileges::reduce},
    config::Config,
    confine::{Role, refuse_calls},
    telemetry::{self, LogFormat},
};

/// Runs the agent until SIGTERM or SIGINT.
pub(super) fn run(
    config: Option<&Path>,
    log_format: LogFormat,
    dry_run: bool,
) -> anyhow::Result<u8> {
    let mut config = Config::load_or_shipped(config).context("the configuration was refused")?;
    let finished = telemetry::init_traced(log_format, &config.telemetry);
    config.remedy.dry_run |= dry_run;
    // Before the runtime: what its threads never had they need not give up.
    give_up_privileges(&config);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .max_blocking_threads(16)
        .thread_name("paramedic")
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    runtime.block_on(async {
        let app = App::build(config).await?.exporting(finished)?;
        app.run().await
    })?;
    Ok(EXIT_OK)
}

/// An agent with more than it needs is better than none: what goes wrong here is said, not more.
fn give_up_privileges(config: &Config) {
    match reduce(config) {
        Ok(reduced) => {
            let kept = reduced.kept.iter();
            let kept: Vec<String> = kept
                .map(|one| format!("{} ({})", one.capability, one.why))
                .collect();
            info!(
                given_up = reduced.given_up,
                kept = kept.join(", "),
                "capabilities that nothing enabled needs are given up; there will be no new ones"
            );
        }
        Err(error) => {
            let error = &error as &dyn std::error::Error;
            warn!(error, "the agent runs with more privileges than it needs");
        }
    }
    // After it: what else a process can do, to the machine and to other processes.
    refuse_calls(Role::Agent);
}

/// Checks configuration files.
pub(super) fn check_config(files: &[PathBuf]) -> u8 {
    let mut code = EXIT_OK;
    for file in files {
        match Config::load(file) {
            Ok(_) => println!("{}: ok", file.display()),
            Err(error) => {
                code = EXIT_FINDINGS;
                println!("{:#}", anyhow::Error::from(error));
            }
        }
    }
    code
}
