//! A look at every process: zombies, threads, open files. Costs some files a process, so it is taken
//! every few seconds, and less often where there are many; and it is spread over as many samples as it
//! takes for none of them to become much dearer by it. Who asks for evidence gets a newer one, and more
//! of it at once.

use std::{
    collections::HashMap,
    fs,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use procfs::{FromRead, process::Limits};

use super::{
    files::read_whole,
    node::{Level, Source, State},
    process::{path_v2, pids},
};
use crate::incident::{CgroupFacts, Reading};

/// Taken this often at most.
const LEAST: Duration = Duration::from_secs(2);
/// It rests at least this many times as long as it worked.
const REST: u32 = 500;
/// The same while somebody asks: an alert is worth 5 % of a CPU.
const REST_ASKED: u32 = 20;
/// CPU time that a look may take of one sample; it goes on in the next. The first is taken whole.
const SLICE: Duration = Duration::from_millis(2);
/// The same while somebody asks: ten thousand processes on an ordinary CPU.
const SLICE_ASKED: Duration = Duration::from_millis(300);
/// Processes between two looks at the clock.
const BATCH: usize = 8;
/// `PF_KTHREAD`: threads of the kernel's have neither files nor a limit.
const KERNEL_THREAD: u64 = 0x0020_0000;
/// Longer than a line of either file: a path of a cgroup has 4096 bytes at most, and a v1 hierarchy has
/// a line of its own.
const TEXT_BYTES: usize = 64 * 1024;
/// Open files below which a process' limit is not asked for: no limit is so low.
const FILES_WORTH_ASKING: u64 = 128;
/// Entries of a folder of open files that are counted one by one, where the kernel does not tell.
const FILES_MAX: usize = 65_536;

/// What the members of one cgroup hold together.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Held {
    /// Threads beyond the first of each process.
    threads: u64,
    files: u64,
    /// The process that is nearest to its own limit of open files.
    files_of_limit: f64,
}

/// One look.
#[derive(Debug)]
pub(super) struct Look {
    /// When it was complete.
    at: Instant,
    zombies: u64,
    by_path: HashMap<String, Held>,
    /// There were more processes than are looked at.
    cut_off: bool,
}

/// A look that is being taken.
#[derive(Debug)]
struct Begun {
    look: Look,
    /// Processes to come.
    pids: std::vec::IntoIter<u32>,
    took: Duration,
}

/// The last look and the one before.
#[derive(Clone, Debug, Default)]
pub(super) struct Looks {
    last: Option<Arc<Look>>,
    before: Option<Arc<Look>>,
}

/// Takes looks.
#[derive(Debug, Default)]
pub(super) struct Looker {
    looks: Looks,
    begun: Option<Begun>,
    due: Option<Instant>,
    /// From when on somebody who asks gets another.
    due_if_asked: Option<Instant>,
    text: Vec<u8>,
}

/// Whom a sample is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum For {
    /// The record.
    Keeping,
    /// Somebody who wants to know how things are now.
    Asking,
}

impl Looker {
    /// Goes on with a look, or begins one if it is time. `cpu_time` is the time that this thread has
    /// used.
    pub(super) fn look(
        &mut self,
        now: Instant,
        wanted: For,
        processes_max: usize,
        cpu_time: impl Fn() -> Duration,
    ) -> &Looks {
        let (due, slice) = match wanted {
            For::Keeping => (self.due, SLICE),
            For::Asking => (self.due_if_asked, SLICE_ASKED),
        };
        if self.begun.is_none() && due.is_some_and(|due| now < due) {
            return &self.looks;
        }
        let started = cpu_time();
        let mut begun = self
            .begun
            .take()
            .unwrap_or_else(|| Begun::new(now, processes_max));
        let first = self.looks.last.is_none();
        let spent = || cpu_time().saturating_sub(started);
        while begun.some(&mut self.text) {
            if !first && spent() >= slice {
                begun.took += spent();
                self.begun = Some(begun);
                return &self.looks;
            }
        }
        begun.took += spent();
        let rest = |times: u32| now.checked_add((begun.took * times).max(LEAST));
        (self.due, self.due_if_asked) = (rest(REST), rest(REST_ASKED));
        begun.look.at = now;
        self.looks.before = self.looks.last.replace(Arc::new(begun.look));
        &self.looks
    }
}

impl Looks {
    /// Processes that have ended and that nobody has waited for.
    pub(super) fn zombies(&self) -> Option<Level> {
        let last = self.last.as_ref()?;
        Some(("procs.zombie", last.zombies as f64, !last.cut_off))
    }

    /// When the last look was taken, and whether it met all.
    pub(super) fn source(&self) -> Option<Source> {
        let last = self.last.as_ref()?;
        let state = if last.cut_off {
            State::Partly("there are more processes than are looked at (processes_max)".to_owned())
        } else {
            State::Read
        };
        Some(Source {
            name: "processes",
            at: last.at,
            state,
        })
    }

    /// Adds the readings of the cgroups; changes are those between the last two looks.
    pub(super) fn add(&self, cgroups: &mut [CgroupFacts]) {
        let Some(last) = &self.last else { return };
        let reading = |value| {
            if last.cut_off {
                Reading::partial(value)
            } else {
                Reading::good(value)
            }
        };
        for facts in cgroups {
            let held = last.by_path.get(&facts.path).copied().unwrap_or_default();
            let mut put =
                |name: &str, value| facts.readings.insert(name.to_owned(), reading(value));
            put("threads", held.threads as f64);
            put("fds", held.files as f64);
            put("fds.of_limit", held.files_of_limit);
            let Some(before) = &self.before else { continue };
            let time_s = last.at.saturating_duration_since(before.at).as_secs_f64();
            // One that was not there then has all of it since.
            let then = before.by_path.get(&facts.path).copied().unwrap_or_default();
            if time_s > 0.0 {
                let grown = |now: u64, then: u64| (now as f64 - then as f64) / time_s;
                put("threads.growth_per_s", grown(held.threads, then.threads));
                put("fds.growth_per_s", grown(held.files, then.files));
            }
        }
    }
}

impl Begun {
    fn new(at: Instant, processes_max: usize) -> Self {
        let pids: Vec<u32> = pids(processes_max).collect();
        Self {
            look: Look {
                at,
                zombies: 0,
                by_path: HashMap::new(),
                cut_off: pids.len() == processes_max,
            },
            pids: pids.into_iter(),
            took: Duration::ZERO,
        }
    }

    /// Looks at some more; says whether there are more still.
    fn some(&mut self, text: &mut Vec<u8>) -> bool {
        for _ in 0..BATCH {
            let Some(pid) = self.pids.next() else {
                return false;
            };
            self.look.add(pid, text);
        }
        true
    }
}

impl Look {
    fn add(&mut self, pid: u32, text: &mut Vec<u8>) {
        let folder = format!("/proc/{pid}");
        // It may be gone by now.
        let Some(stat) = read(&format!("{folder}/stat"), text).and_then(Stat::parse) else {
            return;
        };
        if stat.state == b'Z' {
            self.zombies += 1;
            return;
        }
        if stat.flags & KERNEL_THREAD != 0 {
            return;
        }
        let Some(path) = read(&format!("{folder}/cgroup"), text).and_then(path_v2) else {
            return;
        };
        // Most share their cgroup with others, whose path is there already.
        let held = match self.by_path.get_mut(path) {
            Some(held) => held,
            None => self.by_path.entry(path.to_owned()).or_default(),
        };
        held.threads += stat.threads.saturating_sub(1);
        let files = open_files(&Path::new(&folder).join("fd"));
        held.files += files;
        if files >= FILES_WORTH_ASKING
            && let Some(most) = files_limit(&folder)
        {
            held.files_of_limit = held.files_of_limit.max(files as f64 / most as f64);
        }
    }
}

/// What of `/proc/PID/stat` is of interest; the `procfs` crate parses all its 52 fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stat {
    state: u8,
    flags: u64,
    threads: u64,
}

impl Stat {
    fn parse(text: &str) -> Option<Self> {
        // The name is in brackets and may have any of its own.
        let (_, rest) = text.rsplit_once(") ")?;
        let mut fields = rest.split(' ');
        // state ppid pgrp session tty tpgid flags … num_threads, the 3rd, 9th and 20th of all.
        let state = *fields.next()?.as_bytes().first()?;
        let flags = fields.nth(5)?.parse().ok()?;
        let threads = fields.nth(10)?.parse().ok()?;
        Some(Self {
            state,
            flags,
            threads,
        })
    }
}

/// The text of a small file.
fn read<'t>(path: &str, text: &'t mut Vec<u8>) -> Option<&'t str> {
    let file = fs::File::open(path).ok()?;
    let len = read_whole(&file, text, TEXT_BYTES).ok()?;
    std::str::from_utf8(&text[..len]).ok()
}

/// Linux tells the number as the folder's size since 6.2; before, it is 0 and they are counted.
fn open_files(folder: &Path) -> u64 {
    match fs::metadata(folder).map(|metadata| metadata.len()) {
        Ok(0) => {
            let entries = fs::read_dir(folder).into_iter().flatten();
            entries.take(FILES_MAX).count() as u64
        }
        Ok(count) => count,
        Err(_) => 0,
    }
}

fn files_limit(folder: &str) -> Option<u64> {
    use procfs::process::LimitValue;
    let limits = Limits::from_file(format!("{folder}/limits")).ok()?;
    match limits.max_open_files.soft_limit {
        LimitValue::Value(most) if most > 0 => Some(most),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::{fs::File, path::Path, time::Instant};

    use super::{Begun, For, Look, Looker, Looks, Stat, files_limit, open_files, path_v2};
    use crate::evidence::process::cgroup_of;

    fn whole(processes_max: usize) -> Look {
        let mut begun = Begun::new(Instant::now(), processes_max);
        while begun.some(&mut Vec::new()) {}
        begun.look
    }

    #[test]
    fn a_name_may_look_like_fields() {
        let line = "7 (a) Z 1) S 1 7 7 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 12 0 99 0 0\n";
        let expected = Stat {
            state: b'S',
            flags: 4_194_560,
            threads: 12,
        };
        assert_eq!(Stat::parse(line), Some(expected));
        assert_eq!(Stat::parse("7 (a) S 1 7"), None);
        assert_eq!(path_v2("3:cpu:/a\n0::/b c\n"), Some("/b c"));
        assert_eq!(path_v2("3:cpu:/a\n"), None);
    }

    #[test]
    fn our_own_files_and_threads_are_counted() {
        let before = open_files(Path::new("/proc/self/fd"));
        let held: Vec<File> = (0..200).map(|_| File::open("/dev/null").unwrap()).collect();
        let after = open_files(Path::new("/proc/self/fd"));
        // Other tests open files, too.
        assert!(after >= 200 && before > 0, "{before} {after}");
        let look = whole(100_000);
        if let Some(path) = cgroup_of(std::process::id()) {
            let ours = look.by_path[&path];
            assert!(ours.files >= 200, "{ours:?}");
            assert!(ours.threads >= 1, "{ours:?}");
            let most = files_limit("/proc/self").map_or(1.0, |most| 200.0 / most as f64);
            assert!(ours.files_of_limit >= most.min(1.0), "{ours:?}");
        }
        drop(held);
        assert!(!look.cut_off);
        assert!(whole(1).cut_off);
    }

    #[test]
    fn a_look_is_not_taken_again_at_once() {
        let mut looker = Looker::default();
        let now = Instant::now();
        let no_time = || std::time::Duration::ZERO;
        let at = |looks: &Looks| looks.source().map(|source| source.at);
        looker.look(now, For::Keeping, 100_000, no_time);
        let looks = looker.look(now + super::LEAST / 2, For::Asking, 100_000, no_time);
        assert_eq!(at(looks), Some(now));
        assert!(looks.before.is_none());
        let looks = looker.look(now + super::LEAST, For::Keeping, 100_000, no_time);
        assert_eq!(at(looks), Some(now + super::LEAST));
        assert!(looks.before.is_some());
    }

    #[test]
    fn a_dear_look_is_spread_over_samples() {
        use std::{cell::Cell, time::Duration};
        let mut looker = Looker::default();
        let mut now = Instant::now();
        // Each look at the clock finds a millisecond gone.
        let clock = Cell::new(Duration::ZERO);
        let cpu_time = || {
            clock.set(clock.get() + Duration::from_millis(1));
            clock.get()
        };
        looker.look(now, For::Keeping, 200, cpu_time);
        let first = looker.looks.last.clone().unwrap();
        now += Duration::from_hours(1);
        let mut samples = 0;
        while looker.looks.before.is_none() {
            looker.look(now, For::Keeping, 200, cpu_time);
            samples += 1;
            now += Duration::from_secs(1);
            assert!(samples < 200);
        }
        let seen = super::pids(200).count();
        assert!(
            seen <= super::BATCH || samples > 1,
            "{seen} processes in {samples} samples"
        );
        let last = looker.looks.last.unwrap();
        assert!(!last.by_path.is_empty() || first.by_path.is_empty());
        // It rests for as long as all its parts took.
        assert!(looker.due.unwrap() + Duration::from_secs(1) >= now + super::LEAST);
    }

    #[test]
    fn who_asks_gets_a_newer_look() {
        use std::{cell::Cell, time::Duration};
        let clock = Cell::new(Duration::ZERO);
        let cpu_time = || {
            clock.set(clock.get() + Duration::from_millis(50));
            clock.get()
        };
        let mut looker = Looker::default();
        let now = Instant::now();
        looker.look(now, For::Keeping, 8, cpu_time);
        let (due, asked) = (looker.due.unwrap(), looker.due_if_asked.unwrap());
        assert!(now + super::LEAST <= asked && asked < due);
        let at = |looks: &Looks| looks.source().map(|source| source.at);
        let kept = at(looker.look(asked, For::Keeping, 8, cpu_time));
        assert_eq!(kept, Some(now));
        while at(looker.look(asked, For::Asking, 8, cpu_time)) == Some(now) {}
        assert_eq!(at(&looker.looks), Some(asked));
    }
}
