//! Charts as SVG text. Names are escaped; numbers are our own.

use std::fmt::Write as _;

use super::document::html;
use crate::incident::Series;

const WIDTH: f64 = 860.0;
const ROW: f64 = 22.0;
/// Room for names.
const LEFT: f64 = 400.0;
/// Height of a line chart, and its margin.
const HEIGHT: f64 = 150.0;
const MARGIN: f64 = 24.0;

/// Bars to both sides of a line: weights of evidence in bits.
pub(super) fn weights(rows: &[(String, f64)]) -> String {
    let most = rows.iter().map(|(_, bits)| bits.abs()).fold(1.0, f64::max);
    let height = ROW * rows.len() as f64 + 8.0;
    let middle = LEFT + (WIDTH - LEFT) / 2.0;
    let mut out = open(height, "weights of evidence in bits");
    put(
        &mut out,
        format_args!("<path class='axis' d='M{middle} 0V{height}'/>"),
    );
    for (nth, (name, bits)) in rows.iter().enumerate() {
        let top = nth as f64 * ROW + 6.0;
        let length = bits.abs() / most * (WIDTH - middle - 60.0);
        let (class, left) = if *bits < 0.0 {
            ("against", middle - length)
        } else {
            ("for", middle)
        };
        let base = top + 12.0;
        put(
            &mut out,
            format_args!(
                "<text x='0' y='{base}'>{}</text>\
                 <rect class='{class}' x='{left:.1}' y='{top}' width='{length:.1}' height='14' rx='2'/>",
                html(&short(name))
            ),
        );
        let (at, anchor) = if *bits < 0.0 {
            (left - 4.0, "end")
        } else {
            (left + length + 4.0, "start")
        };
        put(
            &mut out,
            format_args!("<text x='{at:.1}' y='{base}' text-anchor='{anchor}'>{bits:+.1}</text>"),
        );
    }
    out.push_str("</svg>");
    out
}

/// A series over its grid; gaps are gaps. The alert's end of the grid is on the right. `None` with fewer
/// than two values.
pub(super) fn line(series: &Series) -> Option<String> {
    let values = series.values.iter().flatten().copied();
    let finite: Vec<f64> = values.filter(|value| value.is_finite()).collect();
    if finite.len() < 2 {
        return None;
    }
    let low = finite.iter().copied().fold(f64::INFINITY, f64::min);
    let high = finite.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let span = if high > low { high - low } else { 1.0 };
    let steps = series.values.len().saturating_sub(1).max(1) as f64;
    let x = |nth: usize| MARGIN + nth as f64 / steps * (WIDTH - 2.0 * MARGIN);
    let y = |value: f64| HEIGHT - MARGIN - (value - low) / span * (HEIGHT - 2.0 * MARGIN);
    let mut path = String::new();
    let mut pen_down = false;
    for (nth, value) in series.values.iter().enumerate() {
        let Some(value) = value.filter(|value| value.is_finite()) else {
            pen_down = false;
            continue;
        };
        let to = if pen_down { 'L' } else { 'M' };
        put(&mut path, format_args!("{to}{:.1} {:.1}", x(nth), y(value)));
        pen_down = true;
    }
    let mut out = open(HEIGHT, &series.name);
    let bottom = HEIGHT - MARGIN;
    put(
        &mut out,
        format_args!(
            "<path class='axis' d='M{MARGIN} {MARGIN}V{bottom}H{}'/><path class='line' d='{path}'/>",
            WIDTH - MARGIN
        ),
    );
    let changed = series.stats.and_then(|stats| stats.changed_at);
    if let Some(at) = changed.filter(|at| *at < series.values.len()) {
        let at = x(at);
        put(
            &mut out,
            format_args!("<path class='mark' d='M{at:.1} {MARGIN}V{bottom}'/>"),
        );
    }
    for (value, at) in [(high, MARGIN - 6.0), (low, HEIGHT - 6.0)] {
        put(
            &mut out,
            format_args!(
                "<text x='{MARGIN}' y='{at}'>{}</text>",
                super::parts::number(value)
            ),
        );
    }
    out.push_str("</svg>");
    Some(out)
}

fn open(height: f64, what: &str) -> String {
    format!(
        "<svg viewBox='0 0 {WIDTH} {height}' role='img' aria-label='{}' xmlns='http://www.w3.org/2000/svg'>",
        html(what)
    )
}

fn short(name: &str) -> String {
    const CHARS_MAX: usize = 58;
    if name.chars().count() <= CHARS_MAX {
        return name.to_owned();
    }
    name.chars().take(CHARS_MAX - 1).chain(['…']).collect()
}

fn put(out: &mut String, text: std::fmt::Arguments<'_>) {
    // Writing to a String cannot fail.
    out.write_fmt(text).unwrap_or_default();
}
