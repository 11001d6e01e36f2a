//! Three simple methods, as one would write them in an afternoon, to be better than.

use std::collections::{BTreeMap, BTreeSet};

use paramedic::diagnosis::causal::{Case, Column, kind_of};

/// A method: all entities, the likeliest first.
pub type Method = fn(&Case) -> Vec<String>;

/// By name.
pub const ALL: [(&str, Method); 3] = [
    ("traversal", traversal),
    ("correlation", correlation),
    ("robust_z", robust_z),
];

/// Deviations from which an entity is anomalous.
const ANOMALOUS: f64 = 3.0;

/// From the alerted entity down along anomalous callees; the deepest anomalous ones first.
fn traversal(case: &Case) -> Vec<String> {
    let z = deviations(case, |column| {
        kind_of(&column.metric) == kind_of(&case.alert.metric)
    });
    let anomalous = |entity: &str| z.get(entity).is_some_and(|z| *z >= ANOMALOUS);
    let callees = |entity: &str| {
        let edges = case.topology.iter();
        edges
            .filter(move |(caller, _)| caller == entity)
            .map(|(_, callee)| callee.as_str())
            .collect::<Vec<_>>()
    };
    let mut seen = BTreeSet::new();
    let mut deepest: BTreeMap<&str, f64> = BTreeMap::new();
    let mut stack = vec![case.alert.entity.as_str()];
    while let Some(at) = stack.pop() {
        if !seen.insert(at) {
            continue;
        }
        let below: Vec<&str> = callees(at)
            .into_iter()
            .filter(|callee| anomalous(callee))
            .collect();
        if below.is_empty() {
            deepest.insert(at, z.get(at).copied().unwrap_or(0.0));
        }
        stack.extend(below);
    }
    ordered(case, |entity| {
        let found = deepest.get(entity).map(|z| 1e12 + z);
        found.unwrap_or_else(|| z.get(entity).copied().unwrap_or(0.0))
    })
}

/// By how an entity's figure of the alerted kind follows the alerted figure.
fn correlation(case: &Case) -> Vec<String> {
    let kind = kind_of(&case.alert.metric);
    let of_kind = |column: &&Column| kind_of(&column.metric) == kind;
    let columns: Vec<&Column> = case.series.columns.iter().filter(of_kind).collect();
    let target = columns
        .iter()
        .find(|column| column.entity == case.alert.entity);
    ordered(case, |entity| {
        let Some(target) = target.filter(|_| entity != case.alert.entity) else {
            return 0.0;
        };
        let own = columns.iter().find(|column| column.entity == entity);
        own.map_or(0.0, |own| pearson(&own.values, &target.values).abs())
    })
}

/// By the largest deviation of any column.
fn robust_z(case: &Case) -> Vec<String> {
    let z = deviations(case, |_| true);
    ordered(case, |entity| z.get(entity).copied().unwrap_or(0.0))
}

fn ordered(case: &Case, score: impl Fn(&str) -> f64) -> Vec<String> {
    let in_series = case
        .series
        .columns
        .iter()
        .map(|column| column.entity.as_str());
    let in_topology = case
        .topology
        .iter()
        .flat_map(|(a, b)| [a.as_str(), b.as_str()]);
    let all: BTreeSet<&str> = in_series.chain(in_topology).collect();
    let mut all: Vec<(&str, f64)> = all
        .into_iter()
        .map(|entity| (entity, score(entity)))
        .collect();
    all.sort_by(|a, b| b.1.total_cmp(&a.1).then_with(|| a.0.cmp(b.0)));
    all.into_iter()
        .map(|(entity, _)| entity.to_owned())
        .collect()
}

/// Largest deviation of each entity's columns after the onset, in IQRs of what was before.
fn deviations(case: &Case, wanted: impl Fn(&Column) -> bool) -> BTreeMap<&str, f64> {
    let mut found: BTreeMap<&str, f64> = BTreeMap::new();
    let after = case
        .series
        .times
        .iter()
        .position(|time| *time >= case.alert.starts_at);
    let after = after.unwrap_or(case.series.times.len().saturating_sub(1));
    for column in case.series.columns.iter().filter(|column| wanted(column)) {
        let base = case
            .baseline
            .iter()
            .flat_map(|table| &table.columns)
            .find(|other| {
                (&other.entity, &other.metric, &other.statistic)
                    == (&column.entity, &column.metric, &column.statistic)
            });
        let before = base.map_or(&column.values[..after], |base| &base.values);
        let mut before: Vec<f64> = before.iter().flatten().copied().collect();
        if before.is_empty() {
            continue;
        }
        before.sort_by(f64::total_cmp);
        let at = |quarter: usize| before[(before.len() - 1) * quarter / 4];
        let (centre, iqr) = (at(2), at(3) - at(1));
        // As the usual robust scaler: no spread counts as 1.
        let scale = if iqr > 0.0 { iqr } else { 1.0 };
        let values = column.values[after..].iter().flatten();
        let most = values
            .map(|value| (value - centre).abs() / scale)
            .fold(0.0, f64::max);
        let entry = found.entry(&column.entity).or_default();
        *entry = entry.max(most);
    }
    found
}

fn pearson(a: &[Option<f64>], b: &[Option<f64>]) -> f64 {
    let pairs: Vec<(f64, f64)> = a
        .iter()
        .zip(b)
        .filter_map(|(a, b)| Some(((*a)?, (*b)?)))
        .collect();
    if pairs.len() < 3 {
        return 0.0;
    }
    let n = pairs.len() as f64;
    let (ma, mb) = (
        pairs.iter().map(|pair| pair.0).sum::<f64>() / n,
        pairs.iter().map(|pair| pair.1).sum::<f64>() / n,
    );
    let (mut ab, mut aa, mut bb) = (0.0, 0.0, 0.0);
    for (a, b) in pairs {
        ab += (a - ma) * (b - mb);
        aa += (a - ma) * (a - ma);
        bb += (b - mb) * (b - mb);
    }
    if aa > 0.0 && bb > 0.0 {
        ab / (aa * bb).sqrt()
    } else {
        0.0
    }
}
