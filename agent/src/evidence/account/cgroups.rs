//! The cgroups that matter most over a span of windows.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Instant,
};

use super::Account;
use crate::{
    evidence::{
        cgroup::{ByProcesses, Limits},
        counters::{Count, Counter, Gauge, Gauges, Sums},
        window::{Row, Window, choose},
    },
    incident::{CgroupFacts, CgroupId, Reading},
};

/// Memory breathes: over a few seconds, a change of less than this share of it, and of less than this
/// many bytes, is no growth. Extrapolated, it would always end in an exhausted node.
const BREATHING_SHARE: f64 = 0.01;
const BREATHING_BYTES: f64 = 4.0 * 1024.0 * 1024.0;
/// Part of a sum that may be unknown without the sum losing its quality.
const UNKNOWN_MAX: f64 = 0.1;

/// One cgroup's rows, summed up.
#[derive(Debug)]
struct Total {
    path: Arc<str>,
    leaf: bool,
    gone: bool,
    sums: Sums<{ Counter::N }>,
    /// Levels where its rows begin and end, and when these are.
    first: (Instant, Gauges),
    last: (Instant, Gauges),
    /// Floors of all windows before it was born, and of those in which it was kept: in the others it
    /// had at most as much as the floor.
    excused: [u64; Counter::N],
    by_processes: ByProcesses,
}

impl Account<'_> {
    pub(super) fn cgroups(&self) -> Vec<CgroupFacts> {
        let (totals, floors) = self.totals();
        let mut totals: Vec<(CgroupId, Total)> = totals.into_iter().collect();
        totals.sort_unstable_by(|(a, x), (b, y)| x.path.cmp(&y.path).then(a.cmp(b)));
        let rows: Vec<Row> = totals.iter().map(|(id, total)| total.as_row(*id)).collect();
        let chosen = choose(&rows, self.cgroups_max);
        let whole = Whole::of(self);
        totals
            .into_iter()
            .enumerate()
            .filter(|(index, _)| chosen.contains(index))
            .map(|(_, (id, total))| CgroupFacts {
                id,
                path: total.path.to_string(),
                leaf: total.leaf,
                readings: self.readings(id, &total, &floors, &whole),
            })
            .collect()
    }

    /// Sums by cgroup, and the floors of all windows.
    fn totals(&self) -> (HashMap<CgroupId, Total>, [u64; Counter::N]) {
        let mut totals: HashMap<CgroupId, Total> = HashMap::new();
        let mut floors = [0u64; Counter::N];
        for window in self.windows {
            for row in &window.rows {
                totals
                    .entry(row.id)
                    .or_insert_with(|| Total::begin(row, window, &floors))
                    .add(row, window);
            }
            for (sum, floor) in floors.iter_mut().zip(window.floors) {
                *sum = sum.saturating_add(floor);
            }
        }
        for (id, total) in &mut totals {
            match self.latest.cgroups.get(id) {
                Some(sample) => {
                    total.leaf = sample.leaf;
                    total.path = sample.path.clone();
                }
                None => total.gone = true,
            }
        }
        (totals, floors)
    }

    fn readings(
        &self,
        id: CgroupId,
        total: &Total,
        floors: &[u64; Counter::N],
        whole: &Whole,
    ) -> BTreeMap<String, Reading> {
        let span_s = self.span_s();
        let mut readings = BTreeMap::new();
        let sum = |column: Counter| total.sum(column, floors);
        let mut put = |name: &str, value: Option<f64>, good: bool| {
            if let Some(value) = value.filter(|value| value.is_finite()) {
                readings.insert(name.to_owned(), self.reading(value, good));
            }
        };
        if span_s > 0.0 {
            let rate = |found: Option<(u64, bool)>, unit: f64| {
                let (value, good) = found.unwrap_or((0, false));
                (found.map(|_| value as f64 * unit / span_s), good)
            };
            let (cores, good) = rate(sum(Counter::CpuUs), 1e-6);
            put("cpu.cores", cores, good);
            put(
                "cpu.share",
                cores.map(|cores| (cores / whole.cpus).min(1.0)),
                good,
            );
            if let (Some((periods, _)), Some((throttled, good))) =
                (sum(Counter::Periods), sum(Counter::Throttled))
            {
                let part = throttled as f64 / periods.max(1) as f64;
                put("cpu.throttled", Some(part), good);
            }
            for (name, column) in [
                ("cpu.psi", Counter::PsiCpu),
                ("mem.psi", Counter::PsiMemory),
                ("io.psi", Counter::PsiIo),
            ] {
                let (share, good) = rate(sum(column), 1e-6);
                put(name, share.map(|share| share.min(1.0)), good);
            }
            let oom = sum(Counter::OomKills);
            put(
                "mem.oom_kills",
                oom.map(|(kills, _)| kills as f64),
                oom.is_some_and(|(_, good)| good),
            );
            let io = sum(Counter::IoBytes);
            let (bytes, good) = rate(io, 1.0);
            put("io.bytes_per_s", bytes, good);
            put("io.share", part(io, whole.disk_bytes), good);
            let exact = !self.lost_too_much();
            let forks = sum(Counter::Forks);
            let (per_s, good) = rate(forks, 1.0);
            put(
                "forks_per_s",
                per_s,
                good && exact && !whole.forks_estimated,
            );
            let good = good && exact && !whole.forks_estimated;
            put("forks.share", part(forks, whole.forks), good);
            for (name, column) in [
                ("execs_per_s", Counter::Execs),
                ("exits_per_s", Counter::Exits),
            ] {
                let (per_s, good) = rate(sum(column), 1.0);
                put(name, per_s, good && exact);
            }
            if whole.syscalls_s > 0.0 {
                let errors = sum(Counter::SyscallErrors);
                let per_s = errors.map(|(errors, _)| errors as f64 / whole.syscalls_s);
                put(
                    "syscall.errors_per_s",
                    per_s,
                    errors.is_some_and(|(_, good)| good),
                );
            }
        }
        if !total.gone {
            levels(total, whole, &mut readings);
            if let Some(limits) = self.latest.cgroups.get(&id).map(|sample| sample.limits) {
                of_limits(total, limits, &mut readings);
            }
            let growth = [
                (
                    "mem.growth_bytes_per_s",
                    Gauge::Own,
                    Gauge::Memory,
                    !total.by_processes.memory,
                ),
                (
                    "pids.growth_per_s",
                    Gauge::Pids,
                    Gauge::Pids,
                    !total.by_processes.pids,
                ),
            ];
            for (name, gauge, otherwise, good) in growth {
                if let Some(growth) = total.growth(gauge).or_else(|| total.growth(otherwise)) {
                    readings.insert(name.to_owned(), self.reading(growth, good));
                }
            }
        }
        readings
    }
}

fn part(of_cgroup: Option<(u64, bool)>, whole: u64) -> Option<f64> {
    let (of_cgroup, _) = of_cgroup?;
    (whole > 0).then(|| (of_cgroup as f64 / whole as f64).min(1.0))
}

fn levels(total: &Total, whole: &Whole, readings: &mut BTreeMap<String, Reading>) {
    let level = |gauge: Gauge| total.last.1[gauge as usize].get().map(|level| level as f64);
    let mut put = |name: &str, value: Option<f64>, by_processes: bool| {
        if let Some(value) = value {
            let reading = if by_processes {
                Reading::partial(value)
            } else {
                Reading::good(value)
            };
            readings.insert(name.to_owned(), reading);
        }
    };
    let memory = level(Gauge::Memory);
    let by_processes = total.by_processes.memory;
    put("mem.bytes", memory, by_processes);
    let share = memory.zip(whole.memory).map(|(bytes, total)| bytes / total);
    put("mem.share", share, by_processes);
    let anon = level(Gauge::Anon).zip(memory.filter(|bytes| *bytes > 0.0));
    put(
        "mem.anon_share",
        anon.map(|(anon, bytes)| (anon / bytes).min(1.0)),
        by_processes,
    );
    put("pids", level(Gauge::Pids), total.by_processes.pids);
}

/// How much of its own limits it has; nothing where it has none.
fn of_limits(total: &Total, limits: Limits, readings: &mut BTreeMap<String, Reading>) {
    let level = |gauge: Gauge| total.last.1[gauge as usize].get();
    for (name, level, limit) in [
        ("mem.of_limit", level(Gauge::Memory), limits.memory),
        ("pids.of_limit", level(Gauge::Pids), limits.pids),
    ] {
        if let (Some(level), Some(limit)) = (level, limit.get().filter(|limit| *limit > 0)) {
            let reading = Reading::good(level as f64 / limit as f64);
            readings.insert(name.to_owned(), reading);
        }
    }
    if let Some(swapped) = limits.swapped.get() {
        readings.insert("swap.bytes".to_owned(), Reading::good(swapped as f64));
    }
}

impl Total {
    fn begin(row: &Row, window: &Window, floors: &[u64; Counter::N]) -> Self {
        Self {
            path: row.path.clone(),
            leaf: row.leaf,
            gone: false,
            sums: Sums::default(),
            first: (window.begun, row.before),
            last: (window.ended, row.after),
            excused: if row.born { *floors } else { [0; Counter::N] },
            by_processes: row.by_processes,
        }
    }

    fn add(&mut self, row: &Row, window: &Window) {
        if row.gone {
            self.sums.add_known(&row.counters);
        } else {
            self.sums.add(&row.counters);
            self.last = (window.ended, row.after);
        }
        for (excused, floor) in self.excused.iter_mut().zip(window.floors) {
            *excused = excused.saturating_add(floor);
        }
    }

    /// The sum of a counter, and whether it is good: no gaps, and the windows that did not keep this
    /// cgroup could not have added much. Of a cgroup that is gone the last moment is not known, except
    /// to the probes.
    fn sum(&self, column: Counter, floors: &[u64; Counter::N]) -> Option<(u64, bool)> {
        let index = column as usize;
        let sum = self.sums.get(index)?;
        let unknown = floors[index].saturating_sub(self.excused[index]);
        let by_probe = matches!(column, Counter::Forks | Counter::Execs | Counter::Exits);
        let good = !self.sums.has_gap(index)
            && unknown as f64 <= UNKNOWN_MAX * sum as f64
            && (by_probe || !self.gone);
        Some((sum, good))
    }

    /// Per second, from the first row to the last; memory beyond its breathing only.
    fn growth(&self, gauge: Gauge) -> Option<f64> {
        let first = self.first.1[gauge as usize].get()? as f64;
        let last = self.last.1[gauge as usize].get()? as f64;
        let time = self.last.0.saturating_duration_since(self.first.0);
        let breathing = if gauge == Gauge::Pids {
            0.0
        } else {
            BREATHING_BYTES.max(last * BREATHING_SHARE)
        };
        let grown = if (last - first).abs() < breathing {
            0.0
        } else {
            last - first
        };
        (!time.is_zero()).then(|| grown / time.as_secs_f64())
    }

    /// As one long window, for choosing.
    fn as_row(&self, id: CgroupId) -> Row {
        let absent_if_gone = |gauges: Gauges| {
            if self.gone {
                [Count::ABSENT; Gauge::N]
            } else {
                gauges
            }
        };
        Row {
            id,
            path: self.path.clone(),
            counters: self.sums.row(),
            before: self.first.1,
            after: absent_if_gone(self.last.1),
            leaf: self.leaf,
            born: false,
            gone: self.gone,
            by_processes: self.by_processes,
        }
    }
}

/// What shares are shares of.
#[derive(Debug)]
struct Whole {
    cpus: f64,
    /// Bytes.
    memory: Option<f64>,
    disk_bytes: u64,
    forks: u64,
    forks_estimated: bool,
    /// Seconds in which the syscall pair counted.
    syscalls_s: f64,
}

impl Whole {
    fn of(account: &Account<'_>) -> Self {
        let windows = account.windows;
        let host = &account.latest.host;
        Self {
            cpus: host.cpus as f64,
            memory: host
                .memory_total
                .filter(|bytes| *bytes > 0)
                .map(|bytes| bytes as f64),
            disk_bytes: account.disk_bytes(),
            forks: windows.iter().filter_map(|window| window.forks.get()).sum(),
            forks_estimated: windows.iter().any(|window| window.forks_estimated),
            syscalls_s: account.syscalls_s(),
        }
    }
}
