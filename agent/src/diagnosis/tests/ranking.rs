use std::path::Path;

use proptest::prelude::*;

use super::{alert, cgroup, evidence, webhook};
use crate::{
    diagnosis::{DiagnosisConfig, RuleSet, diagnose, explain},
    incident::{Diagnosis, Evidence, Quality, Reading, Verdict},
};

/// Two hypotheses over readings of their own; two of the first one's features are one symptom.
const RULES: &str = "\
family: test
hypotheses:
  - id: a
    title: a
    description: a
    prior: 0.1
    features:
      - {id: f1, reading: host.cpu.busy, at_least: 1, given_cause: 0.9, otherwise: 0.1, decisive: true, says: f1}
      - {id: f2, reading: host.cpu.iowait, at_least: 1, given_cause: 0.8, otherwise: 0.3, group: g, says: f2}
      - {id: f3, reading: host.cpu.steal, at_least: 1, given_cause: 0.6, otherwise: 0.01, group: g, says: f3}
      - {id: f4, reading: host.swap.used, at_least: 1, given_cause: 0.99, otherwise: 0.4, group: g, says: f4}
  - id: b
    title: b
    description: b
    prior: 0.2
    features:
      - {id: f5, reading: host.fs.used, at_least: 1, given_cause: 0.97, otherwise: 0.02, decisive: true, says: f5}
";
pub(super) const READINGS: [&str; 5] = [
    "cpu.busy",
    "cpu.iowait",
    "cpu.steal",
    "swap.used",
    "fs.used",
];

pub(super) fn two() -> RuleSet {
    RuleSet::parse([(Path::new("two.yaml"), RULES)]).unwrap()
}

pub(super) fn ask(rules: &RuleSet, evidence: &Evidence) -> Diagnosis {
    diagnose(
        rules,
        &alert("x"),
        &webhook(),
        evidence,
        &DiagnosisConfig::default(),
    )
}

fn posterior(diagnosis: &Diagnosis, id: &str) -> f64 {
    diagnosis
        .top
        .iter()
        .find(|top| top.id == id)
        .unwrap()
        .posterior
}

fn sum(diagnosis: &Diagnosis) -> f64 {
    diagnosis.top.iter().map(|top| top.posterior).sum::<f64>() + diagnosis.unknown
}

/// Every state of every reading: 0 fails, 1 holds, 2 is missing.
pub(super) fn states() -> impl Iterator<Item = [usize; 5]> {
    (0..3_usize.pow(5))
        .map(|n| std::array::from_fn(|i| n / 3_usize.pow(u32::try_from(i).unwrap()) % 3))
}

pub(super) fn in_state(state: [usize; 5]) -> Evidence {
    let mut evidence = evidence(&[]);
    for (name, state) in READINGS.iter().zip(state) {
        if let Some(value) = [Some(0.0), Some(1.0), None][state] {
            evidence
                .host
                .insert((*name).to_owned(), Reading::good(value));
        }
    }
    evidence
}

#[test]
fn posteriors_sum_to_one_and_rise_with_the_evidence() {
    let rules = two();
    for state in states() {
        let now = ask(&rules, &in_state(state));
        assert!((sum(&now) - 1.0).abs() < 1e-9, "{state:?}");
        for i in 0..5 {
            // missing -> failed never raises, missing -> held and failed -> held never lower.
            for (from, to) in [(0, 1), (0, 2), (2, 1)] {
                let with = |s| {
                    let mut changed = state;
                    changed[i] = s;
                    ask(&rules, &in_state(changed))
                };
                let (before, after) = (with(from), with(to));
                let id = if i == 4 { "b" } else { "a" };
                let (before, after) = (posterior(&before, id), posterior(&after, id));
                assert!(after >= before - 1e-12, "{state:?} {i} {before} {after}");
            }
        }
    }
}

#[test]
fn weights_are_the_logarithms_of_the_likelihood_ratios() {
    let got = ask(&two(), &in_state([1, 1, 2, 0, 0]));
    let top = got.top.iter().find(|top| top.id == "a").unwrap();
    let bits = |id: &str| top.features.iter().find(|f| f.id == id).unwrap().bits;
    assert!((bits("f1") - 9_f64.log2()).abs() < 1e-12);
    assert!((bits("f2") - (0.8_f64 / 0.3).log2()).abs() < 1e-12);
    assert!(bits("f3") == 0.0, "missing is not absent");
    assert!((bits("f4") - (0.01_f64 / 0.6).log2()).abs() < 1e-12);
    // By hand: a = 0.1 * 9 * 2.667 * 0.01667 = 0.04; b = 0.2 * 0.03 / 0.98 = 0.00612; none = 0.3.
    let expected = 0.04 / (0.04 + 0.2 * 0.03 / 0.98 + 0.3);
    assert!((top.posterior - expected).abs() < 1e-9, "{}", top.posterior);
    assert!((top.prior - 0.1 / 0.6).abs() < 1e-12);
}

#[test]
fn one_symptom_counts_once() {
    let got = ask(&two(), &in_state([2, 1, 1, 1, 2]));
    let top = got.top.iter().find(|top| top.id == "a").unwrap();
    let counted: Vec<&str> = top
        .features
        .iter()
        .filter(|f| f.bits != 0.0)
        .map(|f| f.id.as_str())
        .collect();
    assert_eq!(counted, ["f3"]);
    assert!(
        top.notes.iter().any(|note| note.contains("f2, f4")),
        "{:?}",
        top.notes
    );
}

#[test]
fn partial_readings_weigh_half_and_cap() {
    let mut seen = in_state([1, 1, 1, 1, 0]);
    let whole = ask(&two(), &seen);
    assert_eq!(whole.verdict, Verdict::Conclusive);
    let reading = seen.host.get_mut("cpu.busy").unwrap();
    reading.quality = Quality::Partial;
    let got = ask(&two(), &seen);
    let bits = |diagnosis: &Diagnosis| {
        diagnosis.top[0]
            .features
            .iter()
            .find(|f| f.id == "f1")
            .unwrap()
            .bits
    };
    assert!((bits(&got) * 2.0 - bits(&whole)).abs() < 1e-12);
    // Decisive, so that it is not acted upon, and not as sure as if it were.
    assert!((posterior(&got, "a") - 0.75).abs() < 1e-12);
    assert!((sum(&got) - 1.0).abs() < 1e-9);
    assert!(matches!(&got.verdict, Verdict::Inconclusive(why) if why.contains("partial")));
    let lenient = DiagnosisConfig {
        decisive_may_be_partial: true,
        ..DiagnosisConfig::default()
    };
    let got = diagnose(&two(), &alert("x"), &webhook(), &seen, &lenient);
    assert_eq!(got.verdict, Verdict::Conclusive);
}

#[test]
fn nothing_seen_concludes_nothing() {
    let rules = RuleSet::shipped().unwrap();
    let got = ask(&rules, &evidence(&[]));
    assert!(matches!(&got.verdict, Verdict::Inconclusive(why) if why.contains("missing")));
    assert_eq!(got.top.len(), 3);
    let none = ask(&RuleSet::default(), &evidence(&[]));
    assert!((none.unknown - 1.0).abs() < 1e-12);
    assert!(matches!(none.verdict, Verdict::Inconclusive(_)));
}

#[test]
fn a_partial_reading_excludes_nothing() {
    let rules = RuleSet::shipped().unwrap();
    let mut idle = evidence(&[("cpu.busy", 0.1)]);
    let excluded = |evidence: &Evidence| {
        let got = ask(&rules, evidence);
        got.excluded.iter().any(|(id, _)| id == "cpu-hog")
    };
    assert!(excluded(&idle));
    idle.host
        .insert("cpu.busy".to_owned(), Reading::partial(0.1));
    assert!(!excluded(&idle));
}

fn hog() -> Evidence {
    let mut seen = evidence(&[
        ("cpu.busy", 0.99),
        ("cpu.count", 2.0),
        ("psi.cpu.some", 0.5),
        ("forks_per_s", 3.0),
        ("mem.available", 0.6),
        ("mem.total_bytes", 2e9),
    ]);
    seen.cgroups = vec![
        cgroup(
            7,
            "/demo/hog\u{1b}[31m",
            true,
            &[("cpu.cores", 1.8), ("cpu.share", 0.9)],
        ),
        cgroup(8, "/web", true, &[("cpu.cores", 0.1), ("cpu.share", 0.05)]),
    ];
    seen
}

#[test]
fn the_same_evidence_has_the_same_answer_in_any_order() {
    let rules = RuleSet::shipped().unwrap();
    let mut seen = hog();
    // Two cgroups that do the same: the path decides.
    seen.cgroups.push(cgroup(
        9,
        "/demo/abc",
        true,
        &[("cpu.cores", 1.8), ("cpu.share", 0.9)],
    ));
    let first = ask(&rules, &seen);
    seen.cgroups.reverse();
    assert_eq!(first, ask(&rules, &seen));
}

#[test]
fn explanations_fit_the_terminal_and_keep_it_clean() {
    let text = explain(&ask(&RuleSet::shipped().unwrap(), &hog()));
    assert!(
        text.lines().all(|line| line.chars().count() <= 86),
        "{text}"
    );
    assert!(!text.contains('\u{1b}'));
    for part in [
        "1. cpu-hog",
        "culprit  /demo/hog",
        "for       +2.7 bits  the CPUs are saturated: host.cpu.busy 0.99 (>= 0.85)",
        "missing             host.psi.io.some < 0.4",
        // A long line is folded, not cut.
        "culprit.cpu.share 0.9",
        "(>= 0.45)",
        "verdict: conclusive",
    ] {
        assert!(text.contains(part), "{part:?} in\n{text}");
    }
}

fn any_value() -> impl Strategy<Value = f64> {
    prop_oneof![
        any::<f64>(),
        0.0..1.0,
        Just(f64::NAN),
        Just(f64::INFINITY),
        Just(f64::MAX),
        Just(-0.0)
    ]
}

proptest! {
    #[test]
    fn no_evidence_makes_nonsense(
        host in prop::collection::vec((0..9_usize, any_value(), any::<bool>()), 0..9),
        leaves in prop::collection::vec((0..6_usize, any_value()), 0..12),
    ) {
        let names = ["cpu.busy", "cpu.count", "psi.cpu.some", "mem.available", "mem.total_bytes",
            "forks_per_s", "psi.io.some", "fs.used", "cpu.steal"];
        let of_leaf = ["cpu.cores", "cpu.share", "mem.bytes", "mem.growth_bytes_per_s",
            "forks_per_s", "mem.oom_kills"];
        let mut seen = evidence(&[]);
        for (name, value, good) in host {
            let reading = if good { Reading::good(value) } else { Reading::partial(value) };
            seen.host.insert(names[name].to_owned(), reading);
        }
        for (n, (name, value)) in (0_u64..).zip(leaves) {
            seen.cgroups.push(cgroup(n, &format!("/c{n}"), true, &[(of_leaf[name], value)]));
        }
        let got = ask(&RuleSet::shipped().unwrap(), &seen);
        prop_assert!((0.0..=1.0).contains(&got.unknown));
        prop_assert!(sum(&got) <= 1.0 + 1e-9);
        for top in &got.top {
            prop_assert!((0.0..=0.99).contains(&top.posterior), "{}", top.posterior);
            prop_assert!(top.features.iter().all(|f| f.bits.is_finite()));
            let range = top.interval.unwrap();
            prop_assert!(0.0 <= range.low && range.low <= top.posterior, "{range:?}");
            prop_assert!(top.posterior <= range.high && range.high <= 0.99, "{range:?}");
            prop_assert!(top.culprit.as_ref().is_none_or(|c| c.value.is_finite()));
        }
        prop_assert!(got.top.is_sorted_by(|a, b| a.posterior >= b.posterior));
        prop_assert!(!explain(&got).contains("NaN"));
    }
}
