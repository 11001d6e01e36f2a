//! `deprioritise-cpu`: a smaller share of the CPUs where others want them too. Nobody is stopped, and an
//! idle CPU is still used: the mildest remedy for a hog.

use super::{KnobAction, Planning};
use crate::{
    incident::{ActionKind, KnobChange, Refusal},
    remedy::refuse,
};

/// Writes `cpu.weight`.
#[derive(Debug)]
pub struct DeprioritiseCpu;

/// The kernel's bounds of `cpu.weight`; its default is 100.
const WEIGHT_MIN: u64 = 1;
const WEIGHT_MAX: u64 = 10_000;

impl KnobAction for DeprioritiseCpu {
    fn kind(&self) -> ActionKind {
        ActionKind::DeprioritiseCpu
    }

    fn needs(&self) -> (&'static str, &'static str) {
        ("cpu", "cpu.weight")
    }

    fn plan(&self, planning: &Planning<'_>) -> Result<Vec<KnobChange>, Refusal> {
        let prior = planning.read("cpu.weight")?;
        let own: u64 = prior
            .parse()
            .map_err(|_| refuse("unsupported", format!("cpu.weight reads {prior:?}")))?;
        let weight = weight(own, planning.amount);
        // `cpu.idle` shows as a weight of 0: less is not to be had.
        if own <= weight {
            return Err(planning.already(&format!("cpu.weight = {own}")));
        }
        let change = planning.change("cpu.weight", weight.to_string())?;
        Ok(change.into_iter().collect())
    }
}

/// The rule's weight, or a tenth of what it has: nine tenths of a contended CPU go to an equal.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // clamped
fn weight(own: u64, amount: Option<f64>) -> u64 {
    match amount {
        Some(amount) => amount.clamp(WEIGHT_MIN as f64, WEIGHT_MAX as f64) as u64,
        None => (own / 10).max(WEIGHT_MIN),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_weight_is_one_that_the_kernel_takes() {
        assert_eq!(weight(100, None), 10);
        assert_eq!(weight(5, None), 1);
        assert_eq!(weight(100, Some(20.0)), 20);
        assert_eq!(weight(100, Some(0.2)), 1);
        assert_eq!(weight(100, Some(1e9)), 10_000);
    }
}
