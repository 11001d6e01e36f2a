//! Times as Unix seconds: what differs between parts of a run is seconds, not time zones.

use jiff::Timestamp;

/// Now.
pub fn now() -> f64 {
    of(Timestamp::now())
}

/// Of a timestamp.
pub fn of(timestamp: Timestamp) -> f64 {
    timestamp.as_nanosecond() as f64 / 1e9
}

/// Of an RFC 3339 text.
pub fn parse(text: &str) -> Option<f64> {
    Some(of(text.parse().ok()?))
}
