//! `paramedic …`: one file a subcommand. Exit codes: 0 ok, 1 findings, 2 usage or trouble.

pub(crate) mod ab;
mod alert;
mod answer;
pub(crate) mod check;
pub(crate) mod diagnose;
pub(crate) mod guardian;
pub(crate) mod history;
pub(crate) mod incidents;
pub(crate) mod journal;
mod place;
pub(crate) mod probes;
mod reach;
pub(crate) mod record;
pub(crate) mod replay;
pub(crate) mod run;
pub(crate) mod test_rules;
pub(crate) mod top;
mod words;

use std::path::PathBuf;

use clap::{Parser, Subcommand};

use crate::telemetry::LogFormat;

/// Everything is well.
pub const EXIT_OK: u8 = 0;
/// The command worked and found something wrong.
pub const EXIT_FINDINGS: u8 = 1;
/// The command could not do its work.
pub const EXIT_TROUBLE: u8 = 2;

const EXITS: &str = "Exit status: 0 = done, nothing to complain of; 1 = done, and something was found (a rule \
                     with a mistake, a probe that fell back, a damaged journal); 2 = not done (usage, files, \
                     network), with the reason on stderr.";

/// The first responder on a Linux node.
#[derive(Debug, Parser)]
#[command(name = "paramedic", version, max_term_width = 100, after_help = EXITS)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the agent until SIGTERM; SIGHUP reloads the rules
    Run {
        /// Configuration file; the defaults if left out
        #[arg(long)]
        config: Option<PathBuf>,
        /// Shape of the log on stderr
        #[arg(long, value_enum, default_value = "text")]
        log_format: LogFormat,
        /// Say exactly what would be written where, and write nothing (`remedy.dry_run`)
        #[arg(long)]
        dry_run: bool,
    },
    /// Check a configuration or rules; prints file:line:column, exits 1 on findings
    #[command(subcommand)]
    Check(Check),
    /// Look into the journal of an agent, running or stopped; repair that of a stopped one
    Journal(journal::Args),
    /// Run the cases beside the rules
    #[command(subcommand)]
    Test(Test),
    /// Watch this host for some seconds and say what is wrong with it; changes nothing
    Diagnose(diagnose::Args),
    /// End the effects of an agent that is gone; the agent starts this by itself
    Guardian(guardian::Args),
    /// Read the record: what happened, why, and what was done
    Incidents(incidents::Args),
    /// What verified outcomes taught the priors; go back to an earlier version
    History(history::Args),
    /// The two diagnosis strategies side by side
    Ab(ab::Args),
    /// Watch this host for a while and write its evidence to a file; changes nothing else
    Record(record::Args),
    /// Rank recordings and past incidents under two rule sets; exits 1 if their answers differ
    Replay(replay::Args),
    /// Watch a running agent's evidence, or a recording, in the terminal; `--once` prints one frame
    Top(top::Args),
    /// What attaches on this kernel, what falls back and why; exits 1 if anything falls back
    Probes(probes::Args),
    /// Print a script that completes this command line: `paramedic completions bash`
    Completions(words::Completions),
    /// Print the manual's page, or write a page a command
    Man(words::Manual),
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
        /// Print the JSON Schema of rule files instead, for editors
        #[arg(long, conflicts_with = "files")]
        schema: bool,
        /// Files or folders
        #[arg(required_unless_present = "schema")]
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
            Command::Run {
                config,
                log_format,
                dry_run,
            } => run::run(config.as_deref(), log_format, dry_run),
            Command::Check(Check::Config { files }) => Ok(run::check_config(&files)),
            Command::Check(Check::Rules { schema: true, .. }) => Ok(check::print_schema()),
            Command::Check(Check::Rules { files, .. }) => Ok(check::check_rules(&files)),
            Command::Test(Test::Rules { files }) => Ok(test_rules::test_rules(&files)),
            Command::Diagnose(args) => diagnose::diagnose(&args),
            Command::Guardian(args) => guardian::guardian(&args),
            Command::History(args) => history::history(&args),
            Command::Ab(args) => ab::ab(&args),
            Command::Incidents(args) => incidents::incidents(args),
            Command::Journal(args) => journal::journal(&args),
            Command::Record(args) => record::record(&args),
            Command::Replay(args) => replay::replay(&args),
            Command::Probes(args) => probes::probes(&args),
            Command::Completions(args) => Ok(words::completions(&args)),
            Command::Man(args) => words::manual(&args),
            Command::Top(args) => top::top(&args),
        }
    }
}
