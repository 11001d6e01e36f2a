//! The node as a whole, from `/proc`: cumulative counters and levels at one moment.

use std::{collections::HashSet, fs, io, path::Path};

use procfs::{
    DiskStat, DiskStats, FromRead, FromReadSI, KernelStats, LoadAverage, ProcError,
    current_system_info,
};

use super::{
    EvidenceError,
    counters::{Count, HostCounter, HostCounters},
    files::Files,
    pressure::{self, Stalled},
};

/// Disks watched at most, the most used first.
const DISKS_MAX: usize = 32;
/// Not disks, whatever their statistics say.
const NO_DISKS: &[&str] = &["ram", "zram", "fd", "sr"];
const SECTOR_BYTES: u64 = 512;

/// One disk's cumulative counters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct DiskCounters {
    /// Major and minor number.
    pub device: (i32, i32),
    /// Milliseconds in which at least one request was in flight.
    pub busy_ms: u64,
    /// Requests completed.
    pub requests: u64,
    /// Milliseconds that these took altogether.
    pub waited_ms: u64,
    /// Bytes read and written.
    pub bytes: u64,
}

/// The node at one moment.
#[derive(Clone, Debug)]
pub(super) struct HostSample {
    pub counters: HostCounters,
    pub disks: Vec<DiskCounters>,
    /// CPUs that are online.
    pub cpus: usize,
    /// Tasks running or waiting for a CPU, this one excepted.
    pub runnable: Option<u32>,
    /// Bytes.
    pub memory_total: Option<u64>,
    /// Bytes that programs can have without swapping.
    pub memory_available: Option<u64>,
    /// 0 to 1; absent without swap.
    pub swap_used: Option<f64>,
    /// Tasks (processes and threads), as cgroups' `pids.current` counts them.
    pub tasks: Option<u32>,
    /// Tasks that wait uninterruptibly.
    pub blocked: Option<u32>,
}

/// What only changes when hardware does; asked again every few seconds.
#[derive(Clone, Debug, Default)]
pub(super) struct Hardware {
    /// Names of whole block devices; partitions of them would count twice.
    disks: HashSet<String>,
}

impl Hardware {
    pub(super) fn read() -> Self {
        let names = fs::read_dir("/sys/block").into_iter().flatten().flatten();
        Self {
            // sysfs can't have a slash in a name.
            disks: names
                .filter_map(|entry| Some(entry.file_name().to_str()?.replace('!', "/")))
                .filter(|name| !is_no_disk(name))
                .collect(),
        }
    }
}

fn is_no_disk(name: &str) -> bool {
    NO_DISKS.iter().any(|prefix| {
        name.strip_prefix(prefix)
            .is_some_and(|rest| rest.starts_with(|first: char| first.is_ascii_digit()))
    })
}

/// Reads the node. Only `/proc/stat` must be there; the rest, and what of it is not understood, is absent.
pub(super) fn read(files: &mut Files, hardware: &Hardware) -> Result<HostSample, EvidenceError> {
    let path = "/proc/stat";
    let text = files.read(path).map_err(|error| EvidenceError::Proc {
        path,
        source: ProcError::from(error),
    })?;
    let stat = KernelStats::from_read(text.as_bytes(), current_system_info()).ok();
    let stalled = [
        "/proc/pressure/cpu",
        "/proc/pressure/memory",
        "/proc/pressure/io",
        "/proc/pressure/irq",
    ]
    .map(|path| files.read(path).map_or(Stalled::ABSENT, pressure::parse));
    let pages = files.read("/proc/vmstat").map(Pages::parse);
    let memory = files.read("/proc/meminfo").map(Memory::parse);
    let load = files.read("/proc/loadavg").ok();
    let tasks = load.and_then(|text| Some(LoadAverage::from_read(text.as_bytes()).ok()?.max));
    let disks = files.read("/proc/diskstats").ok();
    let disks = disks.and_then(|text| DiskStats::from_read(text.as_bytes()).ok());
    Ok(assemble(
        stat.as_ref(),
        stalled,
        pages.unwrap_or_default(),
        memory.unwrap_or_default(),
        tasks,
        disks
            .map(|all| self::disks(&all, &hardware.disks))
            .unwrap_or_default(),
    ))
}

/// What of `/proc/vmstat` is of interest. The `procfs` crate keeps all its 190 lines by name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Pages {
    scanned_direct: Option<u64>,
    major_faults: Option<u64>,
    oom_kills: Option<u64>,
    swapped_in: Option<u64>,
    swapped_out: Option<u64>,
    /// One for each kind of page; of older kernels, one.
    refaults: Option<u64>,
    /// One for each zone.
    allocation_stalls: Option<u64>,
}

impl Pages {
    fn parse(text: &str) -> Self {
        let mut pages = Self::default();
        let add = |to: &mut Option<u64>, value: u64| {
            *to = Some(to.unwrap_or(0).saturating_add(value));
        };
        for line in text.lines() {
            let Some((name, value)) = line.split_once(' ') else {
                continue;
            };
            let into = match name {
                "pgscan_direct" => &mut pages.scanned_direct,
                "pgmajfault" => &mut pages.major_faults,
                "oom_kill" => &mut pages.oom_kills,
                "pswpin" => &mut pages.swapped_in,
                "pswpout" => &mut pages.swapped_out,
                "workingset_refault" => &mut pages.refaults,
                _ if name.starts_with("workingset_refault_") => &mut pages.refaults,
                _ if name.starts_with("allocstall_") => &mut pages.allocation_stalls,
                _ => continue,
            };
            if let Ok(value) = value.parse() {
                add(into, value);
            }
        }
        pages
    }
}

/// What of `/proc/meminfo` is of interest; bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Memory {
    total: Option<u64>,
    available: Option<u64>,
    swap_total: Option<u64>,
    swap_free: Option<u64>,
}

impl Memory {
    fn parse(text: &str) -> Self {
        let mut memory = Self::default();
        for line in text.lines() {
            let Some((name, value)) = line.split_once(':') else {
                continue;
            };
            let into = match name {
                "MemTotal" => &mut memory.total,
                "MemAvailable" => &mut memory.available,
                "SwapTotal" => &mut memory.swap_total,
                "SwapFree" => &mut memory.swap_free,
                _ => continue,
            };
            let kib = value.trim().strip_suffix(" kB");
            *into = kib.and_then(|kib| kib.parse::<u64>().ok()?.checked_mul(1024));
        }
        memory
    }

    /// 0 to 1; nothing without swap.
    fn swap_used(self) -> Option<f64> {
        let total = self.swap_total.filter(|total| *total > 0)?;
        let used = total.saturating_sub(self.swap_free?);
        Some(used as f64 / total as f64)
    }
}

/// Whether this kernel tells its pressure at all.
pub(super) fn has_pressure() -> Result<(), io::Error> {
    fs::read_to_string(Path::new("/proc/pressure/cpu")).map(drop)
}

fn assemble(
    stat: Option<&KernelStats>,
    [cpu, memory, io, irq]: [Stalled; 4],
    pages: Pages,
    memory_of: Memory,
    tasks: Option<u32>,
    disks: Vec<DiskCounters>,
) -> HostSample {
    let or_zero = |field: Option<u64>| field.unwrap_or(0);
    let mut counters = [Count::ABSENT; HostCounter::N];
    let mut set = |column: HostCounter, count: Count| counters[column as usize] = count;
    if let Some(stat) = stat {
        let total = &stat.total;
        // `user` and `nice` contain `guest` and `guest_nice`.
        let interrupts = or_zero(total.irq) + or_zero(total.softirq);
        let busy = total.user + total.nice + total.system + interrupts;
        let all = busy + total.idle + or_zero(total.iowait) + or_zero(total.steal);
        set(HostCounter::CpuTotal, Count::new(all));
        set(HostCounter::CpuBusy, Count::new(busy));
        set(HostCounter::CpuIowait, total.iowait.into());
        set(HostCounter::CpuSteal, total.steal.into());
        set(HostCounter::CpuIrq, total.irq.into());
        set(HostCounter::CpuSoftirq, total.softirq.into());
        set(HostCounter::Forks, Count::new(stat.processes));
    }
    set(HostCounter::PsiCpuSome, cpu.some);
    set(HostCounter::PsiCpuFull, cpu.full);
    set(HostCounter::PsiMemorySome, memory.some);
    set(HostCounter::PsiMemoryFull, memory.full);
    set(HostCounter::PsiIoSome, io.some);
    set(HostCounter::PsiIoFull, io.full);
    set(HostCounter::ScanDirect, pages.scanned_direct.into());
    set(HostCounter::MajorFaults, pages.major_faults.into());
    set(HostCounter::OomKills, pages.oom_kills.into());
    set(HostCounter::PsiIrqFull, irq.full);
    set(HostCounter::SwapIn, pages.swapped_in.into());
    set(HostCounter::SwapOut, pages.swapped_out.into());
    set(HostCounter::Refaults, pages.refaults.into());
    set(
        HostCounter::AllocationStalls,
        pages.allocation_stalls.into(),
    );
    HostSample {
        counters,
        disks,
        cpus: stat.map_or_else(cpus_online, |stat| stat.cpu_time.len().max(1)),
        runnable: stat.and_then(|stat| Some(stat.procs_running?.saturating_sub(1))),
        memory_total: memory_of.total,
        memory_available: memory_of.available,
        swap_used: memory_of.swap_used(),
        tasks,
        blocked: stat.and_then(|stat| stat.procs_blocked),
    }
}

/// Where `/proc/stat` does not tell.
fn cpus_online() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Whole disks that were ever used, the most used first.
fn disks(all: &DiskStats, whole: &HashSet<String>) -> Vec<DiskCounters> {
    let mut disks: Vec<DiskCounters> = all
        .0
        .iter()
        .filter(|disk| whole.contains(&disk.name))
        .map(of_disk)
        .filter(|disk| disk.requests > 0 || disk.busy_ms > 0)
        .collect();
    disks.sort_by_key(|disk| std::cmp::Reverse(disk.busy_ms));
    disks.truncate(DISKS_MAX);
    disks
}

fn of_disk(disk: &DiskStat) -> DiskCounters {
    let or_zero = |field: Option<u64>| field.unwrap_or(0);
    DiskCounters {
        device: (disk.major, disk.minor),
        busy_ms: disk.time_in_progress,
        requests: disk.reads + disk.writes + or_zero(disk.discards) + or_zero(disk.flushes),
        waited_ms: disk.time_reading
            + disk.time_writing
            + or_zero(disk.time_discarding)
            + or_zero(disk.time_flushing),
        bytes: (disk.sectors_read + disk.sectors_written).saturating_mul(SECTOR_BYTES),
    }
}

#[cfg(test)]
mod tests {
    use procfs::{DiskStats, FromRead, FromReadSI, KernelStats};

    use super::{
        Count, DiskCounters, Files, Hardware, HostCounter, HostSample, Memory, Pages, Stalled,
        assemble, disks, is_no_disk, read,
    };

    const STAT: &str = "\
cpu  100 20 30 4000 50 6 7 8 90 0
cpu0 50 10 15 2000 25 3 3 4 45 0
cpu1 50 10 15 2000 25 3 4 4 45 0
intr 12345 0 0
ctxt 9000
btime 1700000000
processes 777
procs_running 4
procs_blocked 1
softirq 1 2 3
";
    const MEMINFO: &str = "\
MemTotal:        2000000 kB
MemFree:          100000 kB
MemAvailable:     500000 kB
Buffers:               0 kB
Cached:           300000 kB
SwapCached:            0 kB
Active:                0 kB
Inactive:              0 kB
SwapTotal:        400000 kB
SwapFree:         300000 kB
Dirty:                 0 kB
Writeback:             0 kB
Mapped:                0 kB
Slab:                  0 kB
Committed_AS:          0 kB
VmallocTotal:          0 kB
VmallocUsed:           0 kB
VmallocChunk:          0 kB
";
    const VMSTAT: &str = "\
pgscan_direct 5
pgmajfault 6
oom_kill 1
pswpin 11
pswpout 12
workingset_refault_anon 3
workingset_refault_file 4
allocstall_dma 0
allocstall_normal 8
allocstall_movable 1
";
    const DISKSTATS: &str = "\
   1       0 ram0 9 0 9 9 9 0 9 9 0 9 9
 254       0 vda 100 0 2048 40 200 0 4096 60 0 500 100 1 0 8 5 10 15
 254       1 vda1 90 0 2000 40 190 0 4000 60 0 490 100 1 0 8 5 10 15
 254      16 vdb 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0
";

    fn captured() -> HostSample {
        let info = procfs::current_system_info();
        assemble(
            Some(&KernelStats::from_read(STAT.as_bytes(), info).unwrap()),
            [Stalled::ABSENT; 4],
            Pages::parse(VMSTAT),
            Memory::parse(MEMINFO),
            Some(321),
            Vec::new(),
        )
    }

    #[test]
    fn busy_is_what_worked_and_steal_is_not() {
        let sample = captured();
        let of = |column: HostCounter| sample.counters[column as usize];
        assert_eq!(of(HostCounter::CpuBusy), Count::new(100 + 20 + 30 + 6 + 7));
        assert_eq!(of(HostCounter::CpuTotal), Count::new(163 + 4000 + 50 + 8));
        assert_eq!(of(HostCounter::CpuSteal), Count::new(8));
        assert_eq!(of(HostCounter::Forks), Count::new(777));
        assert_eq!(of(HostCounter::MajorFaults), Count::new(6));
        assert_eq!(of(HostCounter::CpuSoftirq), Count::new(7));
        assert_eq!(of(HostCounter::SwapIn), Count::new(11));
        assert_eq!(of(HostCounter::Refaults), Count::new(7));
        assert_eq!(of(HostCounter::AllocationStalls), Count::new(9));
        assert_eq!(of(HostCounter::PsiIoSome), Count::ABSENT);
        assert_eq!(sample.blocked, Some(1));
        assert_eq!((sample.cpus, sample.runnable), (2, Some(3)));
    }

    #[test]
    fn a_stat_that_is_not_understood_takes_nothing_else_along() {
        let info = procfs::current_system_info();
        assert!(KernelStats::from_read(b"".as_slice(), info).is_err());
        let memory = Memory::parse(MEMINFO);
        let pages = Pages::parse(VMSTAT);
        let sample = assemble(None, [Stalled::ABSENT; 4], pages, memory, None, Vec::new());
        let of = |column: HostCounter| sample.counters[column as usize];
        assert_eq!(of(HostCounter::CpuBusy), Count::ABSENT);
        assert_eq!(of(HostCounter::Forks), Count::ABSENT);
        assert_eq!(of(HostCounter::SwapIn), Count::new(11));
        assert_eq!((sample.runnable, sample.blocked), (None, None));
        assert!(sample.cpus >= 1);
    }

    #[test]
    fn memory_is_in_bytes_and_swap_a_share() {
        let sample = captured();
        assert_eq!(sample.memory_total, Some(2_000_000 * 1024));
        assert_eq!(sample.memory_available, Some(500_000 * 1024));
        assert_eq!(sample.swap_used, Some(0.25));
        assert_eq!(sample.tasks, Some(321));
    }

    #[test]
    fn partitions_and_memory_disks_count_nothing() {
        let all = DiskStats::from_read(DISKSTATS.as_bytes()).unwrap();
        let whole = ["vda", "vdb"].map(String::from).into();
        let expected = DiskCounters {
            device: (254, 0),
            busy_ms: 500,
            requests: 100 + 200 + 1 + 10,
            waited_ms: 40 + 60 + 5 + 15,
            bytes: (2048 + 4096) * 512,
        };
        assert_eq!(disks(&all, &whole), [expected]);
        assert!(is_no_disk("ram0") && is_no_disk("zram1") && is_no_disk("sr0"));
        assert!(!is_no_disk("sda") && !is_no_disk("srv") && !is_no_disk("nvme0n1"));
    }

    #[test]
    fn this_host_can_be_read() {
        let sample = read(&mut Files::default(), &Hardware::read()).unwrap();
        assert!(sample.memory_total.unwrap() > sample.memory_available.unwrap());
        assert!(sample.tasks.unwrap() > 1);
        assert_ne!(
            sample.counters[HostCounter::MajorFaults as usize],
            Count::ABSENT
        );
        assert!(
            sample.counters[HostCounter::CpuTotal as usize]
                .get()
                .unwrap()
                > 0
        );
    }
}
