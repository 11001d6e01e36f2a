//! What is provoked, as data: `bench/faults/faults.yaml`, typed and checked before anything is started.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, bail, ensure};
use paramedic::{diagnosis::RuleSet, evidence::probes::ProbeName};
use paramedic_parts::chance::Rng;
use serde::{Deserialize, Serialize};

use super::kind::Kind;

/// A file larger than this is none of ours.
const FILE_BYTES_MAX: u64 = 256 << 10;

/// One fault of the matrix.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fault {
    /// The cause that the agent is to name.
    pub hypothesis: String,
    /// How it is provoked.
    pub kind: Kind,
    /// Its figures, each `[least, most]`.
    #[serde(default)]
    pub with: BTreeMap<String, [f64; 2]>,
    /// `alertname` of the alert that tells of it.
    pub alert: String,
    /// Whose cgroup is to be named. None: the cause is the node's.
    pub culprit: Option<Guilty>,
    /// Other hypotheses that are another name of the same thing.
    #[serde(default)]
    pub accept: Vec<String>,
    /// What the second agent is kept from.
    #[serde(default)]
    pub blind: Blind,
}

/// Who is to be named.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Guilty {
    /// The fault's own cgroup.
    Fault,
}

/// Where decisive evidence comes from, so that it can be taken away.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Blind {
    /// Probes that are switched off.
    pub probes: Vec<ProbeName>,
    /// Files that are found empty; `cgroup:NAME` = of every cgroup of the trial, `process:NAME` = of
    /// every process of the fault.
    pub hide: Vec<String>,
}

impl Blind {
    /// Whether nothing is taken away: then there is no second agent.
    pub fn is_empty(&self) -> bool {
        self.probes.is_empty() && self.hide.is_empty()
    }
}

/// A hypothesis that this bench does not provoke.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NotProvoked {
    /// Its id in the rules.
    pub hypothesis: String,
    /// Why not.
    pub because: String,
}

/// The whole matrix.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Catalogue {
    /// What is provoked.
    pub faults: Vec<Fault>,
    /// What is not.
    pub not_provoked: Vec<NotProvoked>,
}

/// The figures of one trial.
pub type Figures = BTreeMap<String, f64>;

impl Fault {
    /// Draws every figure from its bounds: evenly, or evenly by magnitude where they are far apart.
    pub fn draw(&self, rng: &mut Rng) -> Figures {
        let drawn = self.with.iter().map(|(name, bounds)| {
            let value = draw(*bounds, rng);
            (name.clone(), value)
        });
        drawn.collect()
    }

    /// Whether this name of a cause is right.
    pub fn accepts(&self, hypothesis: &str) -> bool {
        self.hypothesis == hypothesis || self.accept.iter().any(|other| other == hypothesis)
    }
}

/// Of numbers whose bounds are this far apart the magnitude is drawn.
const FAR_APART: f64 = 4.0;

/// One number within `[least, most]`.
pub fn draw([least, most]: [f64; 2], rng: &mut Rng) -> f64 {
    let part = rng.below(10_001) as f64 / 10_000.0;
    let value = if least > 0.0 && most / least > FAR_APART {
        least * (most / least).powf(part)
    } else {
        least + (most - least) * part
    };
    (value * 1000.0).round() / 1000.0
}

impl Catalogue {
    /// The file that is shipped.
    pub fn shipped() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("faults/faults.yaml")
    }

    /// Reads and checks a file against the shipped rules: every hypothesis is provoked or has its
    /// reason. All findings are told at once.
    pub fn load(file: &Path) -> anyhow::Result<Self> {
        let size = fs::metadata(file)
            .with_context(|| format!("cannot look at {}", file.display()))?
            .len();
        ensure!(
            size <= FILE_BYTES_MAX,
            "{}: {size} bytes, {FILE_BYTES_MAX} at most",
            file.display()
        );
        let text =
            fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
        Self::parse(&text).with_context(|| format!("{} is no fault matrix", file.display()))
    }

    /// The same of a text.
    pub fn parse(text: &str) -> anyhow::Result<Self> {
        let catalogue: Self = serde_saphyr::from_str(text)
            .map_err(|error| anyhow::anyhow!("{}", error.without_snippet()))?;
        let findings = catalogue.findings(&known()?);
        if findings.is_empty() {
            Ok(catalogue)
        } else {
            bail!("{}", findings.join("\n"))
        }
    }

    fn findings(&self, known: &BTreeSet<String>) -> Vec<String> {
        let mut findings = Vec::new();
        let mut seen = BTreeSet::new();
        let provoked = self.faults.iter().map(|fault| &fault.hypothesis);
        let left_out = self.not_provoked.iter().map(|other| &other.hypothesis);
        for hypothesis in provoked.chain(left_out) {
            if !known.contains(hypothesis) {
                findings.push(format!("{hypothesis}: no shipped rule has this id"));
            }
            if !seen.insert(hypothesis.clone()) {
                findings.push(format!("{hypothesis}: named twice"));
            }
        }
        for missing in known.difference(&seen) {
            findings.push(format!(
                "{missing}: neither provoked nor listed under not_provoked with a reason"
            ));
        }
        for fault in &self.faults {
            let (wanted, name) = (fault.kind.figures(), &fault.hypothesis);
            for figure in wanted.iter().filter(|f| !fault.with.contains_key(**f)) {
                findings.push(format!("{name}: `with` lacks {figure}"));
            }
            for (figure, [least, most]) in &fault.with {
                if !wanted.contains(&figure.as_str()) {
                    let wanted = wanted.join(", ");
                    findings.push(format!("{name}: {figure} is none of {wanted}"));
                }
                if !(least.is_finite() && most.is_finite() && 0.0 < *least && least <= most) {
                    findings.push(format!(
                        "{name}: {figure}: [{least}, {most}] is no range above 0"
                    ));
                }
            }
            for other in fault.accept.iter().filter(|other| !known.contains(*other)) {
                findings.push(format!(
                    "{name}: accepts {other}, which no shipped rule has"
                ));
            }
        }
        findings
    }

    /// The faults of these hypotheses, or all when none is named.
    pub fn chosen(&self, only: &[String]) -> anyhow::Result<Vec<&Fault>> {
        for name in only {
            if let Some(other) = self.not_provoked.iter().find(|o| o.hypothesis == *name) {
                bail!("{name} is not provoked: {}", other.because);
            }
            let known: Vec<&str> = self.faults.iter().map(|f| f.hypothesis.as_str()).collect();
            ensure!(
                known.contains(&name.as_str()),
                "no fault provokes {name}; there are {}",
                known.join(", ")
            );
        }
        let wanted = |fault: &&Fault| only.is_empty() || only.contains(&fault.hypothesis);
        Ok(self.faults.iter().filter(wanted).collect())
    }
}

/// Ids of the rules that the agent is built with.
fn known() -> anyhow::Result<BTreeSet<String>> {
    let rules = RuleSet::shipped().map_err(|error| anyhow::anyhow!("shipped rules: {error:?}"))?;
    Ok(rules.rules().iter().map(|rule| rule.id.clone()).collect())
}

#[cfg(test)]
mod tests;
