//! The cgroup v2 tree: every cgroup's counters at one moment.
//!
//! Costs are kept down, since there may be thousands: a directory whose link count is two has no
//! children and is not listed (kernfs counts them); a cgroup in which nothing ran since the last look is read in part.

use std::{
    collections::HashMap,
    fs::File,
    io::Read,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
    sync::Arc,
};

use rustix::fs::{Dir, FileType, Mode, OFlags, fstat, openat};

use super::{
    counters::{Count, Counter, Counters, Gauge, Gauges},
    happenings::{Happening, Happenings},
    pressure,
};
use crate::incident::CgroupId;

/// A file longer than this is not one of those that are read here.
const FILE_BYTES_MAX: u64 = 256 * 1024;
/// Memory that is looked at in every sample even if nothing ran.
const LARGE_BYTES: u64 = 64 << 20;
/// Every how many samples an idle cgroup is read in full.
const FULL_EVERY: u64 = 8;

/// One cgroup at one moment.
#[derive(Clone, Debug)]
pub(super) struct CgroupSample {
    /// Below the mount, with a leading slash.
    pub path: Arc<str>,
    /// No children, and not the root: the root holds what belongs to no cgroup in particular.
    pub leaf: bool,
    pub counters: Counters,
    pub gauges: Gauges,
    pub by_processes: ByProcesses,
    pub limits: Limits,
    /// Of `memory.events` and `memory.stat`.
    pub limit_hits: Count,
    pub major_faults: Count,
    pub reclaimed: Count,
}

/// What it may have at most; absent without a limit of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Limits {
    /// Bytes.
    pub memory: Count,
    /// Tasks.
    pub pids: Count,
    /// Bytes that it has swapped out; no limit, but as seldom asked for.
    pub swapped: Count,
}

impl Limits {
    pub(super) const ABSENT: Self = Self {
        memory: Count::ABSENT,
        pids: Count::ABSENT,
        swapped: Count::ABSENT,
    };
}

impl CgroupSample {
    /// What its own files tell.
    pub(super) fn happenings(&self) -> Happenings {
        let mut row = [Count::ABSENT; Happening::N];
        row[Happening::LimitHits as usize] = self.limit_hits;
        row[Happening::MajorFaults as usize] = self.major_faults;
        row[Happening::PagesReclaimed as usize] = self.reclaimed;
        row
    }
}

/// What was found by looking at a cgroup's processes, because no controller tells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct ByProcesses {
    pub memory: bool,
    pub pids: bool,
}

/// How a walk went.
#[expect(
    clippy::struct_excessive_bools,
    reason = "each says whether one thing was met anywhere; they have no order or meaning together"
)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Walk {
    /// Cgroups that were not read, because there are too many or they lie too deep.
    pub cut_off: bool,
    /// Controllers that at least one cgroup below the root has: cpu, memory, io, pids.
    pub cpu: bool,
    pub memory: bool,
    pub io: bool,
    pub pids: bool,
    /// Pressure files.
    pub pressure: bool,
}

/// Bounds of a walk.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    pub cgroups: usize,
    pub depth: usize,
}

pub(super) type Cgroups = HashMap<CgroupId, CgroupSample>;

/// Reads trees of cgroups.
#[derive(Debug, Default)]
pub(super) struct Walker {
    buffer: String,
    round: u64,
}

impl Walker {
    /// Walks the tree at `mount`; `earlier` is the last walk's result.
    pub(super) fn walk(
        &mut self,
        mount: &Path,
        earlier: &Cgroups,
        bounds: Bounds,
    ) -> (Cgroups, Walk) {
        self.round += 1;
        let mut found = Cgroups::with_capacity(earlier.len());
        let mut walk = Walk::default();
        let Ok(root) = rustix::fs::open(mount, DIRECTORY, Mode::empty()) else {
            return (found, walk);
        };
        let mut open: Vec<(PathBuf, usize)> = vec![(PathBuf::new(), 0)];
        while let Some((relative, depth)) = open.pop() {
            if found.len() >= bounds.cgroups {
                walk.cut_off = true;
                break;
            }
            // It may be gone by now: then it is simply not there.
            let Some((dir, id, children)) = enter(root.as_fd(), &relative) else {
                continue;
            };
            let earlier = earlier.get(&id);
            let childless = children.is_empty();
            let sample = self.sample(dir.as_fd(), id, &relative, childless, earlier, &mut walk);
            found.insert(id, sample);
            if depth >= bounds.depth {
                walk.cut_off |= !childless;
                continue;
            }
            for child in children {
                open.push((relative.join(child), depth + 1));
            }
        }
        (found, walk)
    }

    fn sample(
        &mut self,
        dir: BorrowedFd<'_>,
        id: CgroupId,
        relative: &Path,
        childless: bool,
        earlier: Option<&CgroupSample>,
        walk: &mut Walk,
    ) -> CgroupSample {
        let is_root = relative.as_os_str().is_empty();
        let mut sample = CgroupSample {
            path: path_of(relative, earlier),
            leaf: childless && !is_root,
            counters: [Count::ABSENT; Counter::N],
            gauges: [Count::ABSENT; Gauge::N],
            by_processes: ByProcesses::default(),
            limits: earlier.map_or(Limits::ABSENT, |earlier| earlier.limits),
            limit_hits: Count::ABSENT,
            major_faults: Count::ABSENT,
            reclaimed: Count::ABSENT,
        };
        let its_turn = id.0.wrapping_add(self.round).is_multiple_of(FULL_EVERY);
        if its_turn || earlier.is_none() {
            self.limits(dir, &mut sample);
        }
        // The root's figure is not the sum of the others' (Linux 6.12 showed 1.1 CPUs of two busy
        // ones); what the node as a whole uses is read from /proc/stat.
        if !is_root {
            self.cpu(dir, &mut sample, walk);
        }
        if let Some(text) = self.file(dir, "pids.current") {
            walk.pids = true;
            sample.gauges[Gauge::Pids as usize] = number(text).into();
        }
        let idle = earlier.filter(|earlier| {
            let cpu = Counter::CpuUs as usize;
            let ran = sample.counters[cpu].since(earlier.counters[cpu]);
            ran == Count::ZERO
        });
        let Some(idle) = idle else {
            self.pressures(dir, &mut sample, walk);
            self.memory_and_io(dir, &mut sample, walk);
            return sample;
        };
        // Tasks can wait without running, but not where there are none.
        if sample.gauges[Gauge::Pids as usize] == Count::ZERO {
            keep(
                &mut sample,
                idle,
                &[Counter::PsiCpu, Counter::PsiMemory, Counter::PsiIo],
            );
        } else {
            self.pressures(dir, &mut sample, walk);
        }
        let held = idle.gauges[Gauge::Memory as usize].get().unwrap_or(0);
        if held >= LARGE_BYTES || its_turn {
            self.memory_and_io(dir, &mut sample, walk);
        } else {
            keep(&mut sample, idle, &[Counter::IoBytes, Counter::OomKills]);
            sample.limit_hits = idle.limit_hits;
            sample.major_faults = idle.major_faults;
            sample.reclaimed = idle.reclaimed;
            for gauge in [Gauge::Memory, Gauge::Own, Gauge::Anon] {
                sample.gauges[gauge as usize] = idle.gauges[gauge as usize];
            }
            walk.memory |= idle.gauges[Gauge::Memory as usize] != Count::ABSENT;
            walk.io |= idle.counters[Counter::IoBytes as usize] != Count::ABSENT;
        }
        sample
    }

    fn cpu(&mut self, dir: BorrowedFd<'_>, sample: &mut CgroupSample, walk: &mut Walk) {
        let Some(text) = self.file(dir, "cpu.stat") else {
            return;
        };
        let periods = field(text, "nr_periods");
        walk.cpu |= periods.is_some();
        sample.counters[Counter::CpuUs as usize] = field(text, "usage_usec").into();
        sample.counters[Counter::Periods as usize] = periods.into();
        sample.counters[Counter::Throttled as usize] = field(text, "nr_throttled").into();
    }

    fn pressures(&mut self, dir: BorrowedFd<'_>, sample: &mut CgroupSample, walk: &mut Walk) {
        for (name, column) in [
            ("cpu.pressure", Counter::PsiCpu),
            ("memory.pressure", Counter::PsiMemory),
            ("io.pressure", Counter::PsiIo),
        ] {
            if let Some(text) = self.file(dir, name) {
                walk.pressure = true;
                sample.counters[column as usize] = pressure::parse(text).some;
            }
        }
    }

    fn memory_and_io(&mut self, dir: BorrowedFd<'_>, sample: &mut CgroupSample, walk: &mut Walk) {
        if let Some(current) = self.file(dir, "memory.current").and_then(number) {
            walk.memory = true;
            sample.gauges[Gauge::Memory as usize] = Count::new(current);
            if let Some(text) = self.file(dir, "memory.stat") {
                let of = |key: &str| field(text, key).unwrap_or(0);
                let files = of("active_file") + of("inactive_file");
                sample.gauges[Gauge::Own as usize] = Count::new(current.saturating_sub(files));
                sample.gauges[Gauge::Anon as usize] = field(text, "anon").into();
                sample.major_faults = field(text, "pgmajfault").into();
                // By whoever asked for memory, not by the kernel's own threads.
                sample.reclaimed = field(text, "pgscan_direct").into();
            }
        }
        if let Some(text) = self.file(dir, "memory.events") {
            sample.counters[Counter::OomKills as usize] = field(text, "oom_kill").into();
            let hits = field(text, "high").zip(field(text, "max"));
            sample.limit_hits = hits.map(|(high, max)| high + max).into();
        }
        if let Some(text) = self.file(dir, "io.stat") {
            walk.io = true;
            sample.counters[Counter::IoBytes as usize] = Count::new(io_bytes(text));
        }
    }

    /// Limits seldom change.
    fn limits(&mut self, dir: BorrowedFd<'_>, sample: &mut CgroupSample) {
        let mut number_of = |name: &str| self.file(dir, name).and_then(number);
        // The lower of the two is what holds it.
        let memory = [number_of("memory.max"), number_of("memory.high")];
        sample.limits = Limits {
            memory: memory.into_iter().flatten().min().into(),
            pids: number_of("pids.max").into(),
            swapped: number_of("memory.swap.current").into(),
        };
    }

    /// The text of a file of this cgroup; `None` when there is no such file (any more).
    fn file(&mut self, dir: BorrowedFd<'_>, name: &str) -> Option<&str> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let file = File::from(openat(dir, name, flags, Mode::empty()).ok()?);
        self.buffer.clear();
        file.take(FILE_BYTES_MAX)
            .read_to_string(&mut self.buffer)
            .ok()?;
        Some(&self.buffer)
    }
}

const DIRECTORY: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::CLOEXEC)
    .union(OFlags::NOFOLLOW);

/// Opens a cgroup's directory: it, its id, and its children's names.
fn enter(root: BorrowedFd<'_>, relative: &Path) -> Option<(OwnedFd, CgroupId, Vec<String>)> {
    let name = if relative.as_os_str().is_empty() {
        Path::new(".")
    } else {
        relative
    };
    let dir = openat(root, name, DIRECTORY, Mode::empty()).ok()?;
    let stat = fstat(&dir).ok()?;
    let children = if stat.st_nlink == 2 {
        Vec::new()
    } else {
        children(dir.as_fd())
    };
    Some((dir, CgroupId(stat.st_ino), children))
}

/// Names of child cgroups, sorted downwards: the stack turns them round, and a walk that is cut off
/// is cut off at the same place each time.
fn children(dir: BorrowedFd<'_>) -> Vec<String> {
    let Ok(entries) = Dir::read_from(dir) else {
        return Vec::new();
    };
    let mut names: Vec<String> = entries
        .flatten()
        .filter(|entry| entry.file_type() == FileType::Directory)
        .filter_map(|entry| entry.file_name().to_str().ok().map(str::to_owned))
        .filter(|name| name != "." && name != "..")
        .collect();
    names.sort_unstable_by(|a, b| b.cmp(a));
    names
}

/// The path, shared with the last sample as long as it is the same.
fn path_of(relative: &Path, earlier: Option<&CgroupSample>) -> Arc<str> {
    let path = format!("/{}", relative.display());
    match earlier {
        Some(earlier) if *earlier.path == *path => earlier.path.clone(),
        _ => path.into(),
    }
}

fn keep(sample: &mut CgroupSample, earlier: &CgroupSample, columns: &[Counter]) {
    for column in columns {
        sample.counters[*column as usize] = earlier.counters[*column as usize];
    }
}

fn number(text: &str) -> Option<u64> {
    text.trim().parse().ok()
}

/// The value of `key` in a flat-keyed file.
fn field(text: &str, key: &str) -> Option<u64> {
    text.lines()
        .find_map(|line| line.strip_prefix(key)?.strip_prefix(' '))
        .and_then(number)
}

/// Bytes read and written, all devices. A device without figures yet has an empty line on Linux 6.1.
fn io_bytes(text: &str) -> u64 {
    text.split_whitespace()
        .filter_map(|word| {
            word.strip_prefix("rbytes=")
                .or_else(|| word.strip_prefix("wbytes="))
        })
        .filter_map(|value| value.parse::<u64>().ok())
        .fold(0, u64::saturating_add)
}

#[cfg(test)]
mod tests {
    use std::{collections::HashMap, fs, path::Path};

    use super::{Bounds, Cgroups, Count, Counter, Gauge, Walker, field, io_bytes};

    const ALL: Bounds = Bounds {
        cgroups: 1000,
        depth: 8,
    };

    /// Captured from a container's cgroup on Linux 6.12, on a filesystem where directories have the
    /// link counts of kernfs.
    fn container(dir: &Path) {
        fs::create_dir_all(dir).unwrap();
        let files = [
            (
                "cpu.stat",
                "usage_usec 5000000\nuser_usec 4000000\nsystem_usec 1000000\nnr_periods 200\nnr_throttled 50\nthrottled_usec 1234\n",
            ),
            ("pids.current", "12\n"),
            ("pids.max", "max\n"),
            ("memory.max", "209715200\n"),
            ("memory.high", "max\n"),
            ("memory.swap.current", "4096\n"),
            ("memory.current", "104857600\n"),
            (
                "memory.stat",
                "anon 62914560\nfile 20971520\nkernel 1048576\nactive_file 10485760\ninactive_file 5242880\n",
            ),
            (
                "memory.events",
                "low 0\nhigh 3\nmax 0\noom 2\noom_kill 1\noom_group_kill 0\n",
            ),
            (
                "io.stat",
                "254:0 rbytes=1000 wbytes=500 rios=3 wios=2 dbytes=7 dios=1\n254:16 \n",
            ),
            (
                "cpu.pressure",
                "some avg10=0.00 avg60=0.00 avg300=0.00 total=77\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=7\n",
            ),
        ];
        for (name, text) in files {
            fs::write(dir.join(name), text).unwrap();
        }
    }

    fn by_path(cgroups: &Cgroups) -> HashMap<&str, &super::CgroupSample> {
        cgroups
            .values()
            .map(|sample| (&*sample.path, sample))
            .collect()
    }

    #[test]
    fn every_file_that_is_there_is_read_and_what_is_missing_is_absent() {
        let mount = tempfile::tempdir().unwrap();
        container(&mount.path().join("pods/web"));
        let (found, walk) = Walker::default().walk(mount.path(), &Cgroups::new(), ALL);
        let found = by_path(&found);
        assert_eq!(found.len(), 3);
        assert!(!found["/"].leaf && !found["/pods"].leaf && found["/pods/web"].leaf);
        let web = found["/pods/web"];
        let counter = |column: Counter| web.counters[column as usize].get();
        assert_eq!(counter(Counter::CpuUs), Some(5_000_000));
        assert_eq!(counter(Counter::Periods), Some(200));
        assert_eq!(counter(Counter::Throttled), Some(50));
        assert_eq!(counter(Counter::PsiCpu), Some(77));
        assert_eq!(counter(Counter::PsiIo), None);
        assert_eq!(counter(Counter::IoBytes), Some(1500));
        assert_eq!(counter(Counter::OomKills), Some(1));
        let gauge = |column: Gauge| web.gauges[column as usize].get();
        assert_eq!(gauge(Gauge::Memory), Some(104_857_600));
        assert_eq!(gauge(Gauge::Own), Some(104_857_600 - 15_728_640));
        assert_eq!(gauge(Gauge::Anon), Some(62_914_560));
        assert_eq!(gauge(Gauge::Pids), Some(12));
        let limits = super::Limits {
            memory: Count::new(209_715_200),
            pids: Count::ABSENT,
            swapped: Count::new(4_096),
        };
        assert_eq!(web.limits, limits);
        assert_eq!(web.limit_hits, Count::new(3));
        assert_eq!(web.major_faults, Count::ABSENT);
        for elsewhere in ["/pods", "/"] {
            let cpu = found[elsewhere].counters[Counter::CpuUs as usize];
            assert_eq!(cpu, Count::ABSENT, "{elsewhere}");
        }
        assert!(walk.cpu && walk.memory && walk.io && walk.pids && walk.pressure && !walk.cut_off);
    }

    #[test]
    fn a_lone_root_is_no_leaf() {
        let mount = tempfile::tempdir().unwrap();
        let (found, walk) = Walker::default().walk(mount.path(), &Cgroups::new(), ALL);
        assert!(!by_path(&found)["/"].leaf);
        assert!(!walk.memory && !walk.cut_off);
    }

    #[test]
    fn the_walk_is_bounded_in_number_and_depth_and_says_so() {
        let mount = tempfile::tempdir().unwrap();
        for name in ["a", "b", "c/d/e"] {
            fs::create_dir_all(mount.path().join(name)).unwrap();
        }
        let bounded = |cgroups, depth| {
            let (found, walk) =
                Walker::default().walk(mount.path(), &Cgroups::new(), Bounds { cgroups, depth });
            let mut paths: Vec<String> = found.values().map(|s| s.path.to_string()).collect();
            paths.sort();
            (paths, walk.cut_off)
        };
        assert_eq!(
            bounded(3, 8),
            (["/", "/a", "/b"].map(String::from).into(), true)
        );
        assert_eq!(
            bounded(99, 1),
            (["/", "/a", "/b", "/c"].map(String::from).into(), true)
        );
        assert!(!bounded(6, 8).1);
        let nowhere = Walker::default().walk(Path::new("/nowhere/at/all"), &Cgroups::new(), ALL);
        assert!(nowhere.0.is_empty());
    }

    #[test]
    fn an_idle_cgroup_is_read_in_full_from_time_to_time() {
        let mount = tempfile::tempdir().unwrap();
        let web = mount.path().join("web");
        container(&web);
        fs::write(web.join("memory.current"), "1000\n").unwrap();
        let mut walker = Walker::default();
        let mut last = walker.walk(mount.path(), &Cgroups::new(), ALL).0;
        fs::write(web.join("memory.current"), "2000\n").unwrap();
        let memory = |cgroups: &Cgroups| by_path(cgroups)["/web"].gauges[0].get();
        let mut seen_after = 0;
        while memory(&last) == Some(1000) && seen_after < 20 {
            last = walker.walk(mount.path(), &last, ALL).0;
            seen_after += 1;
        }
        assert_eq!(memory(&last), Some(2000));
        assert!((1..=8).contains(&seen_after));
        fs::write(web.join("cpu.stat"), "usage_usec 5000001\n").unwrap();
        fs::write(web.join("memory.current"), "3000\n").unwrap();
        last = walker.walk(mount.path(), &last, ALL).0;
        assert_eq!(memory(&last), Some(3000), "it ran, so it is read");
    }

    #[test]
    fn flat_keyed_files_by_whole_keys() {
        assert_eq!(field("oom 2\noom_kill 1\n", "oom"), Some(2));
        assert_eq!(field("oom_kill 1\n", "oom"), None);
        assert_eq!(field("usage_usec x\n", "usage_usec"), None);
        assert_eq!(io_bytes("8:0 \n"), 0);
    }
}
