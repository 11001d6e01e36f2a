//! Answers of the last moments, so that a storm of alerts asks each question once.
//!
//! A question is a query and a grid. Episodes that begin within the same moment are given the same
//! grid, so their questions are the same; who asks what is just being asked waits for that answer.
//! Failures are not kept: the breaker is what guards against asking a sick Prometheus again.
//!
//! The last good answer of each query is kept for longer: what Prometheus said a minute ago is still true of
//! that time, and better than nothing when it has died of the same trouble.

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
/// Values that all kept answers may hold together: 16 MiB. The last good ones may hold as many again.
const POINTS_MAX: usize = 1 << 20;
/// Queries whose last good answer is kept.
const LAST_MAX: usize = 128;

type Cell = Arc<OnceCell<Arc<Matrix>>>;

/// The cache; it holds nothing older than its times to live.
#[derive(Debug)]
pub(super) struct Cache {
    ttl: Duration,
    last_ttl: Duration,
    clock: Arc<dyn Clock>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    grids: Vec<(Duration, Grid)>,
    answers: HashMap<(String, Grid), (Duration, Cell)>,
    last: HashMap<String, (Duration, Arc<Matrix>)>,
}

impl State {
    /// Keeps an answer as the last good one, in place of the oldest of others where there is no room.
    fn keep_last(&mut self, now: Duration, promql: &str, answer: &Arc<Matrix>) {
        self.last.remove(promql);
        let points = answer.points();
        if points > POINTS_MAX {
            return;
        }
        let mut held: usize = self.last.values().map(|(_, kept)| kept.points()).sum();
        while self.last.len() >= LAST_MAX || held + points > POINTS_MAX {
            let oldest = self.last.iter().min_by_key(|(_, (since, _))| *since);
            let oldest = oldest.map(|(promql, _)| promql.clone());
            let Some((_, gone)) = oldest.and_then(|oldest| self.last.remove(&oldest)) else {
                break;
            };
            held -= gone.points();
        }
        self.last.insert(promql.to_owned(), (now, answer.clone()));
    }
}

impl Cache {
    pub(super) fn new(ttl: Duration, last_ttl: Duration, clock: Arc<dyn Clock>) -> Self {
        Self {
            ttl,
            last_ttl,
            clock,
            state: Mutex::default(),
        }
    }

    fn lock(&self, now: Duration) -> MutexGuard<'_, State> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = |since: Duration| now.saturating_sub(since) < self.ttl;
        state.grids.retain(|(since, _)| fresh(*since));
        state.answers.retain(|_, (since, _)| fresh(*since));
        let young = |since: Duration| now.saturating_sub(since) < self.last_ttl;
        state.last.retain(|_, (since, _)| young(*since));
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
        let asked = async {
            let answer = Arc::new(ask.await?);
            let now = self.clock.monotonic();
            let mut state = self.lock(now);
            if !self.last_ttl.is_zero() {
                state.keep_last(now, promql, &answer);
            }
            Ok(answer)
        };
        cell.get_or_try_init(|| asked).await.cloned()
    }

    /// The last good answer to a query, whatever the grid, and its age.
    pub(super) fn last(&self, promql: &str) -> Option<(Arc<Matrix>, Duration)> {
        let now = self.clock.monotonic();
        let state = self.lock(now);
        let (since, answer) = state.last.get(promql)?;
        Some((answer.clone(), now.saturating_sub(*since)))
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
        let cache = Cache::new(
            Duration::from_secs(2),
            Duration::from_mins(1),
            clock.clone(),
        );
        (clock, cache)
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

    #[tokio::test]
    async fn the_last_good_answer_outlives_failures_and_not_its_time() {
        let (clock, cache) = cache();
        assert!(cache.last("up").is_none());
        cache
            .answer("up", &GRID, async { Ok(matrix()) })
            .await
            .unwrap();
        clock.advance(Duration::from_secs(30));
        let later = Grid {
            start_s: GRID.start_s + 30,
            ..GRID
        };
        let failed = async { Err(QueryError::NoTime) };
        assert!(cache.answer("up", &later, failed).await.is_err());
        let (_, age) = cache.last("up").unwrap();
        assert_eq!(age, Duration::from_secs(30));
        assert!(cache.last("down").is_none());
        clock.advance(Duration::from_secs(30));
        assert!(cache.last("up").is_none());
    }

    #[test]
    fn the_oldest_answers_make_room() {
        let mut state = State::default();
        let answer = Arc::new(matrix());
        for at in 0..=u64::try_from(LAST_MAX).unwrap() {
            state.keep_last(Duration::from_secs(at), &format!("query {at}"), &answer);
        }
        assert_eq!(state.last.len(), LAST_MAX);
        assert!(!state.last.contains_key("query 0") && state.last.contains_key("query 1"));
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
