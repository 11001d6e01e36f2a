//! Signals that end the view: the terminal is given back before the process goes.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use tokio::signal::unix::{SignalKind, signal};

/// Whether it is time to go.
#[derive(Clone, Debug)]
pub(super) struct Ending(Arc<AtomicBool>);

impl Ending {
    /// From now on SIGTERM, SIGINT and SIGHUP set it instead of ending the process. Ctrl-C is a key:
    /// the terminal is asked for keys alone.
    ///
    /// # Errors
    /// The kernel gives no descriptor or thread.
    pub(super) fn listen() -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .build()?;
        let (mut terminate, mut interrupt, mut hang_up) = {
            // Taken here, not in the thread: from the first frame on no signal is missed.
            let _inside = runtime.enter();
            (
                signal(SignalKind::terminate())?,
                signal(SignalKind::interrupt())?,
                signal(SignalKind::hangup())?,
            )
        };
        let ending = Self(Arc::default());
        let seen = ending.clone();
        // Ends with the process.
        std::thread::Builder::new()
            .name("top-signals".into())
            .spawn(move || {
                runtime.block_on(async {
                    tokio::select! {
                        _ = terminate.recv() => {}
                        _ = interrupt.recv() => {}
                        _ = hang_up.recv() => {}
                    }
                });
                seen.0.store(true, Ordering::Relaxed);
            })?;
        Ok(ending)
    }

    /// Whether a signal has come.
    pub(super) fn has_come(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}
