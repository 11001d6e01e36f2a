//! A comparison for people: what one set said with `-`, what the other says with `+`, in 100 columns.

use std::path::PathBuf;

use super::{
    Comparison, Set,
    said::{Difference, Said},
    stretch::{Of, Stretch, Subject},
};

/// Widest line.
const COLUMNS: usize = 100;
/// Stretches of one recording that are shown.
const STRETCHES_MAX: usize = 20;
/// Where the answers of both begin.
const ANSWER: usize = 15;

/// Every recording, the incidents that differ, and how many there are of each.
pub(super) fn of(comparison: &Comparison) -> String {
    let mut text = String::new();
    let (before, after) = (&comparison.before, &comparison.after);
    put(&mut text, 0, &format!("- {}", set(before)));
    put(&mut text, 0, &format!("+ {}", set(after)));
    for subject in &comparison.subjects {
        let is_recording = matches!(subject.of, Of::Recording(_));
        if is_recording || subject.differs() {
            text.push('\n');
            one(&mut text, subject);
        }
    }
    text.push('\n');
    put(&mut text, 0, &summary(comparison));
    text
}

fn set(set: &Set) -> String {
    let from: Vec<String> = set
        .from
        .iter()
        .map(|path: &PathBuf| path.display().to_string())
        .collect();
    let from = if from.is_empty() {
        "the shipped rules".to_owned()
    } else {
        from.join(", ")
    };
    format!(
        "{from} ({})",
        count(set.hypotheses, "hypothesis", "hypotheses")
    )
}

fn count(number: usize, one: &str, many: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { many })
}

fn one(text: &mut String, subject: &Subject) {
    let name = match &subject.of {
        Of::Recording(file) => file.clone(),
        Of::Incident { id, alert } => format!("{id} {alert}"),
    };
    let moments = count(subject.moments, "moment", "moments");
    let differ = match subject.different {
        0 => "all the same".to_owned(),
        different if different == subject.moments => "all differ".to_owned(),
        1 => "1 differs".to_owned(),
        different => format!("{different} differ"),
    };
    put(text, 0, &format!("{name}: {moments}, {differ}"));
    for stretch in subject.stretches.iter().take(STRETCHES_MAX) {
        difference(text, stretch);
    }
    let more = subject.stretches.len().saturating_sub(STRETCHES_MAX);
    if more > 0 {
        put(text, 2, &format!("{more} more stretches: --json tells all"));
    }
}

fn difference(text: &mut String, stretch: &Stretch) {
    let Stretch {
        from_s,
        to_s,
        moments,
        before,
        after,
        ..
    } = stretch;
    let when = if *moments == 1 {
        format!("at second {from_s:.0}")
    } else {
        let moments = count(*moments, "moment", "moments");
        format!("seconds {from_s:.0} to {to_s:.0} ({moments})")
    };
    put(text, 2, &when);
    for what in &stretch.differs {
        let name = what.as_str();
        put(text, 4, &format!("{name:<8} - {}", tell(*what, before)));
        put(text, 4, &format!("{:<8} + {}", "", tell(*what, after)));
    }
}

fn tell(what: Difference, said: &Said) -> String {
    let or_none = |value: &Option<String>| value.clone().unwrap_or_else(|| "none".to_owned());
    match what {
        Difference::Ranking => {
            let places: Vec<String> = said
                .compared()
                .map(|place| format!("{} {:.0}\u{a0}%", place.id, place.posterior * 100.0))
                .collect();
            places.join(", ")
        }
        Difference::Verdict => match &said.why {
            None => "conclusive".to_owned(),
            Some(why) => format!("inconclusive: {why}"),
        },
        Difference::Culprit => or_none(&said.culprit),
        Difference::Action => or_none(&said.action),
    }
}

fn summary(comparison: &Comparison) -> String {
    let of = |wanted: fn(&Of) -> bool| {
        let all = comparison.subjects.iter().filter(move |s| wanted(&s.of));
        (all.clone().filter(|s| s.differs()).count(), all.count())
    };
    let mut parts = Vec::new();
    let (differ, all) = of(|of| matches!(of, Of::Recording(_)));
    if all > 0 {
        parts.push(format!("{differ} of {all} recordings differ"));
    }
    if let Some(incidents) = &comparison.incidents {
        let (differ, with) = of(|of| matches!(of, Of::Incident { .. }));
        parts.push(format!(
            "{differ} of {with} incidents with evidence differ, {} had none",
            incidents.without_evidence
        ));
    }
    parts.join("; ")
}

/// Writes a line, folded at spaces within the columns; control characters never reach a terminal.
fn put(text: &mut String, indent: usize, line: &str) {
    let clean: Vec<char> = line
        .chars()
        .map(|c| if c.is_control() { '?' } else { c })
        .collect();
    let (mut rest, mut indent) = (clean.as_slice(), indent);
    loop {
        let room = COLUMNS - indent;
        let cut = if rest.len() <= room {
            rest.len()
        } else {
            let space = rest[..room].iter().rposition(|c| *c == ' ');
            space.filter(|at| *at > room / 2).unwrap_or(room)
        };
        text.extend(std::iter::repeat_n(' ', indent));
        text.extend(
            rest[..cut]
                .iter()
                .map(|c| if *c == '\u{a0}' { ' ' } else { *c }),
        );
        text.push('\n');
        rest = &rest[cut..];
        let spaces = rest.iter().take_while(|c| **c == ' ').count();
        rest = &rest[spaces..];
        if rest.is_empty() {
            return;
        }
        indent = ANSWER;
    }
}
