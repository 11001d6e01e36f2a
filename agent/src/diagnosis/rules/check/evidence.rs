//! Checks of features and of the tests that they share with exclusions and recovery.

use serde_saphyr::Spanned;

use crate::{
    diagnosis::{
        features::{self, Scope},
        rules::{Feature, LIKELIHOOD_MIN, LINE_BYTES_MAX, SeriesQuery, schema},
    },
    incident::FeatureTest,
};

use super::Checker;

impl Checker {
    pub(super) fn features(
        &mut self,
        scope: &Declared<'_>,
        raw: Spanned<Vec<schema::Feature>>,
    ) -> Vec<Feature> {
        if !raw.value.iter().any(|feature| feature.decisive) {
            self.find(
                &raw,
                "no feature is `decisive: true`: nothing could settle this hypothesis",
            );
        }
        let mut features: Vec<Feature> = Vec::new();
        for feature in raw.value {
            self.id(&feature.id);
            if features.iter().any(|other| other.id == feature.id.value) {
                self.find(
                    &feature.id,
                    format!("a second feature {:?}", feature.id.value),
                );
            }
            self.text(&feature.says, LINE_BYTES_MAX);
            if let Some(group) = &feature.group {
                self.id(group);
            }
            self.likelihoods(&feature);
            let test = self.test(scope, feature.reading, feature.at_least, feature.below);
            features.push(Feature {
                id: feature.id.value,
                test,
                given_cause: feature.given_cause.value,
                otherwise: feature.otherwise.value,
                decisive: feature.decisive,
                group: feature.group.map(|group| group.value),
                says: feature.says.value,
            });
        }
        features
    }

    fn likelihoods(&mut self, feature: &schema::Feature) {
        let (cause, otherwise) = (&feature.given_cause, &feature.otherwise);
        for (name, probability) in [("given_cause", cause), ("otherwise", otherwise)] {
            if !(LIKELIHOOD_MIN..=1.0 - LIKELIHOOD_MIN).contains(&probability.value) {
                let message = between(name, probability.value)
                    + &format!(" (no nearer to either than {LIKELIHOOD_MIN})");
                self.find(probability, message);
            }
        }
        let (cause, otherwise) = (cause.value, otherwise.value);
        if (cause - otherwise).abs() < 0.01 {
            self.find(
                &feature.otherwise,
                "as likely with the cause as without it: this feature says nothing",
            );
        } else if feature.decisive && cause < otherwise {
            self.find(
                &feature.given_cause,
                "a decisive feature must be likelier given the cause than otherwise",
            );
        }
    }

    pub(super) fn test(
        &mut self,
        scope: &Declared<'_>,
        reading: Spanned<String>,
        at_least: Option<f64>,
        below: Option<f64>,
    ) -> FeatureTest {
        for name in features::alternatives(&reading.value) {
            if let Some(problem) = scope.problem_of(name) {
                self.find(&reading, problem);
            }
        }
        match (at_least, below) {
            (None, None) => self.find(&reading, "needs `at_least` or `below`"),
            (Some(low), Some(high)) if low >= high => {
                self.find(
                    &reading,
                    format!("at_least {low} and below {high} cannot both hold"),
                );
            }
            _ => {}
        }
        if [at_least, below]
            .into_iter()
            .flatten()
            .any(|bound| !bound.is_finite())
        {
            self.find(&reading, "a bound must be a finite number");
        }
        FeatureTest {
            reading: reading.value,
            at_least,
            below,
        }
    }
}

/// What a hypothesis declares for its tests to refer to.
pub(super) struct Declared<'a> {
    pub series: &'a [SeriesQuery],
    pub culprit: bool,
}

impl Declared<'_> {
    /// Why this hypothesis cannot look at one reading of this name.
    fn problem_of(&self, name: &str) -> Option<String> {
        match features::scope(name) {
            None => Some(match features::resembling(name) {
                Some(other) => format!("no reading {name:?}; did you mean {other:?}?"),
                None => format!("no reading {name:?}; docs/rules.md lists them all"),
            }),
            Some(Scope::Culprit(_)) if !self.culprit => {
                Some(format!("{name:?} needs a `culprit` in this hypothesis"))
            }
            Some(Scope::Series(series)) if !self.declares(series) => Some(format!(
                "no series {series:?} is declared in this hypothesis"
            )),
            Some(_) => None,
        }
    }

    fn declares(&self, series: &str) -> bool {
        self.series.iter().any(|query| query.name == series)
    }
}

pub(super) fn between(name: &str, value: f64) -> String {
    format!("{name} is {value}; a probability lies between 0 and 1, neither included")
}
