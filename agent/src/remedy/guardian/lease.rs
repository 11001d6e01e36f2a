//! What an effect needs to be undone by somebody else, and when that is due. Pure.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::incident::Intent;

/// With the agent alive, its own keeper ends a lease; the guardian steps in only when that did not
/// happen in time: the agent is stopped, or hangs.
const AGENT_FIRST: Duration = Duration::from_millis(500);

/// An effect in the guardian's care. One file, JSON; fields may be added, never renamed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Lease {
    /// `/proc/sys/kernel/random/boot_id` of the kernel that the effect was written to.
    pub boot_id: String,
    /// End of the lease in milliseconds of `CLOCK_BOOTTIME`: the wall clock may jump.
    pub ends_boot_ms: u64,
    /// Whether recovery was seen. What was not verified does not outlive the agent.
    pub verified: bool,
    /// With the prior values.
    pub intent: Intent,
}

/// Why an effect is to be undone now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    /// Its time is over.
    LeaseEnded,
    /// Nobody is left who would verify it.
    AgentGone,
}

impl Due {
    /// The stable word of the record.
    pub fn reason(self) -> &'static str {
        match self {
            Self::LeaseEnded => "lease_ended",
            Self::AgentGone => "agent_gone",
        }
    }
}

impl Lease {
    /// Whether the effect is to be undone at `now_boot`, the agent being gone for `gone` (`None`: it
    /// lives). `grace`: how long a restart of the agent is waited for.
    pub fn due(&self, now_boot: Duration, gone: Option<Duration>, grace: Duration) -> Option<Due> {
        let ends = Duration::from_millis(self.ends_boot_ms);
        match gone {
            _ if now_boot >= ends.saturating_add(AGENT_FIRST) => Some(Due::LeaseEnded),
            Some(_) if now_boot >= ends => Some(Due::LeaseEnded),
            Some(gone) if !self.verified && gone >= grace => Some(Due::AgentGone),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::remedy::guardian::store::tests::intent;

    const GRACE: Duration = Duration::from_secs(10);

    fn lease(verified: bool) -> Lease {
        Lease {
            boot_id: "b".to_owned(),
            ends_boot_ms: 60_000,
            verified,
            intent: intent(1),
        }
    }

    fn due(verified: bool, now_ms: u64, gone_ms: Option<u64>) -> Option<Due> {
        let gone = gone_ms.map(Duration::from_millis);
        lease(verified).due(Duration::from_millis(now_ms), gone, GRACE)
    }

    #[test]
    fn a_dead_agents_unverified_effect_ends_after_the_grace_time() {
        assert_eq!(due(false, 1_000, Some(9_999)), None);
        assert_eq!(due(false, 1_000, Some(10_000)), Some(Due::AgentGone));
        assert_eq!(due(true, 1_000, Some(50_000)), None);
        assert_eq!(due(false, 1_000, None), None);
    }

    #[test]
    fn a_lease_ends_at_once_without_an_agent_and_a_little_later_with_one() {
        assert_eq!(due(true, 59_999, Some(0)), None);
        assert_eq!(due(true, 60_000, Some(0)), Some(Due::LeaseEnded));
        assert_eq!(due(true, 60_000, None), None);
        assert_eq!(due(true, 60_500, None), Some(Due::LeaseEnded));
    }

    #[test]
    fn an_endless_lease_does_not_overflow() {
        let mut lease = lease(true);
        lease.ends_boot_ms = u64::MAX;
        assert_eq!(
            lease.due(Duration::MAX / 2, None, GRACE),
            Some(Due::LeaseEnded)
        );
        assert_eq!(lease.due(Duration::from_hours(1), Some(GRACE), GRACE), None);
    }
}
