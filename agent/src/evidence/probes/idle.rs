//! Which places (of cgroups, devices, edges) may be given to others. Pure: the caller brings counts and time.
//!
//! The kernel never frees a place by itself, and a counter must not vanish under a busy cgroup; so
//! places are freed only when they become scarce, the longest idle first, and never a busy one.

use std::{
    collections::HashMap,
    hash::Hash,
    time::{Duration, Instant},
};

/// When each key's counters last moved.
#[derive(Debug)]
pub(super) struct Idle<K, C> {
    seen: HashMap<K, (C, Instant)>,
}

impl<K, C> Default for Idle<K, C> {
    fn default() -> Self {
        Self {
            seen: HashMap::new(),
        }
    }
}

impl<K: Copy + Eq + Hash + Ord, C: Copy + PartialEq> Idle<K, C> {
    /// Takes note of a reading and names the places to free: none until three quarters of `places`
    /// are taken, then the longest idle, at least `idle` long, until half are taken.
    pub(super) fn observe(
        &mut self,
        counts: &HashMap<K, C>,
        now: Instant,
        places: usize,
        idle: Duration,
    ) -> Vec<K> {
        self.seen.retain(|key, _| counts.contains_key(key));
        for (key, count) in counts {
            let entry = self.seen.entry(*key).or_insert((*count, now));
            if entry.0 != *count {
                *entry = (*count, now);
            }
        }
        if counts.len() * 4 < places * 3 {
            return Vec::new();
        }
        let mut candidates: Vec<(Instant, K)> = self
            .seen
            .iter()
            .map(|(key, (_, moved))| (*moved, *key))
            .filter(|(moved, _)| now.duration_since(*moved) >= idle)
            .collect();
        candidates.sort_unstable();
        candidates.truncate(counts.len() - places / 2);
        candidates.into_iter().map(|(_, key)| key).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{evidence::kernel::ProcessCounts, incident::CgroupId};

    fn counts(cgroups: std::ops::Range<u64>, forks: u64) -> HashMap<CgroupId, ProcessCounts> {
        let one = ProcessCounts {
            forks,
            ..ProcessCounts::default()
        };
        cgroups.map(|id| (CgroupId(id), one)).collect()
    }

    const IDLE: Duration = Duration::from_mins(1);

    #[test]
    fn nothing_is_freed_while_there_is_room() {
        let mut idle = Idle::default();
        let begun = Instant::now();
        assert!(idle.observe(&counts(0..74, 1), begun, 100, IDLE).is_empty());
        let later = begun + IDLE * 10;
        assert!(idle.observe(&counts(0..74, 1), later, 100, IDLE).is_empty());
    }

    #[test]
    fn the_longest_idle_go_first_and_the_busy_never() {
        let mut idle = Idle::default();
        let begun = Instant::now();
        assert!(idle.observe(&counts(0..10, 1), begun, 100, IDLE).is_empty());
        let mut now = counts(0..80, 1);
        assert!(idle.observe(&now, begun + IDLE / 2, 100, IDLE).is_empty());
        // 0 to 4 are busy, 5 to 9 idle for the whole time, the others for half of it.
        now.extend(counts(0..5, 2));
        let freed = idle.observe(&now, begun + IDLE, 100, IDLE);
        assert_eq!(freed, (5..10).map(CgroupId).collect::<Vec<_>>());
    }

    #[test]
    fn no_more_are_freed_than_it_takes_to_be_half_full() {
        let mut idle = Idle::default();
        let begun = Instant::now();
        assert!(idle.observe(&counts(0..80, 1), begun, 100, IDLE).is_empty());
        let freed = idle.observe(&counts(0..80, 1), begun + IDLE, 100, IDLE);
        assert_eq!(freed.len(), 30);
    }
}
