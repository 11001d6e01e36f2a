//! One column against its own past.

use super::Column;

/// From this many rows before the onset, another day's baseline is not needed.
const OWN_PAST_ROWS: usize = 20;
/// Least spread, as a share of the centre: two percent up or down are nobody's fault.
const SPREAD_FLOOR: f64 = 0.02;
/// Normal: IQR is this many standard deviations.
const IQR_SIGMAS: f64 = 1.349;
/// Normal: the 95th percentile lies this many standard deviations above the median.
const P95_SIGMAS: f64 = 1.645;
/// Deviations count up to this many spreads.
pub(super) const Z_MAX: f64 = 1000.0;
/// What the first move ever of a column counts for, in spreads.
const FIRST_MOVE: f64 = 20.0;

/// Values of one column over the series and over the baseline, counters already as increments.
#[derive(Clone, Debug)]
pub(super) struct Values {
    /// A row of `series.csv` each.
    pub rows: Vec<Option<f64>>,
    /// Of the baseline, missing ones left out.
    pub base: Vec<f64>,
}

impl Values {
    /// Takes a column and its counterpart; a counter becomes its increase from row to row.
    pub fn of(column: &Column, base: Option<&Column>) -> Self {
        let empty = Vec::new();
        let base = base.map_or(&empty, |column| &column.values);
        if is_counter(column, base) {
            return Self {
                rows: increments(&column.values),
                base: increments(base).into_iter().flatten().collect(),
            };
        }
        Self {
            rows: column.values.clone(),
            base: base.iter().flatten().copied().collect(),
        }
    }

    /// The same with a function of every value.
    pub fn map(&self, f: impl Fn(f64) -> f64) -> Self {
        Self {
            rows: self.rows.iter().map(|value| value.map(&f)).collect(),
            base: self.base.iter().map(|value| f(*value)).collect(),
        }
    }
}

/// A counter only grows, but for restarts. By its name a few rows prove it; without, many.
fn is_counter(column: &Column, base: &[Option<f64>]) -> bool {
    let metric = column.metric.to_ascii_lowercase();
    let named = ["_total", "_count", "_sum", "_bucket", "counter"]
        .iter()
        .any(|end| metric.ends_with(end))
        || column.statistic.eq_ignore_ascii_case("counter");
    let mut steps = 0;
    let mut grown = 0;
    let mut fallen = 0;
    for values in [base, &column.values] {
        let known: Vec<f64> = values.iter().flatten().copied().collect();
        for pair in known.windows(2) {
            if pair[0] < 0.0 {
                return false;
            }
            steps += 1;
            grown += usize::from(pair[1] > pair[0]);
            fallen += usize::from(pair[1] < pair[0]);
        }
    }
    // A counter that has been restarted begins again at next to nothing; few restarts are believed.
    let falls_allowed = steps / 20;
    if named {
        return steps >= 3 && fallen <= falls_allowed.max(1) && grown > fallen;
    }
    steps >= 30 && fallen <= falls_allowed / 2 && grown * 10 >= steps * 8
}

fn increments(values: &[Option<f64>]) -> Vec<Option<f64>> {
    let mut last: Option<(usize, f64)> = None;
    values
        .iter()
        .enumerate()
        .map(|(row, value)| {
            let now = (*value)?;
            let before = last.replace((row, now));
            let (then, old) = before?;
            // After missing rows the increase is spread over them; after a restart it is what is there.
            let grown = if now >= old { now - old } else { now };
            Some(grown / (row - then) as f64)
        })
        .collect()
}

/// What is normal for a column.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Reference {
    /// The usual value.
    pub centre: f64,
    /// How far it strays, as one standard deviation; above 0 unless everything is 0.
    pub spread: f64,
}

/// How a column's reference moves from day to day.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Drift {
    /// By a factor: durations, rates, sizes.
    Factor,
    /// By a difference: shares.
    Shift,
}

impl Reference {
    /// From the rows before the onset and the baseline. `bad` is the direction (+1, -1) in which the
    /// spread matters. `None` when nothing is known of the past.
    pub fn of(values: &Values, before: usize, bad: f64, drift: Drift) -> Option<Self> {
        let mut own: Vec<f64> = values.rows[..before].iter().flatten().copied().collect();
        own.sort_by(f64::total_cmp);
        let mut base = values.base.clone();
        base.sort_by(f64::total_cmp);
        let plain = |pool: &[f64]| Self {
            centre: quantile(pool, 0.5),
            spread: spread(pool, bad),
        };
        let found = if own.len() >= OWN_PAST_ROWS || base.is_empty() {
            if own.is_empty() {
                return None;
            }
            let known = plain(&own);
            // What few rows say of their spread is too little.
            let few = 1.0 + 2.0 / own.len() as f64;
            let guess = if own.len() < 5 {
                0.1 * known.centre.abs()
            } else {
                0.0
            };
            Self {
                spread: (known.spread * few).max(guess),
                ..known
            }
        } else if own.is_empty() {
            plain(&base)
        } else {
            rebased(plain(&base), quantile(&own, 0.5), own.len(), drift)
        };
        Some(Self {
            spread: found.spread.max(SPREAD_FLOOR * found.centre.abs()),
            ..found
        })
    }

    /// Deviation in spreads, positive when bad.
    pub fn z(&self, value: f64, bad: f64) -> f64 {
        let away = bad * (value - self.centre);
        if self.spread > 0.0 {
            (away / self.spread).clamp(-Z_MAX, Z_MAX)
        } else if away == 0.0 {
            0.0
        } else {
            // It has never moved before.
            FIRST_MOVE.copysign(away)
        }
    }
}

/// Moves another day's reference to what this day showed before the onset. A few rows move it only
/// as far as they differ by more than their own noise; the spread grows with the distance.
fn rebased(day: Reference, own: f64, rows: usize, drift: Drift) -> Reference {
    let floor = day
        .spread
        .max(SPREAD_FLOOR * day.centre.abs())
        .max(f64::MIN_POSITIVE);
    let away = (own - day.centre) / floor;
    let strength = rows as f64 * away * away;
    let weight = strength / (strength + 1.0);
    let centre = day.centre + weight * (own - day.centre);
    let factor = match drift {
        Drift::Factor if day.centre > 0.0 && centre > 0.0 => (centre / day.centre).clamp(0.1, 10.0),
        _ => 1.0,
    };
    let noise = (1.0 + 1.0 / rows as f64).sqrt();
    Reference {
        centre,
        spread: (day.spread * factor * noise).hypot(0.25 * (centre - day.centre)),
    }
}

/// A standard deviation that outliers and tails don't move: from the quartiles, or from the bad tail
/// where that is longer and there are enough values to see it.
fn spread(sorted: &[f64], bad: f64) -> f64 {
    let by_quartiles = (quantile(sorted, 0.75) - quantile(sorted, 0.25)) / IQR_SIGMAS;
    if sorted.len() < OWN_PAST_ROWS {
        return by_quartiles;
    }
    let far = quantile(sorted, if bad >= 0.0 { 0.95 } else { 0.05 });
    let by_tail = (far - quantile(sorted, 0.5)).abs() / P95_SIGMAS;
    by_quartiles.max(by_tail)
}

/// A quantile of sorted values, interpolated; 0 of none.
pub(super) fn quantile(sorted: &[f64], share: f64) -> f64 {
    let Some(last) = sorted.len().checked_sub(1) else {
        return 0.0;
    };
    let at = share * last as f64;
    let (low, part) = (at.floor(), at.fract());
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "0 to last"
    )]
    let low = low as usize;
    let high = (low + 1).min(last);
    sorted[low] + part * (sorted[high] - sorted[low])
}
