//! Effects one at a time, and none after its undoing.
//!
//! A handler that is cut off (deadline, shutdown) leaves its write to the system behind on another
//! thread, perhaps not yet begun. The undoing that follows must win whichever comes first.

use std::{
    collections::BTreeSet,
    sync::{Mutex, PoisonError},
};

use crate::{
    incident::{EpisodeId, Intent},
    remedy::{Applied, Remedies, UndoReport},
};

/// Undone episodes remembered; ids sort by time, the oldest are forgotten first. A write that is
/// still waiting for its thread is younger than that.
const UNDONE_MAX: usize = 1024;

/// Keeps the order between applying and undoing.
#[derive(Debug, Default)]
pub struct Effects {
    undone: Mutex<BTreeSet<EpisodeId>>,
}

impl Effects {
    /// Applies an intent unless it was undone already. Blocking.
    ///
    /// # Errors
    /// A sentence.
    pub fn apply(&self, remedies: &Remedies, intent: &Intent) -> Result<Applied, String> {
        let undone = self.undone.lock().unwrap_or_else(PoisonError::into_inner);
        if undone.contains(&intent.episode) {
            return Err("the episode was given up before the action was begun".to_owned());
        }
        remedies
            .apply(intent)
            .map_err(|error| crate::resilience::chain(&error))
    }

    /// Undoes an intent, applied or not. Blocking.
    pub fn undo(&self, remedies: &Remedies, intent: &Intent) -> UndoReport {
        let mut undone = self.undone.lock().unwrap_or_else(PoisonError::into_inner);
        undone.insert(intent.episode);
        while undone.len() > UNDONE_MAX {
            undone.pop_first();
        }
        remedies.undo(intent)
    }
}
