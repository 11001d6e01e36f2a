//! A moment by which something must be over, handed down from the episode to its smallest wait.

use std::time::Duration;

use tokio::time::Instant;

/// A moment on tokio's clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Deadline(Instant);

impl Deadline {
    /// `after` from now; a duration too long for the clock becomes a day.
    pub fn after(after: Duration) -> Self {
        let now = Instant::now();
        let day = Duration::from_hours(24);
        Self(now.checked_add(after).unwrap_or(now + day))
    }

    /// The moment itself, for `timeout_at`.
    pub fn at(self) -> Instant {
        self.0
    }

    /// What is left; zero once past.
    pub fn remaining(self) -> Duration {
        self.0.saturating_duration_since(Instant::now())
    }

    /// Whether it is past.
    pub fn passed(self) -> bool {
        self.remaining().is_zero()
    }

    /// The sooner of this one and `limit` from now: a part of the work never outlives the whole.
    #[must_use]
    pub fn within(self, limit: Duration) -> Self {
        self.min(Self::after(limit))
    }
}
