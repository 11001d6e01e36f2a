//! `raise-memory`: more memory than the target's own limit, where the node has it to spare. For a service
//! whose limit was set too low, until a person has set a better one.

use cgroups_rs::fs::MaxValue;

use super::{KnobAction, Planning, unusable};
use crate::{
    incident::{ActionKind, KnobChange, Refusal},
    remedy::refuse,
};

/// Writes `memory.max`, and `memory.high` where it is not above the old limit.
#[derive(Debug)]
pub struct RaiseMemory;

/// By how much when the rule names no factor, and at most.
const FACTOR: f64 = 1.25;
const FACTOR_MAX: f64 = 2.0;
/// Share of the node's memory that stays available if the target takes all that it is given.
const KEEP_SHARE: f64 = 0.2;
/// Limits are whole pages; every size of page divides this.
const GRAIN: u64 = 64 * 1024;

impl KnobAction for RaiseMemory {
    fn kind(&self) -> ActionKind {
        ActionKind::RaiseMemory
    }

    fn needs(&self) -> (&'static str, &'static str) {
        ("memory", "memory.max")
    }

    fn plan(&self, planning: &Planning<'_>) -> Result<Vec<KnobChange>, Refusal> {
        let limit = |file: &str| {
            let read = planning.target.read_max(file);
            read.map_err(|error| unusable(&error)).map(|max| match max {
                MaxValue::Max => None,
                MaxValue::Value(bytes) => u64::try_from(bytes).ok(),
            })
        };
        let Some(own) = limit("memory.max")? else {
            let why = format!("{:?} has no memory.max to raise", planning.target.path());
            return Err(refuse("already-limited", why));
        };
        let node = planning.node;
        let spare = spare(node.memory_total, node.memory_available);
        let Some(raised) = raised(own, planning.amount, spare) else {
            let why = format!(
                "{:?} has memory.max = {own}, and the node has {spare} bytes to spare: too little to help",
                planning.target.path()
            );
            return Err(refuse("unsupported", why));
        };
        let mut changes = Vec::new();
        // The hard limit first: a soft one above it would be none.
        changes.extend(planning.change("memory.max", raised.to_string())?);
        if let Some(high) = limit("memory.high")?.filter(|high| *high <= own) {
            let raised = grains(high.saturating_add(raised - own));
            changes.extend(planning.change("memory.high", raised.to_string())?);
        }
        Ok(changes)
    }
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // positive, far below 2^63
fn spare(total: u64, available: u64) -> u64 {
    available.saturating_sub((KEEP_SHARE * total as f64) as u64)
}

fn grains(bytes: u64) -> u64 {
    bytes / GRAIN * GRAIN
}

/// The new limit; `None` where less than a twentieth could be added.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // clamped
fn raised(own: u64, factor: Option<f64>, spare: u64) -> Option<u64> {
    let factor = factor.unwrap_or(FACTOR).clamp(1.0, FACTOR_MAX);
    let wanted = (own as f64 * (factor - 1.0)) as u64;
    let more = wanted.min(spare);
    (more >= own / 20 && more >= GRAIN).then(|| grains(own.saturating_add(more)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn it_never_gives_what_the_node_needs_itself() {
        assert_eq!(spare(1000 * MIB, 500 * MIB), 300 * MIB);
        assert_eq!(spare(1000 * MIB, 100 * MIB), 0);
        assert_eq!(raised(100 * MIB, None, 1000 * MIB), Some(125 * MIB));
        assert_eq!(raised(100 * MIB, None, 10 * MIB), Some(110 * MIB));
        assert_eq!(raised(100 * MIB, None, MIB), None);
        assert_eq!(raised(100 * MIB, Some(50.0), 1000 * MIB), Some(200 * MIB));
        assert_eq!(raised(100 * MIB, Some(1.0), 1000 * MIB), None);
        assert_eq!(raised(4096, None, 1000 * MIB), None);
    }
}
