//! Which open episode tells of the same trouble as an alert of other labels.
//!
//! A local trigger knows a resource (`cpu`, `memory`, `io`); an alert knows its name. Where the
//! configuration says that such a name is about that resource, the two are one trouble, if the later
//! one comes within a quarter of an hour of the first: an alert that has been firing for days must
//! not hide a fault of today.

use std::{collections::HashMap, sync::Arc};

use jiff::{SignedDuration, Timestamp};

use crate::incident::{Alert, Episode, EpisodeId, Source};

/// How long after its opening an episode may be joined.
const WITHIN: SignedDuration = SignedDuration::from_mins(15);

/// Whether an alert of this name is about this resource.
pub type Kin = Arc<dyn Fn(&str, &str) -> bool + Send + Sync>;

/// The resources that local triggers watch.
const RESOURCES: [&str; 3] = ["cpu", "memory", "io"];

/// One open episode that is about a resource.
struct Trouble {
    resources: [bool; 3],
    /// Opened by a local trigger, and no alert has joined.
    local: bool,
    opened_at: Timestamp,
}

/// Open episodes that are about a resource. As many as the book has open ones at most.
#[derive(Default)]
pub(super) struct Troubles {
    kin: Option<Kin>,
    open: HashMap<EpisodeId, Trouble>,
}

impl Troubles {
    pub(super) fn new(kin: Kin) -> Self {
        Self {
            kin: Some(kin),
            open: HashMap::new(),
        }
    }

    fn resources(&self, alert: &Alert, source: &Source) -> [bool; 3] {
        RESOURCES.map(|resource| match source {
            Source::Pressure { resource: own } => own == resource,
            Source::Alertmanager { .. } => {
                let kin = self.kin.as_ref();
                kin.is_some_and(|kin| kin(alert.name(), resource))
            }
            Source::Manual => false,
        })
    }

    pub(super) fn opened(&mut self, episode: &Episode) {
        if self.kin.is_none() {
            return;
        }
        let resources = self.resources(&episode.alert, &episode.source);
        if resources.contains(&true) {
            let trouble = Trouble {
                resources,
                local: matches!(episode.source, Source::Pressure { .. }),
                opened_at: episode.opened_at,
            };
            self.open.insert(episode.id, trouble);
        }
    }

    /// An alert took the episode over.
    pub(super) fn joined(&mut self, id: EpisodeId) {
        if let Some(trouble) = self.open.get_mut(&id) {
            trouble.local = false;
        }
    }

    pub(super) fn ended(&mut self, id: EpisodeId) {
        self.open.remove(&id);
    }

    pub(super) fn any_open(&self) -> bool {
        !self.open.is_empty()
    }

    /// The episode that such an alert belongs to: for a local trigger any about its resource, for an
    /// alert one that only a local trigger has told of. Of several the newest.
    pub(super) fn same(&self, alert: &Alert, source: &Source, now: Timestamp) -> Option<EpisodeId> {
        let resources = self.resources(alert, source);
        if !resources.contains(&true) {
            return None;
        }
        let local = matches!(source, Source::Pressure { .. });
        let open = self.open.iter();
        open.filter(|(_, trouble)| {
            let common = trouble
                .resources
                .iter()
                .zip(resources)
                .any(|(a, b)| *a && b);
            common && (local || trouble.local) && now.duration_since(trouble.opened_at) <= WITHIN
        })
        .map(|(id, _)| *id)
        .max()
    }
}
