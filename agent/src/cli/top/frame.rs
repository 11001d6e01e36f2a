//! One frame: lines of text of a given width. Every mark is told by its shape as well as by its colour.

use ratatui::{
    style::{Color, Modifier, Style},
    text::{Line, Span},
};

use serde::Serialize;

use super::{
    moment::{Failing, Moment, Row},
    source::Event,
};
use crate::incident::{Quality, Reading};

/// Narrower terminals get lines that are cut off.
const COLUMNS_MIN: usize = 40;
/// Places of the columns behind a cgroup's path.
const FIGURES: usize = 7 * 7;
/// Of a heat map's row, its name.
const NAME: usize = 24;
/// Rows of the heat maps, of waits and of syscalls.
const WAITS: usize = 5;
const CALLS: usize = 3;
/// Lines of errors.
const ERRORS: usize = 3;
/// Upper ends of the heat map's steps, seconds, and how these look.
const STEPS: [(f64, char, Color); 5] = [
    (1e-4, '·', Color::DarkGray),
    (1e-3, '░', Color::Green),
    (1e-2, '▒', Color::Yellow),
    (1e-1, '▓', Color::LightRed),
    (f64::INFINITY, '█', Color::Red),
];

const BOLD: Style = Style::new().add_modifier(Modifier::BOLD);
const HEADING: Style = BOLD.add_modifier(Modifier::REVERSED);

/// What is drawn.
pub(crate) struct Shown<'a> {
    /// Oldest first; the last one is shown, and those before it are in the heat maps.
    pub(crate) moments: &'a [Moment],
    /// Newest first.
    pub(crate) events: &'a [Event],
    /// Where it comes from.
    pub(crate) source: &'a str,
    /// What is wrong with the source now, or how to go on.
    pub(crate) notice: &'a str,
}

/// The same for programs.
#[derive(Debug, Serialize)]
pub(crate) struct Snapshot<'a> {
    source: &'a str,
    moment: Option<&'a Moment>,
    events: &'a [Event],
}

impl Shown<'_> {
    /// What a frame shows, and what it had no room for.
    pub(crate) fn snapshot(&self) -> Snapshot<'_> {
        Snapshot {
            source: self.source,
            moment: self.moments.last(),
            events: self.events,
        }
    }

    /// As many lines as there is room for.
    pub(crate) fn lines(&self, columns: usize, rows: usize) -> Vec<Line<'static>> {
        let columns = columns.max(COLUMNS_MIN);
        let Some(now) = self.moments.last() else {
            return vec![text(format!("paramedic top: {}", self.notice), columns)];
        };
        let mut lines = vec![self.title(now, columns), node(now, columns)];
        // Two heat maps and some events want to be seen too.
        let calls = CALLS.min(now.calls.len());
        let waits = WAITS.min(now.rows.len());
        let errors = ERRORS.min(now.errors.len());
        let section = |lines: usize| if lines > 0 { 1 + lines } else { 0 };
        let below = 2 + waits + section(calls) + section(errors);
        let events = self.events.len().min(rows / 4).max(1) + 1;
        let table = rows.saturating_sub(lines.len() + below + events + 1).max(3);
        lines.push(head(columns));
        for row in now.rows.iter().take(table) {
            lines.push(cgroup(row, columns));
        }
        if now.rows.is_empty() {
            lines.push(text("  no cgroup is known here", columns));
        }
        self.waits(now, waits, columns, &mut lines);
        if calls > 0 {
            lines.push(ruler("syscalls, 99th percentile", columns));
            for call in &now.calls[..calls] {
                lines.push(self.heat(&call.name, columns, |moment| moment.call_of(&call.name)));
            }
        }
        if errors > 0 {
            let heading = text("calls that fail, a second", columns);
            lines.push(heading.style(HEADING));
            let failing = now.errors[..errors].iter();
            lines.extend(failing.map(|failing| text(failing_text(failing), columns)));
        }
        lines.push(text("events", columns).style(HEADING));
        let room = rows.saturating_sub(lines.len());
        if self.events.is_empty() {
            lines.push(text("  none worth telling", columns));
        }
        for event in self.events.iter().take(room) {
            lines.push(text(event_text(event), columns));
        }
        lines.truncate(rows);
        lines
    }

    fn title(&self, now: &Moment, columns: usize) -> Line<'static> {
        let at = now.at.strftime("%H:%M:%S UTC");
        let missing = match now.missing.len() {
            0 => String::new(),
            count => format!("  {count} sources incomplete"),
        };
        let left = format!(
            "paramedic top  {}  {at}  {:.0} s{missing}",
            self.source, now.window_s
        );
        text(format!("{left}  {}", self.notice), columns).style(BOLD)
    }

    fn waits(&self, now: &Moment, count: usize, columns: usize, lines: &mut Vec<Line<'static>>) {
        lines.push(ruler("waits for a CPU, 99th percentile", columns));
        lines.push(self.heat("the node", columns, |moment| moment.wait_of(None)));
        for row in &now.rows[..count] {
            let path = Some(row.path.as_str());
            lines.push(self.heat(&row.path, columns, |moment| moment.wait_of(path)));
        }
    }

    /// A row of a heat map: its name, and a mark a moment, the newest at the right.
    fn heat(
        &self,
        name: &str,
        columns: usize,
        value: impl Fn(&Moment) -> Option<f64>,
    ) -> Line<'static> {
        let room = columns.saturating_sub(NAME + 2);
        let from = self.moments.len().saturating_sub(room);
        let mut spans = vec![Span::raw(format!("  {:<NAME$}", fitted(name, NAME - 1)))];
        let empty = room - (self.moments.len() - from);
        spans.push(Span::raw(" ".repeat(empty)));
        for moment in &self.moments[from..] {
            spans.push(value(moment).map_or_else(|| Span::raw(" "), mark));
        }
        Line::from(spans)
    }
}

/// How a wait of so many seconds looks.
fn mark(seconds: f64) -> Span<'static> {
    let step = STEPS.iter().find(|(end, ..)| seconds < *end);
    let (_, shape, colour) = step.unwrap_or(&STEPS[STEPS.len() - 1]);
    Span::styled(shape.to_string(), Style::new().fg(*colour))
}

/// A heading, with what the marks mean where there is room.
fn ruler(name: &str, columns: usize) -> Line<'static> {
    let marks = "·<0.1ms ░<1ms ▒<10ms ▓<0.1s █more";
    let with_marks = columns >= name.len() + marks.chars().count() + 6;
    let line = if with_marks {
        let gap = columns - name.chars().count() - marks.chars().count() - 2;
        format!("{name}{}{marks}  ", " ".repeat(gap))
    } else {
        name.to_owned()
    };
    text(line, columns).style(HEADING)
}

fn head(columns: usize) -> Line<'static> {
    let path = columns.saturating_sub(FIGURES);
    let figures = ["CPUs", "MEM", "IO/s", "PSIcpu", "PSImem", "PSIio", "WAIT"];
    let mut line = format!("{:<path$}", "cgroup, by pressure");
    line.extend(figures.map(|name| format!("{name:>7}")));
    text(line, columns).style(HEADING)
}

fn cgroup(row: &Row, columns: usize) -> Line<'static> {
    let path = columns.saturating_sub(FIGURES);
    let name = format!("{:<path$}", fitted(&row.path, path.saturating_sub(1)));
    let mut spans = vec![
        Span::raw(name),
        Span::raw(figure(row.cores, |cores| format!("{cores:.2}"))),
        Span::raw(figure(row.bytes, bytes)),
        Span::raw(figure(row.io, bytes)),
    ];
    for pressure in row.pressure {
        let text = figure(pressure, share);
        spans.push(match pressure.map(|reading| reading.value) {
            Some(value) if value >= 0.25 => Span::styled(text, BOLD.fg(Color::Red)),
            Some(value) if value >= 0.05 => Span::styled(text, Style::new().fg(Color::Yellow)),
            _ => Span::raw(text),
        });
    }
    spans.push(Span::raw(figure(row.wait, seconds)));
    Line::from(spans)
}

fn node(now: &Moment, columns: usize) -> Line<'static> {
    let node = &now.node;
    let [cpu, memory, io] = node.pressure.map(|reading| figure(reading, share));
    let line = format!(
        "cpu{} psi cpu{cpu} mem{memory} io{io} | mem free{} | disk{}{}/s | wait{}",
        figure(node.busy, share),
        figure(node.available, share),
        figure(node.disk, share),
        figure(node.iops, |iops| format!("{iops:.0}")),
        figure(node.wait, seconds),
    );
    // The figures are right-aligned for the table; here they only need a space.
    let words: Vec<&str> = line.split_whitespace().collect();
    text(words.join(" "), columns)
}

fn failing_text(failing: &Failing) -> String {
    let rate = if failing.per_s < 9.95 {
        format!("{:.1}", failing.per_s)
    } else {
        format!("{:.0}", failing.per_s)
    };
    format!(
        "{rate:>7}  {} of {} in {}",
        failing.errno, failing.call, failing.path
    )
}

fn event_text(event: &Event) -> String {
    let who = match (&event.path, event.pid) {
        (Some(path), 0) => path.clone(),
        (Some(path), pid) => format!("{} {pid} in {path}", event.comm),
        (None, 0) => "a socket".to_owned(),
        (None, pid) => format!("{} {pid}", event.comm),
    };
    format!("{:>6.0}s  {who} {}", event.age_s, event.text)
}

/// Right-aligned in seven places; `~` before what is incomplete, `-` for what is not known.
fn figure(reading: Option<Reading>, form: impl Fn(f64) -> String) -> String {
    let text = match reading {
        None => "-".to_owned(),
        Some(reading) if reading.quality == Quality::Partial => {
            format!("~{}", form(reading.value))
        }
        Some(reading) => form(reading.value),
    };
    format!("{text:>7}")
}

fn share(value: f64) -> String {
    format!("{:.0}%", value * 100.0)
}

/// At most five characters up to a thousand seconds: with the mark of what is partial, a space is left.
fn seconds(value: f64) -> String {
    match value {
        _ if value >= 99.95 => format!("{value:.0}s"),
        _ if value >= 1.0 => format!("{value:.1}s"),
        _ if value >= 0.009_95 => format!("{:.0}ms", value * 1e3),
        _ if value >= 1e-3 => format!("{:.1}ms", value * 1e3),
        _ => format!("{:.0}us", value * 1e6),
    }
}

fn bytes(value: f64) -> String {
    const UNITS: [&str; 5] = ["", "K", "M", "G", "T"];
    let mut scaled = value.max(0.0);
    let mut unit = 0;
    while scaled >= 999.5 && unit + 1 < UNITS.len() {
        scaled /= 1024.0;
        unit += 1;
    }
    if scaled < 9.95 && unit > 0 {
        format!("{scaled:.1}{}", UNITS[unit])
    } else {
        format!("{scaled:.0}{}", UNITS[unit])
    }
}

/// At most so many characters: the end of a path tells more than its beginning.
fn fitted(name: &str, most: usize) -> String {
    let count = name.chars().count();
    let name: String = if count <= most {
        name.to_owned()
    } else {
        let tail = name.chars().skip(count - most.saturating_sub(1));
        std::iter::once('…').chain(tail).collect()
    };
    printable(&name)
}

/// Names of cgroups and processes are anybody's: nothing in them reaches the terminal as a command.
fn printable(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { '?' } else { c })
        .collect()
}

/// One line, cut off at the width and filled up to it.
fn text(line: impl AsRef<str>, columns: usize) -> Line<'static> {
    let line: String = printable(line.as_ref()).chars().take(columns).collect();
    Line::raw(format!("{line:<columns$}"))
}
