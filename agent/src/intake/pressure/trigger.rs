//! One PSI trigger: the kernel says when tasks stalled for longer than the threshold in a window.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
};

use tokio::{
    io::{Interest, unix::AsyncFd},
    sync::mpsc::{Sender, error::TrySendError},
};

use super::{Resource, Stall};

/// An armed trigger; disarmed when dropped.
pub(super) struct Trigger(AsyncFd<File>);

/// The pressure file of a resource, of the host or of a cgroup.
pub(super) fn file(resource: Resource, cgroup: Option<&str>) -> String {
    let resource = resource.as_str();
    match cgroup {
        None => format!("/proc/pressure/{resource}"),
        Some(path) => format!(
            "/sys/fs/cgroup/{}/{resource}.pressure",
            path.trim_matches('/')
        ),
    }
}

impl Trigger {
    /// Arms a trigger on a pressure file. Requires a runtime.
    pub(super) fn open(file: &str, stall: Stall, window_ms: u64) -> io::Result<Self> {
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NONBLOCK)
            .open(file)?;
        let kind = if stall.full { "full" } else { "some" };
        let within = window_ms * 1000;
        let stalled = stall.stalled_ms * 1000;
        // One write makes the trigger; the kernel wants the zero byte.
        file.write_all(format!("{kind} {stalled} {within}\0").as_bytes())?;
        // SAFETY: the descriptor is the file's own, which the AsyncFd owns and nothing here closes or
        // replaces before it is dropped.
        let registered = unsafe { AsyncFd::register_with_interest(file, Interest::PRIORITY) };
        registered.map(Self).map_err(|failed| failed.into_parts().1)
    }

    /// Says `at` each time that it fires, until the file is gone.
    pub(super) async fn watch(self, at: usize, fired: Sender<usize>) {
        loop {
            let ready = self.0.ready(Interest::PRIORITY | Interest::ERROR).await;
            let Ok(mut ready) = ready else { return };
            if ready.ready().is_error() {
                return;
            }
            ready.clear_ready();
            if let Err(TrySendError::Closed(_)) = fired.try_send(at) {
                return;
            }
        }
    }
}
