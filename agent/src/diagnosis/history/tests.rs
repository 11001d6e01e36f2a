use jiff::{SignedDuration, Timestamp};

use super::{Event, History, Store};
use crate::diagnosis::{DiagnosisConfig, RuleSet};

fn learned(cause: Option<&str>, episode: &str) -> Event {
    Event::Learned {
        cause: cause.map(str::to_owned),
        by: "healed".into(),
        episode: episode.into(),
    }
}

fn at(hours: i64) -> Timestamp {
    Timestamp::UNIX_EPOCH + SignedDuration::from_hours(hours)
}

fn prior(history: &History, id: &str, now: Timestamp) -> f64 {
    let rules = RuleSet::shipped().unwrap();
    let priors = history.priors(&rules, &DiagnosisConfig::default(), now);
    priors
        .into_iter()
        .find(|prior| prior.id == id)
        .unwrap()
        .prior
}

fn of(events: Vec<(i64, Event)>) -> History {
    let mut history = History::default();
    for (hours, event) in events {
        let lesson = history.next(at(hours), event);
        history.push(lesson);
    }
    history
}

#[test]
fn nothing_learned_changes_nothing() {
    let rules = RuleSet::shipped().unwrap();
    for prior in History::default().priors(&rules, &DiagnosisConfig::default(), at(1)) {
        assert!((prior.prior - prior.declared).abs() < 1e-12, "{prior:?}");
    }
}

#[test]
fn what_happens_often_becomes_likelier_within_bounds_and_fades() {
    let declared = prior(&History::default(), "cpu-hog", at(0));
    let one = of(vec![(0, learned(Some("cpu-hog"), "a"))]);
    let now = prior(&one, "cpu-hog", at(0));
    assert!(now > declared && now < 2.0 * declared, "{declared} {now}");
    assert!(prior(&one, "memory-hog", at(0)) < prior(&History::default(), "memory-hog", at(0)));
    let later = prior(&one, "cpu-hog", at(24));
    let long_after = prior(&one, "cpu-hog", at(24 * 300));
    assert!(
        later < now && long_after < later,
        "{now} {later} {long_after}"
    );
    assert!((long_after - declared).abs() < 0.02 * declared);
    let many = of((0..1000)
        .map(|n| (0, learned(Some("cpu-hog"), &n.to_string())))
        .collect());
    assert!(prior(&many, "cpu-hog", at(0)) <= 4.0 * declared + 1e-9);
    assert!(prior(&many, "disk-full", at(0)) >= 0.06 / 4.0 - 1e-9);
}

#[test]
fn an_incident_teaches_once_and_the_last_word_counts() {
    let corrected = of(vec![
        (0, learned(Some("cpu-hog"), "a")),
        (0, learned(Some("memory-hog"), "a")),
    ]);
    let only = of(vec![(0, learned(Some("memory-hog"), "a"))]);
    for id in ["cpu-hog", "memory-hog"] {
        assert!((prior(&corrected, id, at(0)) - prior(&only, id, at(0))).abs() < 1e-12);
    }
}

#[test]
fn a_revert_sets_aside_and_can_itself_be_reverted() {
    let mut history = of(vec![
        (0, learned(Some("cpu-hog"), "a")),
        (0, learned(Some("cpu-hog"), "b")),
    ]);
    let both = prior(&history, "cpu-hog", at(0));
    history.push(history.next(at(0), Event::Reverted { to: 1 }));
    let one = of(vec![(0, learned(Some("cpu-hog"), "a"))]);
    assert!((prior(&history, "cpu-hog", at(0)) - prior(&one, "cpu-hog", at(0))).abs() < 1e-12);
    history.push(history.next(at(0), Event::Reverted { to: 2 }));
    assert!((prior(&history, "cpu-hog", at(0)) - both).abs() < 1e-12);
    history.push(history.next(at(0), Event::Reverted { to: 0 }));
    let declared = prior(&History::default(), "cpu-hog", at(0));
    assert!((prior(&history, "cpu-hog", at(0)) - declared).abs() < 1e-12);
    assert_eq!(history.version(), 5);
}

#[test]
fn adjusting_twice_is_adjusting_once() {
    let history = of(vec![
        (0, learned(None, "a")),
        (0, learned(Some("cpu-hog"), "b")),
    ]);
    let (rules, config) = (RuleSet::shipped().unwrap(), DiagnosisConfig::default());
    let once = history.adjust(&rules, &config, at(1));
    let twice = history.adjust(&once, &config, at(1));
    let priors = |rules: &RuleSet| {
        rules
            .rules()
            .iter()
            .map(|rule| rule.prior)
            .collect::<Vec<_>>()
    };
    assert_eq!(priors(&once), priors(&twice));
    assert!(once.get("disk-full").unwrap().prior < rules.get("disk-full").unwrap().prior);
}

#[test]
fn the_file_keeps_every_lesson_and_survives_a_torn_line() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::new(dir.path());
    assert_eq!(store.load().unwrap().version(), 0);
    store.append(at(0), learned(Some("cpu-hog"), "a")).unwrap();
    let file = dir.path().join("history.jsonl");
    let mut text = std::fs::read_to_string(&file).unwrap();
    text.push_str("{\"version\":2,\"at\":\"1970");
    std::fs::write(&file, text).unwrap();
    let history = store.append(at(1), learned(None, "b")).unwrap();
    assert_eq!(history.version(), 2);
    assert_eq!(store.load().unwrap(), history);
    let refused = store
        .append(at(2), Event::Reverted { to: 9 })
        .unwrap_err()
        .to_string();
    assert!(
        refused.contains("version 9 is not within 0 to 2"),
        "{refused}"
    );
    assert_eq!(store.load().unwrap().version(), 2);
}
