use std::collections::BTreeSet;

use paramedic_parts::chance::Rng;

use super::{Catalogue, draw, known};

fn shipped() -> Catalogue {
    Catalogue::load(&Catalogue::shipped()).unwrap()
}

#[test]
fn every_shipped_hypothesis_is_provoked_or_has_its_reason() {
    let catalogue = shipped();
    assert!(catalogue.faults.len() >= 24, "{}", catalogue.faults.len());
    let all = catalogue.faults.len() + catalogue.not_provoked.len();
    assert_eq!(all, known().unwrap().len());
    assert!(catalogue.not_provoked.iter().all(|o| !o.because.is_empty()));
}

#[test]
fn every_bad_line_is_named_at_once() {
    let text = "\
faults:
  - {hypothesis: cpu-hog, kind: burn, with: {workers: [9, 3], speed: [1, 2]}, alert: A}
  - {hypothesis: no-such, kind: forks, alert: A, accept: [nor-this]}
not_provoked: []
";
    let said = Catalogue::parse(text).unwrap_err().to_string();
    for wanted in [
        "no-such: no shipped rule has this id",
        "no-such: `with` lacks loops",
        "no-such: accepts nor-this, which no shipped rule has",
        "cpu-hog: speed is none of workers",
        "cpu-hog: workers: [9, 3] is no range above 0",
        "memory-hog: neither provoked nor listed under not_provoked with a reason",
    ] {
        assert!(said.contains(wanted), "{wanted:?} is not in\n{said}");
    }
    let unknown = Catalogue::parse("faults: []\nnot_provoked: []\nmore: 1\n");
    assert!(unknown.unwrap_err().to_string().contains("more"));
}

#[test]
fn names_that_are_not_there_are_refused_with_those_that_are() {
    let catalogue = shipped();
    let said = catalogue
        .chosen(&["cpu-hogs".into()])
        .unwrap_err()
        .to_string();
    assert!(
        said.contains("no fault provokes cpu-hogs; there are cpu-hog, "),
        "{said}"
    );
    let said = catalogue
        .chosen(&["thermal".into()])
        .unwrap_err()
        .to_string();
    assert!(
        said.contains("thermal is not provoked: an emulated machine has no sensors"),
        "{said}"
    );
    assert_eq!(catalogue.chosen(&["cpu-hog".into()]).unwrap().len(), 1);
    assert_eq!(catalogue.chosen(&[]).unwrap().len(), catalogue.faults.len());
}

#[test]
fn figures_stay_within_their_bounds_and_come_again_with_their_seed() {
    let fault = &shipped().faults[0];
    assert_eq!(fault.draw(&mut Rng(7)), fault.draw(&mut Rng(7)));
    let mut rng = Rng(1);
    let drawn: Vec<f64> = (0..500).map(|_| draw([1.0, 100.0], &mut rng)).collect();
    assert!(drawn.iter().all(|value| (1.0..=100.0).contains(value)));
    // By magnitude: half of them are below ten.
    let low = drawn.iter().filter(|value| **value < 10.0).count();
    assert!((150..350).contains(&low), "{low}");
    let different: BTreeSet<u64> = drawn.iter().map(|value| value.to_bits()).collect();
    assert!(different.len() > 100);
}
