//! The agent is cheaper than the disease: what it may cost, and what goes first. Pure.
//!
//! Over budget three times running, the dearest probe that is not needed to take an alert is detached;
//! under half of it for a minute, it comes back. The process probes stay: they cost by the process and
//! are what short-lived cgroups are known by.

use std::time::{Duration, Instant};

use super::config::ProbeName;

/// In this order.
pub(super) const SHED_ORDER: [ProbeName; 2] = [ProbeName::Syscalls, ProbeName::Sched];

/// Times running that it must be over.
const PATIENCE: u32 = 3;
/// How long it must be under half before one comes back.
const CALM: Duration = Duration::from_mins(1);

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    /// Detach it.
    Shed(ProbeName),
    /// Attach it again.
    Restore(ProbeName),
}

/// Remembers how long it has been over or under.
#[derive(Debug, Default)]
pub(super) struct Budget {
    over: u32,
    calm_since: Option<Instant>,
    shed: Vec<ProbeName>,
}

impl Budget {
    /// Judges the share of one CPU that agent and probes took; `attached` says what could be shed.
    pub(super) fn judge(
        &mut self,
        share: f64,
        limit: f64,
        now: Instant,
        attached: impl Fn(ProbeName) -> bool,
    ) -> Option<Order> {
        if share > limit {
            self.calm_since = None;
            self.over += 1;
            if self.over < PATIENCE {
                return None;
            }
            self.over = 0;
            let next = SHED_ORDER
                .into_iter()
                .find(|name| attached(*name) && !self.is_shed(*name))?;
            self.shed.push(next);
            return Some(Order::Shed(next));
        }
        self.over = 0;
        if share > limit / 2.0 {
            self.calm_since = None;
            return None;
        }
        let since = *self.calm_since.get_or_insert(now);
        if now.duration_since(since) < CALM {
            return None;
        }
        self.calm_since = Some(now);
        self.shed.pop().map(Order::Restore)
    }

    /// Whether it was detached for its cost.
    pub(super) fn is_shed(&self, name: ProbeName) -> bool {
        self.shed.contains(&name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_dearest_goes_first_and_the_last_to_go_comes_back_first() {
        let mut budget = Budget::default();
        let begun = Instant::now();
        let at = |s| begun + Duration::from_secs(s);
        let mut judge = |share, s| budget.judge(share, 0.1, at(s), |_| true);
        assert_eq!(judge(0.2, 0), None);
        assert_eq!(judge(0.05, 1), None, "once is no habit");
        assert_eq!([judge(0.2, 2), judge(0.2, 3)], [None, None]);
        assert_eq!(judge(0.2, 4), Some(Order::Shed(ProbeName::Syscalls)));
        assert_eq!([judge(0.2, 5), judge(0.2, 6)], [None, None]);
        assert_eq!(judge(0.2, 7), Some(Order::Shed(ProbeName::Sched)));
        assert_eq!(
            [judge(0.2, 8), judge(0.2, 9), judge(0.2, 10)],
            [None; 3],
            "nothing is left to shed"
        );
        assert_eq!([judge(0.01, 11), judge(0.07, 50)], [None, None]);
        assert_eq!([judge(0.01, 71), judge(0.01, 130)], [None, None]);
        assert_eq!(judge(0.01, 131), Some(Order::Restore(ProbeName::Sched)));
        assert_eq!(judge(0.01, 191), Some(Order::Restore(ProbeName::Syscalls)));
        assert_eq!(judge(0.01, 300), None);
    }

    #[test]
    fn what_is_not_attached_cannot_be_shed() {
        let mut budget = Budget::default();
        let now = Instant::now();
        for _ in 0..2 {
            assert_eq!(budget.judge(1.0, 0.1, now, |_| false), None);
        }
        let only = |name| name == ProbeName::Sched;
        assert_eq!(
            budget.judge(1.0, 0.1, now, only),
            Some(Order::Shed(ProbeName::Sched))
        );
        assert!(!budget.is_shed(ProbeName::Syscalls));
    }
}
