//! What keeps a sick dependency from making the agent sick: a breaker, retries with backoff and
//! jitter, and deadlines that are handed down. No I/O of its own.

mod blocking;
pub mod breaker;
pub mod deadline;
pub mod retry;

use std::{cell::RefCell, future::Future, pin::Pin};

pub(crate) use blocking::blocking;
#[cfg(test)]
pub(crate) use blocking::simulated;
pub use breaker::{Breaker, BreakerConfig, BreakerOpen, BreakerState};
pub use deadline::Deadline;
pub use retry::{Backoff, Class};

/// A future behind a pointer.
pub type Boxed<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// Bytes asked of the kernel at once, a thread: an alert needs some forty, and a call for each few of
/// them was a tenth of what taking an alert costs.
const POOL_BYTES: usize = 1024;

struct Pool {
    bytes: [u8; POOL_BYTES],
    used: usize,
}

thread_local! {
    static POOL: RefCell<Pool> = const {
        RefCell::new(Pool { bytes: [0; POOL_BYTES], used: POOL_BYTES })
    };
}

/// `N` random bytes of the kernel's; for ids and jitter, never for a secret: what a thread has in
/// store lies in its memory. `N` is at most 1,024.
pub fn random<const N: usize>() -> [u8; N] {
    const { assert!(N <= POOL_BYTES) };
    #[cfg(test)]
    if let Some(bytes) = simulated::bytes() {
        return bytes;
    }
    POOL.with_borrow_mut(|pool| {
        if POOL_BYTES - pool.used < N {
            pool.bytes = from_kernel();
            pool.used = 0;
        }
        let mut bytes = [0; N];
        bytes.copy_from_slice(&pool.bytes[pool.used..pool.used + N]);
        pool.used += N;
        bytes
    })
}

/// The call can fail only before the kernel's pool is ready; then the process's randomly seeded
/// hasher stands in, which is unique enough for an id and for jitter.
fn from_kernel<const N: usize>() -> [u8; N] {
    use std::hash::{BuildHasher, Hasher, RandomState};
    let mut bytes = [0; N];
    if getrandom::fill(&mut bytes).is_err() {
        for chunk in bytes.chunks_mut(8) {
            let word = RandomState::new().build_hasher().finish().to_ne_bytes();
            chunk.copy_from_slice(&word[..chunk.len()]);
        }
    }
    bytes
}

/// An error with its causes, in one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        text.push_str(": ");
        text.push_str(&next.to_string());
        cause = next.source();
    }
    text
}
