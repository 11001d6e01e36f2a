//! What a service manager is told, and the place that it gave us.
//!
//! Protocol: `sd_notify(3)`, `sd_watchdog_enabled(3)`. Without `NOTIFY_SOCKET` nothing is said.

use std::{fs, os::fd::AsFd, path::Path, time::Duration};

use sd_notify::NotifyState;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::remedy::{Hierarchy, delegated};

/// Name of the cgroup below a delegated one in which the agent itself lives.
const OWN_CGROUP: &str = "agent";

/// Ready to take alerts, with one line for `systemctl status`.
pub(super) fn ready(status: &str) {
    say(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// On its way out.
pub(super) fn stopping() {
    say(&[NotifyState::Stopping, NotifyState::Status("stopping")]);
}

fn say(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        debug!(%error, "the service manager was not told");
    }
}

/// Pets the watchdog twice as often as it asks, from the runtime that serves alerts: a runtime that
/// hangs is restarted. Returns at once where no watchdog is asked for.
pub(super) async fn pet_watchdog(stop: CancellationToken) {
    let Some(limit) = sd_notify::watchdog_enabled() else {
        return;
    };
    let mut ticks = tokio::time::interval((limit / 2).max(Duration::from_millis(100)));
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while stop.run_until_cancelled(ticks.tick()).await.is_some() {
        say(&[NotifyState::Watchdog]);
    }
}

/// Moves this process one level down where its cgroup is delegated: the kernel enables controllers
/// for children only of a cgroup without processes of its own, and the sandbox's slices are such
/// children. A manager that knows `DelegateSubgroup=` (systemd 254) has done so already.
pub(super) fn settle_in_own_cgroup() {
    let text = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let Some(own) = text.lines().find_map(|line| line.strip_prefix("0::/")) else {
        return;
    };
    let Ok(hierarchy) = Hierarchy::find() else {
        return;
    };
    let dir = hierarchy.mount().join(own);
    if own.is_empty() || !is_delegated(&dir) {
        return;
    }
    match move_below(&dir) {
        Ok(()) => {
            info!(cgroup = %dir.join(OWN_CGROUP).display(), "moved below the delegated cgroup");
        }
        Err(error) => warn!(
            %error,
            cgroup = %dir.display(),
            "cannot use the delegated cgroup: commands in the sandbox are not available"
        ),
    }
}

fn is_delegated(dir: &Path) -> bool {
    fs::File::open(dir).is_ok_and(|dir| delegated(dir.as_fd()))
}

fn move_below(dir: &Path) -> std::io::Result<()> {
    let below = dir.join(OWN_CGROUP);
    match fs::create_dir(&below) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    fs::write(below.join("cgroup.procs"), "0")
}

#[cfg(test)]
mod tests {
    use super::{is_delegated, move_below};

    #[test]
    fn an_ordinary_folder_is_not_delegated() {
        let dir = tempfile::tempdir().unwrap();
        assert!(!is_delegated(dir.path()));
    }

    #[test]
    fn a_subgroup_that_is_there_already_is_used() {
        let dir = tempfile::tempdir().unwrap();
        move_below(dir.path()).unwrap();
        move_below(dir.path()).unwrap();
        let procs = dir.path().join("agent/cgroup.procs");
        assert_eq!(std::fs::read_to_string(procs).unwrap(), "0");
    }
}
