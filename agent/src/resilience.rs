//! What keeps a sick dependency from making the agent sick: a breaker, retries with backoff and
//! jitter, and deadlines that are handed down. No I/O of its own.

pub mod breaker;
pub mod deadline;
pub mod retry;

pub use breaker::{Breaker, BreakerConfig, BreakerOpen, BreakerState};
pub use deadline::Deadline;
pub use retry::{Backoff, Class};

/// `N` random bytes from the kernel; for ids and jitter.
///
/// The call can fail only before the kernel's pool is ready; then the process's randomly seeded
/// hasher stands in, which is unique enough for an id and for jitter, and never used for a secret.
pub fn random<const N: usize>() -> [u8; N] {
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
