//! `paramedic top`: what a running agent's recorder holds, or a recording, in the terminal.
//!
//! Needs nothing of this host but a terminal, so it works over ssh; nothing is loaded and nothing is
//! changed. `--once` prints one frame as plain text, for a pipe or a ticket, `--json` the same as one
//! object.

mod ending;
mod frame;
mod moment;
mod source;

use std::{
    io::{IsTerminal as _, Write as _},
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use ratatui::{
    DefaultTerminal,
    crossterm::event::{self, Event as Input, KeyCode, KeyEvent, KeyEventKind, KeyModifiers},
    text::Text,
};

use super::EXIT_OK;
use crate::config::Config;
use ending::Ending;
use frame::Shown;
use moment::Moment;
use source::{Agent, Event, Way, recorded};

/// Time between two frames; keys are answered in between.
const EVERY: Duration = Duration::from_secs(1);
/// A signal is seen within this.
const LOOK: Duration = Duration::from_millis(200);
/// Moments kept for the heat maps: as many as the widest terminal shows.
const MOMENTS_MAX: usize = 512;
/// A step back or on in a recording, by the arrows up and down.
const STRIDE: usize = 10;

const HELP: &str = "\
Keys: q, Esc or Ctrl-C end it; p or the space bar pauses and goes on. Of a recording: left and right step \
by a second, up and down by ten.
A new frame a second. Cgroups under the most pressure first; a mark of a heat map is a second, the newest at \
the right. `~` is before a figure that is incomplete, `-` stands for one that is not known.";

/// Arguments of `paramedic top`.
#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub struct Args {
    /// The agent, e.g. http://127.0.0.1:9911; where the configuration says, if left out
    #[arg(long, conflicts_with = "replay")]
    url: Option<String>,
    /// Configuration file of the agent; the defaults if left out
    #[arg(long, conflicts_with = "replay")]
    config: Option<PathBuf>,
    /// File with a bearer token of the agent's; the configuration's if left out
    #[arg(long, conflicts_with = "replay")]
    token_file: Option<PathBuf>,
    /// Authorities, in PEM, of an agent that speaks TLS; the system's if left out
    #[arg(long, conflicts_with = "replay")]
    ca_file: Option<PathBuf>,
    /// A recording made by `paramedic record`
    #[arg(long, value_name = "RECORDING")]
    replay: Option<PathBuf>,
    /// Seconds of evidence in a frame, 1 to 60
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=60))]
    window: u64,
    /// Print one frame as plain text, and end; of a recording its last
    #[arg(long)]
    once: bool,
    /// Print what a frame shows as one JSON object, and end
    #[arg(long, conflicts_with = "once")]
    json: bool,
    /// Columns of that frame
    #[arg(long, default_value_t = 80, requires = "once")]
    columns: u16,
    /// Lines of that frame
    #[arg(long, default_value_t = 24, requires = "once")]
    lines: u16,
}

/// Shows it until `q`.
pub(super) fn top(args: &Args) -> anyhow::Result<u8> {
    let mut view = View::open(args)?;
    if args.once {
        view.advance()?;
        let shown = view.shown();
        let mut out = std::io::stdout().lock();
        for line in shown.lines(args.columns.into(), args.lines.into()) {
            writeln!(out, "{}", line.to_string().trim_end())?;
        }
        return Ok(EXIT_OK);
    }
    if args.json {
        view.advance()?;
        println!(
            "{}",
            serde_json::to_string_pretty(&view.shown().snapshot())?
        );
        return Ok(EXIT_OK);
    }
    if !std::io::stdout().is_terminal() {
        bail!("this is no terminal: `--once` prints one frame as text, `--json` as an object");
    }
    // Before the screen is taken: an agent that is not there is a message, not a frame.
    view.advance()?;
    let ending = Ending::listen().context("cannot listen for signals")?;
    // Gives the terminal back in a panic, too.
    let mut terminal = ratatui::try_init().context("cannot use this terminal")?;
    let ended = follow(&mut view, &mut terminal, &ending);
    ratatui::restore();
    ended.map(|()| EXIT_OK)
}

fn follow(view: &mut View, terminal: &mut DefaultTerminal, ending: &Ending) -> anyhow::Result<()> {
    let mut due = Instant::now() + EVERY;
    draw(view, terminal)?;
    while !ending.has_come() {
        let left = due.saturating_duration_since(Instant::now());
        let mut changed = false;
        if event::poll(left.min(LOOK)).context("cannot wait for keys")? {
            changed = true;
            if let Input::Key(key) = event::read().context("cannot read keys")?
                && !view.press(key)
            {
                break;
            }
        }
        if Instant::now() >= due {
            due = Instant::now() + EVERY;
            changed = true;
            // What is wrong now is in the frame; it may be well again in the next.
            if !view.paused
                && let Err(error) = view.advance()
            {
                view.notice = format!("{error:#}");
            }
        }
        if changed {
            draw(view, terminal)?;
        }
    }
    Ok(())
}

fn draw(view: &View, terminal: &mut DefaultTerminal) -> anyhow::Result<()> {
    terminal
        .draw(|frame| {
            let area = frame.area();
            let lines = view.shown().lines(area.width.into(), area.height.into());
            frame.render_widget(Text::from(lines), area);
        })
        .context("cannot draw")?;
    Ok(())
}

/// What is looked at, and where.
struct View {
    source: Source,
    name: String,
    moments: Vec<Moment>,
    /// Of a recording, how many of the moments are shown.
    upto: usize,
    events: Vec<Event>,
    window: Duration,
    paused: bool,
    notice: String,
}

enum Source {
    Agent(Box<Agent>),
    Recording,
}

const KEYS_LIVE: &str = "q quit, p pause";
const KEYS_RECORDING: &str = "q quit, p play/pause, arrows step";

impl View {
    fn open(args: &Args) -> anyhow::Result<Self> {
        let window = Duration::from_secs(args.window);
        if let Some(path) = &args.replay {
            let moments = recorded(path)?;
            if moments.is_empty() {
                bail!("{} has no records", path.display());
            }
            return Ok(Self {
                source: Source::Recording,
                name: path.display().to_string(),
                // The last one for a frame of text; to look at, from the beginning.
                upto: if args.once || args.json {
                    moments.len()
                } else {
                    0
                },
                moments,
                events: Vec::new(),
                window,
                paused: false,
                notice: KEYS_RECORDING.to_owned(),
            });
        }
        let config = Config::load_or_shipped(args.config.as_deref())?;
        let way = Way {
            url: args.url.as_deref(),
            token_file: args.token_file.as_deref(),
            ca_file: args.ca_file.as_deref(),
        };
        let agent = Agent::new(&config, &way)?;
        Ok(Self {
            name: agent.name(),
            source: Source::Agent(Box::new(agent)),
            moments: Vec::new(),
            upto: 0,
            events: Vec::new(),
            window,
            paused: false,
            notice: KEYS_LIVE.to_owned(),
        })
    }

    /// Goes on by one moment.
    fn advance(&mut self) -> anyhow::Result<()> {
        let Source::Agent(agent) = &self.source else {
            self.step(1);
            return Ok(());
        };
        let (moment, events) = agent.ask(self.window)?;
        self.moments.push(moment);
        if self.moments.len() > MOMENTS_MAX {
            self.moments.remove(0);
        }
        self.upto = self.moments.len();
        self.events = events;
        KEYS_LIVE.clone_into(&mut self.notice);
        Ok(())
    }

    fn step(&mut self, by: isize) {
        self.upto = self
            .upto
            .saturating_add_signed(by)
            .clamp(1, self.moments.len().max(1));
    }

    /// False: that is the end.
    fn press(&mut self, key: KeyEvent) -> bool {
        if key.kind == KeyEventKind::Release {
            return true;
        }
        let stride = isize::try_from(STRIDE).unwrap_or(1);
        let recording = matches!(self.source, Source::Recording);
        match key.code {
            KeyCode::Char('q') | KeyCode::Esc => return false,
            KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => return false,
            KeyCode::Char('p' | ' ') => self.paused = !self.paused,
            KeyCode::Left if recording => self.step(-1),
            KeyCode::Right if recording => self.step(1),
            KeyCode::Up if recording => self.step(-stride),
            KeyCode::Down if recording => self.step(stride),
            _ => {}
        }
        true
    }

    fn shown(&self) -> Shown<'_> {
        Shown {
            moments: &self.moments[..self.upto.min(self.moments.len())],
            events: &self.events,
            source: &self.name,
            notice: if self.paused && matches!(self.source, Source::Agent(_)) {
                "paused: p goes on"
            } else {
                &self.notice
            },
        }
    }
}

#[cfg(test)]
mod tests;
