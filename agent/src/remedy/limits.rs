//! Blast radius (invariant 7): how many actions an hour, how many at once, how soon again on the same
//! target. A place is taken when an action is planned, so that two episodes cannot both have the last
//! one, and given back when it is undone.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use jiff::Timestamp;

use super::{config::LimitsConfig, refuse};
use crate::{
    clock::Clock,
    incident::{CgroupId, Intent, Refusal},
};

const HOUR: Duration = Duration::from_hours(1);
/// Actions remembered; over the largest `actions_per_hour` and all that can cool down in a day.
const TAKEN_MAX: usize = 25_000;
/// How long after its lease an effect that nobody undid is still counted: undoing may be slow.
const GRACE: Duration = Duration::from_mins(1);

/// The node's budgets. Times are monotonic: a step of the wall clock frees nothing.
#[derive(Debug)]
pub struct Limits {
    config: LimitsConfig,
    clock: Arc<dyn Clock>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Oldest first.
    taken: VecDeque<Taken>,
    held: Vec<Held>,
}

#[derive(Debug)]
struct Taken {
    at: Duration,
    target: Target,
}

#[derive(Debug)]
struct Held {
    until: Duration,
    intent: Intent,
}

/// By id and by path: a service that is started again has a new id.
#[derive(Clone, Debug)]
struct Target {
    cgroup: CgroupId,
    path: String,
}

impl Target {
    fn of(intent: &Intent) -> Self {
        Self {
            cgroup: intent.action.cgroup,
            path: intent.action.path.clone(),
        }
    }
    fn is(&self, other: &Self) -> bool {
        self.cgroup == other.cgroup || self.path == other.path
    }
}

impl Limits {
    /// Budgets with nothing used.
    pub fn new(config: &LimitsConfig, clock: Arc<dyn Clock>) -> Self {
        Self {
            config: config.clone(),
            clock,
            state: Mutex::default(),
        }
    }

    /// Takes a place for an intent, or says which budget is used up.
    pub fn take(&self, intent: &Intent) -> Result<(), Refusal> {
        let now = self.clock.monotonic();
        let target = Target::of(intent);
        let mut state = self.lock();
        state.forget(now, self.window());
        self.check(&state, now, &target)?;
        state.hold(now + self.left(intent), intent);
        state.taken.push_back(Taken { at: now, target });
        Ok(())
    }

    /// Whether there would be a place now, without taking it.
    pub fn would_take(&self, intent: &Intent) -> Result<(), Refusal> {
        let now = self.clock.monotonic();
        let mut state = self.lock();
        state.forget(now, self.window());
        self.check(&state, now, &Target::of(intent))
    }

    fn check(&self, state: &State, now: Duration, target: &Target) -> Result<(), Refusal> {
        let LimitsConfig {
            actions_per_hour,
            target_cooldown_s,
            held_max,
        } = self.config;
        if let Some(held) = state
            .held
            .iter()
            .find(|held| Target::of(&held.intent).is(target))
        {
            return Err(refuse(
                "budget",
                format!(
                    "{:?} is already under {} until {}",
                    target.path, held.intent.action.kind, held.intent.lease_until
                ),
            ));
        }
        let cooldown = Duration::from_secs(target_cooldown_s);
        let recent = state
            .taken
            .iter()
            .rev()
            .find(|taken| taken.target.is(target));
        if let Some(age) = recent.map(|taken| now.saturating_sub(taken.at))
            && age < cooldown
        {
            return Err(refuse(
                "budget",
                format!(
                    "{:?} was acted upon {} s ago; again after {} s \
                     (remedy.limits.target_cooldown_s)",
                    target.path,
                    age.as_secs(),
                    target_cooldown_s
                ),
            ));
        }
        if state.held.len() >= usize::try_from(held_max).unwrap_or(usize::MAX) {
            return Err(refuse(
                "budget",
                format!("{held_max} effects are in force already (remedy.limits.held_max)"),
            ));
        }
        let in_hour = state
            .taken
            .iter()
            .filter(|taken| now.saturating_sub(taken.at) < HOUR)
            .count();
        if in_hour >= usize::try_from(actions_per_hour).unwrap_or(usize::MAX) {
            return Err(refuse(
                "budget",
                format!(
                    "{in_hour} actions in the last hour are enough for this node \
                     (remedy.limits.actions_per_hour)"
                ),
            ));
        }
        Ok(())
    }

    /// The effect is gone: others may be held in its place. The hour and the cool-down run on.
    pub fn release(&self, intent: &Intent) {
        self.lock()
            .held
            .retain(|held| held.intent.episode != intent.episode);
    }

    /// After a restart: an action of an earlier life, begun at `at`; `held` if still in force.
    pub fn recall(&self, intent: &Intent, at: Timestamp, held: bool) {
        let now = self.clock.monotonic();
        let ago = Duration::try_from(self.clock.now().duration_since(at)).unwrap_or_default();
        // The monotonic clock may have begun after that action: then count it as of now.
        let taken = Taken {
            at: now.saturating_sub(ago),
            target: Target::of(intent),
        };
        let mut state = self.lock();
        let place = state.taken.partition_point(|other| other.at <= taken.at);
        state.taken.insert(place, taken);
        if held {
            state.hold(now + self.left(intent), intent);
        }
        state.forget(now, self.window());
    }

    fn left(&self, intent: &Intent) -> Duration {
        let left = intent.lease_until.duration_since(self.clock.now());
        Duration::try_from(left).unwrap_or_default() + GRACE
    }

    fn window(&self) -> Duration {
        HOUR.max(Duration::from_secs(self.config.target_cooldown_s))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn hold(&mut self, until: Duration, intent: &Intent) {
        let intent = intent.clone();
        self.held.push(Held { until, intent });
    }

    fn forget(&mut self, now: Duration, window: Duration) {
        self.held.retain(|held| held.until > now);
        while self.taken.front().is_some_and(|oldest| {
            now.saturating_sub(oldest.at) >= window || self.taken.len() > TAKEN_MAX
        }) {
            self.taken.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        clock::ManualClock,
        incident::{Action, ActionKind, EpisodeId},
    };

    fn intent(clock: &ManualClock, n: u8, path: &str) -> Intent {
        Intent {
            episode: EpisodeId([n; 16]),
            action: Action {
                kind: ActionKind::ThrottleCpu,
                cgroup: CgroupId(u64::from(n)),
                path: path.to_owned(),
                amount: None,
            },
            changes: Vec::new(),
            lease_until: clock.now() + jiff::SignedDuration::from_secs(300),
        }
    }

    fn limits(actions_per_hour: u32, held_max: u32) -> (Arc<ManualClock>, Limits) {
        let clock = Arc::new(ManualClock::at("2026-01-01T00:00:00Z".parse().unwrap()));
        let config = LimitsConfig {
            actions_per_hour,
            target_cooldown_s: 900,
            held_max,
        };
        let limits = Limits::new(&config, clock.clone());
        (clock, limits)
    }

    #[test]
    fn a_node_has_so_many_actions_an_hour() {
        let (clock, limits) = limits(2, 64);
        for n in [1, 2] {
            let intent = intent(&clock, n, &format!("/{n}"));
            limits.take(&intent).unwrap();
            limits.release(&intent);
        }
        let refused = limits.take(&intent(&clock, 3, "/3")).unwrap_err();
        assert_eq!(refused.reason, "budget");
        assert!(
            refused.detail.contains("actions_per_hour"),
            "{}",
            refused.detail
        );
        clock.advance(Duration::from_secs(3601));
        limits.take(&intent(&clock, 3, "/3")).unwrap();
    }

    #[test]
    fn a_target_cools_down_even_when_it_comes_back_under_a_new_id() {
        let (clock, limits) = limits(100, 64);
        let first = intent(&clock, 1, "/a");
        limits.take(&first).unwrap();
        let held = limits.take(&intent(&clock, 2, "/a")).unwrap_err();
        assert!(
            held.detail.contains("already under throttle-cpu"),
            "{}",
            held.detail
        );
        limits.release(&first);
        clock.advance(Duration::from_secs(899));
        let early = limits.take(&intent(&clock, 2, "/a")).unwrap_err();
        assert!(
            early.detail.contains("target_cooldown_s"),
            "{}",
            early.detail
        );
        clock.advance(Duration::from_secs(1));
        limits.take(&intent(&clock, 2, "/a")).unwrap();
    }

    #[test]
    fn so_many_are_held_at_once_and_undoing_makes_room() {
        let (clock, limits) = limits(100, 1);
        let first = intent(&clock, 1, "/a");
        limits.take(&first).unwrap();
        assert!(limits.take(&intent(&clock, 2, "/b")).is_err());
        limits.release(&first);
        limits.take(&intent(&clock, 2, "/b")).unwrap();
    }

    #[test]
    fn an_effect_whose_lease_is_long_over_is_not_counted_for_ever() {
        let (clock, limits) = limits(100, 1);
        limits.take(&intent(&clock, 1, "/a")).unwrap();
        clock.advance(Duration::from_secs(359));
        assert!(limits.take(&intent(&clock, 2, "/b")).is_err());
        clock.advance(Duration::from_secs(2));
        limits.take(&intent(&clock, 2, "/b")).unwrap();
    }

    #[test]
    fn an_earlier_life_counts() {
        let (clock, limits) = limits(1, 4);
        let earlier = clock.now() - jiff::SignedDuration::from_secs(60);
        limits.recall(&intent(&clock, 1, "/a"), earlier, true);
        let refused = limits.take(&intent(&clock, 2, "/b")).unwrap_err();
        assert!(
            refused.detail.contains("actions_per_hour"),
            "{}",
            refused.detail
        );
        assert!(
            limits
                .take(&intent(&clock, 3, "/a"))
                .unwrap_err()
                .detail
                .contains("already")
        );
    }
}
