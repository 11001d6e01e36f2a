//! Readings by their full name, as rules and recovery tests write them.
//!
//! Beside the readings that [`Evidence`] documents there are derived ones, ratios that mean the same
//! on two CPUs and on two hundred:
//! - `host.forks_per_cpu_s`, `host.execs_per_cpu_s`, and the same of `culprit.`: per second and CPU;
//! - `culprit.forks_per_busy_s`: per second of CPU time that it used. How little is done in each new
//!   process does not depend on how much of the CPUs it got, nor on a slow or starved machine;
//! - `culprit.runq.delay_share`: of the time that its tasks wanted to run, the share that they waited for
//!   a CPU, 0 to 1;
//! - `culprit.mem.exhausts_in_s`: seconds until the node's available memory is gone at the
//!   culprit's growth; [`NEVER_S`] when it does not grow;
//! - `host.tcp.retransmit_share`: retransmitted segments of all that were sent, 0 to 1;
//! - `host.syscalls.counted_s`: seconds of the window in which the syscall pair counted; missing if it did not;
//! - `culprit.syscall.NAME.{per_s,errors_per_s,p99_s,busy}`: calls of one syscall, while the pair counts;
//!   `busy` is the seconds spent in it by all its tasks together, a second; derived from it
//!   `culprit.syscall.NAME.per_busy_s`: calls per second of CPU time that it used;
//! - `errno.NAME.per_s` of both: errors that tell something, while the pair counts, and
//!   `culprit.errno.NAME.CALL.per_s`: of one syscall;
//! - `top_share.READING` (any reading of cgroups): share of the largest leaf in the whole, 0 to 1.
//!
//! `A or B`, of any names, is the first that is known.

use std::collections::HashMap;

use crate::incident::{CgroupFacts, CgroupId, Evidence, Quality, Reading, Series};

use super::culprit::{self, Leader};

/// What `culprit.mem.exhausts_in_s` says of memory that does not grow: 31 years.
pub const NEVER_S: f64 = 1e9;

/// Readings of the node, without `host.`.
const HOST: &[&str] = &[
    "cpu.busy",
    "cpu.iowait",
    "cpu.steal",
    "cpu.count",
    "load.runnable_per_cpu",
    "psi.cpu.some",
    "psi.cpu.full",
    "psi.memory.some",
    "psi.memory.full",
    "psi.io.some",
    "psi.io.full",
    "mem.available",
    "mem.total_bytes",
    "mem.reclaim_per_s",
    "mem.major_faults_per_s",
    "mem.oom_kills",
    "swap.used",
    "disk.util",
    "disk.await_s",
    "fs.used",
    "fs.inodes_used",
    "forks_per_s",
    "execs_per_s",
    "procs",
    // From the probes and readers of the network, the block layer and the node's tables. Where a
    // source is not there the reading is missing, which says nothing.
    "cpu.softirq",
    "cpu.irq",
    "psi.irq.full",
    "runq.p99_s",
    "mem.allocation_stalls_per_s",
    "mem.refaults_per_s",
    "swap.in_pages_per_s",
    "swap.out_pages_per_s",
    "disk.errors_per_s",
    "disk.iops",
    "disk.service_s",
    "fs.readonly",
    "files.used",
    "tasks.used",
    "tasks.blocked",
    "procs.zombie",
    "conntrack.used",
    "ports.used",
    "net.drops_per_s",
    "net.errors_per_s",
    "net.listen_drops_per_s",
    "net.listen_overflows_per_s",
    "net.no_route_per_s",
    "tcp.retransmits_per_s",
    "tcp.retransmit_share",
    "tcp.resets_sent_per_s",
    "tcp.resets_received_per_s",
    "tcp.connects_per_s",
    "tcp.accepts_per_s",
    "tcp.connect_failures_per_s",
    "tcp.timeouts_per_s",
    "tcp.backlog_drops_per_s",
    "tcp.aborts_on_memory_per_s",
    "tcp.memory_pressures_per_s",
    "tcp.segments_out_per_s",
    "tcp.sockets",
    "tcp.time_wait",
    "tcp.orphans",
    "udp.buffer_errors_per_s",
    "raid.arrays",
    "raid.disks_missing",
    "raid.inactive",
    "thermal.celsius",
    "thermal.of_critical",
    "time.unsynchronized",
    "time.max_error_s",
    "entropy.bits",
    "kernel.errors_per_s",
    "units.failed",
    "units.failed_age_s",
    SYSCALLS_COUNTED,
    "runq.waiting",
    "blocked.uninterruptible",
    "blocked.futex",
];

/// Readings of a cgroup, without `culprit.` or `top_share.`.
const CGROUP: &[&str] = &[
    "cpu.cores",
    "cpu.share",
    "cpu.throttled",
    "cpu.psi",
    "mem.bytes",
    "mem.share",
    "mem.growth_bytes_per_s",
    "mem.anon_share",
    "mem.oom_kills",
    "mem.psi",
    "io.bytes_per_s",
    "io.share",
    "io.psi",
    "pids",
    "pids.growth_per_s",
    "forks_per_s",
    "forks.share",
    "execs_per_s",
    "exits_per_s",
    "syscall.errors_per_s",
    "mem.of_limit",
    "mem.limit_hits_per_s",
    "mem.stalls_per_s",
    "mem.stalled",
    "mem.major_faults_per_s",
    "mem.reclaim_per_s",
    "swap.bytes",
    "pids.of_limit",
    "threads",
    "threads.growth_per_s",
    "fds",
    "fds.of_limit",
    "fds.growth_per_s",
    "runq.p99_s",
    "blocked.share",
    "blocked.uninterruptible",
    "disk.await_s",
    "signals.fatal_per_s",
    "exits.failed_per_s",
    "tcp.retransmits_per_s",
    "tcp.resets_per_s",
    "tcp.connects_per_s",
    "tcp.connect_failures_per_s",
    "runq.waiting",
    "blocked.futex",
];

/// Readings of the node and of its cgroups, while the syscall pair counts.
const ERRNO: &[&str] = &[
    "errno.eagain.per_s",
    "errno.econnrefused.per_s",
    "errno.edquot.per_s",
    "errno.eio.per_s",
    "errno.emfile.per_s",
    "errno.enfile.per_s",
    "errno.enomem.per_s",
    "errno.enospc.per_s",
    "errno.erofs.per_s",
    "errno.etimedout.per_s",
];

/// What is known of one syscall of a cgroup: `syscall.NAME.` and one of these.
const SYSCALL: &[&str] = &["per_s", "errors_per_s", "p99_s", "busy"];

const PER_CPU: &[(&str, &str)] = &[
    ("forks_per_cpu_s", "forks_per_s"),
    ("execs_per_cpu_s", "execs_per_s"),
];
const PER_BUSY: &str = "forks_per_busy_s";
const DELAY_SHARE: &str = "runq.delay_share";
const SYSCALLS_COUNTED: &str = "syscalls.counted_s";
const RETRANSMIT_SHARE: &str = "tcp.retransmit_share";
const EXHAUSTS: &str = "mem.exhausts_in_s";
const BYSTANDERS: &[(&str, &str)] = &[
    ("psi.cpu", "cpu.psi"),
    ("psi.memory", "mem.psi"),
    ("psi.io", "io.psi"),
    ("runq.p99_s", "runq.p99_s"),
];

/// Where a full name of a reading leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope<'a> {
    /// The node.
    Host(&'a str),
    /// The hypothesis' culprit.
    Culprit(&'a str),
    /// All leaves that are neither the culprit nor above or below it.
    Bystanders(&'a str),
    /// The largest leaf's share in the whole.
    TopShare(&'a str),
    /// A Prometheus series, by the name that the rule gave it.
    Series(&'a str),
}

/// Takes a full name apart; `None` when there is no such reading.
pub fn scope(reading: &str) -> Option<Scope<'_>> {
    let (head, rest) = reading.split_once('.')?;
    let per_cpu = || PER_CPU.iter().any(|(name, _)| *name == rest);
    match head {
        "host" => {
            let given = HOST.contains(&rest) || ERRNO.contains(&rest);
            (given || per_cpu()).then_some(Scope::Host(rest))
        }
        "culprit" => {
            let derived = [EXHAUSTS, PER_BUSY, DELAY_SHARE].contains(&rest)
                || per_cpu()
                || of_calls_per_busy(rest).is_some();
            (is_of_cgroup(rest) || derived).then_some(Scope::Culprit(rest))
        }
        "bystanders" => BYSTANDERS
            .iter()
            .find(|(name, _)| *name == rest)
            .map(|(_, of_cgroup)| Scope::Bystanders(of_cgroup)),
        "top_share" => is_of_cgroup(rest).then_some(Scope::TopShare(rest)),
        "series" => (!rest.is_empty()).then_some(Scope::Series(rest)),
        _ => None,
    }
}

/// The names of `A or B`, in order; of a plain name itself alone.
pub fn alternatives(reading: &str) -> impl Iterator<Item = &str> {
    reading.split(" or ")
}

/// Whether the answer depends on who the culprit is.
pub(super) fn is_about_somebody(reading: &str) -> bool {
    alternatives(reading).any(|one| one.starts_with("culprit.") || one.starts_with("bystanders."))
}

/// Whether cgroups have a reading of this name.
pub fn is_of_cgroup(reading: &str) -> bool {
    let plain = CGROUP.contains(&reading) || ERRNO.contains(&reading);
    plain || of_syscall(reading).is_some() || is_errno_of_call(reading)
}

/// Whether it is `errno.NAME.CALL.per_s`.
fn is_errno_of_call(reading: &str) -> bool {
    ERRNO.iter().any(|errno| {
        let call = errno
            .strip_suffix("per_s")
            .and_then(|errno| reading.strip_prefix(errno))
            .and_then(|call| call.strip_suffix(".per_s"));
        call.is_some_and(is_word)
    })
}

fn is_word(name: &str) -> bool {
    let of_word = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    !name.is_empty() && name.bytes().all(of_word)
}

/// `(NAME, figure)` of `syscall.NAME.FIGURE`.
fn of_syscall(reading: &str) -> Option<(&str, &str)> {
    let (name, figure) = reading.strip_prefix("syscall.")?.rsplit_once('.')?;
    (is_word(name) && SYSCALL.contains(&figure)).then_some((name, figure))
}

/// NAME of `syscall.NAME.per_busy_s`.
fn of_calls_per_busy(reading: &str) -> Option<&str> {
    let name = reading
        .strip_prefix("syscall.")?
        .strip_suffix(".per_busy_s")?;
    is_word(name).then_some(name)
}

/// All known names that resemble `reading`, for messages: those that end alike.
pub fn resembling(reading: &str) -> Option<String> {
    let last = reading.split('.').skip(1).collect::<Vec<_>>().join(".");
    let heads = [
        ("host", HOST),
        ("host", ERRNO),
        ("culprit", CGROUP),
        ("culprit", ERRNO),
        ("top_share", CGROUP),
        ("top_share", ERRNO),
    ];
    let known = |head: &'static str, names: &'static [&'static str]| {
        names.iter().map(move |name| format!("{head}.{name}"))
    };
    heads
        .into_iter()
        .flat_map(|(head, names)| known(head, names))
        .map(|name| (distance(&name, reading), name))
        .filter(|(far, name)| *far <= 3 || (!last.is_empty() && name.ends_with(&last)))
        .min()
        .map(|(_, name)| name)
}

/// Levenshtein distance; both are short (names of readings, limited by the rules' checks).
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, cb) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(ca != *cb);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

/// The readings of one diagnosis, each looked up once however many rules ask for it.
pub(super) struct Readings<'a> {
    evidence: &'a Evidence,
    found: HashMap<(Option<CgroupId>, &'a str), Option<Reading>>,
    leaders: HashMap<&'a str, Option<Leader<'a>>>,
}

impl<'a> Readings<'a> {
    /// Of this evidence. Room for what a large catalogue asks for is taken once, here.
    pub(super) fn new(evidence: &'a Evidence) -> Self {
        Self {
            evidence,
            found: HashMap::with_capacity(512),
            leaders: HashMap::with_capacity(64),
        }
    }

    /// As [`lookup`].
    pub(super) fn get(&mut self, culprit: Option<CgroupId>, reading: &'a str) -> Option<Reading> {
        // Only these depend on the culprit.
        let culprit = culprit.filter(|_| is_about_somebody(reading));
        if let Some(found) = self.found.get(&(culprit, reading)) {
            return *found;
        }
        let found = match reading.strip_prefix("top_share.") {
            Some(of_cgroup) if is_of_cgroup(of_cgroup) => {
                self.leader(of_cgroup).map(|leader| Reading {
                    value: leader.share,
                    quality: leader.reading.quality,
                })
            }
            _ => lookup(self.evidence, culprit, reading),
        };
        self.found.insert((culprit, reading), found);
        found
    }

    /// Who has most of something.
    pub(super) fn leader(&mut self, reading: &'a str) -> Option<Leader<'a>> {
        let evidence = self.evidence;
        *self
            .leaders
            .entry(reading)
            .or_insert_with(|| culprit::leader(evidence, reading))
    }
}

/// One reading by its full name, or the first of several that is known. `None` when it was not had, when
/// there is no such reading, or when it is not a finite number: missing is not zero.
pub fn lookup(evidence: &Evidence, culprit: Option<CgroupId>, reading: &str) -> Option<Reading> {
    alternatives(reading).find_map(|one| lookup_one(evidence, culprit, one))
}

fn lookup_one(evidence: &Evidence, culprit: Option<CgroupId>, reading: &str) -> Option<Reading> {
    let found = match scope(reading)? {
        Scope::Host(name) => host(evidence, name),
        Scope::Culprit(name) => of_culprit(evidence, evidence.cgroup(culprit?)?, name),
        Scope::Bystanders(name) => bystanders(evidence, culprit, name),
        Scope::TopShare(name) => culprit::leader(evidence, name).map(|leader| Reading {
            value: leader.share,
            quality: leader.reading.quality,
        }),
        Scope::Series(name) => series(evidence, name),
    }?;
    found.value.is_finite().then_some(found)
}

fn host(evidence: &Evidence, name: &str) -> Option<Reading> {
    if let Some((_, total)) = PER_CPU.iter().find(|(per_cpu, _)| *per_cpu == name) {
        return per_cpu(evidence, *evidence.host.get(*total)?);
    }
    if name == RETRANSMIT_SHARE && !evidence.host.contains_key(name) {
        return ratio(evidence, "tcp.retransmits_per_s", "tcp.segments_out_per_s");
    }
    if name == SYSCALLS_COUNTED && evidence.syscalls_s > 0.0 {
        return Some(Reading::good(evidence.syscalls_s));
    }
    evidence.host.get(name).copied()
}

fn ratio(evidence: &Evidence, part: &str, whole: &str) -> Option<Reading> {
    let (part, whole) = (evidence.host.get(part)?, evidence.host.get(whole)?);
    (whole.value > 0.0).then(|| Reading {
        value: part.value / whole.value,
        quality: part.quality.min(whole.quality),
    })
}

fn of_culprit(evidence: &Evidence, facts: &CgroupFacts, name: &str) -> Option<Reading> {
    if name == EXHAUSTS {
        return exhausts_in(evidence, facts);
    }
    if name == PER_BUSY {
        return per_busy(facts, *facts.readings.get("forks_per_s")?);
    }
    if let Some(call) = of_calls_per_busy(name) {
        let calls = of_facts(evidence, facts, &format!("syscall.{call}.per_s"))?;
        return per_busy(facts, calls);
    }
    if name == DELAY_SHARE {
        return delay_share(facts);
    }
    if let Some((_, total)) = PER_CPU.iter().find(|(per_cpu, _)| *per_cpu == name) {
        return per_cpu(evidence, *facts.readings.get(*total)?);
    }
    of_facts(evidence, facts, name)
}

/// A reading of one cgroup by its plain name.
pub(super) fn of_facts(evidence: &Evidence, facts: &CgroupFacts, name: &str) -> Option<Reading> {
    let known = facts.readings.get(name).copied();
    known.or_else(|| syscall(evidence, facts.id, name))
}

/// `None` while the syscall pair does not count, or when the cgroup has not made the call enough to
/// be among those that are kept: then the call is not what hurts, but missing is not zero.
fn syscall(evidence: &Evidence, cgroup: CgroupId, reading: &str) -> Option<Reading> {
    let (name, figure) = of_syscall(reading)?;
    let mut calls = evidence.syscalls.iter();
    let facts = calls.find(|facts| facts.cgroup == cgroup && facts.name == name)?;
    // The pair is attached when an alert comes: it has seen the last moments of the window only.
    let counted_s = if evidence.syscalls_s > 0.0 {
        evidence.syscalls_s
    } else {
        evidence.window_s
    };
    let per_s = |count: f64| (counted_s > 0.0).then(|| count / counted_s);
    let value = match figure {
        "per_s" => per_s(facts.calls as f64)?,
        "errors_per_s" => per_s(facts.errors as f64)?,
        "p99_s" => facts.p99_us / 1e6,
        _ => per_s(facts.total_s)?,
    };
    Some(Reading::good(value))
}

fn per_cpu(evidence: &Evidence, total: Reading) -> Option<Reading> {
    let count = evidence.host.get("cpu.count")?;
    (count.value >= 1.0).then(|| Reading {
        value: total.value / count.value,
        quality: total.quality.min(count.quality),
    })
}

/// Nothing is said of a cgroup that used less than a hundredth of a CPU: too few ticks to divide by.
fn per_busy(facts: &CgroupFacts, per_s: Reading) -> Option<Reading> {
    let cores = facts.readings.get("cpu.cores")?;
    (cores.value >= 0.01).then(|| Reading {
        value: per_s.value / cores.value,
        quality: per_s.quality.min(cores.quality),
    })
}

fn delay_share(facts: &CgroupFacts) -> Option<Reading> {
    let waiting = facts.readings.get("runq.waiting")?;
    let running = facts.readings.get("cpu.cores")?;
    let wanted = waiting.value + running.value;
    (wanted >= 0.01).then(|| Reading {
        value: waiting.value / wanted,
        quality: waiting.quality.min(running.quality),
    })
}

fn exhausts_in(evidence: &Evidence, facts: &CgroupFacts) -> Option<Reading> {
    let growth = facts.readings.get("mem.growth_bytes_per_s")?;
    let available = evidence.host.get("mem.available")?;
    let total = evidence.host.get("mem.total_bytes")?;
    let quality = growth.quality.min(available.quality).min(total.quality);
    let value = if growth.value > 0.0 {
        (available.value * total.value / growth.value).min(NEVER_S)
    } else {
        NEVER_S
    };
    Some(Reading { value, quality })
}

/// The worst of all leaves but the culprit's own: not the culprit, nothing above it (its pressure
/// contains the culprit's) and nothing below it.
fn bystanders(evidence: &Evidence, culprit: Option<CgroupId>, name: &str) -> Option<Reading> {
    let culprit = culprit.and_then(|id| evidence.cgroup(id));
    evidence
        .cgroups
        .iter()
        .filter(|facts| facts.leaf && culprit.is_none_or(|culprit| !related(culprit, facts)))
        .filter_map(|facts| facts.readings.get(name).copied())
        .filter(|reading| reading.value.is_finite())
        .max_by(|a, b| a.value.total_cmp(&b.value))
}

fn related(a: &CgroupFacts, b: &CgroupFacts) -> bool {
    let below = |path: &str, root: &str| {
        let root = root.trim_end_matches('/');
        path.strip_prefix(root)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    a.id == b.id || below(&a.path, &b.path) || below(&b.path, &a.path)
}

/// The last value of a series; of several series under one name, the largest. Partial when the
/// series ends in gaps.
fn series(evidence: &Evidence, name: &str) -> Option<Reading> {
    let last = |series: &Series| {
        let at = series.values.iter().rposition(Option::is_some)?;
        let quality = if at + 1 == series.values.len() {
            Quality::Good
        } else {
            Quality::Partial
        };
        Some(Reading {
            value: series.values[at]?,
            quality,
        })
    };
    evidence
        .series
        .iter()
        .filter(|series| series.name == name)
        .filter_map(last)
        .filter(|reading| reading.value.is_finite())
        .max_by(|a, b| a.value.total_cmp(&b.value))
}
