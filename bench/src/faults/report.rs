//! From records to figures: for people, as JSON, and as a picture.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, ensure};
use serde_json::json;

use super::{
    catalogue::Catalogue,
    picture,
    record::{self, Trial},
    score::{self, Scores},
};

/// What to report on.
#[derive(Clone, Debug, clap::Args)]
pub struct Report {
    /// Records of trials; may be repeated
    #[arg(long, required = true)]
    pub record: Vec<PathBuf>,
    /// Where `report.json` and `confusion.svg` go
    #[arg(long)]
    pub out: PathBuf,
    /// End with one JSON object as the last line
    #[arg(long)]
    pub json: bool,
    /// The matrix
    #[arg(long, default_value_os_t = Catalogue::shipped())]
    pub faults: PathBuf,
}

impl Report {
    /// Writes the files and tells the figures.
    pub fn write(&self) -> anyhow::Result<()> {
        let catalogue = Catalogue::load(&self.faults)?;
        let mut trials = Vec::new();
        for file in &self.record {
            trials.extend(record::read(file)?);
        }
        ensure!(!trials.is_empty(), "the records hold no trial");
        let scores = score::score(&trials);
        fs::create_dir_all(&self.out)
            .with_context(|| format!("cannot make {}", self.out.display()))?;
        let title = format!(
            "Fault matrix, Linux {}, {} trials",
            scores.kernel, scores.trials
        );
        let picture = picture::confusion(&score::pairs(&trials), &title);
        keep(&self.out.join("confusion.svg"), &picture)?;
        let whole = json!({
            "scores": scores,
            "not_provoked": catalogue.not_provoked,
            "voids": voids(&trials),
            "trials": trials,
        });
        keep(
            &self.out.join("report.json"),
            &serde_json::to_string(&whole)?,
        )?;
        tell(&scores, &trials, &catalogue);
        println!("record and confusion matrix: {}", self.out.display());
        if self.json {
            println!("{}", serde_json::to_string(&scores)?);
        }
        Ok(())
    }
}

fn keep(file: &Path, text: &str) -> anyhow::Result<()> {
    fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))
}

/// Name, round and reason of each trial that does not count.
fn voids(trials: &[Trial]) -> Vec<(String, usize, String)> {
    let void = |trial: &Trial| {
        let why = trial.void.clone()?;
        Some((trial.truth.clone(), trial.round, why))
    };
    trials.iter().filter_map(void).collect()
}

fn tell(scores: &Scores, trials: &[Trial], catalogue: &Catalogue) {
    println!(
        "{:<28} {:>6} {:>6} {:>6} {:>8} {:>6} {:>6} {:>6} {:>5}",
        "cause", "trials", "top1", "top3", "culprit", "F1", "sure", "blind", "void"
    );
    let optional = |value: Option<f64>| value.map_or("-".to_owned(), |value| format!("{value:.2}"));
    for (name, class) in &scores.by_class {
        println!(
            "{name:<28} {:>6} {:>6.2} {:>6.2} {:>8} {:>6.2} {:>6.2} {:>6} {:>5}",
            class.trials,
            class.top1,
            class.top3,
            optional(class.culprit),
            class.f1,
            class.sure,
            optional(class.abstain_no_decisive),
            class.void
        );
    }
    for (name, round, why) in voids(trials) {
        println!("void: {name}, round {round}: {why}");
    }
    for trial in trials {
        if let Some(why) = &trial.blind_void {
            println!(
                "no blind answer: {}, round {}: {why}",
                trial.truth, trial.round
            );
        }
        for left in &trial.left {
            println!(
                "not taken back: {}, round {}: {left}",
                trial.truth, trial.round
            );
        }
    }
    for other in &catalogue.not_provoked {
        println!("not provoked: {}: {}", other.hypothesis, other.because);
    }
    println!(
        "top1 {:.3}  top3 {:.3}  culprit {:.3}  brier {:.3}  ece {:.3}  macro F1 {:.3}  \
         abstains: on noise {:.3}, without decisive evidence {:.3}  ({} trials, {} void)",
        scores.top1,
        scores.top3,
        scores.culprit,
        scores.brier,
        scores.ece,
        scores.macro_f1,
        scores.abstain_noise,
        scores.abstain_no_decisive,
        scores.trials,
        scores.void
    );
}
