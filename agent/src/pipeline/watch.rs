//! Who wants the syscall pair attached: it is, while at least one episode is being handled.

use std::sync::{Arc, Mutex, PoisonError};

use crate::evidence::Recorder;

/// Counts the episodes that want syscalls watched.
#[derive(Debug, Default)]
pub struct SyscallWatch {
    wanted: Arc<Mutex<usize>>,
}

/// Keeps the pair attached until it is dropped.
#[must_use = "the pair is detached when the last of these is dropped"]
pub struct Watched {
    wanted: Arc<Mutex<usize>>,
    recorder: Arc<Recorder>,
}

impl SyscallWatch {
    /// Attaches the pair if nobody did. Where it can't be, the evidence's coverage says so.
    pub fn begin(&self, recorder: &Arc<Recorder>) -> Watched {
        // The lock is held while attaching and detaching (0.3 ms each), so that an end and a
        // beginning at the same moment leave the pair as the count says.
        let mut wanted = self.wanted.lock().unwrap_or_else(PoisonError::into_inner);
        *wanted += 1;
        if *wanted == 1 {
            recorder.watch_syscalls(true);
        }
        Watched {
            wanted: self.wanted.clone(),
            recorder: recorder.clone(),
        }
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        let mut wanted = self.wanted.lock().unwrap_or_else(PoisonError::into_inner);
        *wanted -= 1;
        if *wanted == 0 {
            self.recorder.watch_syscalls(false);
        }
    }
}
