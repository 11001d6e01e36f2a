//! Work for CPUs and locks.

use std::{
    hint::black_box,
    sync::{Arc, Barrier, Condvar, Mutex, PoisonError},
    time::{Duration, Instant},
};

use rustix::thread::{CpuSet, sched_setaffinity};

use super::in_threads;

/// Between two wake-ups of the herd, beyond what its work takes.
const HERD_REST: Duration = Duration::from_millis(5);

pub(super) fn burn(threads: usize, cpu: Option<usize>) -> anyhow::Result<()> {
    if let Some(cpu) = cpu {
        let mut only = CpuSet::new();
        only.set(cpu);
        sched_setaffinity(None, &only)?;
    }
    in_threads(threads, |_| {
        let mut value = 1_u64;
        loop {
            value = black_box(
                value
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1),
            );
        }
    });
    Ok(())
}

/// Works for that long of wall-clock time.
pub(super) fn spin(time: Duration) {
    let begun = Instant::now();
    let mut value = 1_u64;
    while begun.elapsed() < time {
        for _ in 0..200 {
            value = black_box(
                value
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1),
            );
        }
    }
}

pub(super) fn herd(threads: usize, burst_ms: f64) -> anyhow::Result<()> {
    let gate = Arc::new(Barrier::new(threads.max(1)));
    let burst = Duration::try_from_secs_f64(burst_ms / 1e3)?;
    in_threads(threads, move |_| {
        loop {
            gate.wait();
            std::thread::sleep(HERD_REST);
            // By work done, not by time: a thread that waits for its turn does not get out of it.
            let mut worked = Duration::ZERO;
            while worked < burst {
                let begun = Instant::now();
                spin(Duration::from_micros(200));
                worked += begun.elapsed().min(Duration::from_micros(400));
            }
        }
    });
    Ok(())
}

pub(super) fn futexes(threads: usize) {
    let turn = Arc::new((Mutex::new(0_usize), Condvar::new()));
    let threads = threads.max(2);
    in_threads(threads, move |number| {
        let (turn, changed) = &*turn;
        loop {
            let mut whose = turn.lock().unwrap_or_else(PoisonError::into_inner);
            while *whose % threads != number {
                whose = changed.wait(whose).unwrap_or_else(PoisonError::into_inner);
            }
            *whose = whose.wrapping_add(1);
            drop(whose);
            changed.notify_all();
        }
    });
}
