//! Made-up incidents.

use paramedic::diagnosis::causal::Case;

/// A made-up incident.
pub struct Made {
    /// Which kind.
    pub scenario: &'static str,
    /// The case, with its truth.
    pub case: Case,
}

/// The case of a seed.
pub fn case(_seed: u64) -> Made {
    todo!()
}
