//! A circuit breaker a dependency: after some failures in a row it refuses at once for a while,
//! then lets one call through to see.
//!
//! It guards calls that ask; a rollback never goes through a breaker (invariant 7).

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use crate::clock::Clock;

/// Limits of a breaker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BreakerConfig {
    /// Failures in a row that open it.
    pub failures_max: u32,
    /// How long it stays open before one call may try.
    pub open_for: Duration,
}

impl Default for BreakerConfig {
    fn default() -> Self {
        Self {
            failures_max: 3,
            open_for: Duration::from_millis(800),
        }
    }
}

/// Where a breaker stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BreakerState {
    /// Calls pass.
    Closed,
    /// Calls are refused.
    Open,
    /// One call is out to see whether the dependency is back.
    HalfOpen,
}

/// The refusal of an open breaker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not asked: it failed repeatedly, next try in {} ms", .retry_in.as_millis())]
pub struct BreakerOpen {
    /// Time until a call may pass; zero while another call is out trying.
    pub retry_in: Duration,
}

#[derive(Debug)]
enum State {
    Closed { failures: u32 },
    Open { until: Duration },
    HalfOpen,
}

/// The breaker.
#[derive(Debug)]
pub struct Breaker {
    config: BreakerConfig,
    clock: Arc<dyn Clock>,
    state: Mutex<State>,
}

/// Leave to make one call. Dropped without a verdict (the call was cancelled) it counts neither
/// way, but a half-open breaker opens again at once so that the next call may try.
#[derive(Debug)]
#[must_use]
pub struct Pass<'a> {
    breaker: &'a Breaker,
    trial: bool,
    judged: bool,
}

impl Breaker {
    /// A closed breaker.
    pub fn new(config: BreakerConfig, clock: Arc<dyn Clock>) -> Self {
        Self {
            config,
            clock,
            state: Mutex::new(State::Closed { failures: 0 }),
        }
    }

    /// Asks for leave to call.
    pub fn try_pass(&self) -> Result<Pass<'_>, BreakerOpen> {
        let mut state = self.lock();
        let trial = match *state {
            State::Closed { .. } => false,
            State::HalfOpen => {
                return Err(BreakerOpen {
                    retry_in: Duration::ZERO,
                });
            }
            State::Open { until } => {
                let retry_in = until.saturating_sub(self.clock.monotonic());
                if !retry_in.is_zero() {
                    return Err(BreakerOpen { retry_in });
                }
                *state = State::HalfOpen;
                true
            }
        };
        Ok(Pass {
            breaker: self,
            trial,
            judged: false,
        })
    }

    /// Where it stands.
    pub fn state(&self) -> BreakerState {
        match *self.lock() {
            State::Closed { .. } => BreakerState::Closed,
            State::Open { .. } => BreakerState::Open,
            State::HalfOpen => BreakerState::HalfOpen,
        }
    }

    /// Poisoning means that a holder panicked between two plain assignments; the state is whole.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn judge(&self, trial: bool, failed: bool) {
        let open = State::Open {
            until: self.clock.monotonic() + self.config.open_for,
        };
        let mut state = self.lock();
        let next = match (&*state, trial, failed) {
            (_, true, true) => Some(open),
            (_, true, false) | (State::Closed { .. }, false, false) => {
                Some(State::Closed { failures: 0 })
            }
            (State::Closed { failures }, false, true) => {
                Some(if failures + 1 >= self.config.failures_max {
                    open
                } else {
                    State::Closed {
                        failures: failures + 1,
                    }
                })
            }
            // A call that was out before the breaker opened: its news is old.
            (State::Open { .. } | State::HalfOpen, false, _) => None,
        };
        if let Some(next) = next {
            *state = next;
        }
    }
}

impl Pass<'_> {
    /// The dependency answered.
    pub fn success(mut self) {
        self.judged = true;
        self.breaker.judge(self.trial, false);
    }

    /// The dependency failed.
    pub fn failure(mut self) {
        self.judged = true;
        self.breaker.judge(self.trial, true);
    }
}

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        if self.trial && !self.judged {
            *self.breaker.lock() = State::Open {
                until: self.breaker.clock.monotonic(),
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::ManualClock;
    use jiff::Timestamp;

    fn breaker() -> (Arc<ManualClock>, Breaker) {
        let clock = Arc::new(ManualClock::at(Timestamp::UNIX_EPOCH));
        let breaker = Breaker::new(BreakerConfig::default(), clock.clone());
        (clock, breaker)
    }

    #[test]
    fn opens_after_three_failures_in_a_row_and_closes_after_one_good_trial() {
        let (clock, breaker) = breaker();
        for _ in 0..2 {
            breaker.try_pass().unwrap().failure();
        }
        breaker.try_pass().unwrap().success();
        for _ in 0..3 {
            assert_eq!(breaker.state(), BreakerState::Closed);
            breaker.try_pass().unwrap().failure();
        }
        clock.advance(Duration::from_millis(799));
        let refused = breaker.try_pass().unwrap_err();
        assert_eq!(refused.retry_in, Duration::from_millis(1));

        clock.advance(Duration::from_millis(1));
        let trial = breaker.try_pass().unwrap();
        assert!(breaker.try_pass().is_err(), "one trial at a time");
        trial.failure();
        assert!(breaker.try_pass().is_err(), "open again, for the full time");

        clock.advance(Duration::from_millis(800));
        breaker.try_pass().unwrap().success();
        assert_eq!(breaker.state(), BreakerState::Closed);
    }

    #[test]
    fn a_cancelled_trial_does_not_block_the_next() {
        let (clock, breaker) = breaker();
        for _ in 0..3 {
            breaker.try_pass().unwrap().failure();
        }
        clock.advance(Duration::from_millis(800));
        drop(breaker.try_pass().unwrap());
        breaker.try_pass().unwrap().success();
        assert_eq!(breaker.state(), BreakerState::Closed);
    }

    #[test]
    fn late_news_of_calls_made_before_it_opened_changes_nothing() {
        let (_clock, breaker) = breaker();
        let late = breaker.try_pass().unwrap();
        for _ in 0..3 {
            breaker.try_pass().unwrap().failure();
        }
        late.success();
        assert_eq!(breaker.state(), BreakerState::Open);
    }
}
