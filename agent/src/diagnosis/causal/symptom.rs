//! What a symptom costs at each entity, and how much of that begins there.

use super::{
    alerted::Window,
    column::{Reference, quantile},
    entity::Measure,
    graph::Graph,
};

/// Spreads at which a deviation is believed half.
const HALF_BELIEVED: f64 = 3.0;
/// Share of an entity's own cost that is left when none of its callees can be seen.
const DARK_CALLEES: f64 = 0.5;

/// An entity whose requests are not counted is called at least once in so many requests.
const CALLS_BELIEVED: f64 = 3.0;
/// Failed share of the requests at which a failing entity is believed half to be the deepest.
const FAILED_HALF: f64 = 0.05;

/// One symptom at one entity, over the alerted rows.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Effect {
    /// Whether the entity has the figure at all.
    pub seen: bool,
    /// Extra seconds or failures a row, all requests together; negative = better than usual.
    pub excess: f64,
    /// The same a request.
    pub per_request: f64,
    /// Deviation in spreads.
    pub z: f64,
    /// Extra cost as a multiple of the usual.
    pub relative: f64,
    /// Requests a row, where known.
    pub volume: Option<f64>,
    /// Whether `per_request` is a share of requests.
    pub share: bool,
}

impl Effect {
    /// How far the deviation is believed, 0 to 1.
    pub fn belief(&self) -> f64 {
        believed(self.z, HALF_BELIEVED)
    }

    /// Where nobody counts requests, an entity that lost far more a request than the alerted one
    /// cannot be called by each of its requests: it costs as much less.
    fn fit(&mut self, alerted: &Self) {
        let most = CALLS_BELIEVED * alerted.excess;
        if self.volume.is_none() && alerted.volume.is_none() && most > 0.0 && self.excess > most {
            self.excess = most * most / self.excess;
        }
    }

    /// What the deviation costs, as far as it is believed.
    pub fn cost(&self) -> f64 {
        self.excess.max(0.0) * self.belief()
    }
}

/// 0 at none, one half at `half` spreads, 1 far beyond.
pub(super) fn believed(z: f64, half: f64) -> f64 {
    let z = z.max(0.0);
    z * z / (z * z + half * half)
}

/// The effect of one measure. `volume_otherwise` stands for requests that nobody counted.
pub(super) fn effect(measure: &Measure, window: &Window, volume_otherwise: f64) -> Effect {
    let bad = measure.bad;
    let reference = Reference::of(&measure.values, window.before, bad, measure.drift);
    // A failure that was never reported before is one from zero.
    let failures = measure.kind == super::Kind::Errors;
    let Some(mut reference) = reference.or(failures.then_some(Reference {
        centre: 0.0,
        spread: 0.0,
    })) else {
        return Effect::default();
    };
    let usual = typical(measure.volume.as_deref()).filter(|volume| *volume > 0.0);
    let counted = |row: usize| match &measure.volume {
        Some(volume) => volume[row],
        None => Some(volume_otherwise),
    };
    let (mut weights, mut cost, mut requests) = (0.0, 0.0, 0.0);
    for (row, value) in measure.values.rows.iter().enumerate() {
        let weight = window.weights[row];
        let volume = counted(row);
        match value {
            Some(value) => {
                let volume = volume.or(usual).unwrap_or(volume_otherwise).max(0.0);
                cost += weight * volume * (value - reference.centre) * bad;
                requests += weight * volume;
                weights += weight;
            }
            // No request, no cost; a figure that is missing says nothing.
            None if volume == Some(0.0) => weights += weight,
            None => {}
        }
    }
    if weights <= 0.0 || requests <= 0.0 {
        return Effect {
            seen: true,
            ..Effect::default()
        };
    }
    let volume = requests / weights;
    reference.spread = reference
        .spread
        .max(event_noise(measure, reference.centre, volume));
    let per_request = cost / requests;
    Effect {
        seen: true,
        excess: cost / weights,
        per_request,
        z: reference.z(reference.centre + bad * per_request, bad),
        relative: if reference.centre.abs() > 0.0 {
            per_request / reference.centre.abs()
        } else {
            0.0
        },
        volume: measure.volume.is_some().then_some(volume),
        share: failures && !measure.counts,
    }
}

/// Noise that failures have because they are counted: one more or less is nothing.
fn event_noise(measure: &Measure, centre: f64, volume: f64) -> f64 {
    if measure.kind != super::Kind::Errors {
        0.0
    } else if measure.counts {
        centre.max(1.0).sqrt()
    } else if measure.volume.is_some() && volume > 0.0 {
        // Binomial, with one failure more than seen.
        let share = centre.clamp(0.0, 1.0) + 1.0 / volume;
        (share / volume).sqrt()
    } else {
        0.0
    }
}

fn typical(volume: Option<&[Option<f64>]>) -> Option<f64> {
    let mut known: Vec<f64> = volume?.iter().flatten().copied().collect();
    known.sort_by(f64::total_cmp);
    (!known.is_empty()).then(|| quantile(&known, 0.5))
}

/// A symptom over all entities.
#[derive(Debug)]
pub(super) struct Symptom {
    /// By entity.
    pub effects: Vec<Effect>,
    /// What of each entity's cost its callees do not explain.
    pub own: Vec<f64>,
    /// The callee that explains most of an entity's cost.
    pub explained_by: Vec<Option<usize>>,
}

impl Symptom {
    /// Takes from each entity what its callees lose as well: what is seen at the callee belongs to
    /// the callee. Without a topology everything is taken for a callee of the alerted entity.
    pub fn explained(mut effects: Vec<Effect>, graph: &Graph, alerted: Option<usize>) -> Self {
        if let Some(alerted) = alerted.map(|at| effects[at]) {
            for effect in &mut effects {
                effect.fit(&alerted);
            }
        }
        let seen: Vec<bool> = effects.iter().map(|effect| effect.seen).collect();
        let mut own = vec![0.0; effects.len()];
        let mut explained_by = vec![None; effects.len()];
        let blind = graph.is_empty();
        for (at, effect) in effects.iter().enumerate().filter(|(_, effect)| effect.seen) {
            let (callees, dark) = if blind {
                let others = (0..effects.len()).filter(|other| *other != at && seen[*other]);
                let presumed = alerted == Some(at);
                (others.filter(|_| presumed).collect(), 0.0)
            } else {
                graph.seen_callees(at, &seen)
            };
            // In a circle only the more upset one explains the other.
            let explaining = callees.iter().copied().filter(|callee| {
                let other = &effects[*callee];
                blind || !graph.circular(at, *callee) || more_upset(other, effect)
            });
            let (mut taken, mut most) = (0.0, 0.0);
            for callee in explaining {
                let cost = effects[callee].cost();
                if cost > most {
                    (most, explained_by[at]) = (cost, Some(callee));
                }
                // Without edges only the largest is believed to be a callee.
                taken = if blind { most } else { taken + cost };
            }
            let cost = effect.cost();
            // Squared: a callee that is upset by itself is no coincidence, and what is left over is
            // mostly the noise of both.
            let left = if cost > 0.0 {
                (1.0 - taken / cost).max(0.0).powi(2)
            } else {
                0.0
            };
            own[at] = cost * left * (1.0 - DARK_CALLEES * dark);
            if blind {
                // A caller has the callee's extra time on top of more time of its own: the one whose
                // time grew by the largest factor is the deepest.
                own[at] *= grown(effect);
            }
        }
        Self {
            effects,
            own,
            explained_by,
        }
    }

    /// Each entity's part of what begins anywhere, weighed by `trust`; sums to 1, or to 0 when
    /// nothing does.
    pub fn shares(&self, trust: &[f64]) -> Vec<f64> {
        shares(self.own.iter().zip(trust).map(|(own, trust)| own * trust))
    }
}

/// 0 to 1 by the factor of growth, for failures by the failed share.
fn grown(effect: &Effect) -> f64 {
    let (grown, half) = if effect.share {
        (effect.per_request, FAILED_HALF)
    } else {
        (effect.relative, 1.0)
    };
    if grown > 0.0 {
        grown / (half + grown)
    } else {
        0.0
    }
}

fn more_upset(a: &Effect, b: &Effect) -> bool {
    a.relative > b.relative && a.cost() > 0.0
}

/// Parts of a sum.
pub(super) fn shares(parts: impl Iterator<Item = f64>) -> Vec<f64> {
    let parts: Vec<f64> = parts.collect();
    let sum: f64 = parts.iter().sum();
    if sum > 0.0 && sum.is_finite() {
        parts.iter().map(|part| part / sum).collect()
    } else {
        vec![0.0; parts.len()]
    }
}
