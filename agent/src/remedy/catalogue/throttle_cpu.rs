//! `throttle-cpu`: a quota on the target's CPU time.

use super::{KnobAction, Planning};
use crate::incident::{ActionKind, KnobChange, Refusal};

/// Writes `cpu.max` (and `cpu.max.burst`, which may not exceed the quota).
#[derive(Debug)]
pub struct ThrottleCpu;

/// The kernel takes no smaller quota, in microseconds.
const QUOTA_US_MIN: u64 = 1_000;
/// The kernel's default period, in microseconds.
const PERIOD_US: u64 = 100_000;

impl KnobAction for ThrottleCpu {
    fn kind(&self) -> ActionKind {
        ActionKind::ThrottleCpu
    }

    fn needs(&self) -> (&'static str, &'static str) {
        ("cpu", "cpu.max")
    }

    fn plan(&self, planning: &Planning<'_>) -> Result<Vec<KnobChange>, Refusal> {
        let prior = planning.read("cpu.max")?;
        let (own, period_us) = parse(&prior);
        let used = planning.reading("cpu.cores");
        let cpus = planning
            .amount
            .unwrap_or_else(|| default_cpus(planning.node.cpus, planning.node.busy, used));
        if own.is_some_and(|own| own <= cpus) {
            return Err(planning.already(&format!("cpu.max = {prior:?}")));
        }
        let quota_us = quota_us(cpus, period_us);
        let mut changes = Vec::new();
        let burst = planning.target.read("cpu.max.burst").ok();
        if burst
            .and_then(|burst| burst.parse::<u64>().ok())
            .is_some_and(|burst| burst > quota_us)
        {
            changes.extend(planning.change("cpu.max.burst", "0".to_owned())?);
        }
        changes.extend(planning.change("cpu.max", format!("{quota_us} {period_us}"))?);
        Ok(changes)
    }
}

/// `cpu.max` as CPUs (`None` = no limit) and its period in microseconds.
fn parse(text: &str) -> (Option<f64>, u64) {
    let mut words = text.split(' ');
    let quota = words.next().and_then(|word| word.parse::<u64>().ok());
    let period = words
        .next()
        .and_then(|word| word.parse().ok())
        .filter(|us| *us > 0);
    let period = period.unwrap_or(PERIOD_US);
    (quota.map(|quota| quota as f64 / period as f64), period)
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // checked: finite, over 0
fn quota_us(cpus: f64, period_us: u64) -> u64 {
    let quota = (cpus * period_us as f64).round().clamp(0.0, 1e12) as u64;
    quota.max(QUOTA_US_MIN)
}

/// CPUs left to the target when the rule names no number.
///
/// The node shall end at 70 % busy at most, although the others may want half as much again as they
/// could get so far. Within a fifth and half of the node: less would stop the target rather than slow
/// it, more would not heal two CPUs. And at most three quarters of what it uses now, or nothing would
/// change.
fn default_cpus(cpus: f64, busy: Option<f64>, used: Option<f64>) -> f64 {
    let used = used.unwrap_or(cpus).clamp(0.0, cpus);
    let others = (busy.unwrap_or(1.0) * cpus - used).max(0.0);
    let room = 0.7 * cpus - 1.5 * others;
    room.clamp(0.2 * cpus, 0.5 * cpus)
        .min(0.75 * used)
        .max(0.05)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn near(a: f64, b: f64) -> bool {
        (a - b).abs() < 1e-9
    }

    #[test]
    fn the_default_leaves_the_others_room_on_any_machine() {
        // A hog alone on two CPUs: half of the node.
        assert!(near(default_cpus(2.0, Some(1.0), Some(2.0)), 1.0));
        // The others already had half a CPU, and will want more.
        assert!(near(default_cpus(2.0, Some(1.0), Some(1.5)), 0.65));
        // 64 CPUs, a hog on 60 of them.
        assert!(near(default_cpus(64.0, Some(1.0), Some(60.0)), 32.0));
        // One that uses less than the quota would be: it must still be slowed down.
        assert!(near(default_cpus(64.0, Some(0.9), Some(10.0)), 7.5));
        // A single CPU, others busy.
        assert!(near(default_cpus(1.0, Some(1.0), Some(0.6)), 0.2));
        // Nothing known: half.
        assert!(near(default_cpus(4.0, None, None), 2.0));
    }

    #[test]
    fn after_the_default_the_node_is_below_the_bar_of_the_shipped_rule() {
        for cpus in [1.0, 2.0, 4.0, 16.0, 64.0, 256.0] {
            for others in [0.0, 0.1, 0.2, 0.3] {
                let used = cpus * (1.0 - others);
                let quota = default_cpus(cpus, Some(1.0), Some(used));
                let after = quota / cpus + 1.5 * others;
                assert!(after < 0.85, "{cpus} CPUs, others {others}: {after} busy");
                assert!(quota / cpus < 0.75);
            }
        }
    }

    #[test]
    fn the_period_stays_and_the_quota_is_one_that_the_kernel_takes() {
        assert_eq!(parse("max 100000"), (None, 100_000));
        assert_eq!(parse("50000 20000"), (Some(2.5), 20_000));
        assert_eq!(parse("odd"), (None, PERIOD_US));
        assert_eq!(quota_us(0.5, 20_000), 10_000);
        assert_eq!(quota_us(0.001, 100_000), QUOTA_US_MIN);
        assert_eq!(quota_us(f64::NAN, 100_000), QUOTA_US_MIN);
    }
}
