//! Rules: hypotheses that a YAML file declares, checked as a whole before any is used.
//!
//! A set is loaded entirely or not at all; every finding carries file, line and column.
//! `docs/rules.md` explains the format to those who write rules.

mod check;
pub(super) mod load;
pub(super) mod schema;
pub(super) mod table;

use std::{collections::BTreeSet, fmt, path::PathBuf, time::Duration};

use regex::Regex;
use serde::{Deserialize, Serialize};

use crate::incident::{Alert, FeatureTest, SeriesQuery, Source, Suggestion};

use table::Table;

/// The shape of rule files for editors and other tools; what a schema cannot say, the checks do.
pub const JSON_SCHEMA: &str = include_str!("../../../docs/rules.schema.json");
/// Rule files are refused above this size.
pub const FILE_BYTES_MAX: usize = 1 << 20;
/// Hypotheses in one set: what ranks within a millisecond or few.
pub const HYPOTHESES_MAX: usize = 3000;
/// Features of one hypothesis.
pub const FEATURES_MAX: usize = 32;
/// Exclusions, series, recovery tests, remedies, alert patterns of one hypothesis, each.
pub const ITEMS_MAX: usize = 16;
/// Bytes of an id.
pub const ID_BYTES_MAX: usize = 63;
/// Bytes of a title or of what a feature says: one line.
pub const LINE_BYTES_MAX: usize = 120;
/// Bytes of a description, a query or a pattern.
pub const TEXT_BYTES_MAX: usize = 2000;
/// Seconds that recovery may take at most.
pub const RECOVERY_S_MAX: f64 = 3600.0;
/// A likelihood lies within this and one minus this: no single reading may carry more than ten bits.
pub const LIKELIHOOD_MIN: f64 = 0.001;

/// Something wrong in a rule file.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Finding {
    /// The file as it was named.
    pub file: PathBuf,
    /// From 1; 0 when the file as a whole is meant.
    pub line: u64,
    /// From 1; 0 when the file as a whole is meant.
    pub column: u64,
    /// What is wrong, and what would be right.
    pub message: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if self.line > 0 {
            write!(f, ":{}:{}", self.line, self.column)?;
        }
        write!(f, ": {}", self.message)
    }
}

/// A local trigger, by the resource that it watches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Trigger {
    /// CPU pressure.
    Cpu,
    /// Memory pressure.
    Memory,
    /// I/O pressure.
    Io,
}

impl Trigger {
    fn as_str(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Memory => "memory",
            Self::Io => "io",
        }
    }
}

/// When a hypothesis is a candidate at all. Both lists empty = always.
#[derive(Clone, Debug, Default)]
pub struct Applies {
    /// Patterns that match a whole `alertname`.
    pub alerts: Vec<Regex>,
    /// Local triggers.
    pub triggers: Vec<Trigger>,
}

impl Applies {
    /// Whether an alert from this source makes the hypothesis a candidate. A diagnosis asked for by
    /// hand considers everything.
    pub fn to(&self, alert: &Alert, source: &Source) -> bool {
        if self.alerts.is_empty() && self.triggers.is_empty() {
            return true;
        }
        match source {
            Source::Manual => true,
            Source::Pressure { resource } => self.triggers.iter().any(|t| t.as_str() == resource),
            Source::Alertmanager { .. } => self.name_matches(alert),
        }
    }

    fn name_matches(&self, alert: &Alert) -> bool {
        self.alerts
            .iter()
            .any(|pattern| pattern.is_match(alert.name()))
    }
}

/// A test that rules the hypothesis out.
#[derive(Clone, Debug)]
pub struct Exclusion {
    /// Holds = excluded. Never by a missing or partial reading.
    pub test: FeatureTest,
    /// For people.
    pub because: String,
}

/// How the culprit is found among the leaf cgroups.
#[derive(Clone, Debug)]
pub struct Selector {
    /// Reading of cgroups; the leaf with the most is chosen.
    pub by: String,
    /// Its least share of the whole, 0 to 1; below it, nobody stands out.
    pub min_share: f64,
    /// Whether the diagnosis is inconclusive without a culprit.
    pub required: bool,
}

/// A piece of evidence.
#[derive(Clone, Debug)]
pub struct Feature {
    /// Unique in the hypothesis.
    pub id: String,
    /// What is looked at.
    pub test: FeatureTest,
    /// Probability that the test holds if this is the cause.
    pub given_cause: f64,
    /// Probability that it holds otherwise.
    pub otherwise: f64,
    /// Without it there is no verdict.
    pub decisive: bool,
    /// Features of one group are one symptom: only its strongest evidence for and its strongest
    /// against count.
    pub group: Option<String>,
    /// What it says when it holds, for people.
    pub says: String,
}

/// One hypothesis as declared, checked.
#[derive(Clone, Debug)]
pub struct Rule {
    /// Unique in the set.
    pub id: String,
    /// File it came from.
    pub file: PathBuf,
    /// One line for people.
    pub title: String,
    /// What happens and why it hurts.
    pub description: String,
    /// Where people read on.
    pub runbook: Option<String>,
    /// Weight before any evidence, 0 to 1, on the scale of all priors; moved by what was learned.
    pub prior: f64,
    /// The same as the file declares it.
    pub declared_prior: f64,
    /// When it is a candidate.
    pub applies: Applies,
    /// What rules it out.
    pub exclude: Vec<Exclusion>,
    /// Who did it.
    pub culprit: Option<Selector>,
    /// Evidence.
    pub features: Vec<Feature>,
    /// Queries.
    pub series: Vec<SeriesQuery>,
    /// All must hold once it is healed.
    pub recovery: Vec<FeatureTest>,
    /// How long recovery may take.
    pub recovery_within: Duration,
    /// Suggestions, best first.
    pub remedies: Vec<Suggestion>,
}

/// All rules in force, in the order of their files.
#[derive(Clone, Debug, Default)]
pub struct RuleSet {
    rules: Vec<Rule>,
    table: Table,
}

impl RuleSet {
    fn of(rules: Vec<Rule>) -> Self {
        let table = Table::of(&rules);
        Self { rules, table }
    }

    /// What a ranking needs of the features.
    pub(super) fn table(&self) -> &Table {
        &self.table
    }

    /// Every rule.
    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }

    /// A rule by its id.
    pub fn get(&self, id: &str) -> Option<&Rule> {
        self.rules.iter().find(|rule| rule.id == id)
    }

    /// The same rules with other priors, in their order. Declared ones stay as they are.
    #[must_use]
    pub fn with_priors(&self, priors: impl IntoIterator<Item = f64>) -> Self {
        let mut rules = self.rules.clone();
        for (rule, prior) in rules.iter_mut().zip(priors) {
            rule.prior = prior;
        }
        // Likelihoods are the same: only priors differ.
        let table = self.table.clone();
        Self { rules, table }
    }

    /// The queries of all rules that may apply to this alert, each name once. The source isn't known
    /// here, so rules that apply to local triggers only are left out.
    pub fn queries_for(&self, alert: &Alert) -> Vec<SeriesQuery> {
        let mut seen = BTreeSet::new();
        self.rules
            .iter()
            .filter(|rule| {
                let Applies { alerts, triggers } = &rule.applies;
                (alerts.is_empty() && triggers.is_empty()) || rule.applies.name_matches(alert)
            })
            .flat_map(|rule| &rule.series)
            .filter(|query| seen.insert(query.name.as_str()))
            .cloned()
            .collect()
    }

    /// How long recovery from a cause may take; 30 s for an id that is not (or no longer) a rule.
    pub fn recovery_within(&self, hypothesis_id: &str) -> Duration {
        self.get(hypothesis_id)
            .map_or(schema::RECOVERY_WITHIN, |rule| rule.recovery_within)
    }
}
