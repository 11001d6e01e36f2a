//! When the trouble was there: rows before the onset, and how much each later row counts.

use super::{
    Case, CaseAlert, Kind,
    column::{Reference, Values},
    entity::{Entity, Measure},
};

/// Deviation, in spreads, from which a row before the alert belongs to the trouble.
const BEGUN_SPREADS: f64 = 4.0;
/// And at least this share of what the alerted rows show.
const BEGUN_SHARE: f64 = 0.5;

/// The rows of a case in time.
#[derive(Clone, Debug)]
pub(super) struct Window {
    /// Rows that lie wholly before the onset.
    pub before: usize,
    /// How strongly the alert showed in each row, 0 to 1; all 0 before the onset.
    pub weights: Vec<f64>,
    /// +1 or -1: the direction in which the alerted metric moved, for metrics whose bad side is not
    /// known.
    pub direction: f64,
}

impl Window {
    /// From the alert's time and the alerted entity's own figures.
    pub fn of(case: &Case, alerted: Option<&Entity>) -> Self {
        let times = &case.series.times;
        let mut before = rows_before(times, &case.alert);
        let uniform = |before: usize| Self {
            before,
            weights: (0..times.len())
                .map(|row| f64::from(u8::from(row >= before)))
                .collect(),
            direction: 1.0,
        };
        let Some(measure) = alerted.and_then(|entity| measure(entity, &case.alert)) else {
            return uniform(before);
        };
        let direction = direction(measure, before);
        let bad = measure.bad * direction;
        before = earlier_onset(&measure.values, before, bad);
        let Some(reference) = Reference::of(&measure.values, before, bad, measure.drift) else {
            return uniform(before);
        };
        let away: Vec<Option<f64>> = measure
            .values
            .rows
            .iter()
            .map(|value| value.map(|value| (bad * (value - reference.centre)).max(0.0)))
            .collect();
        let most = away[before..].iter().flatten().copied().fold(0.0, f64::max);
        if most <= 0.0 {
            return Self {
                direction,
                ..uniform(before)
            };
        }
        // A row without the alerted figure counts half: it may be of the trouble or not.
        let raw: Vec<f64> = away
            .iter()
            .enumerate()
            .map(|(row, away)| match away {
                _ if row < before => 0.0,
                Some(away) => away / most,
                None => 0.5,
            })
            .collect();
        Self {
            before,
            weights: smoothed(&raw, before),
            direction,
        }
    }
}

/// What alerted, as a measure of its entity.
pub(super) fn measure<'a>(entity: &'a Entity, alert: &CaseAlert) -> Option<&'a Measure> {
    match super::kind_of(&alert.metric) {
        Kind::Latency => entity.latency.as_ref(),
        Kind::Errors => entity.failures.as_ref(),
        _ => entity.alerted.as_ref(),
    }
}

/// Rows that end before the alert. Where none does, or all do, the rows are split so that both sides
/// have some.
fn rows_before(times: &[f64], alert: &CaseAlert) -> usize {
    let step = step(times);
    // A hair of tolerance: times are rounded.
    let ends_before = |time: &f64| time + step <= alert.starts_at + 1e-6 * step;
    let before = times.iter().take_while(|time| ends_before(time)).count();
    if before == times.len() && before > 1 {
        before - (before / 4).clamp(1, 3)
    } else {
        before
    }
}

fn step(times: &[f64]) -> f64 {
    let mut steps: Vec<f64> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
    steps.sort_by(f64::total_cmp);
    super::column::quantile(&steps, 0.5)
}

/// Latency and failures are bad when they rise; of anything else the alert tells.
fn direction(measure: &Measure, before: usize) -> f64 {
    if matches!(measure.kind, Kind::Latency | Kind::Errors) {
        return 1.0;
    }
    let Some(reference) = Reference::of(&measure.values, before, 1.0, measure.drift) else {
        return 1.0;
    };
    let away: f64 = measure.values.rows[before..]
        .iter()
        .flatten()
        .map(|value| value - reference.centre)
        .sum();
    if away < 0.0 { -1.0 } else { 1.0 }
}

/// An alert with a waiting time fires long after the onset: rows just before it that show the same
/// deviation belong to the trouble, if there are others to compare them with.
fn earlier_onset(values: &Values, before: usize, bad: f64) -> usize {
    let rows = &values.rows;
    if before < 4 {
        return before;
    }
    // The first half is taken for normal.
    let half = Reference::of(values, before / 2, bad, super::column::Drift::Factor);
    let Some(reference) = half else {
        return before;
    };
    let z = |value: f64| reference.z(value, bad);
    let mut after: Vec<f64> = rows[before..]
        .iter()
        .flatten()
        .map(|value| z(*value))
        .collect();
    after.sort_by(f64::total_cmp);
    let bar = (BEGUN_SHARE * super::column::quantile(&after, 0.5)).max(BEGUN_SPREADS);
    let begun = rows[before / 2..before]
        .iter()
        .rev()
        .take_while(|value| value.is_some_and(|value| z(value) >= bar))
        .count();
    before - begun
}

/// Trouble arrives upstream a little later than it begins: a row counts by its neighbours too.
fn smoothed(raw: &[f64], before: usize) -> Vec<f64> {
    if raw.len() - before < 8 {
        return raw.to_vec();
    }
    (0..raw.len())
        .map(|row| {
            if row < before {
                return 0.0;
            }
            let low = row.saturating_sub(1).max(before);
            let high = (row + 2).min(raw.len());
            let around = raw[low..high].iter().copied().fold(0.0, f64::max);
            0.5 * (raw[row] + around)
        })
        .collect()
}
