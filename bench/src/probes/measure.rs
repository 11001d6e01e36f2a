//! Nanoseconds a call, undisturbed.

use std::time::Instant;

use crate::median;

/// Calls in one batch: some milliseconds.
const CALLS: u32 = 10_000;
/// Batches in one slice; its result is their median.
const BATCHES: usize = 11;

/// The CPU on which everything is measured: the last one, interrupts mostly go to the first.
pub(crate) fn cpu() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from) - 1
}

/// Runs `work` on one CPU in the real-time class, so that neighbours don't decide the result.
pub(crate) fn undisturbed<T: Send>(work: impl FnOnce() -> T + Send) -> anyhow::Result<T> {
    std::thread::scope(|scope| {
        scope
            .spawn(|| {
                pin(cpu());
                realtime();
                work()
            })
            .join()
            .map_err(|_| anyhow::anyhow!("the measuring thread panicked"))
    })
}

/// ns of one `call`.
pub(crate) fn call_ns(call: fn()) -> anyhow::Result<f64> {
    undisturbed(|| {
        let batches: Vec<f64> = (0..BATCHES)
            .map(|_| {
                let begun = Instant::now();
                for _ in 0..CALLS {
                    call();
                }
                begun.elapsed().as_nanos() as f64 / f64::from(CALLS)
            })
            .collect();
        median(&batches)
    })
}

/// Keeps this thread on one CPU.
pub(crate) fn pin(cpu: usize) {
    let mut set = rustix::thread::CpuSet::new();
    set.set(cpu);
    if let Err(error) = rustix::thread::sched_setaffinity(None, &set) {
        eprintln!("cannot pin to CPU {cpu}: {error}");
    }
}

/// Puts this thread into the real-time class, at its lowest priority; children don't inherit it.
pub(crate) fn realtime() {
    let parameters = libc::sched_param { sched_priority: 1 };
    // SAFETY: a valid parameter block; 0 is this thread.
    let set = unsafe {
        libc::sched_setscheduler(
            0,
            libc::SCHED_FIFO | libc::SCHED_RESET_ON_FORK,
            &raw const parameters,
        )
    };
    if set != 0 {
        eprintln!(
            "not in the real-time class: {}",
            std::io::Error::last_os_error()
        );
    }
}
