//! The nouns that every stage speaks: what arrived, what was seen, what is believed, what was done.
//!
//! No I/O here. Stages never import each other; they meet in [`crate::pipeline`] through these
//! types. All of them are serialisable, because each one is written to the journal: fields may be
//! added with `#[serde(default)]`, never renamed or reused.

mod alert;
mod diagnosis;
mod evidence;
mod outcome;

pub use alert::{
    Alert, AlertStatus, Episode, EpisodeId, Fingerprint, Source, TenantId, TraceContext,
};
pub use diagnosis::{
    Culprit, Diagnosis, DualResult, FeatureTest, Hypothesis, Interval, Shadow, Verdict,
    WeighedFeature,
};
pub use evidence::{
    CgroupFacts, CgroupId, Coverage, Evidence, Quality, Reading, Series, SeriesGap, SeriesQuery,
    SeriesStats, SyscallFacts,
};
pub use outcome::{
    Action, ActionKind, Entry, Holder, Intent, KnobChange, Level, Outcome, OutcomeKind, Refusal,
    Suggestion,
};
