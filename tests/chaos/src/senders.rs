//! Alertmanagers: each story is told by one of them until it is taken, and told again by others, late and
//! out of order. What was answered 200 is written down.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use jiff::{SignedDuration, Timestamp};
use paramedic_parts::{
    chance::Rng,
    http::{self, Answer},
};
use serde_json::{Value, json};

use crate::schedule::{HOSTILE, Story};

/// One appearance of one label set: its fingerprint and the start, seconds since the epoch.
pub type Spell = (u64, i64);

/// For a whole story to be taken.
const TOLD_WITHIN: Duration = Duration::from_secs(40);
/// Before a request that was not taken is sent again.
const AGAIN: Duration = Duration::from_millis(25);
/// Between two spells, and half of it is how long one lasts; seconds.
const SPELL_S: i64 = 20;

/// What was sent, and what was answered 200.
#[derive(Debug, Default)]
pub struct Told {
    pub firing: BTreeSet<Spell>,
    pub resolved: BTreeSet<Spell>,
    /// Answers by status; 0 is none at all.
    pub statuses: BTreeMap<u16, u64>,
    /// Requests that were taken: what replicas repeat.
    taken: Vec<String>,
    /// Stories that were not taken to their end.
    pub untold: Vec<String>,
    /// Well-formed requests that were refused for good.
    pub refused: Vec<String>,
}

/// All stories of a storm, and how far they are.
#[derive(Debug)]
pub struct Senders<'a> {
    address: SocketAddr,
    stories: &'a [Story],
    seed: u64,
    base: Timestamp,
    told: Mutex<Told>,
    /// No more spells.
    over: AtomicBool,
    /// No more replicas either.
    done: AtomicBool,
}

impl<'a> Senders<'a> {
    pub fn new(address: SocketAddr, stories: &'a [Story], seed: u64) -> Self {
        // Whole seconds, so that what is read back is equal; long enough ago for all spells.
        let now = Timestamp::now().as_second() - 3600;
        Self {
            address,
            stories,
            seed,
            base: Timestamp::from_second(now).unwrap_or(Timestamp::UNIX_EPOCH),
            told: Mutex::default(),
            over: AtomicBool::new(false),
            done: AtomicBool::new(false),
        }
    }

    pub fn told(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The storm is over: stories end with the spell that they are at.
    pub fn last_spells(&self) {
        self.over.store(true, Ordering::Relaxed);
    }

    /// No more replicas.
    pub fn finish(&self) {
        self.done.store(true, Ordering::Relaxed);
    }

    fn fingerprint(&self, story: usize, alert: u64) -> u64 {
        Rng(self.seed ^ ((story as u64) << 32 | (alert + 1))).next()
    }

    fn start(&self, spell: u64) -> Timestamp {
        let seconds = SPELL_S * i64::try_from(spell).unwrap_or(0);
        self.base + SignedDuration::from_secs(seconds)
    }

    fn spells(&self, story: usize, spell: u64) -> Vec<Spell> {
        let start = self.start(spell).as_second();
        (0..self.stories[story].alerts)
            .map(|alert| (self.fingerprint(story, alert), start))
            .collect()
    }

    fn body(&self, story: usize, spell: u64, firing: bool) -> String {
        let told = &self.stories[story];
        let (start, end) = (
            self.start(spell),
            self.start(spell) + SignedDuration::from_secs(SPELL_S / 2),
        );
        let status = if firing { "firing" } else { "resolved" };
        let hostile = told.hostile.map_or("node-1:9100", |at| HOSTILE[at]);
        let alerts: Vec<Value> = (0..told.alerts)
            .map(|alert| {
                json!({
                    "status": status,
                    "labels": {
                        "alertname": told.alert, "instance": hostile, "story": story.to_string(),
                        "alert": alert.to_string(), "severity": "critical",
                    },
                    "annotations": {"summary": hostile},
                    "startsAt": start.to_string(),
                    "endsAt": if firing { "0001-01-01T00:00:00Z".to_owned() } else { end.to_string() },
                    "generatorURL": "",
                    "fingerprint": format!("{:016x}", self.fingerprint(story, alert)),
                })
            })
            .collect();
        json!({
            "version": "4", "groupKey": format!("{{}}:{{story=\"{story}\"}}"), "truncatedAlerts": 0,
            "status": status, "receiver": "paramedic", "groupLabels": {}, "commonLabels": {},
            "commonAnnotations": {}, "externalURL": "http://127.0.0.1:9093", "alerts": alerts,
        })
        .to_string()
    }

    /// A group of the first story as it is first sent, for a flood: it belongs to its first spell.
    pub fn first(&self) -> String {
        self.body(0, 0, true)
    }

    /// An alert of its own that nobody has heard of, for who wants something to be written.
    pub fn news(&self, nth: Duration) -> String {
        let number = Rng(self.seed ^ u64::try_from(nth.as_nanos()).unwrap_or(0)).next();
        json!({"version": "4", "alerts": [{
            "status": "firing", "labels": {"alertname": "News", "number": number.to_string()},
            "startsAt": self.base.to_string(), "fingerprint": format!("{number:016x}"),
        }]})
        .to_string()
    }

    /// One request, once; whether it was taken.
    pub fn send(&self, body: &str) -> Option<u16> {
        let answer = http::post_json(self.address, "/webhook", body).ok();
        let status = answer.as_ref().map_or(0, |answer: &Answer| answer.status);
        let mut told = self.told();
        *told.statuses.entry(status).or_default() += 1;
        // 408: the agent stood still in the middle of it.
        if !matches!(status, 0 | 200 | 408 | 503) {
            let said = answer.map_or_else(String::new, |answer| answer.body);
            told.refused.push(format!("{status}: {said}"));
        }
        (status != 0).then_some(status)
    }

    /// Tells one story to its end.
    pub fn tell(&self, story: usize) {
        let begun = Instant::now();
        let Story {
            spells,
            resolves,
            pause_ms,
            ..
        } = self.stories[story];
        for spell in 0..spells {
            for firing in [true, false] {
                let over = self.over.load(Ordering::Relaxed);
                let last = over || spell + 1 == spells;
                if (firing && over && spell > 0) || (!firing && last && !resolves) {
                    return;
                }
                let body = self.body(story, spell, firing);
                while self.send(&body) != Some(200) {
                    if begun.elapsed() > TOLD_WITHIN {
                        let what = format!("story {story}, spell {spell}, firing {firing}");
                        self.told().untold.push(what);
                        return;
                    }
                    thread::sleep(AGAIN);
                }
                let mut told = self.told();
                let taken = self.spells(story, spell);
                if firing {
                    told.firing.extend(taken);
                } else {
                    told.resolved.extend(taken);
                }
                told.taken.push(body);
                drop(told);
                thread::sleep(Duration::from_millis(pause_ms));
            }
        }
    }

    /// A replica that has not heard of what came since: sends again what was taken, in any order.
    pub fn repeat(&self, seed: u64) {
        let mut rng = Rng(seed);
        while !self.done.load(Ordering::Relaxed) {
            let body = {
                let told = self.told();
                let at = rng.below(told.taken.len() as u64);
                told.taken.get(usize::try_from(at).unwrap_or(0)).cloned()
            };
            if let Some(body) = body {
                self.send(&body);
            }
            thread::sleep(Duration::from_millis(5 + rng.below(40)));
        }
    }
}
