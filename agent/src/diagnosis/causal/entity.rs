//! The columns of one entity, sorted by what they say of its requests and of itself.

use std::collections::BTreeMap;

use super::{
    Case, Column, Kind,
    column::{Drift, Values, quantile},
    metric::{self, Part},
};

/// Something bad that can be measured a request (or by itself, where `volume` is `None`).
#[derive(Clone, Debug)]
pub(super) struct Measure {
    /// Family.
    pub kind: Kind,
    /// Seconds a request, failed share, or the column's own unit.
    pub values: Values,
    /// Requests a row.
    pub volume: Option<Vec<Option<f64>>>,
    /// +1: more is worse; -1: less is worse.
    pub bad: f64,
    /// How its reference moves.
    pub drift: Drift,
    /// Whether it counts whole events, whose noise is at least the root of their number.
    pub counts: bool,
}

/// A column of a resource.
#[derive(Clone, Debug)]
pub(super) struct Resource {
    pub kind: Kind,
    pub header: String,
    pub values: Values,
}

/// All that is known of one entity.
#[derive(Clone, Debug, Default)]
pub(super) struct Entity {
    pub latency: Option<Measure>,
    pub failures: Option<Measure>,
    pub traffic: Option<Measure>,
    pub resources: Vec<Resource>,
    /// The columns of the alerted metric, where that is none of the above.
    pub alerted: Option<Measure>,
}

/// What holds for the whole case.
pub(super) struct Conventions {
    /// Successful shares go up to this: 1 or 100.
    pub success_max: f64,
    /// What kind of thing alerted.
    pub alerted: Kind,
}

impl Conventions {
    pub fn of(case: &Case) -> Self {
        let mut largest: f64 = 0.0;
        for column in columns(case) {
            if kind(column) == Kind::Errors && metric::is_success(&column.metric) {
                largest = column
                    .values
                    .iter()
                    .flatten()
                    .copied()
                    .fold(largest, f64::max);
            }
        }
        Self {
            success_max: if largest > 1.5 { 100.0 } else { 1.0 },
            alerted: alerted_kind(case),
        }
    }
}

fn columns(case: &Case) -> impl Iterator<Item = &Column> {
    case.series
        .columns
        .iter()
        .chain(case.baseline.iter().flat_map(|table| &table.columns))
}

/// The kind of the alerted metric, by its name, else by a column of that name.
fn alerted_kind(case: &Case) -> Kind {
    metric::kind_of(&case.alert.metric)
}

/// The kind of a column, by the metric's name, else by its statistic: whole sums are requests.
pub(super) fn kind(column: &Column) -> Kind {
    match metric::kind_of(&column.metric) {
        Kind::Other
            if ["sum", "count", "samplecount"]
                .contains(&column.statistic.to_ascii_lowercase().as_str()) =>
        {
            Kind::Traffic
        }
        known => known,
    }
}

/// Every entity of a case, in the order of `index`.
pub(super) fn entities(case: &Case, index: &BTreeMap<&str, usize>) -> Vec<Entity> {
    let conventions = Conventions::of(case);
    let mut base: BTreeMap<(&str, &str, &str), &Column> = BTreeMap::new();
    for column in case.baseline.iter().flat_map(|table| &table.columns) {
        base.insert((&column.entity, &column.metric, &column.statistic), column);
    }
    let mut by_entity: Vec<Vec<(&Column, Values)>> = vec![Vec::new(); index.len()];
    for column in &case.series.columns {
        let before = base.get(&(
            column.entity.as_str(),
            column.metric.as_str(),
            column.statistic.as_str(),
        ));
        let values = Values::of(column, before.copied());
        if let Some(&at) = index.get(column.entity.as_str())
            && values.rows.iter().any(Option::is_some)
        {
            by_entity[at].push((column, values));
        }
    }
    by_entity
        .into_iter()
        .map(|mut columns| {
            // The order of the columns must not matter.
            columns.sort_by_key(|(column, _)| {
                let rank = metric::preference(&column.metric, &column.statistic);
                (rank, column.metric.clone(), column.statistic.clone())
            });
            Entity::of(&columns, &conventions, case)
        })
        .collect()
}

impl Entity {
    /// From its columns, the most telling first.
    fn of(columns: &[(&Column, Values)], conventions: &Conventions, case: &Case) -> Self {
        let of_kind = |wanted: Kind| {
            columns
                .iter()
                .filter(move |(column, _)| kind(column) == wanted)
        };
        let traffic = of_kind(Kind::Traffic)
            .map(|(_, values)| values.clone())
            .next()
            .or_else(|| latency_part(columns, Part::Count));
        let volume = traffic.as_ref().map(|values| values.rows.clone());
        let latency = latency(columns, traffic.as_ref()).map(|values| Measure {
            kind: Kind::Latency,
            values,
            volume: volume.clone(),
            bad: 1.0,
            drift: Drift::Factor,
            counts: false,
        });
        let failures = failures(columns, conventions, traffic.as_ref());
        let resources = columns
            .iter()
            .filter(|(column, _)| kind(column).is_resource())
            .map(|(column, values)| Resource {
                kind: kind(column),
                header: format!("{} {}", column.metric, column.statistic)
                    .trim()
                    .to_owned(),
                values: values.clone(),
            })
            .collect();
        let alerted = (!matches!(conventions.alerted, Kind::Latency | Kind::Errors))
            .then(|| {
                let exact = columns
                    .iter()
                    .find(|(column, _)| column.metric == case.alert.metric);
                let alike = || of_kind(conventions.alerted).next();
                let found = if conventions.alerted == Kind::Other {
                    exact
                } else {
                    exact.or_else(alike)
                };
                found.map(|(_, values)| Measure {
                    kind: conventions.alerted,
                    values: values.clone(),
                    volume: None,
                    bad: 1.0,
                    drift: Drift::Factor,
                    counts: false,
                })
            })
            .flatten();
        Self {
            latency,
            failures,
            traffic: traffic.map(|values| Measure {
                kind: Kind::Traffic,
                values,
                volume: None,
                bad: 1.0,
                drift: Drift::Factor,
                counts: false,
            }),
            resources,
            alerted,
        }
    }
}

fn latency_part(columns: &[(&Column, Values)], wanted: Part) -> Option<Values> {
    columns
        .iter()
        .filter(|(column, _)| kind(column) == Kind::Latency)
        .find(|(column, _)| metric::part(&column.metric, &column.statistic).0 == wanted)
        .map(|(_, values)| values.clone())
}

/// Seconds a request: a column that says so, or a sum over a count.
fn latency(columns: &[(&Column, Values)], traffic: Option<&Values>) -> Option<Values> {
    let all = || {
        columns
            .iter()
            .filter(|(column, _)| kind(column) == Kind::Latency)
    };
    let part = |column: &Column| metric::part(&column.metric, &column.statistic).0;
    let unit = |column: &Column| metric::seconds_per_unit(&column.metric);
    if let Some((column, values)) = all().find(|(column, _)| part(column) == Part::Whole) {
        let unit = unit(column);
        return Some(values.map(|value| value * unit));
    }
    let (column, sum) = all().find(|(column, _)| part(column) == Part::Sum)?;
    let (unit, count) = (unit(column), traffic?);
    let ratio = |sum: Option<f64>, count: Option<f64>| {
        let (sum, count) = (sum?, count?);
        (count > 0.0).then(|| unit * sum / count)
    };
    Some(Values {
        rows: sum
            .rows
            .iter()
            .zip(&count.rows)
            .map(|(sum, count)| ratio(*sum, *count))
            .collect(),
        // Missing values have been left out of both: they only match where none were missing.
        base: if sum.base.len() == count.base.len() {
            sum.base
                .iter()
                .zip(&count.base)
                .filter_map(|(sum, count)| ratio(Some(*sum), Some(*count)))
                .collect()
        } else {
            Vec::new()
        },
    })
}

/// Failed share of the requests, or a plain count of failures.
fn failures(
    columns: &[(&Column, Values)],
    conventions: &Conventions,
    traffic: Option<&Values>,
) -> Option<Measure> {
    let all = || {
        columns
            .iter()
            .filter(|(column, _)| kind(column) == Kind::Errors)
    };
    let volume = traffic.map(|values| values.rows.clone());
    let share = |values: Values| Measure {
        kind: Kind::Errors,
        values,
        volume: volume.clone(),
        bad: 1.0,
        drift: Drift::Shift,
        counts: false,
    };
    if let Some((_, values)) = all().find(|(column, _)| metric::is_success(&column.metric)) {
        // A count of successes would need the requests beside it to say what failed.
        let whole = conventions.success_max;
        if values
            .rows
            .iter()
            .flatten()
            .all(|value| *value <= whole * 1.001)
        {
            return Some(share(values.map(|value| (1.0 - value / whole).max(0.0))));
        }
    }
    let (column, values) = all().find(|(column, _)| !metric::is_success(&column.metric))?;
    let largest = values.rows.iter().flatten().copied().fold(0.0, f64::max);
    let name = format!("{} {}", column.metric, column.statistic).to_ascii_lowercase();
    let named = |words: &[&str]| words.iter().any(|word| name.contains(word));
    if named(&["percent", "pct"]) && largest <= 100.0 {
        return Some(share(values.map(|value| value / 100.0)));
    }
    if named(&["ratio", "share", "rate"]) && largest <= 1.0 && busy(traffic) {
        return Some(share(values.clone()));
    }
    Some(Measure {
        counts: values
            .rows
            .iter()
            .flatten()
            .all(|value| value.fract() == 0.0),
        volume: None,
        ..share(values.clone())
    })
}

/// Whether there are enough requests for a number under one to be a share of them.
fn busy(traffic: Option<&Values>) -> bool {
    traffic.is_none_or(|values| {
        let mut known: Vec<f64> = values.rows.iter().flatten().copied().collect();
        known.sort_by(f64::total_cmp);
        quantile(&known, 0.5) >= 2.0
    })
}
