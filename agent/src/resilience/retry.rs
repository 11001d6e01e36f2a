//! Retries of transient errors: exponential backoff with full jitter, inside a deadline.
//!
//! Full jitter (a uniform draw from zero to the exponential bound) spreads clients that failed at
//! the same moment best: <https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/>.

use std::{future::Future, time::Duration};

use super::{Deadline, random};

/// What an error asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// May go away by itself: try again with backoff.
    Transient,
    /// Not now, but later: do without (degrade), and leave the dependency alone for a while.
    Recoverable,
    /// Trying again now cannot help.
    Permanent,
}

/// How often and how far apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// Attempts in all, the first included; at least 1.
    pub attempts_max: u32,
    /// Bound of the first wait.
    pub base: Duration,
    /// Bound of every wait.
    pub max: Duration,
}

impl Class {
    /// A fixed word for records.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Transient => "transient",
            Self::Recoverable => "recoverable",
            Self::Permanent => "permanent",
        }
    }
}

impl Backoff {
    /// The wait after failed attempt `attempt` (0 = the first), given 64 random bits.
    pub fn delay(&self, attempt: u32, random: u64) -> Duration {
        let bound = self
            .base
            .saturating_mul(1u32.checked_shl(attempt).unwrap_or(u32::MAX))
            .min(self.max);
        bound.mul_f64(random as f64 / u64::MAX as f64)
    }

    /// Runs `op` until it succeeds, fails permanently, or attempts or time run out; the last error
    /// is returned. A wait that would not end before the deadline is not begun.
    pub async fn run<T, E, F, Fut>(
        &self,
        deadline: Deadline,
        class: impl Fn(&E) -> Class,
        mut op: F,
    ) -> Result<T, E>
    where
        F: FnMut(u32) -> Fut,
        Fut: Future<Output = Result<T, E>>,
    {
        let mut attempt = 0;
        loop {
            let error = match op(attempt).await {
                Ok(value) => return Ok(value),
                Err(error) => error,
            };
            let wait = self.delay(attempt, u64::from_ne_bytes(random()));
            attempt += 1;
            let give_up = class(&error) != Class::Transient
                || attempt >= self.attempts_max
                || wait >= deadline.remaining();
            if give_up {
                return Err(error);
            }
            tokio::time::sleep(wait).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    const BACKOFF: Backoff = Backoff {
        attempts_max: 4,
        base: Duration::from_millis(100),
        max: Duration::from_millis(250),
    };

    #[test]
    fn waits_grow_to_the_bound() {
        let longest: Vec<_> = (0..40)
            .map(|n| BACKOFF.delay(n, u64::MAX).as_millis())
            .collect();
        assert_eq!(longest[..4], [100, 200, 250, 250]);
        assert_eq!(longest[39], 250);
        assert_eq!(BACKOFF.delay(3, 0), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn only_transient_errors_are_tried_again_and_never_past_the_deadline() {
        let calls = Cell::new(0);
        let count = |_| {
            calls.set(calls.get() + 1);
            async { Err::<(), _>("no") }
        };
        let far = Deadline::after(Duration::from_mins(1));
        assert_eq!(
            BACKOFF.run(far, |_| Class::Permanent, count).await,
            Err("no")
        );
        assert_eq!(calls.take(), 1);
        assert_eq!(
            BACKOFF.run(far, |_| Class::Transient, count).await,
            Err("no")
        );
        assert_eq!(calls.take(), 4);
        let near = Deadline::after(Duration::ZERO);
        assert_eq!(
            BACKOFF.run(near, |_| Class::Transient, count).await,
            Err("no")
        );
        assert_eq!(calls.take(), 1);
    }
}
