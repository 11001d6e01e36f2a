//! `raise-oom-score`: if the kernel must kill, then the target's processes and not the innocent. Nobody
//! is killed by it.

use super::{KnobAction, Planning};
use crate::{
    incident::{ActionKind, KnobChange, Refusal},
    remedy::knob,
};

/// Writes `oom_score_adj` of the target's largest processes.
#[derive(Debug)]
pub struct RaiseOomScore;

/// Added to a process' share of the memory in thousandths: above whatever a victim by size alone has,
/// below the 1000 of those who ask for it.
const ADJ: i32 = 900;
const ADJ_MAX: i32 = 1_000;
/// The largest are the ones that a kill would free memory from; a storm of small ones is another case.
const PROCESSES_MAX: usize = 32;

impl KnobAction for RaiseOomScore {
    fn kind(&self) -> ActionKind {
        ActionKind::RaiseOomScore
    }

    fn needs(&self) -> (&'static str, &'static str) {
        ("cgroup", "cgroup.procs")
    }

    fn plan(&self, planning: &Planning<'_>) -> Result<Vec<KnobChange>, Refusal> {
        let wanted = wanted(planning.amount);
        let mut changes = Vec::new();
        for member in planning.by_memory()?.into_iter().take(PROCESSES_MAX) {
            let of = member.holder();
            // It ended a moment ago, or may not be read: then it is not the one that matters.
            let Ok(prior) = knob::read(planning.target, of, knob::OOM, "") else {
                continue;
            };
            if prior.parse::<i32>().is_ok_and(|own| own < wanted) {
                changes.push(KnobChange {
                    of,
                    file: knob::OOM.to_owned(),
                    prior,
                    value: wanted.to_string(),
                });
            }
        }
        if changes.is_empty() {
            return Err(planning.already("an oom_score_adj"));
        }
        Ok(changes)
    }
}

#[allow(clippy::cast_possible_truncation)] // clamped
fn wanted(amount: Option<f64>) -> i32 {
    amount.map_or(ADJ, |amount| amount.clamp(1.0, f64::from(ADJ_MAX)) as i32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_score_is_one_that_the_kernel_takes() {
        assert_eq!(wanted(None), 900);
        assert_eq!(wanted(Some(5000.0)), 1000);
        assert_eq!(wanted(Some(0.5)), 1);
    }
}
