//! `cap-memory`: a limit on the target's memory at which the node recovers.
//!
//! What must come back is *available* memory, and dropping the target's cache gives little of that
//! (cache counts as available already). Only its own pages, swapped out, do; or, where there is no
//! swap for them, killed processes. So with swap the cap is `memory.high` alone: reclaim to swap, and
//! growth slowed down. Without, `memory.max` comes behind it: the kernel then kills inside the cgroup
//! (its largest process; all of them where the owner set `memory.oom.group`, which is left as it is),
//! and `memory.high` below it keeps what is left or started again from running into it at once.

use cgroups_rs::fs::MaxValue;

use super::{KnobAction, Planning, refuse, unusable};
use crate::{
    incident::{ActionKind, KnobChange, Refusal},
    remedy::cgroup::Cgroup,
};

/// Writes `memory.high`, and `memory.max` where there is no swap.
#[derive(Debug)]
pub struct CapMemory;

/// Available share of the node's memory that is aimed at: above the 0.2 by which the shipped rules
/// judge, because the others grow too.
const AVAILABLE_AIM: f64 = 0.27;
/// `memory.high` below `memory.max`, so that growth is slowed down before it kills.
const HIGH_OF_MAX: f64 = 0.9;
/// Room to grow where the node isn't short and only growth is to be bounded.
const GROWTH_ROOM: f64 = 1.05;
/// The target keeps at least this share of what it has …
const KEEPS: f64 = 0.1;
/// … and at least this much, in bytes.
const KEEPS_BYTES: u64 = 32 << 20;
/// Swap is counted upon when there is this many times what has to be swapped out.
const SWAP_MARGIN: f64 = 1.5;

/// Limits to write, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Cap {
    high: u64,
    max: Option<u64>,
}

impl KnobAction for CapMemory {
    fn kind(&self) -> ActionKind {
        ActionKind::CapMemory
    }

    fn needs(&self) -> (&'static str, &'static str) {
        ("memory", "memory.high")
    }

    fn plan(&self, planning: &Planning<'_>) -> Result<Vec<KnobChange>, Refusal> {
        let number = |file| {
            planning
                .target
                .read_number(file)
                .map_err(|error| unusable(&error))
        };
        let limit = |file| {
            planning
                .target
                .read_max(file)
                .map_err(|error| unusable(&error))
        };
        let current = number("memory.current")?;
        let node = &planning.node;
        if node.memory_total == 0 {
            return Err(refuse(
                "unsupported",
                "the size of this node's memory is not known".into(),
            ));
        }
        let aim = match planning.amount {
            Some(share) => share * node.memory_total as f64,
            None => aim_bytes(current, node.memory_total, node.memory_available),
        };
        let swap = swap_free(planning.target, node.swap_free);
        let cap = cap(current, aim, swap);
        let mut changes = Vec::new();
        if lowers(limit("memory.high")?, cap.high) {
            changes.extend(planning.change("memory.high", cap.high.to_string())?);
        }
        if let Some(max) = cap.max
            && lowers(limit("memory.max")?, max)
        {
            changes.extend(planning.change("memory.max", max.to_string())?);
        }
        if changes.is_empty() {
            return Err(planning.already(&format!("a limit of at most {} bytes", cap.high)));
        }
        Ok(changes)
    }
}

fn lowers(now: MaxValue, to: u64) -> bool {
    match now {
        MaxValue::Max => true,
        MaxValue::Value(now) => u64::try_from(now).is_ok_and(|now| to < now),
    }
}

/// Swap that the target may still use.
fn swap_free(target: &Cgroup, node_free: u64) -> u64 {
    // Without the file there is no accounting, and it uses the node's.
    let own = match target.read_max("memory.swap.max") {
        Ok(MaxValue::Value(max)) => {
            let used = target.read_number("memory.swap.current").unwrap_or(0);
            u64::try_from(max).unwrap_or(0).saturating_sub(used)
        }
        Ok(MaxValue::Max) | Err(_) => u64::MAX,
    };
    own.min(node_free)
}

/// What the target may keep so that the node has [`AVAILABLE_AIM`] available.
fn aim_bytes(current: u64, total: u64, available: u64) -> f64 {
    let missing = AVAILABLE_AIM * total as f64 - available as f64;
    if missing <= 0.0 {
        return current as f64 * GROWTH_ROOM;
    }
    current as f64 - missing
}

fn cap(current: u64, aim: f64, swap_free: u64) -> Cap {
    let aim = aim.max(current as f64 * KEEPS).max(KEEPS_BYTES as f64);
    let over = current as f64 - aim;
    if over <= 0.0 {
        // Nothing has to go: bound the growth, and let the hard limit wait above the soft one.
        return Cap {
            high: pages(aim),
            max: Some(pages(aim / HIGH_OF_MAX)),
        };
    }
    if swap_free as f64 >= over * SWAP_MARGIN {
        return Cap {
            high: pages(aim),
            max: None,
        };
    }
    Cap {
        high: pages(aim * HIGH_OF_MAX),
        max: Some(pages(aim)),
    }
}

/// Whole pages, because the kernel rounds down to them and the value is read back. 64 KiB is a
/// multiple of every page size.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // over 0, below 2^53
fn pages(bytes: f64) -> u64 {
    const UNIT: u64 = 64 << 10;
    (bytes.clamp(0.0, 9e15) as u64 / UNIT).max(1) * UNIT
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;
    const MIB: u64 = 1 << 20;

    #[test]
    fn without_swap_the_cap_frees_what_the_node_needs() {
        // 4 GiB, 5 % available, the hog has 3 GiB.
        let (total, available, current) = (4 * GIB, GIB / 5, 3 * GIB);
        let cap = cap(current, aim_bytes(current, total, available), 0);
        let max = cap.max.unwrap();
        let after = available + (current - max);
        assert!(after as f64 / total as f64 >= 0.25, "{after} of {total}");
        assert!(cap.high < max && cap.high > max / 2);
    }

    #[test]
    fn with_swap_nothing_is_killed() {
        let current = 3 * GIB;
        let aim = aim_bytes(current, 4 * GIB, GIB / 5);
        let cap = cap(current, aim, 8 * GIB);
        assert_eq!(cap.max, None);
        assert!(cap.high < current);
    }

    #[test]
    fn too_little_swap_is_no_swap() {
        let current = 3 * GIB;
        let aim = aim_bytes(current, 4 * GIB, GIB / 5);
        assert!(cap(current, aim, 64 * MIB).max.is_some());
    }

    #[test]
    fn a_node_that_is_not_short_only_bounds_the_growth() {
        let current = GIB;
        let cap = cap(current, aim_bytes(current, 4 * GIB, 2 * GIB), 0);
        assert!(cap.high > current && cap.max.unwrap() > cap.high);
    }

    #[test]
    fn the_target_keeps_something_whatever_the_arithmetic_says() {
        let cap = cap(GIB, aim_bytes(GIB, 64 * GIB, GIB), 0);
        assert!(cap.max.unwrap() >= GIB / 10 - 64 * 1024);
        assert!(super::cap(64 * MIB, -1.0, 0).max.unwrap() >= KEEPS_BYTES);
        assert!(super::cap(GIB, f64::NAN, 0).max.unwrap() >= KEEPS_BYTES);
    }

    #[test]
    fn values_are_whole_pages_and_only_lower_what_is_there() {
        assert_eq!(pages(1e6) % (64 << 10), 0);
        assert_eq!(pages(0.0), 64 << 10);
        assert!(lowers(MaxValue::Max, 1));
        assert!(lowers(MaxValue::Value(10), 9));
        assert!(!lowers(MaxValue::Value(10), 10));
    }
}
