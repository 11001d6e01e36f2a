//! Work that blocks, on a thread where it may: of the runtime, or, in the simulation, of the caller.

use tokio::task::JoinError;

/// Runs `work` on a thread that may block, and waits for it.
///
/// # Errors
/// It panicked.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, JoinError> {
    #[cfg(test)]
    match simulated::state() {
        simulated::State::Off => {}
        simulated::State::Alive => return Ok(work()),
        // Nothing is done any more by a machine that is off.
        simulated::State::Dead => std::future::pending().await,
    }
    tokio::task::spawn_blocking(work).await
}

/// One thread that is all there is: what blocks and what is random come in one order only.
#[cfg(test)]
pub(crate) mod simulated {
    use std::cell::RefCell;

    use crate::journal::sim::{Rng, SimDisk};

    /// What becomes of work that blocks.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(crate) enum State {
        Off,
        Alive,
        Dead,
    }

    thread_local! {
        static MACHINE: RefCell<Option<(SimDisk, Rng)>> = const { RefCell::new(None) };
    }

    /// From now on this thread is a machine with this disk; it is off once that has crashed.
    pub(crate) fn machine(disk: SimDisk, seed: u64) {
        MACHINE.set(Some((disk, Rng(seed))));
    }

    pub(crate) fn state() -> State {
        MACHINE.with_borrow(|machine| match machine {
            None => State::Off,
            Some((disk, _)) if disk.crashed() => State::Dead,
            Some(_) => State::Alive,
        })
    }

    /// Random bytes that come again with their seed.
    pub(crate) fn bytes<const N: usize>() -> Option<[u8; N]> {
        MACHINE.with_borrow_mut(|machine| {
            let (_, rng) = machine.as_mut()?;
            Some(std::array::from_fn(|_| rng.next().to_le_bytes()[0]))
        })
    }
}
