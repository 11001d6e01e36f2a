//! `notify`: tells people; never acts. The incident's record is the notification until there is a
//! notifier.

use crate::{
    incident::{Hypothesis, Refusal},
    remedy::refuse,
};

/// Why nothing is done: the rule wants people to look.
pub fn refusal(hypothesis: &Hypothesis) -> Refusal {
    refuse(
        "notify",
        format!(
            "the rule {} only tells people: {}",
            hypothesis.id, hypothesis.title
        ),
    )
}
