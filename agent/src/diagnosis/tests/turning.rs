//! The sentence that says what would change the verdict, against trying every change there is.

use super::ranking::{READINGS, ask, in_state, states, two};
use crate::incident::{Diagnosis, Quality, Verdict};

/// What a sentence names: the test, and whether it would hold.
fn told(diagnosis: &Diagnosis) -> Option<(bool, String, bool)> {
    let notes = &diagnosis.top.first()?.notes;
    let note = notes
        .iter()
        .find_map(|note| note.strip_prefix("would be "))?;
    let (verdict, rest) = note.split_once(", at ").unwrap();
    let (_, rest) = rest.split_once(" %, if ").unwrap();
    let (changed, _) = rest.split_once("; it is ").unwrap();
    let conclusive = verdict == "conclusive";
    let holds = |changed: &str, held: bool| (conclusive, changed.to_owned(), held);
    let failed = changed
        .strip_suffix(" did not hold")
        .map(|test| holds(test, false));
    failed.or_else(|| changed.strip_suffix(" held").map(|test| holds(test, true)))
}

/// What the hypothesis' own readings may become, one at a time: the place and the new state.
fn changes(state: [usize; 5], top: &str) -> impl Iterator<Item = (usize, usize)> {
    let own = if top == "b" { 4..5 } else { 0..4 };
    own.flat_map(|at| [(at, 0), (at, 1)])
        // A test that holds speaks for both of these rules: what they rest on is not taken away.
        .filter(move |(at, to)| state[*at] == 2 || (state[*at], *to) == (0, 1))
}

#[test]
fn what_is_said_to_turn_the_verdict_does_and_nothing_else_would() {
    let rules = two();
    let (mut turned, mut firm) = (0, 0);
    for state in states() {
        let now = ask(&rules, &in_state(state));
        let conclusive = now.verdict == Verdict::Conclusive;
        let after = |at: usize, to: usize| {
            let mut changed = state;
            changed[at] = to;
            ask(&rules, &in_state(changed))
        };
        // It is about the first: where a change puts another one there, that one's verdict is not meant.
        let top = now.top[0].id.as_str();
        let turns = |at, to| {
            let then = after(at, to);
            let first = then.top[0].id == top;
            (first && then.verdict == Verdict::Conclusive) != conclusive
        };
        let Some((to_be, test, held)) = told(&now) else {
            firm += 1;
            for (at, to) in changes(state, top) {
                assert!(!turns(at, to), "{state:?}: {} {to}", READINGS[at]);
            }
            continue;
        };
        turned += 1;
        assert_eq!(to_be, !conclusive, "{state:?}");
        let at = READINGS
            .iter()
            .position(|reading| test == format!("host.{reading} >= 1"))
            .unwrap();
        assert!(turns(at, usize::from(held)), "{state:?}: {test} {held}");
    }
    assert!(turned > 20 && firm > 20, "{turned} {firm}");
}

#[test]
fn a_partial_reading_may_be_all_that_is_wrong() {
    let mut seen = in_state([1, 1, 1, 1, 0]);
    seen.host.get_mut("cpu.busy").unwrap().quality = Quality::Partial;
    let got = ask(&two(), &seen);
    let note = "would be conclusive, at 99 %, if host.cpu.busy >= 1 were known completely; it is partial, 1.000";
    assert!(
        got.top[0].notes.iter().any(|said| said == note),
        "{:?}",
        got.top[0].notes
    );
}
