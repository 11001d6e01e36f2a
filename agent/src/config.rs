//! One file configures everything; one struct a stage, each beside its stage.
//!
//! Unknown keys are refused, and all bad fields are reported at once.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

pub use crate::{
    diagnosis::DiagnosisConfig,
    evidence::{EvidenceConfig, probes::ProbesConfig},
    intake::{IntakeConfig, PressureConfig},
    journal::JournalConfig,
    remedy::RemedyConfig,
    report::NotifyConfig,
    routing::RoutingConfig,
    sampling::SamplingConfig,
    telemetry::TelemetryConfig,
    verify::VerifyConfig,
};

/// Where rules come from.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RulesConfig {
    /// Files or folders of rules, in place of the shipped ones. Empty = the shipped rules.
    pub dirs: Vec<PathBuf>,
}

/// The whole configuration.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Holds the journal (`journal/` below it) and the leases. Must be on a disk.
    pub state_dir: PathBuf,
    /// Incidents kept in memory for the API; older ones are read from the journal. 1 to 100,000.
    pub incidents_max: usize,
    /// HTTP in.
    pub intake: IntakeConfig,
    /// Local triggers.
    pub pressure: PressureConfig,
    /// Queues.
    pub routing: RoutingConfig,
    /// Prometheus.
    pub sampling: SamplingConfig,
    /// Readers and the recorder.
    pub evidence: EvidenceConfig,
    /// Kernel probes.
    pub probes: ProbesConfig,
    /// Rules.
    pub rules: RulesConfig,
    /// Bars.
    pub diagnosis: DiagnosisConfig,
    /// What may be done.
    pub remedy: RemedyConfig,
    /// How recovery is checked.
    pub verify: VerifyConfig,
    /// Who is told of incidents.
    pub notify: NotifyConfig,
    /// Traces.
    pub telemetry: TelemetryConfig,
    /// The write-ahead journal. Its `dir` is `state_dir/journal` unless set.
    pub journal: JournalConfig,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            state_dir: PathBuf::from("/var/lib/paramedic"),
            incidents_max: 1000,
            intake: IntakeConfig::default(),
            pressure: PressureConfig::default(),
            routing: RoutingConfig::default(),
            sampling: SamplingConfig::default(),
            evidence: EvidenceConfig::default(),
            probes: ProbesConfig::default(),
            rules: RulesConfig::default(),
            diagnosis: DiagnosisConfig::default(),
            remedy: RemedyConfig::default(),
            verify: VerifyConfig::default(),
            notify: NotifyConfig::default(),
            telemetry: TelemetryConfig::default(),
            journal: JournalConfig::default(),
        }
    }
}

/// Why a configuration was refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file could not be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Not YAML of this shape; the message has line and column.
    #[error("{}:{line}:{column}: {message}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// From 1.
        line: u64,
        /// From 1.
        column: u64,
        /// What is wrong there.
        message: String,
    },
    /// Fields out of bounds, all of them.
    #[error("{}: {}", path.display(), problems.join("; "))]
    Bounds {
        /// The file.
        path: PathBuf,
        /// One sentence a field.
        problems: Vec<String>,
    },
}

impl Config {
    /// Reads and checks a file.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read {
            path: path.to_owned(),
            source,
        })?;
        Self::parse(&text, path)
    }

    /// Checks a configuration's text; `path` is for messages only.
    pub fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        let parsed = if text.trim().is_empty() {
            Ok(Self::default())
        } else {
            serde_saphyr::from_str::<Self>(text)
        };
        let mut config = parsed.map_err(|error| {
            let (line, column) = error
                .location()
                .map_or((1, 1), |at| (at.line(), at.column()));
            let error = error.without_snippet();
            ConfigError::Syntax {
                path: path.to_owned(),
                line,
                column,
                message: error.to_string(),
            }
        })?;
        config.place_journal();
        let problems = config.problems();
        if problems.is_empty() {
            Ok(config)
        } else {
            Err(ConfigError::Bounds {
                path: path.to_owned(),
                problems,
            })
        }
    }

    /// The file's, or the defaults where none is named.
    pub fn load_or_shipped(file: Option<&Path>) -> Result<Self, ConfigError> {
        file.map_or_else(|| Ok(Self::shipped()), Self::load)
    }

    /// The defaults, ready for use.
    pub fn shipped() -> Self {
        let mut config = Self::default();
        config.place_journal();
        config
    }

    fn place_journal(&mut self) {
        if self.journal.dir.as_os_str().is_empty() {
            self.journal.dir = self.state_dir.join("journal");
        }
    }

    fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if !(1..=100_000).contains(&self.incidents_max) {
            problems.push(format!(
                "incidents_max: {} is not within 1 to 100000",
                self.incidents_max
            ));
        }
        problems.extend(self.intake.problems());
        problems.extend(self.pressure.problems());
        problems.extend(self.routing.problems());
        problems.extend(self.sampling.problems());
        problems.extend(self.evidence.problems());
        problems.extend(self.probes.problems());
        problems.extend(self.diagnosis.problems());
        problems.extend(self.remedy.problems());
        problems.extend(self.verify.problems());
        problems.extend(self.notify.problems());
        problems.extend(self.telemetry.problems());
        if let Err(found) = self.journal.validate() {
            problems.extend(
                found
                    .into_iter()
                    .map(|problem| format!("journal.{problem}")),
            );
        }
        let longest_s = self.verify.timeout_s + 60;
        if self.routing.episode_deadline_s < longest_s {
            problems.push(format!(
                "routing.episode_deadline_s: {} is too short for a verification of up to {} s: at \
                 least {longest_s}",
                self.routing.episode_deadline_s, self.verify.timeout_s
            ));
        }
        problems
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::{Config, ConfigError};

    fn parse(text: &str) -> Result<Config, ConfigError> {
        Config::parse(text, Path::new("paramedic.yaml"))
    }

    #[test]
    fn an_empty_file_is_the_defaults() {
        let config = parse("\n").unwrap();
        assert_eq!(config, Config::shipped());
        assert_eq!(config.journal.dir, Path::new("/var/lib/paramedic/journal"));
    }

    #[test]
    fn an_unknown_key_is_refused_where_it_stands() {
        let error = parse("state_dir: /tmp/x\nremedy:\n  levl: act\n").unwrap_err();
        let text = error.to_string();
        assert!(text.starts_with("paramedic.yaml:3:"), "{text}");
        assert!(text.contains("levl"), "{text}");
    }

    #[test]
    fn all_bad_fields_are_reported_at_once() {
        let error = parse("incidents_max: 0\nevidence: {window_s: 0}\n").unwrap_err();
        let text = error.to_string();
        assert!(text.contains("incidents_max: 0"), "{text}");
        assert!(text.contains("evidence.window_s: 0"), "{text}");
    }

    #[test]
    fn the_journal_lies_below_the_state_directory_unless_told_otherwise() {
        let config = parse("state_dir: /data\n").unwrap();
        assert_eq!(config.journal.dir, Path::new("/data/journal"));
        let config = parse("state_dir: /data\njournal: {segments_ahead: 1}\n").unwrap();
        assert_eq!(config.journal.dir, Path::new("/data/journal"));
        let config = parse("state_dir: /data\njournal: {dir: /fast}\n").unwrap();
        assert_eq!(config.journal.dir, Path::new("/fast"));
    }
}
