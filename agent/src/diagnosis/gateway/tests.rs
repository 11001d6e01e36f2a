use std::{sync::Arc, time::Duration};

use super::{Bayes, Gateway, Paired, Strategy, Votes, mcnemar};
use crate::{
    diagnosis::{
        DiagnosisConfig, RuleSet,
        tests::{alert, cgroup, evidence, webhook},
    },
    incident::{Alert, Diagnosis, Evidence, Source, Verdict},
};

fn hog() -> Evidence {
    let mut seen = evidence(&[
        ("cpu.busy", 0.99),
        ("cpu.count", 2.0),
        ("psi.cpu.some", 0.5),
        ("mem.available", 0.7),
        ("forks_per_s", 2.0),
        ("psi.io.some", 0.0),
    ]);
    seen.cgroups = vec![
        cgroup(
            1,
            "/demo/hog",
            true,
            &[("cpu.cores", 1.9), ("cpu.share", 0.95)],
        ),
        cgroup(2, "/web", true, &[("cpu.cores", 0.05), ("cpu.share", 0.02)]),
    ];
    seen
}

/// A shadow that never comes back in time, or panics.
struct Bad(Option<Duration>);

impl Strategy for Bad {
    fn name(&self) -> &'static str {
        "bad"
    }
    fn version(&self) -> u32 {
        3
    }
    fn rank(
        &self,
        _: &RuleSet,
        _: &Alert,
        _: &Source,
        _: &Evidence,
        _: &DiagnosisConfig,
    ) -> Diagnosis {
        match self.0 {
            Some(time) => std::thread::sleep(time),
            None => panic!("as planned"),
        }
        unreachable_diagnosis()
    }
}

fn unreachable_diagnosis() -> Diagnosis {
    Diagnosis {
        top: Vec::new(),
        unknown: 1.0,
        excluded: Vec::new(),
        verdict: Verdict::Conclusive,
        took_us: 0,
    }
}

async fn ask(gateway: &Gateway, seen: Evidence) -> (Diagnosis, crate::incident::DualResult) {
    let (rules, config) = (
        Arc::new(RuleSet::shipped().unwrap()),
        DiagnosisConfig::default(),
    );
    let decided = gateway.decide(&rules, &alert("x"), &webhook(), &seen, &config);
    let shadow = gateway.shadow(
        rules,
        Arc::new(alert("x")),
        webhook(),
        Arc::new(seen),
        config,
        &decided,
    );
    let dual = shadow.await;
    (decided, dual)
}

#[tokio::test]
async fn two_strategies_agree_on_a_plain_case_and_on_nothing() {
    let (decided, dual) = ask(&Gateway::default(), hog()).await;
    assert_eq!(decided.top[0].id, "cpu-hog");
    assert_eq!((dual.a.as_str(), dual.b.as_str()), ("bayes/1", "votes/1"));
    assert_eq!(dual.consensus, Some(true), "{dual:?}");
    let votes = dual.b_said.unwrap();
    assert_eq!(votes.first.unwrap().0, "cpu-hog");
    assert_eq!(votes.culprit.as_deref(), Some("/demo/hog"));

    let (_, dual) = ask(&Gateway::default(), evidence(&[("cpu.busy", 0.05)])).await;
    assert_eq!(dual.b_said.unwrap().first, None);
}

#[tokio::test]
async fn a_slow_or_panicking_shadow_is_late_and_nothing_else() {
    for bad in [Bad(Some(Duration::from_secs(2))), Bad(None)] {
        let gateway = Gateway::new(Arc::new(Bayes), Arc::new(bad));
        let begun = std::time::Instant::now();
        let (decided, dual) = ask(&gateway, hog()).await;
        assert_eq!(decided.verdict, Verdict::Conclusive);
        assert_eq!((dual.b_said, dual.consensus), (None, None));
        assert!(
            begun.elapsed() < Duration::from_millis(1800),
            "{:?}",
            begun.elapsed()
        );
    }
}

#[test]
fn the_decision_list_names_nobody_without_its_decisive_tests() {
    let mut seen = hog();
    seen.host.remove("cpu.busy");
    let rules = RuleSet::shipped().unwrap();
    let got = Votes.rank(
        &rules,
        &alert("x"),
        &webhook(),
        &seen,
        &DiagnosisConfig::default(),
    );
    assert!(got.top.iter().all(|top| top.id != "cpu-hog"), "{got:?}");
    let sum: f64 = got.top.iter().map(|top| top.posterior).sum();
    assert!((sum + got.unknown - 1.0).abs() < 1e-9);
}

#[test]
fn mcnemar_is_the_exact_binomial_test() {
    assert!((mcnemar(0, 0) - 1.0).abs() < 1e-12);
    assert!((mcnemar(5, 5) - 1.0).abs() < 1e-12);
    // 2 * (1 + 10) / 2^10.
    assert!((mcnemar(1, 9) - 22.0 / 1024.0).abs() < 1e-12);
    assert!((mcnemar(9, 1) - 22.0 / 1024.0).abs() < 1e-12);
    assert!(mcnemar(0, 5000) < 1e-300);
    let mut paired = Paired::default();
    for _ in 0..29 {
        paired.add(false, true);
    }
    assert!(!paired.promotes_b(), "too few");
    paired.add(true, true);
    assert!(paired.promotes_b());
}
