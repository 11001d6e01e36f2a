//! That the ranking rests on structure: right at any place of any system, whatever things are called
//! and however they are scaled, and better than the simple methods in the same cases.

use std::collections::BTreeMap;

use paramedic::diagnosis::causal::{Case, Column, Ranking, rank};

use super::{Rng, SCENARIOS, of_shape};
use crate::cases::baselines;

const SEEDS: std::ops::Range<u64> = 5000..5040;

fn place(case: &Case, names: &[String]) -> usize {
    let truth = &case.truth.as_ref().unwrap().entity;
    names
        .iter()
        .position(|name| name == truth)
        .map_or(usize::MAX, |at| at + 1)
}

fn names(ranking: &Ranking) -> Vec<String> {
    ranking
        .entities
        .iter()
        .map(|ranked| ranked.entity.clone())
        .collect()
}

#[test]
fn the_cause_is_named_under_every_difficulty_and_better_than_by_simple_methods() {
    for (scenario, shape) in &SCENARIOS {
        let mut first = 0;
        let mut among_three = 0;
        let mut simple: BTreeMap<&str, usize> = BTreeMap::new();
        for seed in SEEDS {
            let case = of_shape(seed, shape);
            let at = place(&case, &names(&rank(&case)));
            first += usize::from(at == 1);
            among_three += usize::from(at <= 3);
            for (name, method) in baselines::ALL {
                *simple.entry(name).or_default() += usize::from(place(&case, &method(&case)) == 1);
            }
        }
        let best = simple.values().copied().max().unwrap();
        let count = SEEDS.count();
        // Without calls a caller and its callee can look alike.
        let bar = if *scenario == "no_topology" {
            0.7
        } else {
            0.85
        };
        assert!(
            first as f64 >= bar * count as f64,
            "{scenario}: {first} of {count} first"
        );
        assert!(
            among_three as f64 >= (bar + 0.1) * count as f64,
            "{scenario}: {among_three} of {count}"
        );
        assert!(first > best, "{scenario}: {first} first, {simple:?}");
    }
}

#[test]
fn posteriors_and_none_sum_to_one_and_the_same_case_has_the_same_answer() {
    for seed in 0..22 {
        let case = super::case(seed).case;
        let ranking = rank(&case);
        let sum: f64 = ranking.entities.iter().map(|ranked| ranked.posterior).sum();
        assert!(
            (sum + ranking.none - 1.0).abs() < 1e-9,
            "{sum} + {}",
            ranking.none
        );
        assert!(
            ranking
                .entities
                .windows(2)
                .all(|pair| pair[0].posterior >= pair[1].posterior)
        );
        assert_eq!(ranking, rank(&case));
    }
}

fn change(case: &Case, mut f: impl FnMut(&mut Column)) -> Case {
    let mut case = case.clone();
    case.series.columns.iter_mut().for_each(&mut f);
    if let Some(baseline) = &mut case.baseline {
        baseline.columns.iter_mut().for_each(&mut f);
    }
    case
}

fn posteriors(ranking: &Ranking) -> Vec<f64> {
    ranking
        .entities
        .iter()
        .map(|ranked| ranked.posterior)
        .collect()
}

fn alike(a: &Ranking, b: &Ranking) {
    for (a, b) in posteriors(a).iter().zip(posteriors(b)) {
        assert!((a - b).abs() < 1e-6, "{a} {b}");
    }
    // Those that nothing speaks for may be in any order.
    let told = |r: &Ranking| {
        let said = r.entities.iter().filter(|ranked| ranked.posterior > 1e-9);
        said.map(|ranked| ranked.entity.clone()).collect::<Vec<_>>()
    };
    assert_eq!(told(a), told(b));
}

#[test]
fn the_order_of_columns_and_rows_changes_nothing() {
    for seed in 0..33 {
        let case = super::case(seed).case;
        let mut rng = Rng::new(seed);
        let mut shuffled = case.clone();
        let tables = std::iter::once(&mut shuffled.series).chain(&mut shuffled.baseline);
        for table in tables {
            for at in (1..table.columns.len()).rev() {
                table.columns.swap(at, rng.below(at + 1));
            }
        }
        shuffled.topology.reverse();
        assert_eq!(rank(&case), rank(&shuffled), "seed {seed}");
    }
}

#[test]
fn a_common_unit_changes_nothing() {
    for seed in 0..33 {
        let case = super::case(seed).case;
        for factor in [1e-3, 60.0] {
            let scaled = change(&case, |column| {
                let metric = column.metric.as_str();
                let scaled = metric.contains("cpu")
                    || metric.contains("bytes")
                    || (metric.contains("latency") || metric.contains("response_time"))
                    || metric.ends_with("_sum");
                if scaled {
                    column
                        .values
                        .iter_mut()
                        .flatten()
                        .for_each(|value| *value *= factor);
                }
            });
            alike(&rank(&case), &rank(&scaled));
        }
    }
}

#[test]
fn names_of_entities_mean_nothing() {
    for seed in 0..33 {
        let case = super::case(seed).case;
        // Reverses their order, too.
        let other = |name: &str| {
            let number: u32 = name[1..].parse().unwrap();
            format!("db-{:03}|{}", 999 - number, "x")
        };
        let mut renamed = change(&case, |column| column.entity = other(&column.entity));
        for (caller, callee) in &mut renamed.topology {
            (*caller, *callee) = (other(caller), other(callee));
        }
        renamed.alert.entity = other(&renamed.alert.entity);
        let (was, mut is) = (rank(&case), rank(&renamed));
        for ranked in &mut is.entities {
            let number: u32 = ranked.entity[3..6].parse().unwrap();
            ranked.entity = format!("s{:03}", 999 - number);
        }
        alike(&was, &is);
    }
}

#[test]
fn the_truth_is_never_looked_at() {
    for seed in 0..11 {
        let case = super::case(seed).case;
        let blind = Case {
            truth: None,
            ..case.clone()
        };
        assert_eq!(rank(&case), rank(&blind));
    }
}

#[test]
fn a_quiet_system_blames_nobody() {
    let mut sure = 0;
    for seed in 0..40 {
        let mut case = of_shape(seed, &super::Shape::PLAIN);
        // Only the quiet hour, with an alert in its middle.
        case.series.times.truncate(50);
        for column in &mut case.series.columns {
            column.values.truncate(50);
        }
        case.alert.starts_at = case.series.times[30];
        let ranking = rank(&case);
        sure += usize::from(ranking.entities[0].posterior > 0.8);
    }
    assert!(sure <= 1, "{sure} of 40 quiet systems had somebody blamed");
}

#[test]
fn a_case_survives_its_folder() {
    let dir = tempfile::tempdir().unwrap();
    for seed in 0..11 {
        let case = super::case(seed).case;
        let folder = dir.path().join(&case.name);
        paramedic::diagnosis::causal::write(&case, &folder).unwrap();
        let read = paramedic::diagnosis::causal::read(&folder).unwrap();
        let edges = |case: &Case| {
            let mut edges = case.topology.clone();
            edges.sort();
            edges.dedup();
            edges
        };
        assert_eq!(edges(&read), edges(&case));
        assert_eq!(read.series, case.series);
        assert_eq!((read.alert, read.truth), (case.alert, case.truth));
    }
}
