//! `freeze-cgroup`: stops everybody in the target for a short while, and lets them go on. For time to
//! breathe, never for long: a frozen service answers nobody.

use super::{KnobAction, Planning};
use crate::incident::{ActionKind, KnobChange, Refusal};

/// Writes `cgroup.freeze`.
#[derive(Debug)]
pub struct FreezeCgroup;

/// Clients' timeouts are of this order: longer, and the freeze is the outage.
const LEASE_S_MAX: u64 = 30;

impl KnobAction for FreezeCgroup {
    fn kind(&self) -> ActionKind {
        ActionKind::FreezeCgroup
    }

    fn needs(&self) -> (&'static str, &'static str) {
        ("cgroup", "cgroup.freeze")
    }

    fn plan(&self, planning: &Planning<'_>) -> Result<Vec<KnobChange>, Refusal> {
        if planning.read("cgroup.freeze")? == "1" {
            return Err(planning.already("cgroup.freeze = 1"));
        }
        let change = planning.change("cgroup.freeze", "1".to_owned())?;
        Ok(change.into_iter().collect())
    }

    fn lease_s_max(&self) -> u64 {
        LEASE_S_MAX
    }
}
