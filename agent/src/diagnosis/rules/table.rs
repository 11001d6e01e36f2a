//! The numbers of a rule set, side by side in the order in which a ranking needs them.
//!
//! A rule is mostly words for people. A ranking that walked them would touch kilobytes a rule, hash each
//! reading's name and take logarithms of constants; so what it needs is kept apart: 40 bytes a feature, with
//! a number for each reading's name, and the bits of both results.

use std::{collections::HashMap, ops::Range};

use super::{FEATURES_MAX, Feature, Rule};
use crate::diagnosis::features::is_about_somebody;

/// A reading that some feature looks at.
#[derive(Clone, Debug)]
pub(in crate::diagnosis) struct Asked {
    /// Its full name.
    pub(in crate::diagnosis) name: String,
    /// Whether the answer depends on who the culprit is.
    pub(in crate::diagnosis) of_culprit: bool,
}

/// One feature's numbers.
#[derive(Clone, Copy, Debug)]
pub(in crate::diagnosis) struct Weight {
    at_least: f64,
    below: f64,
    /// Bits of evidence when the test holds.
    held_bits: f64,
    /// And when it does not.
    missed_bits: f64,
    /// Index into [`Table::asked`].
    pub(in crate::diagnosis) reading: u32,
    /// Which of the rule's groups it belongs to, from 1; 0 is none.
    pub(in crate::diagnosis) group: u8,
    pub(in crate::diagnosis) decisive: bool,
}

impl Weight {
    fn of(feature: &Feature, reading: u32, group: u8) -> Self {
        let bits = |cause: f64, otherwise: f64| (cause / otherwise).log2();
        Self {
            at_least: feature.test.at_least.unwrap_or(f64::NEG_INFINITY),
            below: feature.test.below.unwrap_or(f64::INFINITY),
            held_bits: bits(feature.given_cause, feature.otherwise),
            missed_bits: bits(1.0 - feature.given_cause, 1.0 - feature.otherwise),
            reading,
            group,
            decisive: feature.decisive,
        }
    }

    /// Bits of a complete reading of this (finite) value.
    pub(in crate::diagnosis) fn bits(&self, value: f64) -> f64 {
        self.bits_if(value >= self.at_least && value < self.below)
    }

    /// Bits of a complete reading, by whether the test holds.
    pub(in crate::diagnosis) fn bits_if(&self, held: bool) -> f64 {
        if held {
            self.held_bits
        } else {
            self.missed_bits
        }
    }
}

/// See the module.
#[derive(Clone, Debug, Default)]
pub(in crate::diagnosis) struct Table {
    asked: Vec<Asked>,
    weights: Vec<Weight>,
    /// Of each rule, in `weights`.
    of_rule: Vec<Range<u32>>,
}

impl Table {
    pub(super) fn of(rules: &[Rule]) -> Self {
        let mut table = Self::default();
        let mut numbers: HashMap<&str, u32> = HashMap::new();
        let number = |len: usize| u32::try_from(len).unwrap_or(u32::MAX);
        for rule in rules {
            let begin = number(table.weights.len());
            let mut groups: Vec<&str> = Vec::new();
            for feature in rule.features.iter().take(FEATURES_MAX) {
                let name = feature.test.reading.as_str();
                let reading = *numbers.entry(name).or_insert_with(|| {
                    table.asked.push(Asked {
                        name: name.to_owned(),
                        of_culprit: is_about_somebody(name),
                    });
                    number(table.asked.len() - 1)
                });
                let group = feature.group.as_deref().map_or(0, |group| {
                    let known = groups.iter().position(|known| *known == group);
                    let at = known.unwrap_or_else(|| {
                        groups.push(group);
                        groups.len() - 1
                    });
                    // At most FEATURES_MAX of them.
                    u8::try_from(at + 1).unwrap_or(u8::MAX)
                });
                table.weights.push(Weight::of(feature, reading, group));
            }
            table.of_rule.push(begin..number(table.weights.len()));
        }
        table
    }

    /// Every reading that some feature looks at, once.
    pub(in crate::diagnosis) fn asked(&self) -> &[Asked] {
        &self.asked
    }

    /// The features of the rule at this place of the set, at most [`FEATURES_MAX`], in its order.
    pub(in crate::diagnosis) fn weights(&self, rule: usize) -> &[Weight] {
        let range = self.of_rule.get(rule).cloned().unwrap_or_default();
        &self.weights[range.start as usize..range.end as usize]
    }
}

#[cfg(test)]
mod tests {
    use crate::diagnosis::RuleSet;

    #[test]
    fn the_table_says_what_the_rules_say() {
        let set = RuleSet::shipped().unwrap();
        let mut features = 0;
        for (at, rule) in set.rules().iter().enumerate() {
            let weights = set.table().weights(at);
            assert_eq!(weights.len(), rule.features.len(), "{}", rule.id);
            for (weight, feature) in weights.iter().zip(&rule.features) {
                features += 1;
                let asked = &set.table().asked()[weight.reading as usize];
                assert_eq!(asked.name, feature.test.reading);
                assert_eq!(weight.decisive, feature.decisive);
                let bounds = [feature.test.at_least, feature.test.below];
                for bound in bounds.into_iter().flatten() {
                    for value in [bound - 1.0, bound, bound + 1.0] {
                        let (cause, otherwise) = if feature.test.holds(value) {
                            (feature.given_cause, feature.otherwise)
                        } else {
                            (1.0 - feature.given_cause, 1.0 - feature.otherwise)
                        };
                        let same =
                            weight.bits(value).to_bits() == (cause / otherwise).log2().to_bits();
                        assert!(same, "{} {value}", feature.id);
                    }
                }
            }
            for (i, one) in rule.features.iter().enumerate() {
                for (j, other) in rule.features.iter().enumerate() {
                    let together = one.group.is_some() && one.group == other.group;
                    let same = weights[i].group != 0 && weights[i].group == weights[j].group;
                    assert_eq!(together, same, "{}: {} {}", rule.id, one.id, other.id);
                }
            }
        }
        assert!(features > 100, "{features}");
    }
}
