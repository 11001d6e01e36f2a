//! Two strategies side by side: A decides, B shadows.
//!
//! A strategy gets data and gives a [`Diagnosis`]; nothing through which it could act. The shadow's
//! answer is wrapped in [`Shadow`], which can be compared and written down but not planned from: the
//! remedy stage takes a `Diagnosis`, and there is no way from one to the other (invariant 8).

mod stats;
#[cfg(test)]
mod tests;
mod votes;

use std::{sync::Arc, time::Instant};

pub use stats::{Paired, mcnemar};
pub use votes::Votes;

use crate::incident::{Alert, Diagnosis, DualResult, Evidence, Shadow, Source, Verdict};

use super::{DiagnosisConfig, RuleSet, diagnose};

/// A way to rank causes. Pure: the same evidence has the same answer.
pub trait Strategy: Send + Sync {
    /// Short name, stable for ever: it stands in the journal.
    fn name(&self) -> &'static str;
    /// Changes whenever an answer may change.
    fn version(&self) -> u32;
    /// The ranked answer.
    fn rank(
        &self,
        rules: &RuleSet,
        alert: &Alert,
        source: &Source,
        evidence: &Evidence,
        config: &DiagnosisConfig,
    ) -> Diagnosis;
}

/// Naive Bayes over the rules: what decides.
#[derive(Clone, Copy, Debug, Default)]
pub struct Bayes;

impl Strategy for Bayes {
    fn name(&self) -> &'static str {
        "bayes"
    }
    fn version(&self) -> u32 {
        1
    }
    fn rank(
        &self,
        rules: &RuleSet,
        alert: &Alert,
        source: &Source,
        evidence: &Evidence,
        config: &DiagnosisConfig,
    ) -> Diagnosis {
        diagnose(rules, alert, source, evidence, config)
    }
}

fn shadow_of(diagnosis: &Diagnosis, took_us: u64) -> Shadow {
    let top = diagnosis.top.first();
    let top = top.filter(|top| top.posterior > diagnosis.unknown);
    Shadow {
        first: top.map(|top| (top.id.clone(), top.posterior)),
        culprit: top
            .and_then(|top| top.culprit.as_ref())
            .map(|culprit| culprit.path.clone()),
        conclusive: diagnosis.verdict == Verdict::Conclusive,
        took_us,
    }
}

/// The shadow with its deadline.
#[derive(Clone)]
pub struct Gateway {
    a: Arc<dyn Strategy>,
    b: Arc<dyn Strategy>,
}

impl Default for Gateway {
    fn default() -> Self {
        Self {
            a: Arc::new(Bayes),
            b: Arc::new(Votes),
        }
    }
}

impl Gateway {
    /// A decides, B shadows.
    pub fn new(a: Arc<dyn Strategy>, b: Arc<dyn Strategy>) -> Self {
        Self { a, b }
    }

    /// What decides.
    pub fn decide(
        &self,
        rules: &RuleSet,
        alert: &Alert,
        source: &Source,
        evidence: &Evidence,
        config: &DiagnosisConfig,
    ) -> Diagnosis {
        self.a.rank(rules, alert, source, evidence, config)
    }

    /// Lets B answer beside A's answer. Never waits longer than `diagnosis.shadow_deadline_ms`, and B's
    /// panic is B's alone. The thread of a B that is too slow ends by itself; its answer is dropped.
    pub async fn shadow(
        &self,
        rules: Arc<RuleSet>,
        alert: Arc<Alert>,
        source: Source,
        evidence: Arc<Evidence>,
        config: DiagnosisConfig,
        decided: &Diagnosis,
    ) -> DualResult {
        let b = self.b.clone();
        let deadline = std::time::Duration::from_millis(config.shadow_deadline_ms);
        let run = tokio::task::spawn_blocking(move || {
            let begun = Instant::now();
            let answer = b.rank(&rules, &alert, &source, &evidence, &config);
            let took_us = u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX);
            shadow_of(&answer, took_us)
        });
        let b_said = tokio::time::timeout(deadline, run)
            .await
            .ok()
            .and_then(Result::ok);
        let a_said = shadow_of(decided, decided.took_us);
        let name = |strategy: &dyn Strategy| format!("{}/{}", strategy.name(), strategy.version());
        let cause = |said: &Shadow| {
            (
                said.first.as_ref().map(|(id, _)| id.clone()),
                said.culprit.clone(),
            )
        };
        DualResult {
            a: name(&*self.a),
            b: name(&*self.b),
            consensus: b_said.as_ref().map(|b| cause(&a_said) == cause(b)),
            a_said,
            b_said,
        }
    }
}
