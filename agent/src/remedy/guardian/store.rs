//! The folder in which agent and guardian meet.
//!
//! `EPISODE.lease`: an effect in force. `EPISODE.done`: the guardian has undone it. `agent.lock` and
//! `guardian.lock` are held (flock) by the two as long as they live: a lock can't be left behind.
//! Files are replaced by renaming, so that nobody reads half of one.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, ErrorKind, Read, Write},
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use rustix::{fs::FlockOperation, io::Errno};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::Lease;
use crate::incident::EpisodeId;

/// Leases looked at; the agent's own bound (`remedy.limits.held_max`) is far lower.
pub const LEASES_MAX: usize = 1_024;
/// An intent has at most a handful of changes.
const FILE_BYTES_MAX: u64 = 64 * 1024;
/// Either side tries the other's lock for an instant to see whether it lives, so taking one's own may
/// need a second try.
const LOCK_PATIENCE: Duration = Duration::from_secs(1);

/// What can go wrong with the guardian; names the object.
#[derive(Debug, thiserror::Error)]
pub enum GuardianError {
    /// A file of the folder.
    #[error("cannot {operation} {path}")]
    Io {
        /// `write`, `read`, …
        operation: &'static str,
        /// The file.
        path: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Somebody else holds the lock.
    #[error("{path} is held by another process: does another {who} run on this folder?")]
    Held {
        /// The lock.
        path: String,
        /// `agent` or `guardian`.
        who: &'static str,
    },
    /// Not what we write.
    #[error("{path} is no lease of ours: {why}")]
    Odd {
        /// The file.
        path: String,
        /// Why.
        why: String,
    },
    /// It could not be started.
    #[error("the guardian process does not run ({0}): nothing is done that it could not undo")]
    NotRunning(String),
}

/// What the guardian did in the agent's absence.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Done {
    /// `lease_ended`, `agent_gone`, `guardian_stopped`.
    pub reason: String,
    /// When.
    pub at: Timestamp,
    /// Files that hold their prior value again.
    pub restored: Vec<String>,
    /// What was left as it is, and why.
    pub left_alone: Vec<String>,
}

/// The folder.
#[derive(Clone, Debug)]
pub struct LeaseStore {
    dir: PathBuf,
}

/// Held as long as its owner lives.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

impl LeaseStore {
    /// Opens the folder, makes it if it is not there.
    pub fn open(dir: &Path) -> Result<Self, GuardianError> {
        use std::os::unix::fs::DirBuilderExt;
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .map_err(|source| failed("make", dir, source))?;
        Ok(Self {
            dir: dir.to_owned(),
        })
    }

    /// Its path.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    fn lock_path(&self, who: &str) -> PathBuf {
        self.dir.join(format!("{who}.lock"))
    }

    fn lock_file(&self, who: &str) -> Result<File, GuardianError> {
        let path = self.lock_path(who);
        OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .map_err(|source| failed("open", &path, source))
    }

    /// Takes the lock of `agent` or `guardian`, and writes one's process number into it for people.
    pub fn lock(&self, who: &'static str) -> Result<Lock, GuardianError> {
        let file = self.lock_file(who)?;
        let begun = Instant::now();
        loop {
            match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {
                    let pid = std::process::id().to_string();
                    let written = file
                        .set_len(0)
                        .and_then(|()| (&file).write_all(pid.as_bytes()));
                    written.map_err(|source| failed("write", &self.lock_path(who), source))?;
                    return Ok(Lock { _file: file });
                }
                Err(Errno::WOULDBLOCK) if begun.elapsed() < LOCK_PATIENCE => {
                    thread::sleep(Duration::from_millis(5));
                }
                Err(Errno::WOULDBLOCK) => {
                    let path = self.lock_path(who).display().to_string();
                    return Err(GuardianError::Held { path, who });
                }
                Err(errno) => return Err(failed("lock", &self.lock_path(who), errno.into())),
            }
        }
    }

    /// Whether somebody holds the lock.
    pub fn lives(&self, who: &'static str) -> Result<bool, GuardianError> {
        let file = self.lock_file(who)?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockShared) {
            Ok(()) => Ok(false),
            Err(Errno::WOULDBLOCK) => Ok(true),
            Err(errno) => Err(failed("lock", &self.lock_path(who), errno.into())),
        }
    }

    fn path(&self, episode: EpisodeId, kind: &str) -> PathBuf {
        self.dir.join(format!("{episode}.{kind}"))
    }

    fn put<T: Serialize>(path: &Path, what: &T) -> Result<(), GuardianError> {
        let mut bytes = serde_json::to_vec(what).map_err(|error| GuardianError::Odd {
            path: path.display().to_string(),
            why: error.to_string(),
        })?;
        bytes.push(b'\n');
        let new = path.with_extension(format!("{}.new", std::process::id()));
        fs::write(&new, bytes)
            .and_then(|()| fs::rename(&new, path))
            .map_err(|source| {
                // What is left of it is in nobody's way, but takes space on a full disk.
                fs::remove_file(&new).unwrap_or_default();
                failed("write", path, source)
            })
    }

    fn get<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, GuardianError> {
        let mut bytes = Vec::new();
        let read =
            File::open(path).and_then(|file| file.take(FILE_BYTES_MAX).read_to_end(&mut bytes));
        match read {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(failed("read", path, source)),
        }
        serde_json::from_slice(&bytes)
            .map(Some)
            .map_err(|error| GuardianError::Odd {
                path: path.display().to_string(),
                why: error.to_string(),
            })
    }

    /// Writes a lease, over an earlier state of it.
    pub fn put_lease(&self, lease: &Lease) -> Result<(), GuardianError> {
        Self::put(&self.path(lease.intent.episode, "lease"), lease)
    }

    /// A lease.
    pub fn lease(&self, episode: EpisodeId) -> Result<Option<Lease>, GuardianError> {
        Self::get(&self.path(episode, "lease"))
    }

    /// Says that a lease was ended, then removes it: in between both are there, and ending it again
    /// changes nothing.
    pub fn finish(&self, episode: EpisodeId, done: &Done) -> Result<(), GuardianError> {
        Self::put(&self.path(episode, "done"), done)?;
        self.release(episode)
    }

    /// What the guardian did about an episode.
    pub fn done(&self, episode: EpisodeId) -> Result<Option<Done>, GuardianError> {
        Self::get(&self.path(episode, "done"))
    }

    /// Removes a lease: its effect is undone, or was never written.
    pub fn release(&self, episode: EpisodeId) -> Result<(), GuardianError> {
        remove(&self.path(episode, "lease"))
    }

    /// Removes what the guardian told: the journal has it.
    pub fn forget(&self, episode: EpisodeId) -> Result<(), GuardianError> {
        remove(&self.path(episode, "done"))
    }

    /// Removes what somebody who died while writing has left. Another one's that is being written now
    /// stays.
    pub fn clear_unfinished(&self) -> Result<(), GuardianError> {
        let refused = |source| failed("list", &self.dir, source);
        for entry in fs::read_dir(&self.dir).map_err(refused)? {
            let path = entry.map_err(refused)?.path();
            let name = path.file_name().and_then(|name| name.to_str());
            let writer = name.and_then(|name| name.strip_suffix(".new")?.rsplit_once('.'));
            let writer = writer.and_then(|(_, pid)| pid.parse::<u32>().ok());
            if writer.is_some_and(|pid| !Path::new("/proc").join(pid.to_string()).exists()) {
                remove(&path)?;
            }
        }
        Ok(())
    }

    /// Episodes with a lease.
    pub fn leases(&self) -> Result<Vec<EpisodeId>, GuardianError> {
        self.episodes("lease")
    }

    /// Episodes about which the guardian has told something.
    pub fn told(&self) -> Result<Vec<EpisodeId>, GuardianError> {
        self.episodes("done")
    }

    fn episodes(&self, kind: &str) -> Result<Vec<EpisodeId>, GuardianError> {
        let refused = |source| failed("list", &self.dir, source);
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.dir).map_err(refused)? {
            let name = entry.map_err(refused)?.file_name();
            let parts = name.to_str().and_then(|name| name.split_once('.'));
            let of_kind = parts.filter(|(_, its)| *its == kind);
            if let Some(Ok(episode)) = of_kind.map(|(stem, _)| stem.parse()) {
                found.push(episode);
            }
            if found.len() == LEASES_MAX {
                break;
            }
        }
        Ok(found)
    }
}

fn remove(path: &Path) -> Result<(), GuardianError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(failed("remove", path, error)),
        _ => Ok(()),
    }
}

fn failed(operation: &'static str, path: &Path, source: io::Error) -> GuardianError {
    GuardianError::Io {
        operation,
        path: path.display().to_string(),
        source,
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::incident::{Action, ActionKind, CgroupId, Intent, KnobChange};

    pub(in crate::remedy::guardian) fn intent(n: u8) -> Intent {
        Intent {
            episode: EpisodeId([n; 16]),
            action: Action {
                kind: ActionKind::ThrottleCpu,
                cgroup: CgroupId(7),
                path: "/a \"quoted\"\nname".to_owned(),
                amount: None,
            },
            changes: vec![KnobChange {
                of: crate::incident::Holder::Cgroup,
                file: "cpu.max".to_owned(),
                prior: "max 100000".to_owned(),
                value: "50000 100000".to_owned(),
            }],
            lease_until: Timestamp::UNIX_EPOCH,
        }
    }

    fn lease(n: u8) -> Lease {
        Lease {
            boot_id: "b".to_owned(),
            ends_boot_ms: 1,
            verified: false,
            intent: intent(n),
        }
    }

    #[test]
    fn what_a_dead_writer_left_is_removed_and_a_living_ones_stays() {
        let dir = tempfile::tempdir().unwrap();
        let store = LeaseStore::open(dir.path()).unwrap();
        let left = |pid: u32| dir.path().join(format!("{}.{pid}.new", EpisodeId([1; 16])));
        // Numbers end at 2^22.
        let (dead, own) = (left(u32::MAX), left(std::process::id()));
        fs::write(&dead, "{").unwrap();
        fs::write(&own, "{").unwrap();
        store.clear_unfinished().unwrap();
        assert!(!dead.exists() && own.exists());
    }

    #[test]
    fn leases_come_back_as_they_were_and_go_when_they_are_finished() {
        let dir = tempfile::tempdir().unwrap();
        let store = LeaseStore::open(&dir.path().join("leases")).unwrap();
        assert_eq!(store.leases().unwrap(), []);
        store.put_lease(&lease(1)).unwrap();
        store.put_lease(&lease(2)).unwrap();
        let one = EpisodeId([1; 16]);
        assert_eq!(store.lease(one).unwrap(), Some(lease(1)));
        let done = Done {
            reason: "lease_ended".to_owned(),
            at: Timestamp::UNIX_EPOCH,
            restored: vec!["cpu.max".to_owned()],
            left_alone: Vec::new(),
        };
        store.finish(one, &done).unwrap();
        assert_eq!(store.leases().unwrap(), [EpisodeId([2; 16])]);
        assert_eq!(store.told().unwrap(), [one]);
        assert_eq!(store.done(one).unwrap(), Some(done));
        assert_eq!(store.lease(one).unwrap(), None);
        store.forget(one).unwrap();
        store.forget(one).unwrap();
        assert_eq!(store.told().unwrap(), []);
    }

    #[test]
    fn what_is_no_lease_is_named_and_foreign_files_are_passed_over() {
        let dir = tempfile::tempdir().unwrap();
        let store = LeaseStore::open(dir.path()).unwrap();
        fs::write(dir.path().join("notes.lease"), "x").unwrap();
        fs::write(dir.path().join("lease"), "x").unwrap();
        assert_eq!(store.leases().unwrap(), []);
        let one = EpisodeId([1; 16]);
        fs::write(store.path(one, "lease"), "{\"boot_id\":3}").unwrap();
        let error = store.lease(one).unwrap_err().to_string();
        assert!(error.contains(&one.to_string()), "{error}");
    }

    #[test]
    fn a_lock_tells_whether_its_holder_lives() {
        let dir = tempfile::tempdir().unwrap();
        let store = LeaseStore::open(dir.path()).unwrap();
        assert!(!store.lives("agent").unwrap());
        let lock = store.lock("agent").unwrap();
        assert!(store.lives("agent").unwrap());
        assert!(!store.lives("guardian").unwrap());
        let error = store.lock("agent").unwrap_err();
        assert!(matches!(error, GuardianError::Held { who: "agent", .. }));
        drop(lock);
        assert!(!store.lives("agent").unwrap());
        store.lock("agent").unwrap();
    }
}
