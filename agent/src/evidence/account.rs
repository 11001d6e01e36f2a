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
    coverage, errnos, happenings,
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

/// Counters of the node that are told as so many a second.
const RATES: [(&str, HostCounter); 23] = [
    ("swap.in_pages_per_s", HostCounter::SwapIn),
    ("swap.out_pages_per_s", HostCounter::SwapOut),
    ("mem.refaults_per_s", HostCounter::Refaults),
    ("mem.allocation_stalls_per_s", HostCounter::AllocationStalls),
    ("net.no_route_per_s", HostCounter::IpNoRoutes),
    ("net.drops_per_s", HostCounter::NetDrops),
    ("net.errors_per_s", HostCounter::NetErrors),
    ("net.listen_drops_per_s", HostCounter::ListenDrops),
    ("net.listen_overflows_per_s", HostCounter::ListenOverflows),
    ("tcp.connects_per_s", HostCounter::TcpConnects),
    ("tcp.accepts_per_s", HostCounter::TcpAccepts),
    (
        "tcp.connect_failures_per_s",
        HostCounter::TcpConnectFailures,
    ),
    ("tcp.resets_sent_per_s", HostCounter::TcpResetsSent),
    ("tcp.resets_received_per_s", HostCounter::TcpResetsReceived),
    ("tcp.segments_out_per_s", HostCounter::TcpSegmentsOut),
    ("tcp.retransmits_per_s", HostCounter::TcpRetransmits),
    ("tcp.timeouts_per_s", HostCounter::TcpTimeouts),
    ("tcp.backlog_drops_per_s", HostCounter::TcpBacklogDrops),
    ("tcp.aborts_on_memory_per_s", HostCounter::TcpAbortsOnMemory),
    (
        "tcp.memory_pressures_per_s",
        HostCounter::TcpMemoryPressures,
    ),
    ("udp.buffer_errors_per_s", HostCounter::UdpBufferErrors),
    ("kernel.errors_per_s", HostCounter::KernelErrors),
    ("disk.errors_per_s", HostCounter::DiskErrors),
];

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
        happenings::add(
            windows.iter().map(|window| &window.happenings),
            self.span_s(),
            |value, good| self.reading(value, good),
            &self.latest.cgroups,
            &mut cgroups,
        );
        errnos::add(
            windows.iter().flat_map(|window| &window.errnos),
            self.syscalls_s(),
            |value| self.reading(value, true),
            &mut host,
            &mut cgroups,
        );
        self.latest.looks.add(&mut cgroups);
        Evidence {
            taken_at: self.latest.wall,
            window_s: self.span_s(),
            host,
            cgroups,
            syscalls_s: self.syscalls_s(),
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

    /// Seconds in which the syscall pair counted.
    fn syscalls_s(&self) -> f64 {
        let counted = self.windows.iter().map(|window| window.syscalls_counted);
        counted.sum::<Duration>().as_secs_f64()
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
        put("cpu.irq", HostCounter::CpuIrq, of_cpu_time);
        put("cpu.softirq", HostCounter::CpuSoftirq, of_cpu_time);
        put("psi.irq.full", HostCounter::PsiIrqFull, of_time_us);
        for (name, column) in RATES {
            put(name, column, per_s);
        }
        // The kernel closes a stall a little after it began to count the second.
        for (name, reading) in &mut host {
            if name.starts_with("psi.") {
                reading.value = reading.value.min(1.0);
            }
        }
        self.execs(&mut host, span_s);
        self.queues(&mut host);
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
        for (name, level, complete) in &self.latest.node.levels {
            let reading = if *complete {
                Reading::good(*level)
            } else {
                Reading::partial(*level)
            };
            host.insert((*name).to_owned(), reading);
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
    fn queues(&self, host: &mut BTreeMap<String, Reading>) {
        let mut mean = |name: &str, of: f64, level: &dyn Fn(&Window) -> Option<u32>| {
            let looks = || self.windows.iter().filter_map(|window| level(window));
            let count = looks().count();
            if count > 0 {
                let sum: f64 = looks().map(f64::from).sum();
                let reading = self.reading(sum / count as f64 / of, count == self.windows.len());
                host.insert(name.to_owned(), reading);
            }
        };
        let cpus = self.latest.host.cpus as f64;
        mean("load.runnable_per_cpu", cpus, &|window| window.runnable);
        mean("tasks.blocked", 1.0, &|window| window.blocked);
    }

    fn disks(&self, host: &mut BTreeMap<String, Reading>, span_s: f64) {
        let Some(busiest) = self
            .per_disk()
            .into_values()
            .max_by_key(|disk| disk.busy_ms)
        else {
            if !self.latest.host.disks.is_empty() {
                host.insert("disk.util".to_owned(), self.reading(0.0, true));
                host.insert("disk.iops".to_owned(), self.reading(0.0, true));
            }
            return;
        };
        let requests: u64 = self.per_disk().values().map(|disk| disk.requests).sum();
        let iops = self.reading(requests as f64 / span_s, true);
        host.insert("disk.iops".to_owned(), iops);
        let util = (busiest.busy_ms as f64 / 1e3 / span_s).min(1.0);
        host.insert("disk.util".to_owned(), self.reading(util, true));
        if busiest.requests > 0 {
            let await_s = busiest.waited_ms as f64 / 1e3 / busiest.requests as f64;
            host.insert("disk.await_s".to_owned(), self.reading(await_s, true));
            // Without the time in the queue, as long as requests are taken one after the other.
            let service_s = busiest.busy_ms as f64 / 1e3 / busiest.requests as f64;
            host.insert("disk.service_s".to_owned(), self.reading(service_s, true));
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
