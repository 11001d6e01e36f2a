//! Which calls of which lives are tried first: one of each kind, then a second of each, and so on.

use crate::case::Case;

/// One way to crash one action, and the calls at which it can be done.
#[derive(Clone, Debug)]
pub struct Stratum {
    case: Case,
    /// Numbers of calls, in the order in which they are to be tried.
    pub calls: Vec<usize>,
}

impl Stratum {
    /// With the calls 1 to `calls`.
    pub fn of(case: Case, calls: usize) -> Self {
        Self {
            case,
            calls: (1..=calls).collect(),
        }
    }
}

/// All crashes, such that any number of them from the beginning is spread over all strata.
pub fn interleaved(strata: &[Stratum]) -> Vec<Case> {
    let most = strata.iter().map(|s| s.calls.len()).max().unwrap_or(0);
    let mut cases = Vec::new();
    for turn in 0..most {
        for Stratum { case, calls } in strata {
            cases.extend(calls.get(turn).map(|at| Case { at: *at, ..*case }));
        }
    }
    cases
}
