use std::collections::BTreeMap;

use super::*;
use crate::{
    clock::SystemClock,
    incident::{Alert, AlertStatus, CgroupId, EpisodeId, Fingerprint, Level, Source, TraceContext},
    remedy::RemedyConfig,
};

fn refusals(list: &[(ActionKind, &str)]) -> Vec<(ActionKind, Refusal)> {
    list.iter()
        .map(|(kind, reason)| (*kind, refuse(reason, format!("{reason} says no"))))
        .collect()
}

#[test]
fn the_rules_first_real_choice_is_explained_and_the_rest_named() {
    let told = most_telling(refusals(&[
        (ActionKind::Notify, "notify"),
        (ActionKind::CapMemory, "protected"),
        (ActionKind::KillCgroup, "policy"),
    ]));
    assert_eq!(told.reason, "protected");
    assert_eq!(
        told.detail,
        "cap-memory: protected says no; kill-cgroup: policy as well"
    );
}

#[test]
fn a_rule_that_only_notifies_says_so() {
    let told = most_telling(refusals(&[(ActionKind::Notify, "notify")]));
    assert_eq!(
        (told.reason.as_str(), told.detail.as_str()),
        ("notify", "notify says no")
    );
}

fn diagnosis(verdict: Verdict, culprit: Option<Culprit>, actions: &[ActionKind]) -> Diagnosis {
    let remedies = actions.iter().map(|action| Suggestion {
        action: *action,
        amount: None,
        level: Level::Act,
        dry_run: false,
    });
    Diagnosis {
        top: vec![Hypothesis {
            id: "cpu-hog".to_owned(),
            title: "a hog".to_owned(),
            posterior: 0.95,
            interval: None,
            prior: 0.1,
            culprit,
            features: Vec::new(),
            notes: Vec::new(),
            recovery: Vec::new(),
            remedies: remedies.collect(),
        }],
        unknown: 0.05,
        excluded: Vec::new(),
        verdict,
        took_us: 0,
    }
}

fn planned(diagnosis: &Diagnosis) -> Refusal {
    // A plain folder is no hierarchy: whatever reaches for a cgroup is refused for that.
    let folder = tempfile::tempdir().unwrap();
    let config = RemedyConfig {
        level: Level::Act,
        ..RemedyConfig::default()
    };
    let remedies = Remedies::at(&config, SystemClock::shared(), folder.path());
    let now: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
    let evidence = Evidence {
        window_s: 1.0,
        ..Evidence::nothing(now)
    };
    let labels = BTreeMap::new();
    let episode = Episode {
        id: EpisodeId([0; 16]),
        tenant: "default".parse().unwrap(),
        alert: Alert {
            status: AlertStatus::Firing,
            fingerprint: Fingerprint::of(&labels),
            labels,
            annotations: BTreeMap::new(),
            starts_at: now,
            ends_at: None,
        }
        .into(),
        source: Source::Manual,
        opened_at: now,
        trace: TraceContext {
            trace_id: "1".repeat(32),
            span_id: "1".repeat(16),
            sampled: false,
            begun_here: false,
        },
    };
    remedies
        .plan(diagnosis, &evidence, &episode, now)
        .unwrap_err()
}

fn culprit() -> Culprit {
    Culprit {
        cgroup: CgroupId(7),
        path: "/hog".to_owned(),
        chosen_by: "cpu.cores".to_owned(),
        value: 2.0,
    }
}

#[test]
fn below_the_bar_nothing_is_planned() {
    let verdict = Verdict::Inconclusive("posterior 0.6 is under 0.8".to_owned());
    let refusal = planned(&diagnosis(
        verdict,
        Some(culprit()),
        &[ActionKind::ThrottleCpu],
    ));
    let expected = refuse("inconclusive", "posterior 0.6 is under 0.8".to_owned());
    assert_eq!(refusal, expected);
}

#[test]
fn an_action_needs_a_culprit() {
    let refusal = planned(&diagnosis(
        Verdict::Conclusive,
        None,
        &[ActionKind::ThrottleCpu],
    ));
    assert_eq!(refusal.reason, "no-culprit");
}

#[test]
fn a_rule_without_remedies_only_reports() {
    let refusal = planned(&diagnosis(Verdict::Conclusive, Some(culprit()), &[]));
    assert_eq!(refusal.reason, "no-remedy");
}

#[test]
fn without_cgroup_v2_every_action_is_unsupported_with_the_way_out() {
    let refusal = planned(&diagnosis(
        Verdict::Conclusive,
        Some(culprit()),
        &[ActionKind::CapPids],
    ));
    assert_eq!(refusal.reason, "unsupported");
    assert!(
        refusal.detail.contains("/sys/fs/cgroup"),
        "{}",
        refusal.detail
    );
}
