//! The node's tables: network, connections, files, tasks, clock, sensors, arrays, units, the kernel's log.
//!
//! Every source is read by itself and keeps its own time and error: one that is missing or cannot be
//! read leaves its readings out, and the coverage says which and why. What costs more than a small file
//! is read every few seconds only.

mod clock;
mod kmsg;
mod net;
mod ports;
mod raid;
mod stopped;
mod tables;
mod thermal;
mod units;

use std::{
    fs, io,
    path::Path,
    time::{Duration, Instant},
};

use super::{
    counters::{Count, HostCounter, HostCounters},
    files::Files,
};

/// Sensors, arrays, the clock and the table of ports are read this often.
const SLOW: Duration = Duration::from_secs(5);
/// A longer file is cut off; only the tables of sockets can be as long.
const FILE_BYTES_MAX: u64 = 256 * 1024;

/// How a source fared when it was last read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// It was read.
    Read,
    /// This node has none.
    NotHere(String),
    /// It could not be read.
    Failed(String),
    /// It was read in part.
    Partly(String),
    /// It was read, and there is something to be said that is no number.
    Found(String),
}

/// One source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Source {
    pub name: &'static str,
    /// When it was read.
    pub at: Instant,
    pub state: State,
}

/// Names of all levels.
pub(super) const LEVELS: [&str; 19] = [
    "tcp.sockets",
    "tcp.time_wait",
    "tcp.orphans",
    "files.used",
    "tasks.used",
    "conntrack.used",
    "entropy.bits",
    "time.unsynchronized",
    "time.max_error_s",
    "raid.arrays",
    "raid.disks_missing",
    "raid.inactive",
    "thermal.celsius",
    "thermal.of_critical",
    "ports.used",
    "units.failed",
    "units.failed_age_s",
    // Of the mount table and the look at all processes.
    "fs.readonly",
    "procs.zombie",
];

/// A level, and whether it is complete.
pub(super) type Level = (&'static str, f64, bool);

/// What was read.
#[derive(Clone, Debug, Default)]
pub(super) struct NodeSample {
    pub levels: Vec<Level>,
    pub sources: Vec<Source>,
}

/// Reads them; keeps what is read less often, and the place in the kernel's log.
#[derive(Debug, Default)]
pub(super) struct Reader {
    kmsg: kmsg::Log,
    units: units::Watch,
    slow: [Slow; SLOW_READERS.len()],
}

/// What is read less often.
const SLOW_READERS: [fn(&mut Sheet<'_>); 5] = [
    clock::read,
    raid::read,
    thermal::read,
    ports::read,
    tables::read_entropy,
];
/// After the first sample, which tells all, each is read so much later than the one before it: then
/// each has a sample of its own.
const APART: Duration = Duration::from_secs(1);

/// What one of them read last.
#[derive(Debug, Default)]
struct Slow {
    sample: NodeSample,
    read_at: Option<Instant>,
    /// It was read more than once.
    again: bool,
}

impl Reader {
    /// Those of filesystems that the kernel has stopped writing to, by its log as last read.
    pub(super) fn stopped(&self) -> impl Iterator<Item = &str> {
        self.kmsg.stopped()
    }

    /// Reads all that is due; counters go into the node's.
    pub(super) fn read(
        &mut self,
        files: &mut Files,
        counters: &mut HostCounters,
        now: Instant,
    ) -> NodeSample {
        let mut sheet = Sheet::at(files, now);
        net::read(&mut sheet, counters);
        tables::read(&mut sheet);
        sheet.take("kernel log", self.kmsg.read(), |errors| {
            counters[HostCounter::KernelErrors as usize] = Count::new(*errors);
        });
        let mut sample = sheet.sample;
        let (levels, source) = self.units.tell(now);
        sample.levels.extend(levels);
        sample.sources.extend(source);
        for (index, (read, last)) in SLOW_READERS.iter().zip(&mut self.slow).enumerate() {
            let phase = APART * u32::try_from(index).unwrap_or(0);
            let due = match last.read_at {
                None => true,
                Some(at) if last.again => now.saturating_duration_since(at) >= SLOW,
                Some(at) => now.saturating_duration_since(at) >= SLOW + phase,
            };
            if due {
                let mut slow = Sheet::at(files, now);
                read(&mut slow);
                *last = Slow {
                    sample: slow.sample,
                    again: last.read_at.is_some(),
                    read_at: Some(now),
                };
            }
            sample.levels.extend_from_slice(&last.sample.levels);
            sample.sources.extend_from_slice(&last.sample.sources);
        }
        sample
    }
}

/// What is being read.
struct Sheet<'a> {
    files: &'a mut Files,
    now: Instant,
    sample: NodeSample,
}

impl<'a> Sheet<'a> {
    fn at(files: &'a mut Files, now: Instant) -> Self {
        Self {
            files,
            now,
            sample: NodeSample::default(),
        }
    }

    /// The text of a file, which may be missing.
    fn text(&mut self, name: &'static str, path: &'static str) -> Option<String> {
        match self.files.read(path).map(str::to_owned) {
            Ok(text) => {
                self.note(name, State::Read);
                Some(text)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.note(name, State::NotHere(format!("there is no {path}")));
                None
            }
            Err(error) => {
                self.note(name, State::Failed(format!("{path}: {error}")));
                None
            }
        }
    }

    /// Uses what was read, or notes why not.
    fn take<T>(&mut self, name: &'static str, read: Result<T, State>, with: impl FnOnce(&T)) {
        match read {
            Ok(value) => {
                with(&value);
                self.note(name, State::Read);
            }
            Err(state) => self.note(name, state),
        }
    }

    fn level(&mut self, name: &'static str, value: Option<f64>) {
        debug_assert!(LEVELS.contains(&name), "{name} is in no list");
        if let Some(value) = value.filter(|value| value.is_finite()) {
            self.sample.levels.push((name, value, true));
        }
    }

    fn note(&mut self, name: &'static str, state: State) {
        self.sample.sources.push(Source {
            name,
            at: self.now,
            state,
        });
    }
}

/// A whole small file.
fn text(path: &Path) -> io::Result<String> {
    use io::Read as _;
    let mut text = String::new();
    fs::File::open(path)?
        .take(FILE_BYTES_MAX)
        .read_to_string(&mut text)?;
    Ok(text)
}

/// A file with one number.
fn number(path: &Path) -> io::Result<f64> {
    text(path)?
        .trim()
        .parse()
        .map_err(|_| io::Error::from(io::ErrorKind::InvalidData))
}

/// A part of a whole, if there is a whole.
fn share(part: f64, whole: f64) -> Option<f64> {
    (whole > 0.0).then(|| part / whole)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::{Count, Files, HostCounter, Reader, SLOW, Sheet, State};

    #[test]
    fn this_node_is_read_and_no_source_fails() {
        let mut counters = [Count::ABSENT; HostCounter::N];
        let (mut files, mut reader) = (Files::default(), Reader::default());
        let now = Instant::now();
        let sample = reader.read(&mut files, &mut counters, now);
        for source in &sample.sources {
            assert!(
                !matches!(source.state, State::Failed(_)) || source.name == "kernel log",
                "{source:?}"
            );
        }
        let level = |name| sample.levels.iter().find(|(known, ..)| *known == name);
        for name in ["files.used", "tasks.used", "tcp.time_wait", "ports.used"] {
            assert!(level(name).is_some(), "{name}: {:?}", sample.levels);
        }
        for column in [
            HostCounter::TcpSegmentsOut,
            HostCounter::ListenDrops,
            HostCounter::NetDrops,
        ] {
            assert_ne!(counters[column as usize], Count::ABSENT, "{column:?}");
        }
        // What is slow keeps its own time.
        let again = reader.read(&mut files, &mut counters, now + Duration::from_secs(1));
        let at = |name| {
            again
                .sources
                .iter()
                .find(|one| one.name == name)
                .map(|one| one.at)
        };
        assert_eq!(at("clock"), Some(now));
        assert_eq!(at("tcp"), Some(now + Duration::from_secs(1)));
    }

    #[test]
    fn what_is_slow_is_spread_over_the_samples() {
        let mut counters = [Count::ABSENT; HostCounter::N];
        let (mut files, mut reader) = (Files::default(), Reader::default());
        let begun = Instant::now();
        let mut in_one_sample = Vec::new();
        for second in 0..30 {
            let now = begun + Duration::from_secs(second);
            drop(reader.read(&mut files, &mut counters, now));
            let read = reader.slow.iter().filter(|slow| slow.read_at == Some(now));
            in_one_sample.push(read.count());
            let old = |slow: &super::Slow| now - slow.read_at.unwrap() > SLOW * 2;
            assert!(!reader.slow.iter().any(old));
        }
        assert_eq!(in_one_sample[0], reader.slow.len(), "the first tells all");
        assert!(
            in_one_sample[1..].iter().all(|read| *read <= 1),
            "{in_one_sample:?}"
        );
        assert!(in_one_sample[10..].iter().sum::<usize>() >= 15);
    }

    #[test]
    fn what_is_not_there_is_no_failure_and_what_fails_says_why() {
        let mut files = Files::default();
        let mut sheet = Sheet::at(&mut files, Instant::now());
        assert_eq!(sheet.text("a", "/nonexistent/table"), None);
        assert_eq!(sheet.text("b", "/proc"), None);
        let states: Vec<&State> = sheet.sample.sources.iter().map(|one| &one.state).collect();
        assert!(matches!(states[0], State::NotHere(why) if why.contains("/nonexistent/table")));
        assert!(matches!(states[1], State::Failed(why) if why.contains("/proc")));
    }
}
