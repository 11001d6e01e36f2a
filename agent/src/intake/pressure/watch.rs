//! When trouble has lasted long enough to be told, and when it has been gone long enough. Pure.

use std::time::Duration;

use tokio::time::Instant;

/// A change to be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Edge {
    /// It has lasted so long.
    Begins {
        /// Since its first sign.
        lasted: Duration,
    },
    /// It has been gone long enough.
    Ends,
}

/// One thing watched. Signs of trouble come in; a change stays to be told until it was.
#[derive(Debug)]
pub(super) struct Watch {
    hold: Duration,
    /// A longer silence than this is an end of the spell.
    gap: Duration,
    clear: Duration,
    /// First and last sign of the running spell.
    spell: Option<(Instant, Instant)>,
    open: bool,
}

impl Watch {
    /// `hold`: how long trouble must last; `gap`: the longest silence within it; `clear`: how long it
    /// must be gone.
    pub(super) fn new(hold: Duration, gap: Duration, clear: Duration) -> Self {
        Self {
            hold,
            gap,
            clear,
            spell: None,
            open: false,
        }
    }

    /// A sign of trouble.
    pub(super) fn trouble(&mut self, now: Instant) {
        self.spell = match self.spell {
            // While it is open only a silence of `clear` ends it.
            Some((first, last)) if self.open || now - last <= self.gap => Some((first, now)),
            _ => Some((now, now)),
        };
    }

    /// What is to be told now.
    pub(super) fn edge(&self, now: Instant) -> Option<Edge> {
        let (first, last) = self.spell?;
        if self.open {
            return (now.saturating_duration_since(last) >= self.clear).then_some(Edge::Ends);
        }
        let fresh = now.saturating_duration_since(last) <= self.gap;
        let lasted = now.saturating_duration_since(first);
        // From first sign to last: silence since then does not count.
        (fresh && last - first >= self.hold).then_some(Edge::Begins { lasted })
    }

    /// The change was taken.
    pub(super) fn told(&mut self) {
        self.open = !self.open;
        if !self.open {
            self.spell = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: Duration = Duration::from_secs(1);

    #[test]
    fn trouble_is_told_when_it_lasts_and_its_end_when_it_is_gone() {
        let t0 = Instant::now();
        let mut watch = Watch::new(4 * S, 3 * S, 10 * S);
        assert_eq!(watch.edge(t0), None);
        for second in [0, 2, 3] {
            watch.trouble(t0 + second * S);
            assert_eq!(watch.edge(t0 + second * S), None, "{second}");
        }
        watch.trouble(t0 + 5 * S);
        let begins = Some(Edge::Begins { lasted: 5 * S });
        assert_eq!(watch.edge(t0 + 5 * S), begins);
        assert!(watch.edge(t0 + 6 * S).is_some(), "until it was taken");
        watch.told();
        assert_eq!(watch.edge(t0 + 14 * S), None);
        watch.trouble(t0 + 14 * S);
        assert_eq!(watch.edge(t0 + 23 * S), None, "it came back in time");
        assert_eq!(watch.edge(t0 + 24 * S), Some(Edge::Ends));
        watch.told();
        assert_eq!(watch.edge(t0 + 40 * S), None);
    }

    #[test]
    fn blips_are_nothing() {
        let t0 = Instant::now();
        let mut watch = Watch::new(4 * S, 3 * S, 10 * S);
        for second in (0..100).step_by(4) {
            watch.trouble(t0 + second * S);
            assert_eq!(watch.edge(t0 + second * S), None, "{second}");
        }
        // Silence does not make a spell longer.
        watch.trouble(t0 + 200 * S);
        watch.trouble(t0 + 203 * S);
        assert_eq!(watch.edge(t0 + 205 * S), None);
    }
}
