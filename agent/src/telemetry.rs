//! What the agent says of its own work: logs on stderr, and traces for a collector if one is configured.

pub(crate) mod otlp;
pub(crate) mod trace;

use serde::{Deserialize, Serialize};
use tracing_subscriber::{
    EnvFilter, Layer, Registry, fmt, layer::SubscriberExt, util::SubscriberInitExt,
};

pub use otlp::{Exporter, Exporting, Finished, OtlpConfig, OtlpError, Spans};

/// Shape of the log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// `time LEVEL span: message key=value`.
    Text,
    /// One JSON object a line.
    Json,
}

/// Configuration of telemetry. Logs are set on the command line, metrics are always there.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TelemetryConfig {
    /// Where traces go. None = nothing is traced.
    pub otlp: Option<OtlpConfig>,
}

impl TelemetryConfig {
    /// Every field out of bounds, one sentence each; empty when all is well.
    pub fn problems(&self) -> Vec<String> {
        self.otlp.iter().flat_map(OtlpConfig::problems).collect()
    }
}

/// Installs the subscriber. `RUST_LOG` decides the level; `info` otherwise. A second call does
/// nothing.
pub fn init(format: LogFormat) {
    install(format, None);
}

/// The same, with spans of episodes besides logs where the configuration wants them: whoever gets the
/// [`Finished`] has them exported.
pub fn init_traced(format: LogFormat, config: &TelemetryConfig) -> Option<Finished> {
    let (spans, finished) = config.otlp.as_ref().map(Spans::new).unzip();
    install(format, spans);
    finished
}

fn install(format: LogFormat, spans: Option<Spans>) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let lines = fmt::layer()
        .with_writer(std::io::stderr)
        .with_target(false)
        // A line that cannot be written (a log file on a full disk) would be complained about on the
        // same stderr, and that panics in the middle of whatever was logged.
        .log_internal_errors(false);
    let lines = match format {
        LogFormat::Text => lines.with_ansi(false).boxed(),
        LogFormat::Json => lines.json().boxed(),
    };
    let installed = match spans {
        // One filter before everything: what is not logged costs next to nothing.
        None => Registry::default().with(lines).with(filter).try_init(),
        Some(spans) => Registry::default()
            .with(lines.with_filter(filter))
            .with(spans.filtered())
            .try_init(),
    };
    // Another subscriber is there already (tests): its lines are as good.
    installed.unwrap_or_default();
}
