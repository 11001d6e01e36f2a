//! `paramedic …`: one file a subcommand. Exit codes: 0 ok, 1 findings, 2 usage or trouble.

mod diagnose;
mod incidents;
mod probes;
mod run;

use std::path::PathBuf;

use clap::{Parser, Subcommand};

use crate::telemetry::LogFormat;

/// Everything is well.
pub const EXIT_OK: u8 = 0;
/// The command worked and found something wrong.
pub const EXIT_FINDINGS: u8 = 1;
/// The command could not do its work.
pub const EXIT_TROUBLE: u8 = 2;

/// The first responder on a Linux node.
#[derive(Debug, Parser)]
#[command(name = "paramedic", version, max_term_width = 100)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the agent
    Run {
        /// Configuration file (YAML); the defaults if left out
        #[arg(long)]
        config: Option<PathBuf>,
        /// Shape of the log lines on stderr
        #[arg(long, value_enum, default_value_t = LogFormat::Text)]
        log_format: LogFormat,
    },
    /// Check a configuration or rules; prints file:line:column, exits 1 on findings
    #[command(subcommand)]
    Check(Check),
    /// Run the cases beside the rules
    #[command(subcommand)]
    Test(Test),
    /// Diagnose this host now, or print what an alert would have found
    Diagnose(diagnose::Args),
    /// Read the record of incidents, beside a running agent or of a stopped one
    Incidents(incidents::Args),
    /// What attaches on this kernel, what falls back and why
    Probes(probes::Args),
    /// Restore effects whose leases have ended; started by the agent
    #[command(hide = true)]
    Guardian {
        /// The agent's state directory
        #[arg(long)]
        state_dir: PathBuf,
    },
}

#[derive(Debug, Subcommand)]
enum Check {
    /// Configuration files
    Config {
        /// Files
        #[arg(required = true)]
        files: Vec<PathBuf>,
    },
    /// Rule files or folders
    Rules {
        /// Files or folders
        #[arg(required = true)]
        files: Vec<PathBuf>,
    },
}

#[derive(Debug, Subcommand)]
enum Test {
    /// Case files or folders of them
    Rules {
        /// Files or folders
        #[arg(required = true)]
        files: Vec<PathBuf>,
    },
}

impl Cli {
    /// Runs the command; the result is the process' exit code.
    pub fn run(self) -> anyhow::Result<u8> {
        match self.command {
            Command::Run { config, log_format } => run::run(config.as_deref(), log_format),
            Command::Check(Check::Config { files }) => Ok(run::check_config(&files)),
            Command::Check(Check::Rules { files }) => check::check_rules(&files),
            Command::Test(Test::Rules { files }) => test_rules::test_rules(&files),
            Command::Diagnose(args) => diagnose::diagnose(&args),
            Command::Incidents(args) => incidents::incidents(args),
            Command::Probes(args) => probes::probes(&args),
            Command::Guardian { state_dir } => {
                crate::remedy::guardian_main(&state_dir)?;
                Ok(EXIT_OK)
            }
        }
    }
}
