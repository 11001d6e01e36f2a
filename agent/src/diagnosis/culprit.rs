//! Which cgroup stands out by a reading.

use crate::incident::{CgroupFacts, Evidence, Quality, Reading};

use super::features;

/// The leaf with the most of something.
#[derive(Clone, Copy)]
pub(super) struct Leader<'a> {
    pub facts: &'a CgroupFacts,
    pub reading: Reading,
    /// Its part of the whole, 0 to 1.
    pub share: f64,
}

/// Part of the whole that may be nobody's without a doubt about who has the most: kernel threads and
/// interrupts belong to no leaf.
const UNTOLD_MAX: f64 = 0.3;

/// The leaf with the largest `reading`, and its share of the whole; `None` when no leaf has any.
/// Only leaves compete: they alone hold processes, and a parent's figure contains its children's.
/// Equal values go to the path that sorts first. Where a leaf without the reading may have more than the
/// largest that is known, the share is partial.
pub(super) fn leader<'a>(evidence: &'a Evidence, reading: &str) -> Option<Leader<'a>> {
    let leaves = || {
        let leaves = evidence.cgroups.iter().filter(|facts| facts.leaf);
        leaves
            .filter_map(|facts| Some((facts, features::of_facts(evidence, facts, reading)?)))
            .filter(|(_, reading)| reading.value.is_finite() && reading.value >= 0.0)
    };
    let (facts, top) = leaves().max_by(|(a, x), (b, y)| {
        x.value
            .total_cmp(&y.value)
            .then_with(|| b.path.cmp(&a.path))
    })?;
    let sum: f64 = leaves().map(|(_, reading)| reading.value).sum();
    // What the node as a whole has seen counts too: work in cgroups that are no leaves, or not in
    // the evidence, must not make the largest of the others look guilty.
    let whole = sum.max(of_host(evidence, reading).unwrap_or(0.0));
    let untold = whole - sum;
    let silent = || {
        let mut leaves = evidence.cgroups.iter().filter(|facts| facts.leaf);
        leaves.any(|facts| features::of_facts(evidence, facts, reading).is_none())
    };
    let mut top = top;
    if untold > top.value && untold > UNTOLD_MAX * whole && silent() {
        top.quality = Quality::Partial;
    }
    let share = if whole > 0.0 && whole.is_finite() {
        top.value / whole
    } else {
        0.0
    };
    Some(Leader {
        facts,
        reading: top,
        share,
    })
}

/// The node's total of what a cgroup's reading is a part of, where one is known.
fn of_host(evidence: &Evidence, reading: &str) -> Option<f64> {
    let host = |name: &str| Some(evidence.host.get(name)?.value).filter(|value| value.is_finite());
    match reading {
        "cpu.cores" => Some(host("cpu.busy")? * host("cpu.count")?),
        "cpu.share" => host("cpu.busy"),
        "mem.bytes" => Some((1.0 - host("mem.available")?) * host("mem.total_bytes")?),
        "mem.share" => Some(1.0 - host("mem.available")?),
        "mem.oom_kills" => host("mem.oom_kills"),
        "forks_per_s" => host("forks_per_s"),
        "execs_per_s" => host("execs_per_s"),
        "pids" => host("procs"),
        // Whoever waits, waits in some leaf: their shares of the time add up to the node's at least.
        "cpu.psi" => host("psi.cpu.some"),
        "mem.psi" => host("psi.memory.some"),
        "io.psi" => host("psi.io.some"),
        // Already parts of all.
        "forks.share" | "io.share" => Some(1.0),
        _ => None,
    }
}
