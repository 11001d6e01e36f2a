//! Where an agent's record lies, and how it is printed: the same for every command that reads it.

use std::path::PathBuf;

use anyhow::bail;

use crate::config::{Config, ConfigError};

/// `--state-dir`, `--config`, `--json`.
#[derive(Debug, clap::Args)]
pub(super) struct Place {
    /// The agent's state directory
    #[arg(long, global = true, conflicts_with = "config")]
    pub(super) state_dir: Option<PathBuf>,
    /// The agent's configuration file, to find its state directory
    #[arg(long, global = true)]
    config: Option<PathBuf>,
    /// JSON instead of text
    #[arg(long, global = true)]
    pub(super) json: bool,
}

impl Place {
    /// The configuration by its file, or the defaults.
    pub(super) fn config(&self) -> Result<Config, ConfigError> {
        Config::load_or_shipped(self.config.as_deref())
    }

    /// The journal's directory; an error that names the way out if it is not there.
    pub(super) fn journal_dir(&self) -> anyhow::Result<PathBuf> {
        let dir = match &self.state_dir {
            Some(dir) => dir.join("journal"),
            None => self.config()?.journal.dir,
        };
        if !dir.is_dir() {
            bail!(
                "no journal at {}: name the agent's folder with --state-dir or its file with --config",
                dir.display()
            );
        }
        Ok(dir)
    }
}
