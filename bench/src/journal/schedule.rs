//! The scheduling class of this thread and of what it starts.

use std::io;

/// Round robin at the lowest real-time priority.
pub(crate) fn realtime() -> io::Result<()> {
    set(libc::SCHED_RR, 1)
}

fn set(policy: libc::c_int, sched_priority: libc::c_int) -> io::Result<()> {
    let param = libc::sched_param { sched_priority };
    // SAFETY: thread 0 is the calling one, and `param` lives across the call.
    match unsafe { libc::sched_setscheduler(0, policy, &raw const param) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
