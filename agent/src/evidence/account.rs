//! Windows summed up into one [`Evidence`]: every reading with its unit and quality.
//!
//! A reading of a rate or a share is `Good` when every window in it had it, it spans at least half of
//! what was asked for, no more than a hundredth of the probes' events were lost, and what the windows
//! left out of a cgroup can't be more than a tenth of it. Anything less is `Partial`; what was never
//! had is absent. Levels (memory, tasks, how full a filesystem is) are those of the last sample.

mod cgroups;

use std::{collections::BTreeMap, time::Duration};

use super::{
    counters::{HostCounter, Sums},
    coverage,
    host::DiskCounters,
    sample::Sample,
    sched, syscalls,
    window::Window,
};
use crate::incident::{Evidence, Quality, Reading};

/// Below this a rate is made of a handful of clock ticks.
const SHORTEST_S: f64 = 0.2;
/// Of the probes' events, that may be lost without a reading losing its quality.
const LOST_MAX: f64 = 0.01;

/// What is summed up.
#[derive(Clone, Copy, Debug)]
pub(super) struct Account<'a> {
    /// In order of time, without gaps between them.
    pub windows: &'a [&'a Window],
    /// The last sample.
    pub latest: &'a Sample,
    /// Length of time that was asked for.
    pub asked: Duration,
    /// Most cgroups and syscalls that the evidence names.
    pub cgroups_max: usize,
    pub syscalls_max: usize,
}

impl Account<'_> {
    /// Sums up.
    pub(super) fn evidence(&self) -> Evidence {
        let windows = self.windows;
        let (mut host, mut cgroups) = (self.host(), self.cgroups());
        sched::add(
            windows.iter().map(|window| &window.sched),
            self.span_s(),
            |value, good| self.reading(value, good),
            &mut host,
            &mut cgroups,
        );
        Evidence {
            taken_at: self.latest.wall,
            window_s: self.span_s(),
            host,
            cgroups,
            syscalls: syscalls::facts(
                windows.iter().flat_map(|window| &window.syscalls),
                self.syscalls_max,
            ),
            series: Vec::new(),
            series_gaps: Vec::new(),
            coverage: coverage::of(self),
        }
    }

    /// Seconds from the first window's begin to the last one's end.
    pub(super) fn span_s(&self) -> f64 {
        match (self.windows.first(), self.windows.last()) {
            (Some(first), Some(last)) => last
                .ended
                .saturating_duration_since(first.begun)
                .as_secs_f64(),
            _ => 0.0,
        }
    }

    /// Whether the windows cover enough of what was asked for.
    pub(super) fn is_covered(&self) -> bool {
        let span = self.span_s();
        span >= SHORTEST_S && span * 2.0 >= self.asked.as_secs_f64()
    }

    /// Whether more of the probes' events were lost than may be.
    pub(super) fn lost_too_much(&self) -> bool {
        let lost: u64 = self.windows.iter().map(|window| window.lost).sum();
        let events: u64 = self.windows.iter().map(|window| window.events).sum();
        lost as f64 > LOST_MAX * (events + lost) as f64
    }

    fn reading(&self, value: f64, good: bool) -> Reading {
        let quality = if good && self.is_covered() {
            Quality::Good
        } else {
            Quality::Partial
        };
        Reading { value, quality }
    }

    fn host(&self) -> BTreeMap<String, Reading> {
        let mut host = BTreeMap::new();
        self.levels(&mut host);
        let span_s = self.span_s();
        if span_s <= 0.0 {
            return host;
        }
        let mut sums = Sums::<{ HostCounter::N }>::default();
        for window in self.windows {
            sums.add(&window.host);
        }
        let mut put = |name: &str, column: HostCounter, scale: Option<f64>| {
            let (sum, scale) = (sums.get(column as usize), scale);
            if let (Some(sum), Some(scale)) = (sum, scale) {
                let good = !sums.has_gap(column as usize);
                host.insert(name.to_owned(), self.reading(sum as f64 * scale, good));
            }
        };
        let of_cpu_time = sums
            .get(HostCounter::CpuTotal as usize)
            .filter(|ticks| *ticks > 0)
            .map(|ticks| 1.0 / ticks as f64);
        put("cpu.busy", HostCounter::CpuBusy, of_cpu_time);
        put("cpu.iowait", HostCounter::CpuIowait, of_cpu_time);
        put("cpu.steal", HostCounter::CpuSteal, of_cpu_time);
        let of_time_us = Some(1.0 / (span_s * 1e6));
        put("psi.cpu.some", HostCounter::PsiCpuSome, of_time_us);
        put("psi.cpu.full", HostCounter::PsiCpuFull, of_time_us);
        put("psi.memory.some", HostCounter::PsiMemorySome, of_time_us);
        put("psi.memory.full", HostCounter::PsiMemoryFull, of_time_us);
        put("psi.io.some", HostCounter::PsiIoSome, of_time_us);
        put("psi.io.full", HostCounter::PsiIoFull, of_time_us);
        let per_s = Some(1.0 / span_s);
        put("mem.reclaim_per_s", HostCounter::ScanDirect, per_s);
        put("mem.major_faults_per_s", HostCounter::MajorFaults, per_s);
        put("mem.oom_kills", HostCounter::OomKills, Some(1.0));
        put("forks_per_s", HostCounter::Forks, per_s);
        // The kernel closes a stall a little after it began to count the second.
        for (name, reading) in &mut host {
            if name.starts_with("psi.") {
                reading.value = reading.value.min(1.0);
            }
        }
        self.execs(&mut host, span_s);
        self.run_queue(&mut host);
        self.disks(&mut host, span_s);
        host
    }

    fn levels(&self, host: &mut BTreeMap<String, Reading>) {
        let sample = &self.latest.host;
        let total = sample.memory_total.map(|bytes| bytes as f64);
        let available = sample.memory_available.map(|bytes| bytes as f64);
        let available = available.zip(total).filter(|(_, total)| *total > 0.0);
        let levels = [
            ("cpu.count", Some(sample.cpus as f64)),
            ("mem.total_bytes", total),
            ("mem.available", available.map(|(part, whole)| part / whole)),
            ("swap.used", sample.swap_used),
            ("fs.used", self.latest.fullest.used),
            ("fs.inodes_used", self.latest.fullest.inodes_used),
            ("procs", sample.tasks.map(f64::from)),
        ];
        for (name, level) in levels {
            if let Some(level) = level {
                host.insert(name.to_owned(), Reading::good(level));
            }
        }
    }

    fn execs(&self, host: &mut BTreeMap<String, Reading>, span_s: f64) {
        let mut sums = Sums::<1>::default();
        for window in self.windows {
            sums.add(&[window.execs]);
        }
        if let Some(execs) = sums.get(0) {
            let good = !sums.has_gap(0) && !self.lost_too_much();
            let reading = self.reading(execs as f64 / span_s, good);
            host.insert("execs_per_s".to_owned(), reading);
        }
    }

    /// The mean over the windows' ends: one look at a run queue says little.
    fn run_queue(&self, host: &mut BTreeMap<String, Reading>) {
        let queues = || self.windows.iter().filter_map(|window| window.runnable);
        let looks = queues().count();
        if looks > 0 {
            let sum: f64 = queues().map(f64::from).sum();
            let per_cpu = sum / looks as f64 / self.latest.host.cpus as f64;
            let reading = self.reading(per_cpu, looks == self.windows.len());
            host.insert("load.runnable_per_cpu".to_owned(), reading);
        }
    }

    fn disks(&self, host: &mut BTreeMap<String, Reading>, span_s: f64) {
        let Some(busiest) = self
            .per_disk()
            .into_values()
            .max_by_key(|disk| disk.busy_ms)
        else {
            if !self.latest.host.disks.is_empty() {
                host.insert("disk.util".to_owned(), self.reading(0.0, true));
            }
            return;
        };
        let util = (busiest.busy_ms as f64 / 1e3 / span_s).min(1.0);
        host.insert("disk.util".to_owned(), self.reading(util, true));
        if busiest.requests > 0 {
            let await_s = busiest.waited_ms as f64 / 1e3 / busiest.requests as f64;
            host.insert("disk.await_s".to_owned(), self.reading(await_s, true));
        }
    }

    fn per_disk(&self) -> BTreeMap<(i32, i32), DiskCounters> {
        let mut disks: BTreeMap<(i32, i32), DiskCounters> = BTreeMap::new();
        for disk in self.windows.iter().flat_map(|window| &window.disks) {
            disks
                .entry(disk.device)
                .and_modify(|sum| {
                    sum.busy_ms += disk.busy_ms;
                    sum.requests += disk.requests;
                    sum.waited_ms += disk.waited_ms;
                    sum.bytes += disk.bytes;
                })
                .or_insert_with(|| disk.clone());
        }
        disks
    }

    /// Bytes read and written at all disks.
    fn disk_bytes(&self) -> u64 {
        self.per_disk().values().map(|disk| disk.bytes).sum()
    }
}
