//! The moments of one recording or incident, folded: seconds in which both sets say the same as in the
//! second before are one stretch.

use serde::Serialize;

use super::said::{Difference, Said};
use crate::incident::EpisodeId;

/// Whose evidence it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Of {
    /// The file as it was named.
    Recording(String),
    /// In the record of an agent.
    Incident {
        id: EpisodeId,
        /// The name of the alert that opened it.
        alert: String,
    },
}

/// Moments, one after the other, in which the sets differ in the same way.
#[derive(Debug, PartialEq, Serialize)]
pub(super) struct Stretch {
    /// Seconds since the recording began or the incident was opened.
    pub(super) from_s: f64,
    /// Likewise, of its last moment.
    pub(super) to_s: f64,
    pub(super) moments: usize,
    pub(super) differs: Vec<Difference>,
    /// What both said at its first moment.
    pub(super) before: Said,
    pub(super) after: Said,
}

/// What was compared of one recording or incident.
#[derive(Debug, Serialize)]
pub(super) struct Subject {
    pub(super) of: Of,
    /// Moments compared.
    pub(super) moments: usize,
    /// Those in which the sets differ.
    pub(super) different: usize,
    pub(super) stretches: Vec<Stretch>,
    /// Whether the moment before belongs to the last stretch.
    #[serde(skip)]
    goes_on: bool,
}

impl Subject {
    pub(super) fn new(of: Of) -> Self {
        Self {
            of,
            moments: 0,
            different: 0,
            stretches: Vec::new(),
            goes_on: false,
        }
    }

    pub(super) fn differs(&self) -> bool {
        self.different > 0
    }

    /// Takes the next moment, and what both sets say of it.
    pub(super) fn add(&mut self, at_s: f64, (before, after): (Said, Said)) {
        self.moments += 1;
        let differs = before.differences(&after);
        if differs.is_empty() {
            self.goes_on = false;
            return;
        }
        self.different += 1;
        let same = |stretch: &&mut Stretch| {
            stretch.before.differences(&before).is_empty()
                && stretch.after.differences(&after).is_empty()
        };
        let last = self.stretches.last_mut().filter(|_| self.goes_on);
        self.goes_on = true;
        if let Some(last) = last.filter(same) {
            last.to_s = at_s;
            last.moments += 1;
            return;
        }
        self.stretches.push(Stretch {
            from_s: at_s,
            to_s: at_s,
            moments: 1,
            differs,
            before,
            after,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::replay::said::tests::said;

    #[test]
    fn what_stays_the_same_is_one_stretch_and_a_gap_ends_it() {
        let (a, b, c) = (
            said(&[("a", 0.9)]),
            said(&[("b", 0.9)]),
            said(&[("c", 0.9)]),
        );
        let mut subject = Subject::new(Of::Recording("r".to_owned()));
        let moments = [(&a, &b), (&a, &b), (&a, &a), (&a, &b), (&a, &c), (&c, &c)];
        for (at_s, (before, after)) in (1..).zip(moments) {
            subject.add(f64::from(at_s), (before.clone(), after.clone()));
        }
        let got: Vec<(f64, f64, usize)> = subject
            .stretches
            .iter()
            .map(|stretch| (stretch.from_s, stretch.to_s, stretch.moments))
            .collect();
        assert_eq!(got, [(1.0, 2.0, 2), (4.0, 4.0, 1), (5.0, 5.0, 1)]);
        assert_eq!((subject.moments, subject.different), (6, 4));
    }
}
