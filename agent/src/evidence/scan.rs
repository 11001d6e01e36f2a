//! A look at every process: zombies, threads, open files. Costs some files a process, so it is taken
//! every few seconds, and less often where there are many.

use std::{
    collections::HashMap,
    fs,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use procfs::{
    FromRead,
    process::{Limits, Stat},
};

use super::{
    node::{Level, Source, State},
    process::{cgroup_of, pids},
};
use crate::incident::{CgroupFacts, Reading};

/// Taken this often at most.
const LEAST: Duration = Duration::from_secs(2);
/// It rests at least this many times as long as it worked.
const REST: u32 = 500;
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
    at: Instant,
    zombies: u64,
    by_path: HashMap<String, Held>,
    /// There were more processes than are looked at.
    cut_off: bool,
}

/// The last look and the one before.
#[derive(Clone, Debug, Default)]
pub(super) struct Looks {
    last: Option<Arc<Look>>,
    before: Option<Arc<Look>>,
    due: Option<Instant>,
}

impl Looks {
    /// Looks, if it is time. `cpu_time` is the time that this thread has used.
    pub(super) fn look(&mut self, now: Instant, processes_max: usize, cpu_time: fn() -> Duration) {
        if self.due.is_some_and(|due| now < due) {
            return;
        }
        let begun = cpu_time();
        let look = Look::take(now, processes_max);
        let took = cpu_time().saturating_sub(begun);
        self.due = now.checked_add((took * REST).max(LEAST));
        self.before = self.last.replace(Arc::new(look));
    }

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

impl Look {
    fn take(at: Instant, processes_max: usize) -> Self {
        let mut look = Self {
            at,
            zombies: 0,
            by_path: HashMap::new(),
            cut_off: false,
        };
        let mut seen = 0;
        for pid in pids(processes_max) {
            seen += 1;
            let folder = format!("/proc/{pid}");
            // It may be gone by now.
            let Ok(stat) = Stat::from_file(format!("{folder}/stat")) else {
                continue;
            };
            if stat.state == 'Z' {
                look.zombies += 1;
                continue;
            }
            let Some(path) = cgroup_of(pid) else { continue };
            let held = look.by_path.entry(path).or_default();
            held.threads += u64::try_from(stat.num_threads)
                .unwrap_or(1)
                .saturating_sub(1);
            let files = open_files(&Path::new(&folder).join("fd"));
            held.files += files;
            if files >= FILES_WORTH_ASKING
                && let Some(most) = files_limit(&folder)
            {
                held.files_of_limit = held.files_of_limit.max(files as f64 / most as f64);
            }
        }
        look.cut_off = seen == processes_max;
        look
    }
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

    use super::{Look, Looks, cgroup_of, files_limit, open_files};

    #[test]
    fn our_own_files_and_threads_are_counted() {
        let before = open_files(Path::new("/proc/self/fd"));
        let held: Vec<File> = (0..200).map(|_| File::open("/dev/null").unwrap()).collect();
        let after = open_files(Path::new("/proc/self/fd"));
        // Other tests open files, too.
        assert!(after >= 200 && before > 0, "{before} {after}");
        let look = Look::take(Instant::now(), 100_000);
        if let Some(path) = cgroup_of(std::process::id()) {
            let ours = look.by_path[&path];
            assert!(ours.files >= 200, "{ours:?}");
            assert!(ours.threads >= 1, "{ours:?}");
            let most = files_limit("/proc/self").map_or(1.0, |most| 200.0 / most as f64);
            assert!(ours.files_of_limit >= most.min(1.0), "{ours:?}");
        }
        drop(held);
        assert!(!look.cut_off);
        assert!(Look::take(Instant::now(), 1).cut_off);
    }

    #[test]
    fn a_look_is_not_taken_again_at_once() {
        let mut looks = Looks::default();
        let now = Instant::now();
        let no_time = || std::time::Duration::ZERO;
        looks.look(now, 100_000, no_time);
        looks.look(now + super::LEAST / 2, 100_000, no_time);
        let at = |looks: &Looks| looks.source().map(|source| source.at);
        assert_eq!(at(&looks), Some(now));
        assert!(looks.before.is_none());
        looks.look(now + super::LEAST, 100_000, no_time);
        assert_eq!(at(&looks), Some(now + super::LEAST));
        assert!(looks.before.is_some());
    }
}
