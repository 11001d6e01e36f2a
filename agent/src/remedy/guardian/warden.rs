//! The agent's side: starts the guardian and keeps it running, entrusts effects to it, reads what it
//! did.

use std::{
    os::unix::process::CommandExt,
    path::Path,
    process::{Child, Command, Stdio},
    sync::{Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use tracing::{info, warn};

use super::{
    Done, GuardianError, Lease, LeaseStore,
    store::Lock,
    watch::{boot_id, boot_time},
};
use crate::incident::{EpisodeId, Intent};

/// A guardian that starts takes its lock within this, on a machine in trouble too.
const START_PATIENCE: Duration = Duration::from_secs(5);

/// Sees to it that there is a guardian.
#[derive(Debug)]
pub struct Warden {
    store: LeaseStore,
    grace: Duration,
    boot_id: String,
    /// The one that this agent started; an earlier agent's may still run.
    child: Mutex<Option<Child>>,
    _lock: Lock,
}

impl Warden {
    /// Takes the agent's lock in `dir` and starts the guardian if none runs there.
    pub fn start(dir: &Path, grace: Duration) -> Result<Self, GuardianError> {
        let store = LeaseStore::open(dir)?;
        let warden = Self {
            _lock: store.lock("agent")?,
            store,
            grace,
            boot_id: boot_id(),
            child: Mutex::new(None),
        };
        warden.ensure()?;
        Ok(warden)
    }

    /// Starts the guardian if it does not run. Blocking, microseconds if it does.
    pub fn ensure(&self) -> Result<(), GuardianError> {
        let mut child = self.child.lock().unwrap_or_else(PoisonError::into_inner);
        if self.store.lives("guardian")? {
            return Ok(());
        }
        if let Some(mut dead) = child.take() {
            match dead.try_wait() {
                Ok(status) => warn!(?status, "the guardian has ended; starting another"),
                Err(error) => warn!(%error, "the guardian has ended; starting another"),
            }
        }
        let mut started = self.spawn()?;
        let begun = Instant::now();
        while begun.elapsed() < START_PATIENCE {
            if self.store.lives("guardian")? {
                info!(pid = started.id(), "the guardian runs");
                *child = Some(started);
                return Ok(());
            }
            if let Ok(Some(status)) = started.try_wait() {
                return Err(GuardianError::NotRunning(format!("it ended: {status}")));
            }
            thread::sleep(Duration::from_millis(2));
        }
        // Not `kill` and a new try: whatever holds it up would hold the next one up too.
        *child = Some(started);
        Err(GuardianError::NotRunning(format!(
            "it did not start within {} s",
            START_PATIENCE.as_secs()
        )))
    }

    fn spawn(&self) -> Result<Child, GuardianError> {
        Command::new("/proc/self/exe")
            .arg0("paramedic")
            .arg("guardian")
            .arg("--dir")
            .arg(self.store.dir())
            .arg("--grace-s")
            .arg(self.grace.as_secs().to_string())
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            // Ctrl-C in a terminal is for the agent.
            .process_group(0)
            .spawn()
            .map_err(|error| GuardianError::NotRunning(error.to_string()))
    }

    /// Before an effect is written: from here on somebody ends it whatever happens to the agent.
    pub fn entrust(&self, intent: &Intent) -> Result<(), GuardianError> {
        self.ensure()?;
        self.put(intent, false)
    }

    /// It helped: it may outlive the agent until its lease ends.
    pub fn verified(&self, intent: &Intent) -> Result<(), GuardianError> {
        self.put(intent, true)
    }

    fn put(&self, intent: &Intent, verified: bool) -> Result<(), GuardianError> {
        let left = intent.lease_until.duration_since(Timestamp::now());
        let left = Duration::try_from(left).unwrap_or_default();
        let ends = boot_time().saturating_add(left).as_millis();
        let ends = u64::try_from(ends).unwrap_or(u64::MAX);
        // A wall clock set back meanwhile must not make a lease longer.
        let known = self.store.lease(intent.episode).ok().flatten();
        let known = known.filter(|lease| lease.boot_id == self.boot_id);
        let ends_boot_ms = known.map_or(ends, |lease| lease.ends_boot_ms.min(ends));
        self.store.put_lease(&Lease {
            boot_id: self.boot_id.clone(),
            ends_boot_ms,
            verified,
            intent: intent.clone(),
        })
    }

    /// The effect is undone.
    pub fn release(&self, episode: EpisodeId) -> Result<(), GuardianError> {
        self.store.release(episode)
    }

    /// What the guardian did about an episode in the agent's absence.
    pub fn done(&self, episode: EpisodeId) -> Option<Done> {
        self.store.done(episode).unwrap_or_else(|error| {
            let error = &error as &dyn std::error::Error;
            warn!(%episode, error, "what the guardian did is not known");
            None
        })
    }

    /// Drops what it told about an episode: the journal has it.
    pub fn forget(&self, episode: EpisodeId) -> Result<(), GuardianError> {
        self.store.forget(episode)
    }

    /// Drops what it told about episodes that the journal has as closed, and what somebody who died while
    /// writing has left.
    pub fn tidy(&self, closed: impl Fn(EpisodeId) -> bool) -> Result<(), GuardianError> {
        self.store.clear_unfinished()?;
        let told = self.store.told()?;
        told.into_iter()
            .filter(|episode| closed(*episode))
            .try_for_each(|episode| self.store.forget(episode))
    }
}
