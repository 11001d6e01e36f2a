//! The kinds of faults, and which figures each takes.

use serde::{Deserialize, Serialize};

/// How something is made to go wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Busy threads of one cgroup.
    Burn,
    /// Busy threads below a quota of their own.
    Quota,
    /// Busy threads, one a cgroup.
    Crowd,
    /// Datagrams over a pair of interfaces.
    Packets,
    /// Threads of several cgroups that wake up all at once.
    Herd,
    /// One process that holds much of the node's memory.
    Hold,
    /// One process that grows slowly.
    Leak,
    /// Processes that the OOM killer takes at their cgroup's limit, one after the other.
    Oom,
    /// Working sets of several cgroups that do not fit below their parent's limit.
    Thrash,
    /// A working set that goes to swap and back.
    Swap,
    /// A working set above its own cgroup's limit.
    Squeeze,
    /// Direct writes.
    Writers,
    /// A filesystem filled with one file.
    Fill,
    /// A filesystem filled with empty files.
    Inodes,
    /// Direct reads of a device that answers late.
    SlowDisk,
    /// Small writes, each flushed.
    Fsyncs,
    /// A mirror that loses a disk.
    Raid,
    /// A filesystem that meets an error and protects itself.
    Readonly,
    /// Direct reads of a device that fails them.
    DiskErrors,
    /// `vfork` in loops.
    Forks,
    /// A program that ends at once and is started again.
    Crashes,
    /// Children that nobody waits for.
    Zombies,
    /// Direct reads of a device that does not answer.
    Hang,
    /// Files opened and never closed.
    Files,
    /// Threads started and never ended.
    Threads,
    /// Processes up to the cgroup's limit.
    Pids,
    /// Processes up to the node's limit.
    Tasks,
    /// Files up to the node's limit.
    FileTable,
    /// Threads that wake each other.
    Futexes,
    /// Threads of little weight on one CPU, beside one of much weight.
    Starved,
    /// More packets than an interface's queue holds.
    Drops,
    /// A router on the way that loses packets.
    Loss,
    /// Connections from every local port.
    Ports,
    /// More connections than are tracked.
    Conntrack,
    /// Connections to a socket that accepts none.
    Backlog,
    /// Connections to a closed port.
    Refused,
    /// Connections to where no route leads.
    NoRoute,
    /// A clock that was kept in step and is no longer.
    Clock,
    /// Errors that a filesystem reports and survives.
    KernelError,
}

impl Kind {
    /// Names of its figures; each must be given.
    pub fn figures(self) -> &'static [&'static str] {
        match self {
            Self::Burn => &["workers"],
            Self::Quota => &["workers", "percent"],
            Self::Crowd => &["cgroups"],
            Self::Packets => &["bytes"],
            Self::Herd => &["tasks", "burst_ms"],
            Self::Hold => &["share"],
            Self::Leak => &["begin_share", "mib_per_s"],
            Self::Oom => &["limit_mib"],
            Self::Thrash => &["cgroups", "working_mib", "limit_mib", "read_ms"],
            Self::Swap => &["working_mib", "limit_mib"],
            Self::Squeeze => &["working_mib", "limit_mib", "read_ms"],
            Self::Writers => &["threads", "kib", "write_ms"],
            Self::Fill => &["mib", "percent"],
            Self::Inodes => &["inodes"],
            Self::SlowDisk => &["delay_ms", "threads"],
            Self::Fsyncs => &["threads", "write_ms"],
            Self::DiskErrors | Self::Hang | Self::Futexes => &["threads"],
            Self::Raid => &["disks"],
            Self::Readonly => &["mib"],
            Self::Forks => &["loops"],
            Self::Crashes | Self::KernelError => &["every_ms"],
            Self::Zombies => &["count"],
            Self::Files => &["limit", "of_limit"],
            Self::Threads => &["begin", "per_s"],
            Self::Pids => &["limit"],
            Self::Tasks => &["room", "share"],
            Self::FileTable => &["files", "share"],
            Self::Starved => &["weight", "threads"],
            Self::Drops => &["streams", "backlog"],
            Self::Loss => &["percent", "streams"],
            Self::Ports => &["range"],
            Self::Conntrack => &["most"],
            Self::Backlog => &["per_s", "backlog"],
            Self::Refused | Self::NoRoute => &["per_s"],
            Self::Clock => &["error_s"],
        }
    }
}
