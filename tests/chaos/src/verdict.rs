//! What is held against the agent, and whether it held.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};

use serde_json::{Value, json};

/// The design's invariants, by their numbers (ARCHITECTURE.md), and that the agent comes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Invariant {
    Durable,
    OneAction,
    IntentFirst,
    Leased,
    Bar,
    Cheap,
    Probes,
    FailedSync,
    LabelsAreData,
    Ready,
}

impl Invariant {
    pub fn name(self) -> &'static str {
        match self {
            Self::Durable => "1 accepted means durable",
            Self::OneAction => "2 one action an episode",
            Self::IntentFirst => "3 intent before effect",
            Self::Leased => "4 leased effects",
            Self::Bar => "5 no decision below the bar",
            Self::Cheap => "9 cheaper than the disease",
            Self::Probes => "10 each probe stands alone",
            Self::FailedSync => "11 a failed sync is fatal",
            Self::LabelsAreData => "12 labels are data",
            Self::Ready => "alive and ready again",
        }
    }
}

/// Of one invariant.
#[derive(Clone, Copy, Debug, Default)]
pub struct Count {
    pub checked: u64,
    pub violated: u64,
}

/// What was checked in one storm, or in many. Shared by threads.
#[derive(Debug, Default)]
pub struct Verdict {
    counts: Mutex<BTreeMap<Invariant, Count>>,
    said: Mutex<Vec<String>>,
}

impl Verdict {
    /// Counts one check; where it did not hold, `what` says so.
    pub fn hold(&self, invariant: Invariant, held: bool, what: impl FnOnce() -> String) {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(invariant).or_default();
        count.checked += 1;
        count.violated += u64::from(!held);
        drop(counts);
        if !held {
            let said = format!("{}: {}", invariant.name(), what());
            let mut all = self.said.lock().unwrap_or_else(PoisonError::into_inner);
            all.push(said);
        }
    }

    /// What did not hold, a sentence each.
    pub fn violations(&self) -> Vec<String> {
        let said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        said.clone()
    }

    /// Adds another's counts and sentences.
    pub fn add(&self, other: &Self) {
        let theirs = other.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        for (invariant, count) in theirs.iter() {
            let sum = counts.entry(*invariant).or_default();
            sum.checked += count.checked;
            sum.violated += count.violated;
        }
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        said.extend(other.violations());
    }

    /// `{"1 accepted means durable": {"checked": …, "violated": …}, …}`.
    pub fn json(&self) -> Value {
        let counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let line = |(invariant, count): (&Invariant, &Count)| {
            let counted = json!({"checked": count.checked, "violated": count.violated});
            (invariant.name().to_owned(), counted)
        };
        Value::Object(counts.iter().map(line).collect())
    }
}
