//! Charts as SVG text; their colours are the page's.

use std::fmt::Write as _;

use super::html::escaped;
use crate::mttr::{record::Phase, summary::Of};

/// Width of every chart, in units of its own.
const WIDTH: f64 = 860.0;
/// Room for names on the left.
const LEFT: f64 = 160.0;
/// Height of a row.
const ROW: f64 = 26.0;

/// Horizontal bars of the median MTTR by strategy, with intervals and every single time; the floor
/// as a line.
pub fn bars(of: &Of) -> String {
    let most = of
        .rows
        .iter()
        .flat_map(|row| row.times_s.iter().copied())
        .chain(of.floor_s)
        .fold(1.0, f64::max);
    let x = scale(most);
    let height = ROW * of.rows.len() as f64 + 24.0;
    let mut out = open(height);
    for (nth, row) in of.rows.iter().enumerate() {
        let top = nth as f64 * ROW + 4.0;
        let middle = top + 9.0;
        text(
            &mut out,
            LEFT - 8.0,
            middle + 4.0,
            "end",
            row.strategy.name(),
        );
        if let Some(p50) = row.p50_s {
            let class = row.strategy.name();
            let wide = x(p50) - LEFT;
            put(
                &mut out,
                format_args!(
                    "<rect class='{class}' x='{LEFT}' y='{top}' width='{wide:.1}' height='18' rx='3'/>"
                ),
            );
            if let Some((low, high)) = row.interval_s {
                let (low, high) = (x(low), x(high));
                put(
                    &mut out,
                    format_args!(
                        "<path class='interval' d='M{low:.1} {middle}H{high:.1}M{low:.1} {0}v8M{high:.1} {0}v8'/>",
                        middle - 4.0
                    ),
                );
            }
            for time in &row.times_s {
                put(
                    &mut out,
                    format_args!(
                        "<circle class='dot' cx='{:.1}' cy='{middle}' r='2.5'/>",
                        x(*time)
                    ),
                );
            }
            let furthest = row.times_s.iter().copied().fold(p50, f64::max);
            let bound = if row.unrecovered > 0 { "≥ " } else { "" };
            let label = format!("{bound}{p50:.1} s · {}/{} healed", row.healed, row.broken);
            text(&mut out, x(furthest) + 8.0, middle + 4.0, "start", &label);
        } else {
            text(
                &mut out,
                LEFT + 6.0,
                middle + 4.0,
                "start",
                "the promise was kept throughout",
            );
        }
    }
    if let Some(floor) = of.floor_s {
        let (at, bottom) = (x(floor), height - 20.0);
        put(
            &mut out,
            format_args!("<path class='floor' d='M{at:.1} 0V{bottom:.1}'/>"),
        );
        text(
            &mut out,
            at,
            height - 6.0,
            "middle",
            &format!("alert delivered, {floor:.1} s"),
        );
    }
    out.push_str("</svg>");
    out
}

/// One bar a row, cut into its spans.
pub fn waterfall(rows: &[(&str, &[Phase])]) -> String {
    let ends = rows.iter().filter_map(|(_, phases)| phases.last());
    let most = ends.map(|phase| phase.until_s).fold(1.0, f64::max);
    let x = scale(most);
    let mut out = open(ROW * rows.len() as f64 + 4.0);
    for (nth, (name, phases)) in rows.iter().enumerate() {
        let top = nth as f64 * ROW + 2.0;
        text(&mut out, LEFT - 8.0, top + 14.0, "end", name);
        for phase in *phases {
            let (from, until) = (x(phase.from_s), x(phase.until_s));
            let wide = (until - from).max(0.0);
            let took = phase.until_s - phase.from_s;
            put(
                &mut out,
                format_args!(
                    "<rect class='{0}' x='{from:.1}' y='{top}' width='{wide:.1}' height='20'><title>{0}: {took:.2} s</title></rect>",
                    phase.name
                ),
            );
            if wide > 44.0 {
                text(
                    &mut out,
                    from + 4.0,
                    top + 14.0,
                    "start",
                    &format!("{took:.1} s"),
                );
            }
        }
    }
    out.push_str("</svg>");
    out
}

/// From seconds to a place; room for a label stays on the right.
fn scale(most: f64) -> impl Fn(f64) -> f64 {
    move |seconds| LEFT + (WIDTH - LEFT - 170.0) * seconds.max(0.0) / most
}

fn open(height: f64) -> String {
    format!("<svg viewBox='0 0 {WIDTH} {height}' role='img'>")
}

fn text(out: &mut String, x: f64, y: f64, anchor: &str, words: &str) {
    let words = escaped(words);
    put(
        out,
        format_args!("<text x='{x:.1}' y='{y:.1}' text-anchor='{anchor}'>{words}</text>"),
    );
}

fn put(out: &mut String, what: std::fmt::Arguments<'_>) {
    // Writing to a String does not fail.
    out.write_fmt(what).unwrap_or_default();
}
