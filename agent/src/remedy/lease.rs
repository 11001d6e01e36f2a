//! Leases (invariant 4): no effect is for ever.

use jiff::{SignedDuration, Timestamp};

/// When an effect that is planned at `now` must end by itself.
pub fn ends(now: Timestamp, lease_s: u64) -> Timestamp {
    let lease = SignedDuration::from_secs(i64::try_from(lease_s).unwrap_or(i64::MAX));
    now.saturating_add(lease).unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_ends_after_its_length_and_never_overflows() {
        let now: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        assert_eq!(ends(now, 300).to_string(), "2026-01-01T00:05:00Z");
        assert_eq!(ends(now, u64::MAX), Timestamp::MAX);
    }
}
