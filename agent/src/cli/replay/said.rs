//! What a rule set says of one moment, as far as two sets are compared by it.

use serde::Serialize;

use crate::incident::{Diagnosis, Suggestion, Verdict};

/// Causes less probable than this are printed as 0 or 1 % and never acted upon: where two sets order
/// them otherwise, nobody would notice.
const LEAST: f64 = 0.01;
const UNKNOWN: &str = "unknown";

/// One place of a ranking.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Ranked {
    /// A hypothesis, or `unknown`.
    pub(super) id: String,
    /// 0 to 1.
    pub(super) posterior: f64,
}

/// See the module.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Said {
    /// Most probable first, `unknown` among them.
    pub(super) ranking: Vec<Ranked>,
    pub(super) conclusive: bool,
    /// Why it is inconclusive; not compared, as figures stand in it.
    pub(super) why: Option<String>,
    /// Path of the first cause's culprit, if that cause is likelier than none.
    pub(super) culprit: Option<String>,
    /// `ACTION@LEVEL` of the best remedy, if the verdict allows any.
    pub(super) action: Option<String>,
}

/// In what two answers differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Difference {
    /// Another cause, or another order.
    Ranking,
    /// One may be acted upon, the other may not.
    Verdict,
    /// Another cgroup.
    Culprit,
    /// Another remedy, amount or level.
    Action,
}

impl Difference {
    /// As it is printed.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Ranking => "ranking",
            Self::Verdict => "verdict",
            Self::Culprit => "culprit",
            Self::Action => "action",
        }
    }
}

impl Said {
    pub(super) fn of(diagnosis: &Diagnosis) -> Self {
        let mut ranking: Vec<Ranked> = diagnosis
            .top
            .iter()
            .map(|top| Ranked {
                id: top.id.clone(),
                posterior: top.posterior,
            })
            .collect();
        let likelier = |place: &&Ranked| place.posterior > diagnosis.unknown;
        let unknown_at = ranking.iter().take_while(likelier).count();
        ranking.insert(
            unknown_at,
            Ranked {
                id: UNKNOWN.to_owned(),
                posterior: diagnosis.unknown,
            },
        );
        let first = diagnosis.top.first();
        let why = match &diagnosis.verdict {
            Verdict::Conclusive => None,
            Verdict::Inconclusive(why) => Some(why.clone()),
        };
        let culprit = first
            .filter(|_| unknown_at > 0)
            .and_then(|first| Some(first.culprit.as_ref()?.path.clone()));
        let action = first
            .filter(|_| why.is_none())
            .and_then(|first| first.remedies.first())
            .map(suggested);
        Self {
            ranking,
            conclusive: why.is_none(),
            why,
            culprit,
            action,
        }
    }

    /// In what another answer differs, in the order in which people read.
    pub(super) fn differences(&self, other: &Self) -> Vec<Difference> {
        let differ = [
            (!self.ids().eq(other.ids()), Difference::Ranking),
            (self.conclusive != other.conclusive, Difference::Verdict),
            (self.culprit != other.culprit, Difference::Culprit),
            (self.action != other.action, Difference::Action),
        ];
        differ
            .into_iter()
            .filter_map(|(differs, what)| differs.then_some(what))
            .collect()
    }

    /// The places that are compared.
    pub(super) fn compared(&self) -> impl Iterator<Item = &Ranked> {
        let worth = |place: &&Ranked| place.posterior >= LEAST;
        self.ranking.iter().filter(worth)
    }

    fn ids(&self) -> impl Iterator<Item = &str> {
        self.compared().map(|place| place.id.as_str())
    }
}

fn suggested(remedy: &Suggestion) -> String {
    let amount = remedy
        .amount
        .map_or_else(String::new, |amount| format!(" {amount}"));
    let dry = if remedy.dry_run { ", dry run" } else { "" };
    format!("{}{amount}@{}{dry}", remedy.action, remedy.level.as_str())
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// An answer with these places, in their order.
    pub(in crate::cli::replay) fn said(places: &[(&str, f64)]) -> Said {
        Said {
            ranking: places
                .iter()
                .map(|(id, posterior)| Ranked {
                    id: (*id).to_owned(),
                    posterior: *posterior,
                })
                .collect(),
            conclusive: true,
            why: None,
            culprit: Some("/a".to_owned()),
            action: None,
        }
    }

    #[test]
    fn order_counts_figures_and_improbable_causes_do_not() {
        let one = said(&[("a", 0.6), ("b", 0.3), ("unknown", 0.09), ("c", 0.001)]);
        let figures = said(&[("a", 0.8), ("b", 0.1), ("unknown", 0.05), ("d", 0.002)]);
        assert_eq!(one.differences(&figures), []);
        let order = said(&[("b", 0.6), ("a", 0.3), ("unknown", 0.09)]);
        assert_eq!(one.differences(&order), [Difference::Ranking]);
        let other = said(&[("a", 0.6), ("b", 0.3), ("unknown", 0.09), ("d", 0.01)]);
        assert_eq!(one.differences(&other), [Difference::Ranking]);
    }

    #[test]
    fn each_difference_is_named() {
        let one = said(&[("a", 0.9)]);
        let other = Said {
            conclusive: false,
            why: Some("because".to_owned()),
            culprit: None,
            action: Some("notify@act".to_owned()),
            ..one.clone()
        };
        let all = [Difference::Verdict, Difference::Culprit, Difference::Action];
        assert_eq!(one.differences(&other), all);
        // Another reason for the same verdict is none.
        let reason = Said {
            why: Some("because of something else".to_owned()),
            ..other.clone()
        };
        assert_eq!(other.differences(&reason), []);
    }
}
