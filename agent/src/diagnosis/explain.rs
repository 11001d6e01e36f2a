//! A diagnosis as text for a tired person: who, how sure, why, why not, and what is missing.

use crate::incident::{Diagnosis, Hypothesis, Interval, Quality, Verdict, WeighedFeature};

/// Widest line; leaves room for a caller's indentation within 100 columns.
const COLUMNS: usize = 86;
/// Cells of a posterior's bar.
const BAR: usize = 12;
/// Where a folded line goes on: below what evidence says.
const FOLD: usize = 23;
/// A space at which no line is folded; printed as a plain one.
const NO_BREAK: &str = "\u{a0}";

/// The ranked causes with posterior, culprit, evidence for and against in bits, what is missing,
/// and the verdict. No line is wider than 86 columns.
pub fn explain(diagnosis: &Diagnosis) -> String {
    let mut text = String::new();
    let widest = diagnosis.top.iter().map(|top| top.id.len()).max();
    let (width, ranges) = (widest.unwrap_or(0).max(7), ranges(diagnosis));
    let headline = |rank: &str, id: &str, posterior: f64, range: &str, title: &str| {
        let (bar, percent) = (bar(posterior), posterior * 100.0);
        format!("{rank:<3}{id:<width$}  {bar} {percent:>3.0} %{range}  {title}")
    };
    for (rank, hypothesis) in diagnosis.top.iter().enumerate() {
        put(
            &mut text,
            &headline(
                &format!("{}.", rank + 1),
                &hypothesis.id,
                hypothesis.posterior,
                &ranges[rank],
                &hypothesis.title,
            ),
        );
        // The first is explained in full; of the others, what decided against them.
        if rank == 0 {
            whole(&mut text, hypothesis);
        } else {
            in_short(&mut text, hypothesis);
        }
    }
    put(
        &mut text,
        &headline(
            "",
            "unknown",
            diagnosis.unknown,
            &" ".repeat(ranges.first().map_or(0, |range| range.chars().count())),
            "none of the known causes",
        ),
    );
    for (id, because) in &diagnosis.excluded {
        put(&mut text, &format!("   excluded {id}: {because}"));
    }
    match &diagnosis.verdict {
        Verdict::Conclusive => put(&mut text, "verdict: conclusive"),
        Verdict::Inconclusive(why) => put(&mut text, &format!("verdict: inconclusive, {why}")),
    }
    text
}

/// ` (77 to 99)` for each of the ranking, all of one width; empty in records of old, which have none.
fn ranges(diagnosis: &Diagnosis) -> Vec<String> {
    let range = |Interval { low, high }| {
        let (low, high) = (low * 100.0, high * 100.0);
        format!(" ({low:.0}{NO_BREAK}to{NO_BREAK}{high:.0})")
    };
    let tops = diagnosis.top.iter();
    let told: Vec<String> = tops
        .map(|top| top.interval.map_or_else(String::new, range))
        .collect();
    let widest = told.iter().map(|range| range.chars().count()).max();
    let width = widest.unwrap_or(0);
    told.iter()
        .map(|range| format!("{range:<width$}"))
        .collect()
}

fn bar(part: f64) -> String {
    let threshold = |cell: usize| (cell as f64 + 0.5) / BAR as f64;
    (0..BAR)
        .map(|cell| {
            if part >= threshold(cell) {
                '█'
            } else {
                '░'
            }
        })
        .collect()
}

fn whole(text: &mut String, hypothesis: &Hypothesis) {
    if let Some(culprit) = &hypothesis.culprit {
        let value = number(culprit.value);
        put(
            text,
            &format!(
                "   culprit  {} ({} {value})",
                culprit.path, culprit.chosen_by
            ),
        );
    }
    let counted = |f: &&WeighedFeature| f.bits != 0.0;
    for feature in hypothesis.features.iter().filter(counted) {
        let side = if feature.bits > 0.0 {
            "for    "
        } else {
            "against"
        };
        put(
            text,
            &format!("   {side}  {:>+5.1} bits  {}", feature.bits, line(feature)),
        );
    }
    for feature in hypothesis.features.iter().filter(|f| f.value.is_none()) {
        let decisive = if feature.decisive { ", decisive" } else { "" };
        put(
            text,
            &format!("   missing             {}{decisive}", feature.test),
        );
    }
    for note in &hypothesis.notes {
        put(text, &format!("   note     {note}"));
    }
}

fn in_short(text: &mut String, hypothesis: &Hypothesis) {
    let against = hypothesis.features.iter().find(|f| f.bits < 0.0);
    let support = hypothesis.features.iter().find(|f| f.bits > 0.0);
    for feature in [support, against].into_iter().flatten() {
        let side = if feature.bits > 0.0 {
            "for    "
        } else {
            "against"
        };
        put(
            text,
            &format!("   {side}  {:>+5.1} bits  {}", feature.bits, line(feature)),
        );
    }
}

/// `the CPUs are busy: host.cpu.busy 0.99 (>= 0.85)`; for a test that failed, the reading only,
/// as what the rule says does not hold.
fn line(feature: &WeighedFeature) -> String {
    let value = feature.value.map_or_else(|| "missing".to_owned(), number);
    let test = feature.test.to_string();
    let bounds = test.strip_prefix(&feature.test.reading).unwrap_or_default();
    let bounds = bounds.trim().replace(' ', NO_BREAK);
    let partial = match feature.quality {
        Some(Quality::Partial) => ", partial",
        _ => "",
    };
    if feature.held == Some(true) {
        let says = &feature.says;
        format!(
            "{says}: {} {value} ({bounds}{partial})",
            feature.test.reading
        )
    } else {
        format!("{} is {value}, not {bounds}{partial}", feature.test.reading)
    }
}

/// Three significant digits, and units of bytes for what is large.
fn number(value: f64) -> String {
    let size = value.abs();
    let (scaled, unit) = [(1e12, "T"), (1e9, "G"), (1e6, "M"), (1e4, "k")]
        .into_iter()
        .find(|(from, _)| size >= *from)
        .map_or((value, ""), |(from, unit)| {
            (value / if unit == "k" { 1e3 } else { from }, unit)
        });
    let digits = match scaled.abs() {
        size if size >= 100.0 => 0,
        size if size >= 10.0 => 1,
        _ => 2,
    };
    let text = format!("{scaled:.digits$}");
    let text = if text.contains('.') {
        text.trim_end_matches('0').trim_end_matches('.')
    } else {
        &text
    };
    format!("{text}{unit}")
}

/// Writes a line, folded at the columns; control characters never reach a terminal.
fn put(text: &mut String, line: &str) {
    let clean: Vec<char> = line
        .chars()
        .map(|c| if c.is_control() { '?' } else { c })
        .collect();
    let mut rest = clean.as_slice();
    let mut indent = 0;
    while indent + rest.len() > COLUMNS {
        let room = COLUMNS - indent;
        // At the last space, if that leaves a line worth reading; else in the middle of the word.
        let space = rest[..room].iter().rposition(|c| *c == ' ');
        let cut = space.filter(|at| *at > room / 2).unwrap_or(room);
        fold(text, indent, &rest[..cut]);
        rest = &rest[cut..];
        let spaces = rest.iter().take_while(|c| **c == ' ').count();
        rest = &rest[spaces..];
        indent = FOLD;
    }
    fold(text, indent, rest);
}

fn fold(text: &mut String, indent: usize, line: &[char]) {
    text.extend(std::iter::repeat_n(' ', indent));
    text.extend(
        line.iter()
            .map(|c| if NO_BREAK.contains(*c) { ' ' } else { *c }),
    );
    text.push('\n');
}
