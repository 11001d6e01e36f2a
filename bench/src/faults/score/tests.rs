use super::{Trial, brier, ece, macro_f1, pairs, score};
use crate::faults::{
    record::{Answer, NOTHING, Named},
    work::Habits,
};

fn answer(top: &[(&str, f64, Option<&str>)], conclusive: bool) -> Answer {
    let named = |(id, posterior, culprit): &(&str, f64, Option<&str>)| Named {
        id: (*id).to_owned(),
        posterior: *posterior,
        culprit: culprit.map(str::to_owned),
        features: Vec::new(),
    };
    Answer {
        top: top.iter().map(named).collect(),
        unknown: 1.0 - top.iter().map(|(_, p, _)| p).sum::<f64>(),
        conclusive,
        why: String::new(),
    }
}

fn trial(truth: &str, culprit: Option<&str>, sighted: Answer, blind: Option<Answer>) -> Trial {
    Trial {
        truth: truth.to_owned(),
        accept: Vec::new(),
        round: 0,
        seed: 1,
        kernel: "6.12".to_owned(),
        figures: [].into(),
        neighbour: Habits {
            cpus: 0.1,
            mib: 1,
            writes_per_s: 1.0,
            execs_per_s: 1.0,
            connects_per_s: 1.0,
            folder: "/tmp".into(),
        },
        culprit: culprit.map(str::to_owned),
        void: None,
        held: String::new(),
        sighted: Some(sighted),
        blind,
        blind_void: None,
        left: Vec::new(),
        took_s: 1.0,
    }
}

fn close(a: f64, b: f64) {
    assert!((a - b).abs() < 1e-9, "{a} is not {b}");
}

#[test]
fn brier_of_known_answers() {
    close(brier(&[(1.0, true), (0.0, false)]), 0.0);
    close(brier(&[(1.0, false)]), 1.0);
    // (0.04 + 0.49) / 2
    close(brier(&[(0.8, true), (0.7, false)]), 0.265);
    close(brier(&[]), 0.0);
}

#[test]
fn calibration_is_judged_bin_by_bin() {
    // 0.9 said, 0.5 right.
    close(ece(&[(0.9, true), (0.9, false)]), 0.4);
    // Two bins, weighed 2 : 1. |0.8 - 1| * 2/3 + |0.3 - 0| / 3
    close(ece(&[(0.8, true), (0.8, true), (0.3, false)]), 0.7 / 3.0);
    // 0.81 and 0.89 share a bin, 0.79 does not; within a bin errors cancel out.
    close(
        ece(&[(0.81, true), (0.89, true), (0.79, false)]),
        (0.3 + 0.79) / 3.0,
    );
    // 1 belongs to the last bin.
    close(ece(&[(1.0, true)]), 0.0);
}

#[test]
fn macro_f1_gives_each_class_the_same_weight() {
    let pairs: Vec<(String, String)> = [("a", "a"), ("a", "a"), ("a", "b"), ("b", "b"), ("c", "a")]
        .iter()
        .map(|(truth, said)| ((*truth).to_owned(), (*said).to_owned()))
        .collect();
    // a: precision 2/3, recall 2/3; b: 1/2 and 1; c: nothing.
    close(macro_f1(&pairs), (2.0 / 3.0 + 2.0 / 3.0 + 0.0) / 3.0);
    close(macro_f1(&[]), 0.0);
}

#[test]
fn an_answer_that_is_less_likely_than_unknown_is_none() {
    let unsure = trial("a", None, answer(&[("a", 0.4, None)], false), None);
    let scores = score(&[unsure]);
    close(scores.top1, 0.0);
    close(scores.top3, 1.0);
    close(scores.brier, 0.36);
}

#[test]
fn a_culprit_counts_with_its_cause_only() {
    let right = answer(&[("a", 0.9, Some("/x"))], true);
    let wrong_cause = answer(&[("b", 0.9, Some("/x")), ("a", 0.05, None)], true);
    let wrong_cgroup = answer(&[("a", 0.9, Some("/y"))], true);
    let trials = [
        trial("a", Some("/x"), right, None),
        trial("a", Some("/x"), wrong_cause, None),
        trial("a", Some("/x"), wrong_cgroup.clone(), None),
        trial("a", None, wrong_cgroup, None),
    ];
    let scores = score(&trials);
    close(scores.culprit, 1.0 / 3.0);
    close(scores.top1, 0.75);
    close(scores.top3, 1.0);
    let class = &scores.by_class["a"];
    assert_eq!(class.trials, 4);
    assert_eq!(class.culprit, Some(1.0 / 3.0));
    close(class.precision, 1.0);
}

#[test]
fn quiet_trials_are_right_when_nothing_is_named() {
    let quiet = answer(&[("a", 0.1, None)], false);
    let loud = answer(&[("a", 0.95, None)], true);
    let trials = [
        trial(NOTHING, None, quiet, None),
        trial(NOTHING, None, loud, None),
    ];
    let scores = score(&trials);
    close(scores.abstain_noise, 0.5);
    close(scores.macro_f1, 2.0 / 3.0);
    assert_eq!(
        pairs(&trials),
        [
            (NOTHING.to_owned(), NOTHING.to_owned()),
            (NOTHING.to_owned(), "a".to_owned())
        ]
    );
}

#[test]
fn without_decisive_evidence_no_cause_may_be_over_the_bar() {
    let sighted = || answer(&[("a", 0.9, None)], true);
    let under = answer(&[("a", 0.7, None)], false);
    let sure_and_silent = answer(&[("a", 0.85, None)], false);
    let trials = [
        trial("a", None, sighted(), Some(under)),
        trial("a", None, sighted(), Some(sure_and_silent)),
        trial("a", None, sighted(), None),
    ];
    let scores = score(&trials);
    close(scores.abstain_no_decisive, 0.5);
    assert_eq!(scores.by_class["a"].abstain_no_decisive, Some(0.5));
}

#[test]
fn void_trials_are_counted_and_count_in_nothing_else() {
    let mut void = trial("a", None, answer(&[("b", 0.9, None)], true), None);
    void.void = Some("it did not take hold".to_owned());
    let scores = score(&[void]);
    assert_eq!((scores.trials, scores.void), (0, 1));
    assert_eq!(scores.by_class["a"].void, 1);
    close(scores.top1, 0.0);
}

#[test]
fn another_name_of_the_same_thing_is_right() {
    let mut one = trial("a", None, answer(&[("b", 0.9, None)], true), None);
    one.accept = vec!["b".to_owned()];
    assert_eq!(
        pairs(std::slice::from_ref(&one)),
        [("a".to_owned(), "a".to_owned())]
    );
    close(score(&[one]).top1, 1.0);
}
