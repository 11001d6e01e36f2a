//! One window: what changed between two samples, of the cgroups that matter most.
//!
//! The recorder keeps differences, not counters: a cgroup that is gone stays in the windows in which
//! it was there, with its path, and one that was idle for minutes costs nothing. Of each window only
//! the leaves with the most of *any* measure are kept; `floors` remembers how much the largest of the
//! others had, so that a sum knows how wrong it can be.

use std::{
    cmp::Reverse,
    collections::HashSet,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    cgroup::{ByProcesses, CgroupSample},
    counters::{Count, Counter, Counters, Gauge, Gauges, HostCounter, HostCounters, since},
    errnos::{self, ErrnoDelta},
    happenings::HappeningWindow,
    host::DiskCounters,
    sample::Sample,
    sched::SchedWindow,
    syscalls::{self, SyscallDelta},
};
use crate::incident::CgroupId;

/// One cgroup in one window.
#[derive(Clone, Debug)]
pub(super) struct Row {
    pub id: CgroupId,
    pub path: Arc<str>,
    pub counters: Counters,
    /// Levels at the window's begin and end.
    pub before: Gauges,
    pub after: Gauges,
    pub leaf: bool,
    /// Made in this window: its counters began at zero.
    pub born: bool,
    /// Removed in this window: only what probes counted is known.
    pub gone: bool,
    pub by_processes: ByProcesses,
}

/// What changed between two samples.
#[derive(Clone, Debug)]
pub(super) struct Window {
    pub begun: Instant,
    pub ended: Instant,
    pub host: HostCounters,
    pub disks: Box<[DiskCounters]>,
    /// Tasks running or waiting for a CPU at the end.
    pub runnable: Option<u32>,
    /// Tasks that wait uninterruptibly at the end.
    pub blocked: Option<u32>,
    pub rows: Box<[Row]>,
    /// The most of each counter that a cgroup which was not kept had.
    pub floors: [u64; Counter::N],
    /// Forks of cgroups are estimated from processes seen.
    pub forks_estimated: bool,
    /// Over all cgroups, kept or not.
    pub forks: Count,
    /// Over all cgroups and those that are gone.
    pub execs: Count,
    /// Process events counted and lost.
    pub events: u64,
    pub lost: u64,
    /// How long the syscall pair counted: it may have been attached in the middle.
    pub syscalls_counted: Duration,
    pub syscalls: Box<[SyscallDelta]>,
    /// Errors that tell something.
    pub errnos: Box<[ErrnoDelta]>,
    /// Waits of tasks.
    pub sched: SchedWindow,
    /// What happens to few.
    pub happenings: HappeningWindow,
}

/// For how long the syscall pair has counted between two samples.
fn counted(earlier: &Sample, now: &Sample) -> Duration {
    if !now.kernel.counting("syscalls") {
        return Duration::ZERO;
    }
    let since = now.kernel.counts.syscalls_since;
    let begun = since.map_or(earlier.at, |since| since.max(earlier.at));
    now.at.saturating_duration_since(begun)
}

impl Window {
    /// The difference of two samples; the rows of at most `kept` cgroups.
    pub(super) fn between(earlier: &Sample, now: &Sample, kept: usize) -> Self {
        let host = since(&now.host.counters, &earlier.host.counters);
        let mut rows = rows(earlier, now);
        let forks_estimated = !now.kernel.counting("fork");
        if forks_estimated {
            estimate_forks(&mut rows, now, host[HostCounter::Forks as usize]);
        }
        let total = |column: Counter| {
            let counts = rows
                .iter()
                .filter_map(|row| row.counters[column as usize].get());
            counts.fold(None, |sum: Option<u64>, count| {
                Some(sum.unwrap_or(0) + count)
            })
        };
        let events = [Counter::Forks, Counter::Execs, Counter::Exits].map(total);
        let chosen = choose(&rows, kept);
        let floors = floors(&rows, &chosen);
        let forks = total(Counter::Forks).into();
        let rows = rows
            .into_iter()
            .enumerate()
            .filter_map(|(index, row)| chosen.contains(&index).then_some(row))
            .collect();
        Self {
            begun: earlier.at,
            ended: now.at,
            host,
            disks: disks(&earlier.host.disks, &now.host.disks),
            runnable: now.host.runnable,
            blocked: now.host.blocked,
            rows,
            floors,
            forks_estimated,
            forks,
            execs: execs(earlier, now),
            events: events.into_iter().flatten().sum(),
            lost: now.kernel.lost.saturating_sub(earlier.kernel.lost),
            syscalls_counted: counted(earlier, now),
            syscalls: syscalls::between(
                &earlier.kernel.counts.syscalls,
                &now.kernel.counts.syscalls,
            ),
            errnos: errnos::between(&earlier.kernel.counts.errnos, &now.kernel.counts.errnos),
            sched: sched(earlier, now),
            happenings: HappeningWindow::between(earlier, now),
        }
    }

    /// Bytes that this window holds; paths are shared by windows, and counted for each.
    pub(super) fn bytes(&self) -> usize {
        let paths: usize = self.rows.iter().map(|row| row.path.len()).sum();
        size_of::<Self>()
            + size_of_val(&*self.rows)
            + size_of_val(&*self.disks)
            + size_of_val(&*self.syscalls)
            + size_of_val(&*self.errnos)
            + self.sched.bytes()
            + self.happenings.bytes()
            + paths
    }
}

fn rows(earlier: &Sample, now: &Sample) -> Vec<Row> {
    let mut rows: Vec<Row> = now
        .cgroups
        .iter()
        .map(|(id, sample)| {
            let last = earlier.cgroups.get(id);
            // One that was not in a complete walk did not exist; after one that was cut off, this may
            // be its first sight only.
            let born = last.is_none() && !earlier.walk.cut_off;
            let (counters, before) = match last {
                Some(last) => (since(&sample.counters, &last.counters), last.gauges),
                None if born => (sample.counters, born_empty(&sample.gauges)),
                None => ([Count::ABSENT; Counter::N], [Count::ABSENT; Gauge::N]),
            };
            Row {
                id: *id,
                path: sample.path.clone(),
                counters,
                before,
                after: sample.gauges,
                leaf: sample.leaf,
                born,
                gone: false,
                by_processes: sample.by_processes,
            }
        })
        .collect();
    let gone = |(id, last): (&CgroupId, &CgroupSample)| {
        let counters = last_events(*id, earlier, now)?;
        Some(Row {
            id: *id,
            path: last.path.clone(),
            counters,
            before: [Count::ABSENT; Gauge::N],
            after: [Count::ABSENT; Gauge::N],
            leaf: last.leaf,
            born: false,
            gone: true,
            by_processes: ByProcesses::default(),
        })
    };
    rows.extend(
        earlier
            .cgroups
            .iter()
            .filter(|(id, _)| !now.cgroups.contains_key(id))
            .filter_map(gone),
    );
    // By path, so that equal values are chosen alike each time.
    rows.sort_unstable_by(|a, b| a.path.cmp(&b.path));
    rows
}

fn born_empty(gauges: &Gauges) -> Gauges {
    gauges.map(|gauge| gauge.get().map(|_| 0).into())
}

/// What the probes still counted of a cgroup before it was removed.
fn last_events(id: CgroupId, earlier: &Sample, now: &Sample) -> Option<Counters> {
    let counts = now.kernel.counts.processes.get(&id)?;
    let last = earlier
        .kernel
        .counts
        .processes
        .get(&id)
        .copied()
        .unwrap_or_default();
    let mut counters = [Count::ABSENT; Counter::N];
    let mut set = |probe: &str, column: Counter, now_at: u64, then: u64| {
        if now.kernel.counting(probe) && earlier.kernel.counting(probe) {
            counters[column as usize] = Count::new(now_at).since(Count::new(then));
        }
    };
    set("fork", Counter::Forks, counts.forks, last.forks);
    set("exec", Counter::Execs, counts.execs, last.execs);
    set("exit", Counter::Exits, counts.exits, last.exits);
    let happened = |count: &Count| count.get().is_some_and(|count| count > 0);
    counters.iter().any(happened).then_some(counters)
}

/// Without a probe: the node's forks, shared out as the processes that were seen new. What was too
/// short-lived to be seen is taken to have come from where the others came from.
fn estimate_forks(rows: &mut [Row], now: &Sample, forks: Count) {
    let seen_of = |path: &str| now.newcomers.by_path.get(path).copied().unwrap_or(0);
    let seen: u64 = now.newcomers.by_path.values().sum();
    for row in rows {
        let forks = forks.get().and_then(|forks| match (forks, seen) {
            (0, _) => Some(0),
            (_, 0) => None,
            (forks, seen) => {
                let part = u128::from(forks) * u128::from(seen_of(&row.path)) / u128::from(seen);
                u64::try_from(part).ok()
            }
        });
        row.counters[Counter::Forks as usize] = forks.into();
    }
}

/// Programs started on the node: the probe knows cgroups that no walk ever met.
fn execs(earlier: &Sample, now: &Sample) -> Count {
    if !(earlier.kernel.counting("exec") && now.kernel.counting("exec")) {
        return Count::ABSENT;
    }
    let total = |sample: &Sample| {
        let processes = sample.kernel.counts.processes.values();
        Count::new(processes.map(|counts| counts.execs).sum())
    };
    total(now).since(total(earlier))
}

fn sched(earlier: &Sample, now: &Sample) -> SchedWindow {
    if earlier.kernel.counting("sched") && now.kernel.counting("sched") {
        return SchedWindow::between(&earlier.kernel.counts, &now.kernel.counts);
    }
    let delays = now.kernel.run_delay_ns.zip(earlier.kernel.run_delay_ns);
    SchedWindow {
        run_delay_ns: delays.and_then(|(now, earlier)| now.checked_sub(earlier)),
        ..SchedWindow::default()
    }
}

fn disks(earlier: &[DiskCounters], now: &[DiskCounters]) -> Box<[DiskCounters]> {
    let difference = |now: &DiskCounters| {
        let last = earlier.iter().find(|last| last.device == now.device)?;
        Some(DiskCounters {
            device: now.device,
            busy_ms: now.busy_ms.checked_sub(last.busy_ms)?,
            requests: now.requests.checked_sub(last.requests)?,
            waited_ms: now.waited_ms.checked_sub(last.waited_ms)?,
            bytes: now.bytes.checked_sub(last.bytes)?,
        })
    };
    now.iter()
        .filter_map(difference)
        .filter(|disk| disk.busy_ms > 0 || disk.requests > 0)
        .collect()
}

/// Which rows to keep: in turn, by every measure, the leaf with the next most of it. Parents contain
/// their children's figures and would take most places: they get what is left, busiest first.
pub(super) fn choose(rows: &[Row], kept: usize) -> HashSet<usize> {
    if rows.len() <= kept {
        return (0..rows.len()).collect();
    }
    let leaves = |value: &dyn Fn(&Row) -> u64| ranking(rows, true, kept, value);
    let mut rankings: Vec<Vec<usize>> = Counter::ALL
        .iter()
        .map(|column| leaves(&|row| row.counters[*column as usize].get().unwrap_or(0)))
        .collect();
    rankings.push(leaves(&|row| level(&row.after, Gauge::Memory)));
    rankings.push(leaves(&|row| level(&row.after, Gauge::Pids)));
    rankings.push(leaves(&|row| {
        level(&row.after, Gauge::Own).saturating_sub(level(&row.before, Gauge::Own))
    }));
    let mut chosen = HashSet::with_capacity(kept);
    let longest = rankings.iter().map(Vec::len).max().unwrap_or(0);
    let in_turn = (0..longest).flat_map(|turn| rankings.iter().filter_map(move |r| r.get(turn)));
    let busy_parents = ranking(rows, false, kept, &|row| {
        row.counters[Counter::CpuUs as usize].get().unwrap_or(0)
    });
    for index in in_turn.chain(&busy_parents) {
        if chosen.len() == kept {
            break;
        }
        chosen.insert(*index);
    }
    chosen
}

fn level(gauges: &Gauges, gauge: Gauge) -> u64 {
    gauges[gauge as usize].get().unwrap_or(0)
}

/// Indexes of the rows with the most of a measure, the most first; none that have nothing of it.
fn ranking(rows: &[Row], leaf: bool, most: usize, value: &dyn Fn(&Row) -> u64) -> Vec<usize> {
    let mut ranked: Vec<(Reverse<u64>, usize)> = rows
        .iter()
        .enumerate()
        .filter(|(_, row)| row.leaf == leaf)
        .map(|(index, row)| (Reverse(value(row)), index))
        .filter(|(value, _)| value.0 > 0)
        .collect();
    if ranked.len() > most {
        ranked.select_nth_unstable(most - 1);
        ranked.truncate(most);
    }
    ranked.sort_unstable();
    ranked.into_iter().map(|(_, index)| index).collect()
}

fn floors(rows: &[Row], chosen: &HashSet<usize>) -> [u64; Counter::N] {
    let mut floors = [0; Counter::N];
    for (index, row) in rows.iter().enumerate() {
        // A parent is never anybody's culprit: only what leaves had counts.
        if !row.leaf || chosen.contains(&index) {
            continue;
        }
        for (floor, count) in floors.iter_mut().zip(row.counters) {
            *floor = count.get().map_or(*floor, |count| count.max(*floor));
        }
    }
    floors
}
