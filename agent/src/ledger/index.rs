//! Recent incidents in memory, rebuilt from the journal at start.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::incident::{
    Action, ActionKind, Alert, Diagnosis, Entry, Episode, EpisodeId, Intent, OutcomeKind, Source,
};

/// Lines kept in memory for one incident. Resends are not journalled one by one, so real incidents
/// have some twenty; the bound is for the unreal ones.
const LINES_MAX: usize = 512;

/// One durable entry.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Line {
    /// Its place in the fast lane.
    pub lsn: u64,
    /// When it was written.
    pub at: Timestamp,
    /// What.
    #[serde(flatten)]
    pub entry: Entry,
}

/// Everything recorded of one episode.
#[derive(Clone, Debug, Serialize)]
pub struct Incident {
    /// Identity.
    pub id: EpisodeId,
    /// The episode as it was opened.
    pub episode: Episode,
    /// Every entry, oldest first.
    pub entries: Vec<Line>,
    /// LSN of the oldest record that is still needed to read it back.
    #[serde(skip)]
    pub(super) anchor: u64,
}

/// Where an incident stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Accepted, not yet diagnosed.
    Open,
    /// Diagnosed; nothing done (yet).
    Diagnosed,
    /// An action waits for a person's word.
    Proposed,
    /// An effect is intended or in force, not yet judged.
    Acting,
    /// The effect helped and is in force until its lease ends.
    Holding,
    /// Handled, after an effect that helped.
    Healed,
    /// Handled; the effect was undone because it did not help.
    RolledBack,
    /// Handled without an action.
    Reported,
    /// Handling failed in the agent.
    Failed,
}

impl State {
    /// As it stands in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Diagnosed => "diagnosed",
            Self::Proposed => "proposed",
            Self::Acting => "acting",
            Self::Holding => "holding",
            Self::Healed => "healed",
            Self::RolledBack => "rolled_back",
            Self::Reported => "reported",
            Self::Failed => "failed",
        }
    }
}

/// What became of a proposal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Yes.
    Approved,
    /// No.
    Rejected,
    /// None in time.
    Lapsed,
}

/// An action that was proposed to a person.
#[derive(Clone, Copy, Debug)]
pub struct Proposal<'a> {
    /// As it was planned.
    pub intent: &'a Intent,
    /// It lapses then.
    pub expires: Timestamp,
    /// What became of it; `None` while it waits.
    pub answer: Option<Answer>,
}

/// One line of a list.
#[derive(Clone, Debug, Serialize)]
pub struct Summary {
    /// Identity.
    pub id: EpisodeId,
    /// Owner.
    pub tenant: String,
    /// Alert name.
    pub alert: String,
    /// When it was durable here.
    pub opened_at: Timestamp,
    /// Where it stands.
    pub state: State,
    /// Whether the alert has resolved.
    pub resolved: bool,
    /// Top hypothesis and its posterior.
    pub top: Option<(String, f64)>,
    /// Action taken, if any.
    pub action: Option<Action>,
}

impl Incident {
    /// Where it stands, from its entries.
    pub fn state(&self) -> State {
        let mut state = State::Open;
        let mut healed = false;
        for line in &self.entries {
            state = match &line.entry {
                Entry::Diagnosed { .. } if state == State::Open => State::Diagnosed,
                Entry::Refused { .. } if matches!(state, State::Diagnosed | State::Proposed) => {
                    State::Reported
                }
                Entry::Proposed { .. } => State::Proposed,
                Entry::Rejected { .. } | Entry::Lapsed { .. } => State::Reported,
                Entry::Intended { .. } | Entry::Applied { .. } => State::Acting,
                Entry::Verified { outcome, .. } => {
                    healed = outcome.kind == OutcomeKind::Healed;
                    if healed {
                        State::Holding
                    } else {
                        State::Acting
                    }
                }
                Entry::RolledBack { .. } if !healed => State::RolledBack,
                Entry::Failed { .. } => State::Failed,
                Entry::Closed if healed => State::Healed,
                _ => state,
            };
        }
        state
    }

    /// Whether handling has ended.
    pub fn closed(&self) -> bool {
        self.entries
            .iter()
            .any(|line| matches!(line.entry, Entry::Closed))
    }

    /// Whether the alert has resolved.
    pub fn resolved(&self) -> bool {
        self.entries
            .iter()
            .any(|line| matches!(line.entry, Entry::Resolved { .. }))
    }

    /// Whether nothing more can come of it: handled, and resolved if its sender says such a thing.
    /// Until then its records must stay readable.
    pub fn finished(&self) -> bool {
        let resolves = !matches!(self.episode.source, Source::Manual);
        self.closed() && (self.resolved() || !resolves)
    }

    /// The last intent and whether it was verified as healed.
    pub fn intent(&self) -> Option<(&Intent, bool)> {
        let intent = self
            .entries
            .iter()
            .rev()
            .find_map(|line| match &line.entry {
                Entry::Intended { intent } => Some(intent),
                _ => None,
            })?;
        let healed = self.entries.iter().any(|line| {
            matches!(&line.entry, Entry::Verified { outcome, .. } if outcome.kind == OutcomeKind::Healed)
        });
        Some((intent, healed))
    }

    /// What was proposed to a person, until when, and what became of it.
    pub fn proposal(&self) -> Option<Proposal<'_>> {
        let at = self
            .entries
            .iter()
            .rposition(|line| matches!(line.entry, Entry::Proposed { .. }))?;
        let Entry::Proposed { intent, expires } = &self.entries[at].entry else {
            return None;
        };
        let later = self.entries[at + 1..].iter();
        let mut answers = later.filter_map(|line| match &line.entry {
            Entry::Approved { .. } => Some(Answer::Approved),
            Entry::Rejected { .. } => Some(Answer::Rejected),
            Entry::Lapsed { .. } | Entry::Closed | Entry::Failed { .. } => Some(Answer::Lapsed),
            _ => None,
        });
        Some(Proposal {
            intent,
            expires: *expires,
            answer: answers.next(),
        })
    }

    /// The last diagnosis.
    pub fn diagnosis(&self) -> Option<&Diagnosis> {
        let mut lines = self.entries.iter().rev();
        lines.find_map(|line| match &line.entry {
            Entry::Diagnosed { diagnosis, .. } => Some(diagnosis),
            _ => None,
        })
    }

    /// How its action was judged: the rule that asked for it, the action, the verdict, and when.
    pub fn judged(&self) -> Option<(&str, ActionKind, OutcomeKind, Timestamp)> {
        let (intent, _) = self.intent()?;
        let top = self.diagnosis()?.top.first()?;
        let mut lines = self.entries.iter().rev();
        lines.find_map(|line| match &line.entry {
            Entry::Verified { outcome, .. } => {
                Some((top.id.as_str(), intent.action.kind, outcome.kind, line.at))
            }
            _ => None,
        })
    }

    /// Whether the effect of its intent has been undone.
    pub fn rolled_back(&self) -> bool {
        self.entries
            .iter()
            .any(|line| matches!(line.entry, Entry::RolledBack { .. }))
    }

    /// One line of a list.
    pub fn summary(&self) -> Summary {
        let top = self.diagnosis().and_then(|found| found.top.first());
        Summary {
            id: self.id,
            tenant: self.episode.tenant.to_string(),
            alert: self.episode.alert.name().to_owned(),
            opened_at: self.episode.opened_at,
            state: self.state(),
            resolved: self.resolved(),
            top: top.map(|hypothesis| (hypothesis.id.clone(), hypothesis.posterior)),
            action: self.intent().map(|(intent, _)| intent.action.clone()),
        }
    }
}

/// Bounded map of incidents by id; ids are time-ordered, so iteration is too.
#[derive(Debug)]
pub struct Index {
    incidents: BTreeMap<EpisodeId, Incident>,
    incidents_max: usize,
    /// Those of `incidents` that are closed.
    closed: BTreeSet<EpisodeId>,
    /// Handled and given up here while their alerts still fire: what intake said of them, which must
    /// outlive the segments that it stands in. Intake bounds how many there are.
    dormant: BTreeMap<EpisodeId, Incident>,
    /// Closed incidents that were dropped from memory; they are still on disk.
    pub evicted: u64,
    /// Entries taken so far: whoever shows them compares it with what it has seen.
    pub changes: u64,
}

impl Index {
    /// An empty index that keeps at most `incidents_max`, never dropping an unfinished one.
    pub fn new(incidents_max: usize) -> Self {
        Self {
            incidents: BTreeMap::new(),
            incidents_max,
            closed: BTreeSet::new(),
            dormant: BTreeMap::new(),
            evicted: 0,
            changes: 0,
        }
    }

    /// Adds a durable entry. An entry whose episode is not known (its opening was evicted) is
    /// counted as evicted.
    pub fn push(&mut self, id: EpisodeId, line: Line) {
        self.changes += 1;
        if let Entry::Opened { episode } = &line.entry {
            let incident = Incident {
                id,
                episode: episode.clone(),
                anchor: line.lsn,
                entries: vec![line],
            };
            self.incidents.entry(id).or_insert(incident);
            self.evict();
        } else if let Some(incident) = self.incidents.get_mut(&id) {
            if matches!(line.entry, Entry::Closed) {
                self.closed.insert(id);
            }
            if incident.entries.len() < LINES_MAX {
                incident.entries.push(line);
            }
        } else if let Some(incident) = self.dormant.get_mut(&id) {
            if incident.entries.len() < LINES_MAX {
                incident.entries.push(line);
            }
            if incident.resolved() {
                self.dormant.remove(&id);
            }
        } else {
            self.evicted += 1;
        }
    }

    /// Takes the lines that one record at `lsn` carried forward in place of those that it stands for.
    /// Lines written while it was on its way are kept behind them.
    pub(super) fn restore(&mut self, id: EpisodeId, carried: Vec<Line>, lsn: u64) {
        let Some(episode) = carried.iter().find_map(|line| match &line.entry {
            Entry::Opened { episode } => Some(episode.clone()),
            _ => None,
        }) else {
            self.evicted += 1;
            return;
        };
        // By time and name, not by LSN: a repaired journal may have given other numbers, and
        // evidence stored again has another place. All lines of one write are carried, or none.
        let same = |a: &Line, b: &Line| a.at == b.at && a.entry.name() == b.entry.name();
        let known = self
            .incidents
            .remove(&id)
            .or_else(|| self.dormant.remove(&id));
        let later: Vec<Line> = known.map_or_else(Vec::new, |incident| {
            let lines = incident.entries.into_iter();
            lines
                .filter(|line| !carried.iter().any(|known| same(known, line)))
                .collect()
        });
        let anchor = later.iter().map(|line| line.lsn).min();
        let mut entries = carried;
        entries.extend(later);
        let incident = Incident {
            id,
            episode,
            entries,
            anchor: anchor.map_or(lsn, |anchor| anchor.min(lsn)),
        };
        if incident.closed() {
            self.closed.insert(id);
        }
        self.incidents.insert(id, incident);
        self.evict();
    }

    /// Drops finished incidents that have records below `lsn`; their number.
    pub(super) fn forget_finished(&mut self, lsn: u64) -> usize {
        let before = self.incidents.len();
        self.incidents
            .retain(|_, incident| incident.anchor >= lsn || !incident.finished());
        let Self {
            incidents, closed, ..
        } = self;
        closed.retain(|id| incidents.contains_key(id));
        before - self.incidents.len()
    }

    fn evict(&mut self) {
        while self.incidents.len() > self.incidents_max {
            let Some(oldest) = self.closed.pop_first() else {
                return;
            };
            let Some(incident) = self.incidents.remove(&oldest) else {
                continue;
            };
            self.evicted += 1;
            if !incident.finished() {
                self.dormant.insert(oldest, bare(incident));
            }
        }
    }

    /// Everything that must stay readable, those included that [`Self::iter`] no longer shows.
    pub(super) fn unfinished(&self) -> impl Iterator<Item = &Incident> {
        let dormant = self.dormant.values();
        self.incidents
            .values()
            .filter(|incident| !incident.finished())
            .chain(dormant)
    }

    /// The episode as it was opened, of an incident that is shown or still unresolved.
    pub fn episode(&self, id: EpisodeId) -> Option<&Episode> {
        let incident = self.incidents.get(&id).or_else(|| self.dormant.get(&id));
        incident.map(|incident| &incident.episode)
    }

    /// One incident.
    pub fn get(&self, id: EpisodeId) -> Option<&Incident> {
        self.incidents.get(&id)
    }

    /// Every judged action: the rule that asked for it, the action and the verdict, in the order in which
    /// they were judged.
    pub fn judged(&self) -> impl Iterator<Item = (&str, ActionKind, OutcomeKind)> {
        let mut judged: Vec<_> = self
            .incidents
            .values()
            .filter_map(Incident::judged)
            .collect();
        judged.sort_by_key(|(_, _, _, at)| *at);
        judged
            .into_iter()
            .map(|(rule, action, outcome, _)| (rule, action, outcome))
    }

    /// All, oldest first.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &Incident> {
        self.incidents.values()
    }
}

/// Of a closed incident, only what intake must know of it.
fn bare(mut incident: Incident) -> Incident {
    let plain = |alert: &Alert| Alert {
        annotations: BTreeMap::new(),
        ..alert.clone()
    };
    incident.episode.alert = plain(&incident.episode.alert).into();
    let last_seen = incident
        .entries
        .iter()
        .rposition(|line| matches!(line.entry, Entry::Seen { .. }));
    let lines = incident.entries.into_iter().enumerate();
    incident.entries = lines
        .filter_map(|(at, mut line)| {
            match &mut line.entry {
                Entry::Opened { episode } => episode.clone_from(&incident.episode),
                Entry::Seen { alert } if Some(at) == last_seen => *alert = plain(alert),
                Entry::Closed => {}
                _ => return None,
            }
            Some(line)
        })
        .collect();
    incident
}
