//! `cap-pids`: no more tasks than there were before the storm.
//!
//! A cap at the present count would bless the storm. At the count of the old members every new fork
//! fails at once, and nobody who is there is touched.

use super::{KnobAction, Planning, refuse, unusable};
use crate::incident::{ActionKind, KnobChange, Refusal};

/// Writes `pids.max`.
#[derive(Debug)]
pub struct CapPids;

/// A storm is older than the alert that tells of it: members count as old when they were there this
/// many seconds before the alert. Too strict costs nothing but forks during the lease.
const BEFORE_ALERT_S: f64 = 10.0;

impl KnobAction for CapPids {
    fn kind(&self) -> ActionKind {
        ActionKind::CapPids
    }

    fn needs(&self) -> (&'static str, &'static str) {
        ("pids", "pids.max")
    }

    fn plan(&self, planning: &Planning<'_>) -> Result<Vec<KnobChange>, Refusal> {
        let cap = match planning.amount {
            Some(amount) => whole(amount),
            None => old_tasks(planning)?,
        };
        let now = planning
            .target
            .read_max("pids.max")
            .map_err(|error| unusable(&error))?;
        if let cgroups_rs::fs::MaxValue::Value(own) = now
            && u64::try_from(own).is_ok_and(|own| own <= cap)
        {
            return Err(planning.already(&format!("pids.max = {own}")));
        }
        Ok(planning
            .change("pids.max", cap.to_string())?
            .into_iter()
            .collect())
    }
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // clamped
fn whole(amount: f64) -> u64 {
    amount.clamp(1.0, 4_194_304.0) as u64
}

/// Tasks of the processes that were there before the storm; 1 where none was: then the whole cgroup
/// is the storm.
fn old_tasks(planning: &Planning<'_>) -> Result<u64, Refusal> {
    let unreadable =
        |error: std::io::Error| refuse("unsupported", format!("cannot read /proc: {error}"));
    let age_min_s = planning.alert_age_s.max(0.0) + BEFORE_ALERT_S;
    let uptime_s = planning.processes.uptime_s().map_err(unreadable)?;
    let pids = planning
        .target
        .processes()
        .map_err(|error| unusable(&error))?;
    let mut members = Vec::new();
    for pid in pids {
        // One that cannot be read is not counted: that only makes the cap stricter.
        if let Ok(Some(stat)) = planning.processes.stat(pid) {
            members.push((
                uptime_s - stat.start_ticks as f64 / ticks_per_s(),
                stat.threads,
            ));
        }
    }
    Ok(population(&members, age_min_s))
}

fn ticks_per_s() -> f64 {
    rustix::param::clock_ticks_per_second() as f64
}

/// Tasks among `(age in seconds, threads)` of at least that age; 1 at least.
fn population(members: &[(f64, u64)], age_min_s: f64) -> u64 {
    let old = members.iter().filter(|(age_s, _)| *age_s >= age_min_s);
    old.map(|(_, threads)| threads).sum::<u64>().max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_there_before_the_storm_counts() {
        let server = (3600.0, 9);
        let shell = (20.0, 1);
        let storm = std::iter::repeat_n((3.0, 1), 500);
        let members: Vec<(f64, u64)> = [server, shell].into_iter().chain(storm).collect();
        assert_eq!(population(&members, 15.0), 10);
    }

    #[test]
    fn a_cgroup_that_is_all_storm_may_have_one() {
        assert_eq!(population(&[(1.0, 1); 40], 12.0), 1);
        assert_eq!(population(&[], 12.0), 1);
    }

    #[test]
    fn an_amount_is_a_count() {
        assert_eq!(whole(12.9), 12);
        assert_eq!(whole(0.0), 1);
        assert_eq!(whole(f64::INFINITY), 4_194_304);
    }
}
