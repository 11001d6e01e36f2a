//! A storm of Alertmanager's requests against the real agent, which is killed again and again: what was
//! accepted is in the journal once, and is handled once.
//!
//! 10,000 alerts and 5 kills by default; `cargo xtask test intake` does 100,000 and 20
//! (`PARAMEDIC_STORM_ALERTS`, `PARAMEDIC_STORM_KILLS`). `PARAMEDIC_STORM_SEED` repeats a run's order.

#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests, which clippy does not take for tests"
)]

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use paramedic::{
    incident::{Entry, Fingerprint},
    ledger::{self, Index},
};
use paramedic_tests::{Agent, chance::Rng, http, wait_for};
use serde_json::{Value, json};

/// Distinct alerts of a group, and how often a group is sent: resends and the copies of HA peers.
const ALERTS: usize = 4;
const SENDS: usize = 25;
const SENDERS: usize = 12;
/// For everything to be accepted, and then for everything to be handled.
const WITHIN: Duration = Duration::from_mins(8);

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap())
}

fn fingerprint(group: usize, alert: usize) -> u64 {
    Rng((group * ALERTS + alert) as u64).next()
}

/// A group as Alertmanager 0.25 sends it: the captured request, with its alerts made four.
fn request(captured: &Value, group: usize) -> String {
    let mut body = captured.clone();
    let alert = body["alerts"][0].clone();
    let alerts = (0..ALERTS).map(|n| {
        let mut alert = alert.clone();
        alert["labels"]["alertname"] = json!(format!("Storm{group}"));
        alert["labels"]["instance"] = json!(format!("10.0.{group}.{n}:9100"));
        alert["fingerprint"] = json!(format!("{:016x}", fingerprint(group, n)));
        alert
    });
    body["alerts"] = alerts.collect();
    body["groupKey"] = json!(format!("{{}}:{{alertname=\"Storm{group}\"}}"));
    body.to_string()
}

/// What the journal says of the episodes.
#[derive(Debug, Default)]
struct Count {
    episodes: usize,
    handled: usize,
    queued: usize,
    /// Label sets with more than one episode.
    doubled: usize,
    /// Episodes in which something was decided or done more than once.
    twice: usize,
}

fn count(index: &Index, fingerprints: &mut BTreeSet<Fingerprint>) -> Count {
    let mut count = Count::default();
    let mut by_labels: HashMap<Fingerprint, usize> = HashMap::new();
    for incident in index.iter() {
        count.episodes += 1;
        let own = incident.episode.alert.fingerprint;
        fingerprints.insert(own);
        *by_labels.entry(own).or_default() += 1;
        let of = |name: &str| {
            let entries = incident.entries.iter();
            entries.filter(|line| line.entry.name() == name).count()
        };
        // The decision is the act here: what was refused once could have been done once.
        let decisions = of("refused") + of("intended");
        let most = [decisions, of("applied"), of("closed"), of("failed")];
        count.twice += usize::from(most.iter().any(|times| *times > 1));
        let closed = incident
            .entries
            .iter()
            .any(|line| matches!(line.entry, Entry::Closed));
        if closed {
            count.handled += 1;
        } else {
            count.queued += 1;
        }
    }
    count.doubled = by_labels.values().filter(|episodes| **episodes > 1).count();
    count
}

#[test]
#[allow(
    clippy::too_many_lines,
    reason = "one story from the storm to the count"
)]
fn nothing_accepted_is_lost_and_nothing_is_handled_twice() {
    let alerts = usize::try_from(number("PARAMEDIC_STORM_ALERTS", 10_000)).unwrap();
    let kills = usize::try_from(number("PARAMEDIC_STORM_KILLS", 5)).unwrap();
    let seed = number("PARAMEDIC_STORM_SEED", u64::from(std::process::id()));
    let groups = alerts / (ALERTS * SENDS);
    let data = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/data/alertmanager/01-w-firing.json"
    );
    let captured: Value = serde_json::from_slice(&std::fs::read(data).unwrap()).unwrap();
    let bodies: Vec<String> = (0..groups).map(|n| request(&captured["body"], n)).collect();

    let mut chance = Rng(seed);
    let mut order: Vec<usize> = (0..groups * SENDS).map(|n| n % groups).collect();
    for at in (1..order.len()).rev() {
        let other = chance.below(at as u64 + 1);
        order.swap(at, usize::try_from(other).unwrap());
    }
    let total = order.len();
    let config = "state_dir: $STATE\n\
                  intake: {listen: $LISTEN, connections_max: 256, pending_wait_ms: 5000}\n\
                  routing: {concurrency_max: 64, tenant_concurrency_max: 64}\n\
                  evidence: {syscall_watch_ms: 0}\nincidents_max: 20000\n";
    let mut agent = Agent::start(config).unwrap();
    let address = agent.address();
    let (next, done, refused) = (
        AtomicUsize::new(0),
        AtomicUsize::new(0),
        AtomicUsize::new(0),
    );
    let statuses: Mutex<BTreeMap<u16, usize>> = Mutex::default();
    let begun = Instant::now();
    let mut killed = 0;
    thread::scope(|scope| {
        for _ in 0..SENDERS {
            scope.spawn(|| {
                while let Some(&group) = order.get(next.fetch_add(1, Ordering::Relaxed)) {
                    // As Alertmanager does: again, after a while, until it is taken.
                    loop {
                        assert!(begun.elapsed() < WITHIN, "never taken");
                        match http::post_json(address, "/webhook", &bodies[group]) {
                            Ok(answer) => {
                                *statuses.lock().unwrap().entry(answer.status).or_default() += 1;
                                match answer.status {
                                    200 => break,
                                    503 => refused.fetch_add(1, Ordering::Relaxed),
                                    other => panic!("{other}: {}", answer.body),
                                };
                            }
                            Err(_) => drop(refused.fetch_add(1, Ordering::Relaxed)),
                        }
                        thread::sleep(Duration::from_millis(50));
                    }
                    done.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        // At random moments, spread over the storm.
        for n in 1..=kills {
            let at = total * n / (kills + 1);
            while done.load(Ordering::Relaxed) < at {
                assert!(begun.elapsed() < WITHIN, "the storm does not get on");
                thread::sleep(Duration::from_millis(2));
            }
            thread::sleep(Duration::from_millis(chance.next() % 300));
            agent.kill().unwrap();
            killed += 1;
            agent.restart().unwrap();
        }
    });
    let stormed = begun.elapsed();
    assert_eq!((done.load(Ordering::Relaxed), killed), (total, kills));

    // As it stands when the last answer was given: with the power off, so to speak.
    agent.kill().unwrap();
    let journal = agent.state_dir().join("journal");
    let read = || {
        let (index, found) = ledger::read(&journal, 1_000_000).unwrap();
        assert!(
            found.corruption.is_empty() && found.unreadable.is_empty(),
            "{found:?}"
        );
        index
    };
    let mut known = BTreeSet::new();
    let after_storm = count(&read(), &mut known);
    let accepted: BTreeSet<Fingerprint> = (0..groups)
        .flat_map(|group| (0..ALERTS).map(move |n| Fingerprint(fingerprint(group, n))))
        .collect();
    let statuses = statuses.into_inner().unwrap();
    println!(
        "storm: {alerts} alerts in {groups} groups, {kills} kills in {:.1} s (seed {seed}): \
         answered {statuses:?}, sent again {}; accepted {} = episodes {} = handled {} + queued {}",
        stormed.as_secs_f64(),
        refused.load(Ordering::Relaxed),
        accepted.len(),
        after_storm.episodes,
        after_storm.handled,
        after_storm.queued,
    );
    assert_eq!(known, accepted, "accepted and journalled");
    assert_eq!(
        (after_storm.doubled, after_storm.twice),
        (0, 0),
        "{after_storm:?}"
    );
    assert_eq!(after_storm.handled + after_storm.queued, accepted.len());

    // What is queued is handled in the next life.
    agent.restart().unwrap();
    let all = wait_for("end of all handling", WITHIN, || {
        let count = count(&read(), &mut BTreeSet::new());
        anyhow::ensure!(count.queued == 0, "{count:?}");
        Ok(count)
    })
    .unwrap();
    println!(
        "storm: 0 lost, {} handled, {} handled twice",
        all.handled, all.twice
    );
    assert_eq!(
        (all.handled, all.doubled, all.twice),
        (accepted.len(), 0, 0),
        "{all:?}"
    );
    assert!(agent.terminate().unwrap().success());
}
