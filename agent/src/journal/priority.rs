//! The priority of the threads that a commit waits for.

use std::io;

/// Sets this thread's niceness, and that of those that it starts.
pub(crate) fn nice(nice: i32) -> io::Result<()> {
    // On Linux the call with the thread's own id moves this thread alone.
    let own = rustix::thread::gettid();
    Ok(rustix::process::setpriority_process(Some(own), nice)?)
}

/// Puts this thread, and those that it starts, into the real-time class.
pub(crate) fn realtime() -> io::Result<()> {
    /// Above the lowest, so that it also comes before an agent that runs at that.
    const PRIORITY: libc::c_int = 2;
    let policy = libc::SCHED_RR;
    let param = libc::sched_param {
        sched_priority: PRIORITY,
    };
    // SAFETY: thread 0 is the calling one, and `param` lives across the call.
    match unsafe { libc::sched_setscheduler(0, policy, &raw const param) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
