//! Answers of the last moments, so that a storm of alerts asks each question once.
//!
//! A question is a query and a grid. Episodes that begin within the same moment are given the same
//! grid, so their questions are the same; who asks what is just being asked waits for that answer.
//! Failures are not kept: the breaker is what guards against asking a sick Prometheus again.

use std::{
    collections::HashMap,
    future::Future,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::sync::OnceCell;

use super::{
    client::QueryError,
    matrix::{Grid, Matrix},
};
use crate::clock::Clock;

/// Answers kept at most, and grids.
const ANSWERS_MAX: usize = 256;
const GRIDS_MAX: usize = 16;
/// Values that all kept answers may hold together: 16 MiB.
const POINTS_MAX: usize = 1 << 20;

type Cell = Arc<OnceCell<Arc<Matrix>>>;

/// The cache; it holds nothing older than its time to live.
#[derive(Debug)]
pub(super) struct Cache {
    ttl: Duration,
    clock: Arc<dyn Clock>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    grids: Vec<(Duration, Grid)>,
    answers: HashMap<(String, Grid), (Duration, Cell)>,
}

impl Cache {
    pub(super) fn new(ttl: Duration, clock: Arc<dyn Clock>) -> Self {
        Self {
            ttl,
            clock,
            state: Mutex::default(),
        }
    }

    fn lock(&self, now: Duration) -> MutexGuard<'_, State> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = |since: Duration| now.saturating_sub(since) < self.ttl;
        state.grids.retain(|(since, _)| fresh(*since));
        state.answers.retain(|_, (since, _)| fresh(*since));
        state
    }

    /// A grid of a moment ago that serves as well as this one, or this one from now on.
    pub(super) fn grid(&self, wanted: Grid) -> Grid {
        let now = self.clock.monotonic();
        let mut state = self.lock(now);
        let length = |grid: &Grid| grid.end_s() - grid.start_s;
        let serves = |grid: &Grid| {
            grid.step_s == wanted.step_s
                && grid.start_s <= wanted.start_s
                // Not much longer: the baseline is part of what is judged.
                && length(grid) - length(&wanted) <= length(&wanted) / 8
        };
        if let Some((_, grid)) = state.grids.iter().find(|(_, grid)| serves(grid)) {
            return *grid;
        }
        if state.grids.len() < GRIDS_MAX && !self.ttl.is_zero() {
            state.grids.push((now, wanted));
        }
        wanted
    }

    /// The answer to a question: kept, just being asked for, or asked for now.
    pub(super) async fn answer<F>(
        &self,
        promql: &str,
        grid: &Grid,
        ask: F,
    ) -> Result<Arc<Matrix>, QueryError>
    where
        F: Future<Output = Result<Matrix, QueryError>>,
    {
        let cell = {
            let now = self.clock.monotonic();
            let mut state = self.lock(now);
            let held = state.answers.values();
            let points: usize = held
                .filter_map(|(_, cell)| Some(cell.get()?.points()))
                .sum();
            let key = (promql.to_owned(), *grid);
            let room = state.answers.len() < ANSWERS_MAX && points < POINTS_MAX;
            match state.answers.get(&key) {
                Some((_, cell)) => cell.clone(),
                None if room && !self.ttl.is_zero() => {
                    let cell = Cell::default();
                    state.answers.insert(key, (now, cell.clone()));
                    cell
                }
                None => Cell::default(),
            }
        };
        let asked = async { ask.await.map(Arc::new) };
        cell.get_or_try_init(|| asked).await.cloned()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use jiff::Timestamp;

    use super::*;
    use crate::clock::ManualClock;

    const GRID: Grid = Grid {
        start_s: 1000,
        step_s: 5,
        points: 61,
    };

    fn cache() -> (Arc<ManualClock>, Cache) {
        let clock = Arc::new(ManualClock::at(Timestamp::UNIX_EPOCH));
        (clock.clone(), Cache::new(Duration::from_secs(2), clock))
    }

    fn matrix() -> Matrix {
        serde_json::from_str(r#"{"resultType": "matrix", "result": []}"#).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_asked_at_once_is_asked_once_and_failures_are_not_kept() {
        let (clock, cache) = cache();
        let asked = AtomicUsize::new(0);
        let (cache, asked) = (&cache, &asked);
        let ask = |fails: bool| {
            cache.answer("up", &GRID, async move {
                asked.fetch_add(1, Ordering::SeqCst);
                tokio::time::sleep(Duration::from_millis(10)).await;
                if fails {
                    Err(QueryError::NoTime)
                } else {
                    Ok(matrix())
                }
            })
        };
        assert!(ask(true).await.is_err());
        let (one, two, three) = tokio::join!(ask(false), ask(false), ask(false));
        assert!(one.is_ok() && two.is_ok() && three.is_ok());
        assert_eq!(asked.load(Ordering::SeqCst), 2);
        clock.advance(Duration::from_millis(1999));
        ask(false).await.unwrap();
        assert_eq!(asked.load(Ordering::SeqCst), 2);
        clock.advance(Duration::from_millis(1));
        ask(false).await.unwrap();
        assert_eq!(asked.load(Ordering::SeqCst), 3, "older than its time");
    }

    #[test]
    fn a_grid_serves_those_that_begin_a_moment_later() {
        let (clock, cache) = cache();
        let later = |by: i64| Grid {
            start_s: GRID.start_s + by,
            ..GRID
        };
        assert_eq!(cache.grid(GRID), GRID);
        assert_eq!(cache.grid(later(1)), GRID);
        assert_eq!(
            cache.grid(later(-1)),
            later(-1),
            "it does not reach back so far"
        );
        let finer = Grid { step_s: 1, ..GRID };
        assert_eq!(cache.grid(finer), finer);
        let much_shorter = Grid {
            points: 31,
            ..later(150)
        };
        assert_eq!(cache.grid(much_shorter), much_shorter);
        clock.advance(Duration::from_secs(2));
        assert_eq!(cache.grid(later(2)), later(2));
    }
}
