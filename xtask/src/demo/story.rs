//! How it looks: times, a word for what happens, text within 100 columns. Colours on a terminal only.

use std::io::{IsTerminal, Write};

/// Widest line.
const COLUMNS: usize = 100;
/// Where the text of an event begins.
const INDENT: usize = 24;

/// What happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Beat {
    /// Something is made ready.
    Ready,
    /// The fault begins.
    Fault,
    /// Prometheus fires, Alertmanager sends.
    Alert,
    /// Durable here.
    Accepted,
    /// Ranked.
    Diagnosed,
    /// Changed something.
    Acted,
    /// Recovery seen.
    Verified,
    /// The alert is over.
    Resolved,
    /// Anything that ends the story badly.
    Failed,
}

impl Beat {
    fn word(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Fault => "FAULT",
            Self::Alert => "ALERT",
            Self::Accepted => "ACCEPTED",
            Self::Diagnosed => "DIAGNOSED",
            Self::Acted => "ACTED",
            Self::Verified => "VERIFIED",
            Self::Resolved => "RESOLVED",
            Self::Failed => "FAILED",
        }
    }

    /// SGR parameters (ECMA-48).
    fn colour(self) -> &'static str {
        match self {
            Self::Ready => "2",
            Self::Fault | Self::Failed => "1;31",
            Self::Alert => "1;33",
            Self::Accepted => "1;36",
            Self::Diagnosed => "1;35",
            Self::Acted => "1;34",
            Self::Verified | Self::Resolved => "1;32",
        }
    }
}

/// Writes to stdout.
#[derive(Clone, Copy, Debug)]
pub struct Story {
    colour: bool,
}

/// Whether stdout wants colours: <https://no-color.org>, and `CLICOLOR_FORCE`. The VM's stdout looks
/// like a terminal and is none: there the host decides.
pub fn colour() -> bool {
    let set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    let forced = set("CLICOLOR_FORCE");
    !set("NO_COLOR") && (forced || (!set("PARAMEDIC_VM") && std::io::stdout().is_terminal()))
}

#[allow(
    clippy::unused_self,
    reason = "whoever tells a story need not know which parts of it have colours"
)]
impl Story {
    /// By the environment.
    pub fn new() -> Self {
        Self { colour: colour() }
    }

    /// The first line.
    pub fn headline(self, text: &str) {
        for line in fold(text, COLUMNS) {
            say(&self.paint("1", &line));
        }
    }

    /// Text at the margin.
    pub fn note(self, text: &str) {
        let indent = text.len() - text.trim_start().len();
        for line in fold(text.trim_start(), COLUMNS - indent) {
            say(&format!("{}{line}", " ".repeat(indent)));
        }
    }

    /// An empty line.
    pub fn blank(self) {
        say("");
    }

    /// An event; `at_s` is seconds since the fault.
    pub fn event(self, at_s: Option<f64>, beat: Beat, text: &str) {
        let at = at_s.map_or_else(String::new, |at| format!("{at:+.1} s"));
        let word = self.paint(beat.colour(), &format!("{:<11}", beat.word()));
        let mut lines = fold(text, COLUMNS - INDENT).into_iter();
        let first = lines.next().unwrap_or_default();
        say(format!("{at:>10}  {word} {first}").trim_end());
        for line in lines {
            say(&format!("{}{line}", " ".repeat(INDENT)));
        }
    }

    /// More of an event, below it; `hang` columns more from the second line on.
    pub fn detail(self, text: &str, hang: usize) {
        let width = COLUMNS - INDENT;
        let first = fold(text, width).swap_remove(0);
        say(&format!("{}{first}", " ".repeat(INDENT)));
        let rest = text.chars().skip(first.chars().count());
        let rest: String = rest.collect();
        if !rest.trim().is_empty() {
            for line in fold(rest.trim_start(), width - hang) {
                say(&format!("{}{line}", " ".repeat(INDENT + hang)));
            }
        }
    }

    /// The same, in a colour.
    pub fn detail_strong(self, text: &str) {
        let line: String = text.chars().take(COLUMNS - INDENT).collect();
        say(&format!("{}{}", " ".repeat(INDENT), self.paint("1", &line)));
    }

    fn paint(self, colour: &str, text: &str) -> String {
        if self.colour {
            format!("\x1b[{colour}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }
}

/// A closed pipe must not stop the run, which still has to clean up.
fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}").unwrap_or_default();
    out.flush().unwrap_or_default();
}

/// Breaks at spaces; a longer word is broken anywhere. Control characters never reach a terminal.
fn fold(text: &str, width: usize) -> Vec<String> {
    let clean: Vec<char> = text
        .chars()
        .map(|c| if c.is_control() { '?' } else { c })
        .collect();
    let mut lines = Vec::new();
    let mut rest = clean.as_slice();
    while rest.len() > width {
        let space = rest[..=width].iter().rposition(|c| *c == ' ');
        let cut = space.filter(|at| *at > width / 2).unwrap_or(width);
        lines.push(rest[..cut].iter().collect::<String>().trim_end().to_owned());
        rest = &rest[cut..];
        let spaces = rest.iter().take_while(|c| **c == ' ').count();
        rest = &rest[spaces..];
    }
    lines.push(rest.iter().collect());
    lines
}

/// A bar of ten cells.
pub fn bar(part: f64) -> String {
    let full = |cell: u32| part >= (f64::from(cell) + 0.5) / 10.0;
    (0..10)
        .map(|cell| if full(cell) { '█' } else { '░' })
        .collect()
}

/// Three significant digits; bytes and other large numbers with a unit.
pub fn number(value: f64) -> String {
    let (scaled, unit) = match value.abs() {
        size if size >= 1e9 => (value / 1e9, " G"),
        size if size >= 1e6 => (value / 1e6, " M"),
        size if size >= 1e4 => (value / 1e3, " k"),
        _ => (value, ""),
    };
    match scaled.abs() {
        size if size >= 100.0 => format!("{scaled:.0}{unit}"),
        size if size >= 10.0 => format!("{scaled:.1}{unit}"),
        _ => format!("{scaled:.2}{unit}"),
    }
}

#[cfg(test)]
mod tests {
    use super::{bar, fold, number};

    #[test]
    fn lines_are_broken_at_spaces_and_nothing_is_lost() {
        assert_eq!(fold("aaa bbb ccc", 7), ["aaa bbb", "ccc"]);
        assert_eq!(fold("aaaaaaaaaa", 4), ["aaaa", "aaaa", "aa"]);
        assert_eq!(fold("", 4), [""]);
        assert_eq!(fold("a\x1b[2Jb", 20), ["a?[2Jb"]);
    }

    #[test]
    fn numbers_are_short() {
        assert_eq!(number(0.987), "0.99");
        assert_eq!(number(2_600_000_000.0), "2.60 G");
        assert_eq!(number(123.4), "123");
        assert_eq!(bar(0.5), "█████░░░░░");
        assert_eq!(bar(1.0), "██████████");
    }
}
