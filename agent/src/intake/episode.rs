//! Which alerts open an episode, which belong to one, which close it: invariant 2 as a state
//! machine per (tenant, fingerprint). Pure; the caller makes each step durable.
//!
//! Decisions, each against a thing that Alertmanager really does (`s` = `startsAt`):
//!
//! | state          | alert                                  | step |
//! |----------------|----------------------------------------|------|
//! | none           | firing                                 | open |
//! | none           | resolved                               | ignored |
//! | open           | firing, any `s`                        | seen: resend, HA duplicate, merged (earlier) start; a *later* start while open is a replica's skew or a missed resolution, and the running episode is already handling that trouble |
//! | open           | resolved                               | resolve |
//! | open           | resolved that ended before the latest `s` seen and began before it | ignored: news of an older spell |
//! | closed         | resolved                               | ignored: duplicate |
//! | closed         | firing, `s` after both the closed spell's latest `s` and its end | open, as a new episode |
//! | closed         | firing otherwise                       | ignored: late duplicate, or a replica that has not heard of the end |
//!
//! An alert that tells of the same trouble as an open episode of another label set may *join* it: the
//! episode is then that alert's, and ends with it.
//!
//! Steps are taken in a [`Txn`]: what it opened or resolved is visible to others only as
//! [`Deferred::Pending`] until it is confirmed (durable) or reverted, so that no duplicate is
//! answered 200 on the strength of a record that then was not written.

use std::collections::{BTreeMap, HashMap};

use jiff::Timestamp;

use crate::incident::{Alert, AlertStatus, EpisodeId, Fingerprint, TenantId};

type Key = (TenantId, Fingerprint);

/// What to do with one alert.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// A new episode with this id.
    Open(EpisodeId),
    /// Belongs to this open episode.
    Seen(EpisodeId),
    /// Closes this episode.
    Resolve(EpisodeId),
    /// Nothing to do, now or later.
    Ignored(Ignored),
    /// Cannot be taken now: answer 503 so that it is sent again.
    Deferred(Deferred),
}

/// Why an alert means nothing new.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Ignored {
    /// Resolved, and no episode is known.
    NothingToResolve,
    /// Resolved again.
    DuplicateResolved,
    /// Resolved, but an older spell than the open one.
    OlderSpell,
    /// Firing, but of the spell that is closed.
    LateFiring,
}

/// Why an alert cannot be taken now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Deferred {
    /// Another request is just making the same change durable.
    Pending,
    /// The transaction has no leave left to open episodes (the tenant's queue is full).
    NoRoom,
    /// The book is full of open episodes.
    BookFull,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Open {
        id: EpisodeId,
        /// Latest start seen.
        starts_at: Timestamp,
        seen_at: Timestamp,
    },
    Closed {
        id: EpisodeId,
        /// A firing alert that starts at or before this is old news.
        until: Timestamp,
        /// Place in the order of closing.
        seq: u64,
    },
}

#[derive(Debug)]
struct Slot {
    state: State,
    /// While a transaction holds the slot: its number and what to go back to.
    held: Option<(u64, Option<State>)>,
}

/// A request's changes, until they are durable.
#[derive(Debug)]
#[must_use = "confirm or revert it: until then its episodes are pending for everybody else"]
pub struct Txn {
    number: u64,
    opens_left: usize,
    touched: Vec<Key>,
    /// Later starts of open episodes, remembered by the book once they are durable: a book rebuilt
    /// from the journal must decide as this one does.
    later_starts: Vec<(Key, Timestamp)>,
}

impl Txn {
    /// How many later starts of open episodes it has seen so far: steps that change what the book
    /// decides, so that they must be in the journal too.
    pub fn later_starts(&self) -> usize {
        self.later_starts.len()
    }
}

/// An event read back from the journal, in the order of writing.
#[derive(Clone, Copy, Debug)]
pub enum Restored<'a> {
    /// `Entry::Opened`.
    Opened {
        /// The episode's tenant.
        tenant: &'a TenantId,
        /// Of the alert that opened it.
        fingerprint: Fingerprint,
        /// As sent.
        starts_at: Timestamp,
    },
    /// `Entry::Seen`.
    Seen {
        /// Of the alert: the same that opened it, or one that joined.
        fingerprint: Fingerprint,
        /// As sent.
        starts_at: Timestamp,
    },
    /// `Entry::Resolved`.
    Resolved {
        /// As sent.
        starts_at: Timestamp,
        /// As sent.
        ends_at: Option<Timestamp>,
    },
}

/// All episodes that intake knows of, bounded.
#[derive(Debug)]
pub struct EpisodeBook {
    slots: HashMap<Key, Slot>,
    /// Key of every open episode.
    open: HashMap<EpisodeId, Key>,
    /// Closed slots, oldest first.
    closed: BTreeMap<u64, Key>,
    slots_max: usize,
    next: u64,
}

impl EpisodeBook {
    /// An empty book of at most `slots_max` (tenant, fingerprint) pairs: the oldest closed ones are
    /// forgotten first, open ones never.
    pub fn new(slots_max: usize) -> Self {
        Self {
            slots: HashMap::new(),
            open: HashMap::new(),
            closed: BTreeMap::new(),
            slots_max: slots_max.max(1),
            next: 0,
        }
    }

    /// Begins a request's changes with leave to open `opens_max` episodes: as many as there are
    /// places reserved in the tenant's queue.
    pub fn begin(&mut self, opens_max: usize) -> Txn {
        Txn {
            number: self.tick(),
            opens_left: opens_max,
            touched: Vec::new(),
            later_starts: Vec::new(),
        }
    }

    /// Takes one alert; `fresh` makes the id of a new episode. A transaction sees its own changes.
    pub fn apply(
        &mut self,
        txn: &mut Txn,
        tenant: &TenantId,
        alert: &Alert,
        now: Timestamp,
        fresh: impl FnOnce() -> EpisodeId,
    ) -> Step {
        let key = (tenant.clone(), alert.fingerprint);
        let state = match self.slots.get(&key) {
            Some(slot) if slot.held.is_some_and(|(holder, _)| holder != txn.number) => {
                return Step::Deferred(Deferred::Pending);
            }
            slot => slot.map(|slot| slot.state),
        };
        let firing = alert.status == AlertStatus::Firing;
        match state {
            None if firing => self.open(txn, key, None, alert, now, fresh),
            None => Step::Ignored(Ignored::NothingToResolve),
            Some(State::Closed { until, .. }) if firing && alert.starts_at > until => {
                self.open(txn, key, state, alert, now, fresh)
            }
            Some(State::Closed { .. }) if firing => Step::Ignored(Ignored::LateFiring),
            Some(State::Closed { .. }) => Step::Ignored(Ignored::DuplicateResolved),
            Some(State::Open { id, starts_at, .. }) if firing => {
                self.see(&key, starts_at, now);
                if alert.starts_at > starts_at {
                    txn.later_starts.push((key, alert.starts_at));
                }
                Step::Seen(id)
            }
            Some(State::Open { id, starts_at, .. }) => {
                let own = txn.later_starts.iter().filter(|(own, _)| *own == key);
                let starts_at = own.fold(starts_at, |latest, (_, start)| latest.max(*start));
                let older = alert.starts_at < starts_at
                    && alert.ends_at.is_some_and(|ends_at| ends_at <= starts_at);
                if older {
                    return Step::Ignored(Ignored::OlderSpell);
                }
                self.hold(txn, &key);
                self.close(key, id, starts_at, (alert.starts_at, alert.ends_at), now);
                Step::Resolve(id)
            }
        }
    }

    /// Whether this alert would open an episode, were there room.
    pub fn is_news(&self, tenant: &TenantId, alert: &Alert) -> bool {
        let firing = alert.status == AlertStatus::Firing;
        let slot = self.slots.get(&(tenant.clone(), alert.fingerprint));
        firing
            && match slot.map(|slot| slot.state) {
                None => true,
                Some(State::Closed { until, .. }) => alert.starts_at > until,
                Some(State::Open { .. }) => false,
            }
    }

    /// Gives an open episode to an alert of other labels that is news. `None` if the episode is not
    /// open; the label set that had it is closed until `now`.
    pub fn join(
        &mut self,
        txn: &mut Txn,
        tenant: &TenantId,
        alert: &Alert,
        now: Timestamp,
        id: EpisodeId,
    ) -> Option<Step> {
        let old = self.open.get(&id)?.clone();
        let key = (tenant.clone(), alert.fingerprint);
        let held = |key: &Key| {
            let slot = self.slots.get(key);
            slot.is_some_and(|slot| slot.held.is_some_and(|(holder, _)| holder != txn.number))
        };
        if held(&old) || held(&key) {
            return Some(Step::Deferred(Deferred::Pending));
        }
        if !self.slots.contains_key(&key) && !self.make_room() {
            return Some(Step::Deferred(Deferred::BookFull));
        }
        self.hold(txn, &old);
        self.hold(txn, &key);
        let first = !self.slots.contains_key(&key);
        self.hand_over(old, key.clone(), id, alert.starts_at, now);
        if first {
            if let Some(slot) = self.slots.get_mut(&key) {
                slot.held = Some((txn.number, None));
            }
            txn.touched.push(key);
        }
        Some(Step::Seen(id))
    }

    fn hand_over(&mut self, old: Key, key: Key, id: EpisodeId, start: Timestamp, now: Timestamp) {
        let seq = self.tick();
        let until = now;
        self.set(old, Some(State::Closed { id, until, seq }));
        let state = State::Open {
            id,
            starts_at: start,
            seen_at: now,
        };
        self.set(key, Some(state));
    }

    /// Somebody else says that its alert still fires.
    pub fn heard_of(&mut self, id: EpisodeId, now: Timestamp) {
        if let Some(key) = self.open.get(&id).cloned() {
            self.see(&key, Timestamp::MIN, now);
        }
    }

    /// Owner and label set of an open episode.
    pub fn key_of(&self, id: EpisodeId) -> Option<&(TenantId, Fingerprint)> {
        self.open.get(&id)
    }

    /// Every open episode.
    pub fn open_ids(&self) -> impl Iterator<Item = EpisodeId> {
        self.open.keys().copied()
    }

    /// The transaction's records are durable: its changes stand.
    pub fn confirm(&mut self, txn: Txn) {
        for (key, start) in &txn.later_starts {
            self.see(key, *start, *start);
        }
        for key in txn.touched {
            if let Some(slot) = self.slots.get_mut(&key) {
                slot.held = None;
            }
        }
    }

    /// The transaction's records were not written: back to what was before.
    pub fn revert(&mut self, txn: Txn) {
        // Backwards: what was handed over goes back before it is there again.
        for key in txn.touched.into_iter().rev() {
            let Some(slot) = self.slots.get_mut(&key) else {
                continue;
            };
            let prior = slot.held.take().and_then(|(_, prior)| prior);
            self.set(key, prior);
        }
    }

    /// Applies one event of the journal. An event for an unknown episode is ignored: its opening
    /// was compacted away, and the episode with it. What is open counts as heard of `now`: resends
    /// are not in the journal.
    pub fn restore(&mut self, id: EpisodeId, event: Restored<'_>, now: Timestamp) {
        let open = self.open.get(&id).cloned();
        let state = open
            .as_ref()
            .and_then(|key| Some(self.slots.get(key)?.state));
        match event {
            Restored::Opened {
                tenant,
                fingerprint,
                starts_at,
            } => {
                let state = State::Open {
                    id,
                    starts_at,
                    seen_at: now,
                };
                self.make_room();
                self.set((tenant.clone(), fingerprint), Some(state));
            }
            Restored::Seen {
                fingerprint,
                starts_at,
            } => match open {
                Some(key) if key.1 != fingerprint => {
                    let joined = (key.0.clone(), fingerprint);
                    self.make_room();
                    self.hand_over(key, joined, id, starts_at, now);
                }
                Some(key) => self.see(&key, starts_at, now),
                None => {}
            },
            Restored::Resolved { starts_at, ends_at } => {
                if let (Some(key), Some(State::Open { starts_at: own, .. })) = (open, state) {
                    let told = ends_at.unwrap_or(starts_at);
                    self.close(key, id, own, (starts_at, ends_at), told);
                }
            }
        }
    }

    /// How many episodes are open.
    pub fn open_count(&self) -> usize {
        self.open.len()
    }

    /// Whether this episode is open.
    pub fn is_open(&self, id: EpisodeId) -> bool {
        self.open.contains_key(&id)
    }

    /// Open episodes of which nothing was heard since `before`: receivers with
    /// `send_resolved: false` never say that it ended.
    pub fn quiet_since(&self, before: Timestamp) -> Vec<(EpisodeId, TenantId, Fingerprint)> {
        let quiet = |key: &Key| {
            self.slots.get(key).is_some_and(|slot| {
                slot.held.is_none()
                    && matches!(slot.state, State::Open { seen_at, .. } if seen_at < before)
            })
        };
        self.open
            .iter()
            .filter(|(_, key)| quiet(key))
            .map(|(id, (tenant, fingerprint))| (*id, tenant.clone(), *fingerprint))
            .collect()
    }

    fn tick(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    fn open(
        &mut self,
        txn: &mut Txn,
        key: Key,
        prior: Option<State>,
        alert: &Alert,
        now: Timestamp,
        fresh: impl FnOnce() -> EpisodeId,
    ) -> Step {
        if txn.opens_left == 0 {
            return Step::Deferred(Deferred::NoRoom);
        }
        if prior.is_none() && !self.make_room() {
            return Step::Deferred(Deferred::BookFull);
        }
        txn.opens_left -= 1;
        let id = fresh();
        self.hold(txn, &key);
        let state = State::Open {
            id,
            starts_at: alert.starts_at,
            seen_at: now,
        };
        let first = prior.is_none();
        self.set(key.clone(), Some(state));
        if first {
            // The slot did not exist when it was to be held.
            if let Some(slot) = self.slots.get_mut(&key) {
                slot.held = Some((txn.number, None));
            }
            txn.touched.push(key);
        }
        Step::Open(id)
    }

    fn see(&mut self, key: &Key, start: Timestamp, now: Timestamp) {
        if let Some(slot) = self.slots.get_mut(key)
            && let State::Open {
                starts_at, seen_at, ..
            } = &mut slot.state
        {
            *starts_at = start.max(*starts_at);
            *seen_at = now.max(*seen_at);
        }
    }

    /// `told`: start and end as the resolution has them.
    fn close(
        &mut self,
        key: Key,
        id: EpisodeId,
        starts: Timestamp,
        told: (Timestamp, Option<Timestamp>),
        now: Timestamp,
    ) {
        // An end in the future (a skewed clock, or a lie) must not keep the next spell out.
        let ends_at = told.1.map_or(starts, |ends_at| ends_at.min(now));
        let until = starts.max(told.0).max(ends_at);
        let seq = self.tick();
        self.set(key, Some(State::Closed { id, until, seq }));
    }

    /// Marks an existing slot as held by the transaction, keeping the state before its first touch.
    fn hold(&mut self, txn: &mut Txn, key: &Key) {
        if let Some(slot) = self.slots.get_mut(key)
            && slot.held.is_none()
        {
            slot.held = Some((txn.number, Some(slot.state)));
            txn.touched.push(key.clone());
        }
    }

    /// Puts a slot into a state, indexes included; `None` removes it.
    fn set(&mut self, key: Key, state: Option<State>) {
        match self.slots.get(&key).map(|slot| slot.state) {
            Some(State::Open { id, .. }) => drop(self.open.remove(&id)),
            Some(State::Closed { seq, .. }) => drop(self.closed.remove(&seq)),
            None => {}
        }
        let Some(state) = state else {
            self.slots.remove(&key);
            return;
        };
        match state {
            State::Open { id, .. } => drop(self.open.insert(id, key.clone())),
            State::Closed { seq, .. } => drop(self.closed.insert(seq, key.clone())),
        }
        let slot = self.slots.entry(key).or_insert(Slot { state, held: None });
        slot.state = state;
    }

    /// Makes room for one more slot; `false` when every slot is open or held.
    fn make_room(&mut self) -> bool {
        if self.slots.len() < self.slots_max {
            return true;
        }
        let free = |key: &&Key| self.slots.get(*key).is_some_and(|slot| slot.held.is_none());
        let Some(oldest) = self.closed.values().find(free).cloned() else {
            return false;
        };
        self.set(oldest, None);
        true
    }
}

#[cfg(test)]
mod tests;
