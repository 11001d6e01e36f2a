use std::collections::BTreeMap;

use super::*;
use crate::incident::{CgroupFacts, Reading};

fn below(reading: &str, bound: f64) -> FeatureTest {
    FeatureTest {
        reading: reading.to_owned(),
        at_least: None,
        below: Some(bound),
    }
}

fn at_least(reading: &str, bound: f64) -> FeatureTest {
    FeatureTest {
        reading: reading.to_owned(),
        at_least: Some(bound),
        below: None,
    }
}

fn evidence(host: &[(&str, f64)], cgroups: &[u64]) -> Evidence {
    Evidence {
        window_s: 1.0,
        host: host
            .iter()
            .map(|(name, value)| ((*name).to_owned(), Reading::good(*value)))
            .collect(),
        cgroups: cgroups
            .iter()
            .map(|id| CgroupFacts {
                id: CgroupId(*id),
                path: format!("/{id}"),
                leaf: true,
                readings: BTreeMap::new(),
            })
            .collect(),
        ..Evidence::nothing("2026-01-01T00:00:00Z".parse().unwrap())
    }
}

fn lookup(evidence: &Evidence, reading: &str) -> Option<f64> {
    Some(evidence.host.get(reading)?.value)
}

fn look(recovery: &[FeatureTest], before: f64, after: Option<f64>) -> Judgement {
    let after: Vec<(&str, f64)> = after.map(|value| ("busy", value)).into_iter().collect();
    let (before, after) = (evidence(&[("busy", before)], &[]), evidence(&after, &[]));
    judge(recovery, &before, &after, None, lookup)
}

fn run(looks: &[Judgement], poll_ms: u64) -> Option<(usize, OutcomeKind)> {
    let config = VerifyConfig::default();
    let begun = Instant::now();
    let mut verifier = Verifier::new(&config, begun);
    looks.iter().enumerate().find_map(|(n, look)| {
        let now = begun + Duration::from_millis(poll_ms * (n as u64 + 1));
        verifier.observe(now, look).map(|kind| (n + 1, kind))
    })
}

#[test]
fn healed_needs_several_good_looks_in_a_row() {
    let tests = [below("busy", 0.8)];
    let (good, bad) = (look(&tests, 1.0, Some(0.5)), look(&tests, 1.0, Some(0.9)));
    let flapping = [
        good.clone(),
        good.clone(),
        bad,
        good.clone(),
        good.clone(),
        good,
    ];
    assert_eq!(run(&flapping, 500), Some((6, OutcomeKind::Healed)));
    assert_eq!(run(&flapping[..5], 500), None);
}

#[test]
fn no_recovery_within_the_time_is_no_effect() {
    let bad = look(&[below("busy", 0.8)], 1.0, Some(0.95));
    assert_eq!(run(&vec![bad; 100], 500), Some((60, OutcomeKind::NoEffect)));
}

#[test]
fn the_rules_own_time_replaces_the_default() {
    let begun = Instant::now();
    let within = Duration::from_secs(5);
    let mut verifier = Verifier::new(&VerifyConfig::default(), begun).within(within);
    let bad = look(&[below("busy", 0.8)], 1.0, Some(0.95));
    assert_eq!(
        verifier.observe(begun + Duration::from_millis(4999), &bad),
        None
    );
    assert_eq!(
        verifier.observe(begun + within, &bad),
        Some(OutcomeKind::NoEffect)
    );
}

#[test]
fn missing_readings_are_unknown_not_no_effect() {
    let missing = look(&[below("busy", 0.8)], 1.0, None);
    assert!(missing.unclear && !missing.healed);
    assert_eq!(
        run(&vec![missing; 100], 500),
        Some((60, OutcomeKind::Unknown))
    );
}

#[test]
fn without_tests_nothing_can_be_said() {
    let none = look(&[], 1.0, Some(0.1));
    assert!(!none.healed);
    assert_eq!(run(&[none], 500), Some((1, OutcomeKind::Unknown)));
}

#[test]
fn clearly_worse_several_times_ends_it_early() {
    let tests = [at_least("busy", 0.2)];
    let worse = look(&tests, 0.15, Some(0.02));
    assert!(worse.worse);
    let same = look(&tests, 0.15, Some(0.14));
    assert!(!same.worse);
    let mut looks = vec![worse.clone(); 5];
    looks.push(same);
    looks.extend(vec![worse; 6]);
    assert_eq!(run(&looks, 500), Some((12, OutcomeKind::Worse)));
}

#[test]
fn one_test_better_and_one_worse_is_not_worse() {
    let tests = [below("a", 0.5), below("b", 0.5)];
    let before = evidence(&[("a", 0.9), ("b", 0.6)], &[]);
    let after = evidence(&[("a", 0.7), ("b", 0.9)], &[]);
    assert!(!judge(&tests, &before, &after, None, lookup).worse);
    let after = evidence(&[("a", 0.9), ("b", 0.9)], &[]);
    assert!(judge(&tests, &before, &after, None, lookup).worse);
}

#[test]
fn checks_carry_both_values() {
    let test = below("busy", 0.8);
    let judged = look(std::slice::from_ref(&test), 0.99, Some(0.4));
    assert_eq!(judged.checks, [(test, Some(0.99), Some(0.4))]);
}

#[test]
fn a_culprit_that_no_longer_matters_is_quiet() {
    let tests = [below("culprit.forks_per_s", 40.0)];
    let id = Some(CgroupId(7));
    let before = evidence(&[("culprit.forks_per_s", 900.0)], &[7, 8]);
    let without = evidence(&[], &[8]);
    assert!(judge(&tests, &before, &without, id, lookup).healed);
    // It must have been there, cgroups must have been read, and asking much of it is not met.
    let nothing_read = evidence(&[], &[]);
    assert!(judge(&tests, &before, &nothing_read, id, lookup).unclear);
    assert!(judge(&tests, &without, &without, id, lookup).unclear);
    let much = [at_least("culprit.forks_per_s", 1.0)];
    assert!(judge(&much, &before, &without, id, lookup).unclear);
    // Still listed, but its reading is missing.
    assert!(judge(&tests, &before, &evidence(&[], &[7]), id, lookup).unclear);
}

#[test]
fn bounds_are_told() {
    assert_eq!(VerifyConfig::default().problems(), Vec::<String>::new());
    let config = VerifyConfig {
        poll_ms: 1,
        timeout_s: 0,
        ..VerifyConfig::default()
    };
    let expected = [
        "verify.poll_ms: 1 is not within 50 to 10000",
        "verify.timeout_s: 0 is not within 1 to 3600",
    ];
    assert_eq!(config.problems(), expected);
}
