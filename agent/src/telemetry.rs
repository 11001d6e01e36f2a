//! Logs on stderr, for people and for collectors.

use tracing_subscriber::{EnvFilter, fmt};

/// Shape of the log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// `time LEVEL span: message key=value`.
    Text,
    /// One JSON object a line.
    Json,
}

/// Installs the subscriber. `RUST_LOG` decides the level; `info` otherwise. A second call does
/// nothing.
pub fn init(format: LogFormat) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let builder = fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_target(false)
        // A line that cannot be written (a log file on a full disk) would be complained about on the
        // same stderr, and that panics in the middle of whatever was logged.
        .log_internal_errors(false);
    let installed = match format {
        LogFormat::Text => builder.with_ansi(false).try_init(),
        LogFormat::Json => builder.json().try_init(),
    };
    // Another subscriber is there already (tests): its lines are as good.
    installed.unwrap_or_default();
}
