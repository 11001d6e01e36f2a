//! What happens to few cgroups and seldom: fatal signals, failed exits, TCP trouble, stalls in reclaim,
//! hits of limits, block I/O.
//!
//! Most cgroups have none of it in most windows, so only those that do are kept, apart from the rows.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashMap},
};

use super::{
    cgroup::CgroupSample,
    counters::{Count, Sums, since},
    kernel::{KernelCounts, ProcessCounts},
    sample::Sample,
};
use crate::incident::{CgroupFacts, CgroupId, Reading};

/// Cgroups kept of each window: those to which most happened, in turn by each kind.
const KEPT: usize = 64;

columns! {
    /// Cumulative counters of a cgroup.
    Happening {
        /// Signals that ended, or will end, their process.
        FatalSignals,
        FailedExits,
        TcpConnects,
        TcpConnectFailures,
        TcpRetransmits,
        TcpResets,
        /// Times that a member had to reclaim memory itself, and how long it took in ns.
        Reclaims,
        ReclaimNs,
        /// Requests that its devices completed, and how long these took in ns.
        BlockRequests,
        BlockNs,
        /// From `memory.events` and `memory.stat`.
        LimitHits,
        MajorFaults,
        PagesReclaimed,
    }
}

pub(super) type Happenings = [Count; Happening::N];

/// The probe that counts a kind; none: the cgroup's own files.
const PROBES: [(Happening, &str); 10] = [
    (Happening::FatalSignals, "signal"),
    (Happening::FailedExits, "exit"),
    (Happening::TcpConnects, "tcp"),
    (Happening::TcpConnectFailures, "tcp"),
    (Happening::TcpRetransmits, "tcp"),
    (Happening::TcpResets, "tcp"),
    (Happening::Reclaims, "reclaim"),
    (Happening::ReclaimNs, "reclaim"),
    (Happening::BlockRequests, "block"),
    (Happening::BlockNs, "block"),
];

/// Those told as so many a second; of `ns`, seconds a second.
const RATES: [(&str, Happening, f64); 11] = [
    ("signals.fatal_per_s", Happening::FatalSignals, 1.0),
    ("exits.failed_per_s", Happening::FailedExits, 1.0),
    ("tcp.connects_per_s", Happening::TcpConnects, 1.0),
    (
        "tcp.connect_failures_per_s",
        Happening::TcpConnectFailures,
        1.0,
    ),
    ("tcp.retransmits_per_s", Happening::TcpRetransmits, 1.0),
    ("tcp.resets_per_s", Happening::TcpResets, 1.0),
    ("mem.stalls_per_s", Happening::Reclaims, 1.0),
    ("mem.stalled", Happening::ReclaimNs, 1e-9),
    ("mem.limit_hits_per_s", Happening::LimitHits, 1.0),
    ("mem.major_faults_per_s", Happening::MajorFaults, 1.0),
    ("mem.reclaim_per_s", Happening::PagesReclaimed, 1.0),
];

/// What happened between two samples.
#[derive(Clone, Debug, Default)]
pub(super) struct HappeningWindow {
    /// Those to which something did.
    rows: Box<[(CgroupId, Happenings)]>,
    /// Which kinds were counted throughout, a bit each; and which of them lost some.
    counted: u64,
    lossy: u64,
    /// The most of each kind that happened to one that is not kept.
    floors: [u64; Happening::N],
}

impl HappeningWindow {
    /// The difference of two samples.
    pub(super) fn between(earlier: &Sample, now: &Sample) -> Self {
        let mut window = Self::default();
        for column in Happening::ALL {
            let bit = 1 << *column as usize;
            let probe = PROBES.iter().find(|(known, _)| known == column);
            let Some((_, probe)) = probe else {
                window.counted |= bit;
                continue;
            };
            if earlier.kernel.counting(probe) && now.kernel.counting(probe) {
                window.counted |= bit;
            }
            if now.kernel.drops(probe) > earlier.kernel.drops(probe) {
                window.lossy |= bit;
            }
        }
        let (then, after) = (totals(earlier), totals(now));
        let mut rows: Vec<(CgroupId, Happenings)> = after
            .into_iter()
            .map(|(id, counts)| {
                let before = then.get(&id);
                // A cgroup that was not known had none, unless the walk had not come to it.
                let before = before.copied().unwrap_or_else(|| unseen(&counts, earlier));
                (id, since(&counts, &before))
            })
            .filter(|(_, counts)| counts.iter().any(|count| count.get().unwrap_or(0) > 0))
            .collect();
        rows.sort_unstable_by_key(|(id, _)| *id);
        window.keep(rows);
        window
    }

    fn keep(&mut self, rows: Vec<(CgroupId, Happenings)>) {
        if rows.len() <= KEPT {
            self.rows = rows.into();
            return;
        }
        let of = |row: usize, column: usize| rows[row].1[column].get().unwrap_or(0);
        let mut chosen: Vec<usize> = Vec::with_capacity(KEPT);
        let mut rankings: Vec<std::vec::IntoIter<usize>> = (0..Happening::N)
            .map(|column| {
                let mut order: Vec<usize> =
                    (0..rows.len()).filter(|row| of(*row, column) > 0).collect();
                order.sort_by_key(|row| Reverse(of(*row, column)));
                order.into_iter()
            })
            .collect();
        while chosen.len() < KEPT {
            let mut any = false;
            for ranking in &mut rankings {
                let Some(next) = ranking.next() else { continue };
                any = true;
                if chosen.len() < KEPT && !chosen.contains(&next) {
                    chosen.push(next);
                }
            }
            if !any {
                break;
            }
        }
        for row in (0..rows.len()).filter(|row| !chosen.contains(row)) {
            for (column, floor) in self.floors.iter_mut().enumerate() {
                *floor = (*floor).max(of(row, column));
            }
        }
        chosen.sort_unstable();
        self.rows = chosen.into_iter().map(|row| rows[row]).collect();
    }

    /// Bytes beyond its own.
    pub(super) fn bytes(&self) -> usize {
        size_of_val(&*self.rows)
    }
}

fn unseen(counts: &Happenings, earlier: &Sample) -> Happenings {
    if earlier.walk.cut_off {
        [Count::ABSENT; Happening::N]
    } else {
        counts.map(|count| count.get().map(|_| 0).into())
    }
}

/// Cumulative counts of all cgroups that the probes or the walk know.
fn totals(sample: &Sample) -> HashMap<CgroupId, Happenings> {
    let mut totals: HashMap<CgroupId, Happenings> = HashMap::new();
    let nothing = [Count::ABSENT; Happening::N];
    for (id, cgroup) in &sample.cgroups {
        totals.insert(*id, cgroup.happenings());
    }
    let KernelCounts {
        processes, block, ..
    } = &sample.kernel.counts;
    for id in processes.keys().chain(block.keys().map(|(id, _)| id)) {
        totals.entry(*id).or_insert(nothing);
    }
    let mut requests: HashMap<CgroupId, (u64, u64)> = HashMap::new();
    for ((id, _), counts) in block {
        let (count, ns) = requests.entry(*id).or_default();
        *count += counts.buckets.iter().sum::<u64>();
        *ns += counts.total_ns;
    }
    let counting: Vec<bool> = PROBES
        .iter()
        .map(|(_, probe)| sample.kernel.counting(probe))
        .collect();
    for (id, row) in &mut totals {
        let counts = processes.get(id).copied().unwrap_or_default();
        let requests = requests.get(id).copied().unwrap_or_default();
        for ((column, _), _) in PROBES.iter().zip(&counting).filter(|(_, on)| **on) {
            row[*column as usize] = Count::new(probed(*column, &counts, requests));
        }
    }
    totals
}

fn probed(column: Happening, counts: &ProcessCounts, (requests, ns): (u64, u64)) -> u64 {
    match column {
        Happening::FatalSignals => counts.fatal_signals,
        Happening::FailedExits => counts.failed_exits,
        Happening::TcpConnects => counts.tcp_connects,
        Happening::TcpConnectFailures => counts.tcp_failures,
        Happening::TcpRetransmits => counts.tcp_retransmits,
        Happening::TcpResets => counts.tcp_resets_sent + counts.tcp_resets_received,
        Happening::Reclaims => counts.reclaims,
        Happening::ReclaimNs => counts.reclaim_ns,
        Happening::BlockRequests => requests,
        Happening::BlockNs => ns,
        // These are the cgroup's own files'.
        Happening::LimitHits | Happening::MajorFaults | Happening::PagesReclaimed => 0,
    }
}

/// Sums windows up and adds the readings of the cgroups. `reading` makes one of a value and whether it
/// is complete; `known` says which kinds a cgroup's own files tell.
pub(super) fn add<'a>(
    windows: impl Iterator<Item = &'a HappeningWindow>,
    span_s: f64,
    reading: impl Fn(f64, bool) -> Reading,
    latest: &HashMap<CgroupId, CgroupSample>,
    cgroups: &mut [CgroupFacts],
) {
    let mut sums: HashMap<CgroupId, Sums<{ Happening::N }>> = HashMap::new();
    let (mut counted, mut ever, mut lossy) = (u64::MAX, 0, 0);
    let mut floors = [0_u64; Happening::N];
    for window in windows {
        counted &= window.counted;
        ever |= window.counted;
        lossy |= window.lossy;
        for (id, row) in &window.rows {
            sums.entry(*id).or_default().add_known(row);
        }
        for (sum, floor) in floors.iter_mut().zip(window.floors) {
            *sum += floor;
        }
    }
    if span_s <= 0.0 {
        return;
    }
    let is = |bits: u64, column: Happening| bits >> column as usize & 1 == 1;
    for facts in cgroups {
        let sums = sums.get(&facts.id);
        let own = latest.get(&facts.id).map(CgroupSample::happenings);
        let has = |column: Happening| {
            let by_probe = PROBES.iter().any(|(known, _)| *known == column);
            let of_own = own.is_some_and(|own| own[column as usize] != Count::ABSENT);
            is(ever, column) && (by_probe || of_own)
        };
        let sum = |column: Happening| {
            let sum = sums.and_then(|sums| sums.get(column as usize)).unwrap_or(0);
            // What was left out of windows may have been this one's.
            let good = is(counted, column)
                && !is(lossy, column)
                && floors[column as usize] as f64 <= 0.1 * sum as f64;
            (sum, good)
        };
        let readings: &mut BTreeMap<String, Reading> = &mut facts.readings;
        for (name, column, unit) in RATES {
            if has(column) {
                let (sum, good) = sum(column);
                let value = sum as f64 * unit / span_s;
                readings.insert(name.to_owned(), reading(value, good));
            }
        }
        let (requests, good) = sum(Happening::BlockRequests);
        if has(Happening::BlockRequests) && requests > 0 {
            let mean = sum(Happening::BlockNs).0 as f64 / 1e9 / requests as f64;
            readings.insert("disk.await_s".to_owned(), reading(mean, good));
        }
    }
}
