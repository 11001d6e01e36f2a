//! `paramedic replay`: what two rule sets say of the same evidence, and where they differ.
//!
//! The evidence is that of recordings, each of their seconds, and of the incidents in an agent's record.
//! Both sets rank with their own priors: what outcomes taught one node would hide what the rules say.

mod evidence;
mod said;
mod stretch;
mod text;

use std::path::PathBuf;

use anyhow::bail;
use serde::Serialize;

use super::{EXIT_FINDINGS, EXIT_OK, EXIT_TROUBLE, alert::AlertFile};
use crate::{
    app::{AppError, load_rules},
    config::Config,
    diagnosis::{self, DiagnosisConfig, RuleSet},
    incident::{Alert, Evidence, Source},
};

use evidence::{Incidents, of_incidents, of_recording};
use said::Said;
use stretch::Subject;

/// Arguments of `paramedic replay`.
#[derive(Debug, clap::Args)]
#[command(after_help = REPLAY_EXITS)]
pub struct Args {
    /// Files of `paramedic record`
    #[arg(value_name = "RECORDING")]
    recordings: Vec<PathBuf>,
    /// The rules in question, a folder or a file; several times for one set of several
    #[arg(long, value_name = "DIR", required = true)]
    rules: Vec<PathBuf>,
    /// The rules to compare them with; those of the configuration if left out, which are the shipped
    /// ones unless it names others
    #[arg(long, value_name = "DIR")]
    against: Vec<PathBuf>,
    /// Also every incident in the record of an agent, running or stopped: each with the alert that it
    /// was opened by and the evidence that it was diagnosed from
    #[arg(long, visible_alias = "state-dir", value_name = "DIR")]
    state: Option<PathBuf>,
    #[command(flatten)]
    alert: AlertFile,
    /// Configuration file, for the bars of a diagnosis; the defaults if left out
    #[arg(long)]
    config: Option<PathBuf>,
    /// JSON instead of text
    #[arg(long)]
    json: bool,
}

const REPLAY_EXITS: &str = "Exit status: 0 = both sets say the same; 1 = they differ; 2 = not all could be compared \
                            (usage, files), with the reason on stderr. Compared are the ranking of causes of 1 % and \
                            more, the verdict, the culprit, and the action that would be suggested.";

/// Both sets, and how they are asked.
struct Pair {
    before: RuleSet,
    after: RuleSet,
    config: DiagnosisConfig,
}

impl Pair {
    /// What both say.
    fn ask(&self, alert: &Alert, source: &Source, evidence: &Evidence) -> (Said, Said) {
        let ask = |rules: &RuleSet| {
            Said::of(&diagnosis::diagnose(
                rules,
                alert,
                source,
                evidence,
                &self.config,
            ))
        };
        (ask(&self.before), ask(&self.after))
    }
}

/// One of both sets, for the report.
#[derive(Debug, Serialize)]
struct Set {
    /// Where it came from; empty = built into the binary.
    from: Vec<PathBuf>,
    hypotheses: usize,
}

impl Set {
    fn of(rules: &RuleSet, from: &[PathBuf]) -> Self {
        Self {
            from: from.to_vec(),
            hypotheses: rules.rules().len(),
        }
    }
}

/// All that was compared.
#[derive(Debug, Serialize)]
struct Comparison {
    before: Set,
    after: Set,
    /// Recordings in the order named, then incidents, oldest first.
    subjects: Vec<Subject>,
    /// What the record of an agent held, where one was asked for.
    incidents: Option<Incidents>,
    /// Whether all that was named could be read.
    whole: bool,
}

impl Comparison {
    fn moments(&self) -> usize {
        self.subjects.iter().map(|subject| subject.moments).sum()
    }

    fn differ(&self) -> bool {
        self.subjects.iter().any(Subject::differs)
    }
}

/// Compares and prints.
pub(super) fn replay(args: &Args) -> anyhow::Result<u8> {
    if args.recordings.is_empty() && args.state.is_none() {
        bail!("name files of `paramedic record`, or an agent's state directory with --state");
    }
    let config = Config::load_or_shipped(args.config.as_deref())?;
    let refused = |findings| AppError::Rules { findings };
    let (before, against) = if args.against.is_empty() {
        let rules = load_rules(&config.rules).map_err(refused)?;
        (rules, &config.rules.dirs)
    } else {
        (
            RuleSet::load(&args.against).map_err(refused)?,
            &args.against,
        )
    };
    let pair = Pair {
        before,
        after: RuleSet::load(&args.rules).map_err(refused)?,
        config: config.diagnosis.clone(),
    };
    let (alert, source) = args.alert.read(&config.intake)?;
    let mut comparison = Comparison {
        before: Set::of(&pair.before, against),
        after: Set::of(&pair.after, &args.rules),
        subjects: Vec::new(),
        incidents: None,
        whole: true,
    };
    for path in &args.recordings {
        let (subject, trouble) = of_recording(path, &pair, &alert, &source);
        comparison.subjects.push(subject);
        if let Some(error) = trouble {
            eprintln!("paramedic: {error}");
            comparison.whole = false;
        }
    }
    if let Some(state) = &args.state {
        let (incidents, subjects) = of_incidents(state, &pair)?;
        for trouble in &incidents.trouble {
            eprintln!("paramedic: {trouble}");
            comparison.whole = false;
        }
        comparison.subjects.extend(subjects);
        comparison.incidents = Some(incidents);
    }
    if args.json {
        println!("{}", serde_json::to_string_pretty(&comparison)?);
    } else {
        print!("{}", text::of(&comparison));
    }
    if comparison.moments() == 0 && comparison.whole {
        bail!("there was nothing to compare: no recording and no incident has evidence");
    }
    Ok(match (comparison.whole, comparison.differ()) {
        (false, _) => EXIT_TROUBLE,
        (true, true) => EXIT_FINDINGS,
        (true, false) => EXIT_OK,
    })
}
