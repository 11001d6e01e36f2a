//! Recovery as a client sees it: from requests alone, never from what the agent says. Pure.

use serde::{Deserialize, Serialize};

use super::scenario::Slo;

/// Length of a window in seconds.
pub const WINDOW_S: f64 = 1.0;
/// Windows begin so many seconds apart: the resolution of every time that is derived from them.
pub const HOP_S: f64 = 0.25;

/// One request.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Request {
    /// When it was due, in seconds since the load began.
    pub at_s: f64,
    /// From then to its answer.
    pub took_ms: f64,
    /// Answered with success, in time.
    pub ok: bool,
}

/// The requests that were due within one second.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Window {
    /// Its begin, in seconds since the injection; negative before.
    pub at_s: f64,
    /// The latency at the objective's quantile, in ms; of failed requests the time until they failed.
    pub latency_ms: f64,
    /// Share of failed requests.
    pub errors: f64,
    /// Whether the objective was met.
    pub met: bool,
}

/// When the promise was broken, and when it was kept again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Course {
    /// Seconds from the injection to the first second in which it was broken.
    pub broken_s: Option<f64>,
    /// Seconds from the injection to the begin of the calm that lasts until the observation's end,
    /// and for the hold time at least. `None`: not recovered, or never broken.
    pub recovered_s: Option<f64>,
}

/// Windows over requests in the order in which they were due. `injected_s` is the injection on the
/// load's own clock.
pub fn windows(requests: &[Request], injected_s: f64, slo: &Slo) -> Vec<Window> {
    let Some(last) = requests.last() else {
        return Vec::new();
    };
    let mut windows = Vec::new();
    let mut nth = -(injected_s / HOP_S).floor();
    loop {
        let from = injected_s + nth * HOP_S;
        let until = from + WINDOW_S;
        if until > last.at_s {
            return windows;
        }
        let first = requests.partition_point(|request| request.at_s < from);
        let end = requests.partition_point(|request| request.at_s < until);
        if end > first {
            windows.push(window(&requests[first..end], nth * HOP_S, slo));
        }
        nth += 1.0;
    }
}

fn window(requests: &[Request], at_s: f64, slo: &Slo) -> Window {
    let mut took: Vec<f64> = requests.iter().map(|request| request.took_ms).collect();
    took.sort_by(f64::total_cmp);
    let latency_ms = nearest_rank(&took, slo.quantile);
    let failed = requests.iter().filter(|request| !request.ok).count();
    let errors = failed as f64 / requests.len() as f64;
    Window {
        at_s,
        latency_ms,
        errors,
        met: latency_ms <= slo.latency_ms && errors <= slo.errors,
    }
}

/// The smallest value that at least a share `quantile` of the sorted values does not exceed.
fn nearest_rank(sorted: &[f64], quantile: f64) -> f64 {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a rank within the slice"
    )]
    let rank = (sorted.len() as f64 * quantile).ceil() as usize;
    sorted
        .get(rank.saturating_sub(1).min(sorted.len().saturating_sub(1)))
        .copied()
        .unwrap_or_default()
}

/// The course since the injection.
pub fn course(windows: &[Window], hold_s: f64) -> Course {
    // A window that begins before the injection holds requests of both times: it tells of breaking,
    // not of when.
    let after = |window: &&Window| window.at_s + WINDOW_S > 0.0;
    let broken = windows.iter().filter(after).find(|window| !window.met);
    let Some(broken) = broken else {
        return Course::default();
    };
    let last_broken = windows.iter().rposition(|window| !window.met);
    let calm = last_broken.and_then(|at| windows.get(at + 1));
    let end = windows.last().map_or(0.0, |window| window.at_s);
    Course {
        broken_s: Some(broken.at_s.max(0.0)),
        recovered_s: calm
            .map(|window| window.at_s.max(0.0))
            .filter(|since| end - since >= hold_s),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SLO: Slo = Slo {
        quantile: 0.9,
        latency_ms: 100.0,
        errors: 0.05,
    };

    /// Twenty a second for 30 s; slow from 10.0 to `until`.
    fn requests(until: f64) -> Vec<Request> {
        (0..600)
            .map(|number| {
                let at_s = f64::from(number) * 0.05;
                let slow = (10.0..until).contains(&at_s);
                Request {
                    at_s,
                    took_ms: if slow { 900.0 } else { 10.0 },
                    ok: true,
                }
            })
            .collect()
    }

    fn over(requests: &[Request]) -> Course {
        course(&windows(requests, 10.0, &SLO), 4.0)
    }

    #[test]
    fn recovery_is_the_begin_of_the_calm_that_stays() {
        let found = over(&requests(15.0));
        assert!(found.broken_s.unwrap() <= 0.25, "{found:?}");
        // To the resolution of the windows.
        assert!(
            (found.recovered_s.unwrap() - 5.0).abs() <= HOP_S,
            "{found:?}"
        );
    }

    #[test]
    fn a_short_calm_between_is_none() {
        let mut requests = requests(15.0);
        for request in &mut requests {
            if (20.0..20.5).contains(&request.at_s) {
                request.ok = false;
            }
        }
        let found = over(&requests);
        assert!(found.recovered_s.unwrap() > 10.0, "{found:?}");
    }

    #[test]
    fn calm_that_has_not_lasted_is_not_yet_recovery() {
        assert_eq!(over(&requests(27.0)).recovered_s, None);
    }

    #[test]
    fn what_was_never_broken_does_not_recover() {
        assert_eq!(over(&requests(0.0)), Course::default());
    }

    #[test]
    fn one_slow_request_of_twenty_is_within_the_promise() {
        let mut requests = requests(0.0);
        requests[300].took_ms = 900.0;
        assert_eq!(over(&requests), Course::default());
    }

    #[test]
    fn errors_break_the_promise_however_fast_they_come() {
        let mut requests = requests(0.0);
        for request in &mut requests[220..260] {
            request.ok = false;
        }
        assert!(over(&requests).broken_s.is_some());
    }
}
