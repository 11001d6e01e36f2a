//! Applying and undoing: the same for every action. Nothing is written to a cgroup that is not the
//! one that was meant, over a value that is not the one that was recorded, or without reading back.

use std::{thread, time::Duration};

use super::{
    catalogue::{
        kill_cgroup,
        kill_process::{self, Killed},
    },
    cgroup::{Cgroup, CgroupError, Hierarchy},
    guardian::{Done, GuardianError},
    knob,
};
use crate::incident::{Holder, Intent, KnobChange};

/// Attempts to restore one file, and the pause between them: undoing must not fail for a passing
/// reason.
const RESTORE_ATTEMPTS: u32 = 5;
const RESTORE_PAUSE: Duration = Duration::from_millis(50);

/// Why an effect could not be applied. What was written before stays for `undo`.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// The cgroup is gone, another one, or cannot be read or written.
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    /// Protected meanwhile.
    #[error("protected: {0}")]
    Protected(#[from] super::protect::Protected),
    /// Changed by somebody else between plan and now.
    #[error(
        "{file} of {path:?} held {expected:?} when this was planned and holds {found:?} now: somebody else changed it"
    )]
    Changed {
        /// The cgroup.
        path: String,
        /// The file.
        file: String,
        /// Planned prior value.
        expected: String,
        /// Value now.
        found: String,
    },
    /// The kernel made something else of the value.
    #[error("{file} of {path:?} was set to {wrote:?} and reads {found:?}")]
    NotTaken {
        /// The cgroup.
        path: String,
        /// The file.
        file: String,
        /// Written.
        wrote: String,
        /// Read back.
        found: String,
    },
    /// Nobody would undo it if this agent died.
    #[error(transparent)]
    Guardian(#[from] GuardianError),
    /// The victim.
    #[error("{0} is not there any more: nobody was signalled")]
    NotThere(String),
    /// Killed, and still alive.
    #[error(
        "processes of {path:?} are still there 2 s after they were killed: stuck in the kernel?"
    )]
    StillAlive {
        /// The cgroup.
        path: String,
    },
}

/// What undoing found and did. Never an error: whatever could not be restored is named.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UndoReport {
    /// Files that hold their prior value again.
    pub restored: Vec<String>,
    /// What was left as it is, with the reason: changed by somebody else, gone, not reversible.
    pub left_alone: Vec<String>,
    /// The guardian had done it before, in the agent's absence; the two lists are its own.
    pub guardian: Option<Done>,
}

/// Writes every change, in order.
pub fn apply(target: &Cgroup, changes: &[KnobChange]) -> Result<(), ApplyError> {
    // All of them first: better no write at all than half of them.
    for change in changes.iter().filter(|change| reversible(change)) {
        let found = now(target, change)?;
        if found != change.prior {
            return Err(ApplyError::Changed {
                path: target.path().to_owned(),
                file: change.file.clone(),
                expected: change.prior.clone(),
                found,
            });
        }
    }
    changes
        .iter()
        .try_for_each(|change| apply_one(target, change))
}

fn apply_one(target: &Cgroup, change: &KnobChange) -> Result<(), ApplyError> {
    if !reversible(change) {
        return kill(target, change);
    }
    knob::write(target, change.of, &change.file, &change.value)?;
    let found = now(target, change)?;
    if found == change.value {
        return Ok(());
    }
    Err(ApplyError::NotTaken {
        path: target.path().to_owned(),
        file: change.file.clone(),
        wrote: change.value.clone(),
        found,
    })
}

fn kill(target: &Cgroup, change: &KnobChange) -> Result<(), ApplyError> {
    let dead = match change.of {
        Holder::Cgroup => kill_cgroup::kill(target)?,
        Holder::Process { pid, start_ticks } => {
            match kill_process::kill(target, pid, start_ticks)? {
                Killed::Dead => true,
                Killed::Stuck => false,
                Killed::NotThere => {
                    let KnobChange { prior: name, .. } = change;
                    return Err(ApplyError::NotThere(format!("process {pid} ({name:?})")));
                }
            }
        }
    };
    if dead {
        return Ok(());
    }
    Err(ApplyError::StillAlive {
        path: target.path().to_owned(),
    })
}

fn reversible(change: &KnobChange) -> bool {
    change.file != kill_cgroup::FILE && change.file != kill_process::FILE
}

/// What a change's file holds now.
fn now(target: &Cgroup, change: &KnobChange) -> Result<String, CgroupError> {
    knob::read(target, change.of, &change.file, &change.value)
}

/// Restores prior values, in reverse order. Covers an intent that was applied whole, in part or not
/// at all, and one that has been undone already.
pub fn undo(hierarchy: &Hierarchy, intent: &Intent) -> UndoReport {
    let mut report = UndoReport::default();
    let target = match hierarchy.open_same(&intent.action.path, intent.action.cgroup) {
        Ok(target) => target,
        Err(error) => {
            report.left_alone.push(error.to_string());
            return report;
        }
    };
    for change in intent.changes.iter().rev() {
        match undo_one(&target, change) {
            Undone::Restored => report.restored.push(change.file.clone()),
            Undone::NothingToDo => {}
            Undone::Left(why) => report.left_alone.push(format!("{}: {why}", change.file)),
        }
    }
    report
}

enum Undone {
    Restored,
    NothingToDo,
    Left(String),
}

fn undo_one(target: &Cgroup, change: &KnobChange) -> Undone {
    if !reversible(change) {
        return Undone::Left("what was killed stays dead".to_owned());
    }
    let mut last = String::new();
    for attempt in 0..RESTORE_ATTEMPTS {
        if attempt > 0 {
            thread::sleep(RESTORE_PAUSE);
        }
        match restore(target, change) {
            Ok(undone) => return undone,
            // It took its value with it.
            Err(CgroupError::ProcessGone { .. }) => return Undone::NothingToDo,
            // It will not come back.
            Err(CgroupError::Gone { path }) => {
                return Undone::Left(format!("cgroup {path:?} is gone"));
            }
            Err(error) => last = error.to_string(),
        }
    }
    Undone::Left(format!(
        "could not be set back to {:?}: {last}",
        change.prior
    ))
}

fn restore(target: &Cgroup, change: &KnobChange) -> Result<Undone, CgroupError> {
    let KnobChange {
        of,
        file,
        prior,
        value,
    } = change;
    let found = now(target, change)?;
    if found == *prior {
        return Ok(Undone::NothingToDo);
    }
    if found != *value {
        return Ok(Undone::Left(format!(
            "holds {found:?}, not our {value:?}: somebody else changed it"
        )));
    }
    knob::write(target, *of, file, prior)?;
    let found = now(target, change)?;
    if found == *prior {
        return Ok(Undone::Restored);
    }
    Ok(Undone::Left(format!(
        "was set back to {prior:?} and reads {found:?}"
    )))
}
