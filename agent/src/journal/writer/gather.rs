//! Calls that are made while others run gather here, and reach the queue together.
//!
//! On a busy runtime many tasks are ready to call at the same time. If each woke the writer, the first
//! would get a sync of its own, and the writer and the tasks would take the CPU from each other call by
//! call. So the first caller yields: the runtime comes back to it when its other ready tasks have run
//! (or a few dozen of them, if there are more), and it hands over what has gathered meanwhile. No clock
//! is in this: on an idle runtime it comes back at once, and the busier the runtime, the more calls
//! share a sync.

use std::sync::{Mutex, PoisonError};

/// Calls not yet in the queue, with their bytes.
pub(super) struct Gather<T> {
    calls: Mutex<Vec<(T, usize)>>,
}

impl<T> Gather<T> {
    pub(super) fn new() -> Self {
        Self {
            calls: Mutex::new(Vec::new()),
        }
    }

    /// Adds a call. Whoever adds the first gets the duty to hand all of them over, by `hand_over`: at the
    /// latest when the duty is dropped, so a caller that gives up leaves nobody behind.
    pub(super) fn add<F: Fn(Vec<(T, usize)>)>(
        &self,
        call: T,
        bytes: usize,
        hand_over: F,
    ) -> Option<Duty<'_, T, F>> {
        let mut calls = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        let first = calls.is_empty();
        calls.push((call, bytes));
        // Made only then: one that is dropped hands over, and would do so under the lock.
        first.then(|| Duty {
            gather: self,
            hand_over,
        })
    }
}

/// Of the first caller: hands over when dropped.
pub(super) struct Duty<'a, T, F: Fn(Vec<(T, usize)>)> {
    gather: &'a Gather<T>,
    hand_over: F,
}

impl<T, F: Fn(Vec<(T, usize)>)> Drop for Duty<'_, T, F> {
    fn drop(&mut self) {
        let mut calls = self
            .gather
            .calls
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let all = std::mem::take(&mut *calls);
        // Whoever adds from here on has the next duty.
        drop(calls);
        (self.hand_over)(all);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    };

    use super::*;

    #[test]
    fn the_first_hands_over_for_all() {
        let handed = Mutex::new(Vec::new());
        let gather = Gather::new();
        let hand_over = |calls: Vec<(u32, usize)>| handed.lock().unwrap().push(calls);
        let duty = gather.add(1, 10, hand_over);
        assert!(duty.is_some());
        assert!(gather.add(2, 20, hand_over).is_none());
        assert!(handed.lock().unwrap().is_empty());
        drop(duty);
        assert_eq!(*handed.lock().unwrap(), [vec![(1, 10), (2, 20)]]);
        // The next one begins anew.
        drop(gather.add(3, 30, hand_over));
        assert_eq!(handed.lock().unwrap().last(), Some(&vec![(3, 30)]));
    }

    /// Callers in two threads, most of which give up while they yield: each call is handed over once.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_caller_that_gives_up_leaves_nobody_behind() {
        let gather = Arc::new(Gather::new());
        let handed: Arc<[AtomicUsize; 400]> =
            Arc::new(std::array::from_fn(|_| AtomicUsize::new(0)));
        let mut callers = tokio::task::JoinSet::new();
        for n in 0..400 {
            let (gather, handed) = (gather.clone(), handed.clone());
            callers.spawn(async move {
                let duty = gather.add(n, 1, |calls| {
                    for (n, _) in calls {
                        handed[n].fetch_add(1, Ordering::Relaxed);
                    }
                });
                if duty.is_some() {
                    tokio::task::yield_now().await;
                    if n % 3 == 0 {
                        std::future::pending::<()>().await;
                    }
                }
            });
        }
        // Those that wait for ever are dropped with the set, in the middle of their duty.
        tokio::task::yield_now().await;
        callers.abort_all();
        while callers.join_next().await.is_some() {}
        let lost = handed
            .iter()
            .filter(|times| times.load(Ordering::Relaxed) > 1)
            .count();
        assert_eq!(lost, 0, "handed over twice");
        drop(gather.add(0, 1, |calls| assert_eq!(calls.len(), 1, "left behind")));
    }
}
