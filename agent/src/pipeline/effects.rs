//! An effect and its undoing one after the other, and no effect after its undoing.
//!
//! A handler that is cut off (deadline, shutdown) leaves its write to the system behind on another
//! thread, perhaps not yet begun. The undoing that follows must win whichever comes first.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use crate::{
    incident::{EpisodeId, Intent},
    remedy::{Applied, Remedies, UndoReport},
    resilience::chain,
};

/// Episodes remembered; ids sort by time, the oldest are forgotten first. A write that is still
/// waiting for its thread is younger than that.
const EPISODES_MAX: usize = 1024;

/// Whether an episode's effect was undone. Locked while one of the two runs: a lock an episode, since
/// capping memory may take long and must not hold up another's undoing.
type Undone = Arc<Mutex<bool>>;

/// Keeps the order between applying and undoing.
#[derive(Debug, Default)]
pub struct Effects {
    episodes: Mutex<BTreeMap<EpisodeId, Undone>>,
}

impl Effects {
    /// Applies an intent unless it was undone already. Blocking.
    ///
    /// # Errors
    /// A sentence.
    pub fn apply(&self, remedies: &Remedies, intent: &Intent) -> Result<Applied, String> {
        let slot = self.slot(intent.episode);
        let undone = slot.lock().unwrap_or_else(PoisonError::into_inner);
        if *undone {
            return Err("the episode was given up before the action was begun".to_owned());
        }
        remedies.apply(intent).map_err(|error| chain(&error))
    }

    /// Undoes an intent, applied or not. Blocking.
    pub fn undo(&self, remedies: &Remedies, intent: &Intent) -> UndoReport {
        let slot = self.slot(intent.episode);
        let mut undone = slot.lock().unwrap_or_else(PoisonError::into_inner);
        *undone = true;
        remedies.undo(intent)
    }

    fn slot(&self, episode: EpisodeId) -> Undone {
        let mut episodes = self.episodes.lock().unwrap_or_else(PoisonError::into_inner);
        let slot = episodes.entry(episode).or_default().clone();
        while episodes.len() > EPISODES_MAX {
            episodes.pop_first();
        }
        slot
    }
}
