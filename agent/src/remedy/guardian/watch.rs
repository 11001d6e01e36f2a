//! The guardian's own loop. No runtime, no threads, no journal: it reads a few files, and writes prior
//! values back.

use std::{
    error::Error,
    fs,
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use jiff::Timestamp;
use rustix::time::ClockId;
use tracing::{error, info, warn};

use super::{Done, Due, GuardianError, Lease, LeaseStore};
use crate::{
    confine::{Role, files, refuse_calls},
    incident::EpisodeId,
    remedy::{cgroup::Hierarchy, effect},
};

/// Between two looks while there are leases: an effect ends within this of its time.
const BUSY: Duration = Duration::from_millis(200);
/// Between two looks otherwise.
const IDLE: Duration = Duration::from_secs(1);

/// Where a hierarchy that is mounted later will be, or below.
const CGROUPS: &str = "/sys/fs/cgroup";

/// Set by SIGTERM and SIGINT.
static STOP: AtomicBool = AtomicBool::new(false);

extern "C" fn stop(_signal: libc::c_int) {
    STOP.store(true, Ordering::Relaxed);
}

/// Guards the leases in `dir` until the agent is gone for `grace` and nothing is left to guard, or
/// until SIGTERM: then it ends every lease at once, since nobody else would.
/// With `stay` it waits for the next agent instead, as a unit of a service manager should.
///
/// # Errors
/// Another guardian is there, or the folder can't be used.
pub fn guard(dir: &Path, grace: Duration, stay: bool) -> Result<(), GuardianError> {
    let store = LeaseStore::open(dir)?;
    let _lock = store.lock("guardian")?;
    for signal in [libc::SIGTERM, libc::SIGINT] {
        let handler = stop as extern "C" fn(libc::c_int);
        // SAFETY: the handler only stores to an atomic, which is allowed in a signal handler.
        unsafe { libc::signal(signal, handler as libc::sighandler_t) };
    }
    confine(dir);
    info!(dir = %dir.display(), "guarding");
    let mut watch = Watch::new(store, grace);
    loop {
        // Read once: a signal that comes during the look must find another look before the end.
        let (now, stop) = (boot_time(), STOP.load(Ordering::Relaxed));
        let left = watch.look(now, stop)?;
        if stop {
            info!("stopped; every lease was ended");
            return Ok(());
        }
        if left == 0 && !stay && watch.agent_is_gone_for_good(now) {
            info!("the agent is gone and nothing is in force: done");
            return Ok(());
        }
        thread::sleep(if left == 0 { IDLE } else { BUSY });
    }
}

/// To the few files that it writes, and without the system calls that it has no use for. A guardian with more
/// than it needs is better than none.
fn confine(dir: &Path) {
    let mounted = Hierarchy::find().map(|hierarchy| hierarchy.mount().to_owned());
    let mut places = vec![dir, Path::new(CGROUPS), Path::new("/proc")];
    places.extend(mounted.as_deref());
    match files::write_only_below(&places) {
        Ok(confined) => info!(
            to_its_files = confined.as_str(),
            "confined, as far as this kernel can"
        ),
        Err(error) => warn!(error = &error as &dyn Error, "not confined to its files"),
    }
    refuse_calls(Role::Guardian);
}

/// One look after another at the folder.
#[derive(Debug)]
pub struct Watch {
    store: LeaseStore,
    grace: Duration,
    boot_id: String,
    /// Boot time at which the agent was first found gone; `None` while it lives.
    gone_since: Option<Duration>,
}

impl Watch {
    /// Of a folder.
    pub fn new(store: LeaseStore, grace: Duration) -> Self {
        Self {
            store,
            grace,
            boot_id: boot_id(),
            gone_since: None,
        }
    }

    fn gone_for(&self, now_boot: Duration) -> Option<Duration> {
        self.gone_since.map(|since| now_boot.saturating_sub(since))
    }

    fn agent_is_gone_for_good(&self, now_boot: Duration) -> bool {
        self.gone_for(now_boot)
            .is_some_and(|gone| gone >= self.grace)
    }

    /// Ends what is due (`all`: everything); how many leases are left.
    ///
    /// # Errors
    /// The folder can't be read. Trouble with one lease is logged, and tried again at the next look.
    pub fn look(&mut self, now_boot: Duration, all: bool) -> Result<usize, GuardianError> {
        self.gone_since = if self.store.lives("agent")? {
            None
        } else {
            self.gone_since.or(Some(now_boot))
        };
        let mut left = 0;
        for episode in self.store.leases()? {
            match self.look_at(episode, now_boot, all) {
                Ok(true) => {}
                Ok(false) => left += 1,
                Err(error) => {
                    left += 1;
                    let error = &error as &dyn Error;
                    error!(%episode, error, "a lease could not be looked after");
                }
            }
        }
        Ok(left)
    }

    /// Whether the lease is gone.
    fn look_at(
        &self,
        episode: EpisodeId,
        now_boot: Duration,
        all: bool,
    ) -> Result<bool, GuardianError> {
        let Some(lease) = self.store.lease(episode)? else {
            return Ok(true);
        };
        if lease.boot_id != self.boot_id {
            info!(%episode, "a lease of an earlier boot: its cgroup went with the kernel");
            self.store.release(episode)?;
            return Ok(true);
        }
        let gone = self.gone_for(now_boot);
        let due = lease.due(now_boot, gone, self.grace).map(Due::reason);
        let Some(reason) = due.or(all.then_some("guardian_stopped")) else {
            return Ok(false);
        };
        self.end(&lease, reason)?;
        Ok(true)
    }

    fn end(&self, lease: &Lease, reason: &str) -> Result<(), GuardianError> {
        let intent = &lease.intent;
        let report = match Hierarchy::find() {
            Ok(hierarchy) => effect::undo(&hierarchy, intent),
            Err(error) => {
                // Nothing to write to: this lease stays until there is.
                return Err(GuardianError::Odd {
                    path: intent.action.path.clone(),
                    why: error.to_string(),
                });
            }
        };
        warn!(episode = %intent.episode, action = %intent.action.kind,
            target = %intent.action.path, reason, restored = ?report.restored,
            left_alone = ?report.left_alone, "undone in the agent's absence");
        let done = Done {
            reason: reason.to_owned(),
            at: Timestamp::now(),
            restored: report.restored,
            left_alone: report.left_alone,
        };
        self.store.finish(intent.episode, &done)
    }
}

/// Time since boot, sleep included; no jump of the wall clock touches it.
pub(super) fn boot_time() -> Duration {
    let now = rustix::time::clock_gettime(ClockId::Boottime);
    Duration::try_from(now).unwrap_or_default()
}

/// Tells this boot from every other.
pub(super) fn boot_id() -> String {
    let text = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    text.trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::remedy::guardian::store::tests::intent;

    fn at(s: u64) -> Duration {
        Duration::from_secs(s)
    }

    #[test]
    fn an_agent_that_comes_back_within_the_grace_time_keeps_its_effects() {
        let dir = tempfile::tempdir().unwrap();
        let store = LeaseStore::open(dir.path()).unwrap();
        let lease = Lease {
            boot_id: boot_id(),
            ends_boot_ms: 1_000_000,
            verified: false,
            intent: intent(1),
        };
        store.put_lease(&lease).unwrap();
        let mut watch = Watch::new(store.clone(), at(10));
        assert_eq!(watch.look(at(100), false).unwrap(), 1);
        assert_eq!(watch.look(at(109), false).unwrap(), 1);
        let agent = store.lock("agent").unwrap();
        assert_eq!(watch.look(at(111), false).unwrap(), 1);
        drop(agent);
        // Counted from the new absence.
        assert_eq!(watch.look(at(112), false).unwrap(), 1);
        assert_eq!(watch.look(at(121), false).unwrap(), 1);
        assert!(!watch.agent_is_gone_for_good(at(121)));
    }

    #[test]
    fn a_lease_of_an_earlier_boot_is_dropped() {
        let dir = tempfile::tempdir().unwrap();
        let store = LeaseStore::open(dir.path()).unwrap();
        let lease = Lease {
            boot_id: "another".to_owned(),
            ends_boot_ms: 0,
            verified: true,
            intent: intent(1),
        };
        store.put_lease(&lease).unwrap();
        assert_eq!(
            Watch::new(store.clone(), at(10))
                .look(at(1), false)
                .unwrap(),
            0
        );
        assert_eq!(store.leases().unwrap(), []);
        assert_eq!(store.told().unwrap(), []);
    }
}
