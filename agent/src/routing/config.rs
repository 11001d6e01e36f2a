//! Limits of the queues, with defaults and reasons.

use std::ops::RangeInclusive;

use serde::{Deserialize, Serialize};

/// Configuration of routing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RoutingConfig {
    /// Episodes that may wait for one tenant; further ones are answered 503. 1 to 65,536, 1,024 by
    /// default.
    pub queue_len_max: usize,
    /// Episodes handled at a time by all tenants together, 1 to 1,024, 16 by default. Each tenant
    /// has one of these to itself, so with more tenants than this there are as many as tenants.
    pub concurrency_max: usize,
    /// Episodes of one tenant handled at a time, 1 to 1,024, 8 by default.
    pub tenant_concurrency_max: usize,
    /// Seconds after which the handling of an episode is stopped; 1 to 86,400, 600 by default: far
    /// more than sampling, acting and verifying take together.
    pub episode_deadline_s: u64,
    /// Milliseconds for noting down that an episode failed; 100 to 60,000, 15,000 by default: more
    /// than the journal's own deadline.
    pub failure_ms_max: u64,
}

impl Default for RoutingConfig {
    fn default() -> Self {
        Self {
            queue_len_max: 1024,
            concurrency_max: 16,
            tenant_concurrency_max: 8,
            episode_deadline_s: 600,
            failure_ms_max: 15_000,
        }
    }
}

impl RoutingConfig {
    /// Every field out of bounds, one sentence each; empty when all is well.
    pub fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        let mut bound = |field: &str, value: u64, bounds: RangeInclusive<u64>| {
            if !bounds.contains(&value) {
                problems.push(format!(
                    "routing.{field}: {value} is not within {} to {}",
                    bounds.start(),
                    bounds.end()
                ));
            }
        };
        bound("queue_len_max", self.queue_len_max as u64, 1..=65_536);
        bound("concurrency_max", self.concurrency_max as u64, 1..=1024);
        let tenant_max = self.tenant_concurrency_max as u64;
        bound("tenant_concurrency_max", tenant_max, 1..=1024);
        bound("episode_deadline_s", self.episode_deadline_s, 1..=86_400);
        bound("failure_ms_max", self.failure_ms_max, 100..=60_000);
        problems
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_are_checked_and_named() {
        assert_eq!(RoutingConfig::default().problems(), Vec::<String>::new());
        let config = RoutingConfig {
            queue_len_max: 0,
            episode_deadline_s: 0,
            ..RoutingConfig::default()
        };
        assert_eq!(
            config.problems(),
            [
                "routing.queue_len_max: 0 is not within 1 to 65536",
                "routing.episode_deadline_s: 0 is not within 1 to 86400",
            ]
        );
    }
}
