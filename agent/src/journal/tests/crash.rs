//! Random histories of lives that end by power loss, by a kill or by a failing call.
//!
//! What must hold after each: everything acknowledged is there; what is there is a prefix of what
//! was submitted, in whole batches; nothing else is; looking twice shows the same. Where
//! retention was asked to give up the beginning, at most that is gone, and stays gone.

use std::collections::VecDeque;

use super::super::LaneId;
use super::super::block::sim::{Call, How, Rng, SimDisk};
use super::super::engine::Wait;
use super::super::error::Failure;
use super::super::lane::CommitError;
use super::super::recover::Scan;
use super::{Lsn, Seen, commit, look, open, random_payloads, submit};

#[derive(Default, Debug)]
pub(super) struct Tally {
    lives: u64,
    power_cuts: u64,
    cuts: u64,
    faults: u64,
    acknowledged: u64,
    unacknowledged_survived: u64,
    files_removed: u64,
    records_given_up: u64,
    /// Most batches in flight when a life ended.
    in_flight: usize,
}

/// Everything submitted that may still exist.
#[derive(Default)]
struct History {
    records: Vec<Seen>,
    /// Lengths at which `records` may end: batches are whole or absent.
    boundaries: Vec<usize>,
    acknowledged: usize,
    /// Records that retention may have removed, and those that it has.
    may_go: usize,
    gone: usize,
}

impl History {
    fn check(&mut self, scan: &Scan, seen: &[Seen], what: &str) {
        let end = scan.link.next_lsn as usize - 1;
        assert!(
            end >= self.acknowledged,
            "{what}: lost an acknowledged record"
        );
        assert!(end <= self.records.len(), "{what}: a phantom");
        assert!(end >= seen.len(), "{what}: more records than numbers");
        let start = end - seen.len();
        assert_eq!(seen, &self.records[start..end], "{what}: not a prefix");
        assert!(
            end == 0 || self.boundaries.contains(&end),
            "{what}: half a batch"
        );
        assert!(start <= self.may_go, "{what}: lost its beginning");
        assert!(start >= self.gone, "{what}: what was gone is back");
        // What has been shown must stay.
        self.gone = start;
        self.acknowledged = end;
        self.records.truncate(end);
        self.boundaries.retain(|boundary| *boundary <= end);
    }

    /// Asks to give up everything before a random record, and removes what can be removed.
    fn retain(&mut self, disk: &SimDisk, lane: &super::Lane, rng: &mut Rng) -> u64 {
        let keep_from = 1 + rng.below(self.acknowledged + 1);
        self.may_go = self.may_go.max(keep_from - 1);
        lane.retention().retain(Lsn(keep_from as u64));
        lane.retention()
            .remove(disk)
            .map_or(0, |removed| removed as u64)
    }

    fn submit(&mut self, payloads: &[Vec<u8>]) -> u64 {
        let first = self.records.len() as u64 + 1;
        self.records.extend((first..).zip(payloads.iter().cloned()));
        self.boundaries.push(self.records.len());
        first
    }
}

fn arm(disk: &SimDisk, rng: &mut Rng, tally: &mut Tally) {
    match rng.below(4) {
        0 => {}
        1 => {
            let call = Call::ALL[rng.below(Call::ALL.len())];
            let errno = [libc::EIO, libc::ENOSPC, libc::EINTR][rng.below(3)];
            let how = if rng.below(4) == 0 {
                How::Short
            } else {
                How::Errno(errno)
            };
            disk.fail(call, 1 + rng.below(12) as u64, how);
            tally.faults += 1;
        }
        _ => disk.crash_after(1 + rng.below(60) as u64),
    }
}

pub(super) fn one_history(seed: u64, tally: &mut Tally) {
    let mut rng = Rng(seed);
    let disk = SimDisk::new(rng.next());
    let id = if rng.below(2) == 0 {
        LaneId::Fast
    } else {
        LaneId::Safe
    };
    let segment_len = 4096 * (3 + rng.below(5)) as u64;
    let mut history = History::default();
    for life in 0..2 + rng.below(4) {
        tally.lives += 1;
        // A life may have another number in flight than the one whose segment it goes on with.
        disk.set_several(rng.below(2) == 0);
        let what = format!("seed {seed} life {life} {id}");
        arm(&disk, &mut rng, tally);
        if let Ok(opened) = open(&disk, id, segment_len) {
            let read_failed = disk.faulted() || disk.crashed();
            assert!(
                opened.scan.corruption.is_none() || read_failed,
                "{what}: {:?}",
                opened.scan.corruption
            );
            tally.cuts += opened.scan.cuts.len() as u64;
            if let Some(mut lane) = opened.lane {
                history.check(&opened.scan, &opened.seen, &what);
                write(&disk, &mut lane, &mut history, &mut rng, tally, &what);
            }
        }
        if disk.crashed() || rng.below(2) == 0 {
            tally.power_cuts += 1;
            disk.power_cycle();
        } else {
            disk.restart();
        }
        let (first, found) = look(&disk, id).expect("no fault is armed");
        assert_eq!(first.corruption, None, "{what}");
        let end = first.link.next_lsn as usize - 1;
        tally.unacknowledged_survived += u64::from(end > history.acknowledged);
        history.check(&first, &found, &what);
        let (second, again) = look(&disk, id).expect("no fault is armed");
        assert_eq!(again, found, "{what}: looked twice");
        assert_eq!(second.cuts, first.cuts, "{what}: looked twice");
    }
    tally.records_given_up += history.gone as u64;
}

fn write(
    disk: &SimDisk,
    lane: &mut super::Lane,
    history: &mut History,
    rng: &mut Rng,
    tally: &mut Tally,
    what: &str,
) {
    let mut ends = VecDeque::new();
    for _ in 0..rng.below(16) {
        if rng.below(4) == 0 {
            tally.files_removed += history.retain(disk, lane, rng);
        }
        let payloads = random_payloads(rng, 4, 1800);
        let first = history.submit(&payloads);
        match submit(lane, &payloads) {
            Ok(()) => ends.push_back((first, history.records.len())),
            Err(CommitError::Full { .. }) => {
                // Nothing was written: it can't come back.
                history.records.truncate(first as usize - 1);
                history.boundaries.pop();
            }
            Err(CommitError::TooLarge { .. }) => panic!("{what}: 8 KiB do not fit"),
            Err(CommitError::Fatal(_)) => {
                tally.in_flight = tally.in_flight.max(ends.len());
                return;
            }
        }
        // Sometimes only what is done, sometimes all; room for the next always.
        let all = rng.below(3) == 0;
        loop {
            let must = all || lane.outstanding() >= lane.depth();
            match lane.reap(if must { Wait::Done } else { Wait::Not }) {
                Ok(Some(committed)) => {
                    let (first, end) = ends.pop_front().expect("was submitted");
                    assert_eq!(committed.first_lsn, first, "{what}: out of order");
                    tally.acknowledged += (end + 1) as u64 - first;
                    history.acknowledged = end;
                }
                Ok(None) => break,
                Err(_) => {
                    tally.in_flight = tally.in_flight.max(ends.len());
                    return;
                }
            }
        }
    }
    // The life ends with these on their way.
    tally.in_flight = tally.in_flight.max(ends.len());
}

#[test]
fn random_crashes_lose_nothing() {
    let seeds = std::env::var("PARAMEDIC_SEEDS")
        .ok()
        .and_then(|n| n.parse().ok());
    let seeds = seeds.unwrap_or(10_000);
    let mut tally = Tally::default();
    for seed in 0..seeds {
        one_history(seed, &mut tally);
    }
    println!(
        "journal: {} seeds of random histories: {} lives, {} power cuts, {} failing calls, {} torn \
         tails, {} records acknowledged, {} given up by retention, 0 lost",
        seeds,
        tally.lives,
        tally.power_cuts,
        tally.faults,
        tally.cuts,
        tally.acknowledged,
        tally.records_given_up
    );
    // The test must have met what it is about.
    assert!(tally.cuts > 0 && tally.unacknowledged_survived > 0 && tally.faults > 0);
    assert!(tally.files_removed > 0 && tally.records_given_up > 0);
    assert_eq!(tally.in_flight, 4, "several batches in flight");
}

/// A workload of eight batches over several segments, the oldest given up, and a reopening, with power lost in every
/// single call, eight ways each; then the same with a second loss in every call of the recovery.
#[test]
fn every_crash_point_of_a_small_workload() {
    let mut points = 0;
    for (id, several) in [
        (LaneId::Fast, false),
        (LaneId::Safe, false),
        (LaneId::Safe, true),
    ] {
        for seed in 0..8 {
            let mut at = 1;
            loop {
                let (disk, mut history) = workload(id, several, seed, at);
                if !disk.crashed() {
                    break;
                }
                disk.power_cycle();
                recrash(&disk, id, &mut history, at);
                at += 1;
                points += 1;
            }
        }
    }
    println!(
        "journal: {points} crash points of small workloads, each with every second crash, 0 lost"
    );
    assert!(points > 300, "{points}");
}

fn workload(id: LaneId, several: bool, seed: u64, crash_at: u64) -> (SimDisk, History) {
    let disk = SimDisk::new(seed * 1000 + crash_at);
    let mut rng = Rng(seed);
    let mut history = History::default();
    disk.set_several(several);
    disk.crash_after(crash_at);
    for _ in 0..2 {
        let Ok(opened) = open(&disk, id, 4 * 4096) else {
            break;
        };
        // Only a read that the crash has hit can look like corruption.
        let Some(mut lane) = opened.lane else {
            assert!(disk.crashed(), "{:?}", opened.scan.corruption);
            break;
        };
        history.check(&opened.scan, &opened.seen, "reopened");
        // All four are on their way before the first is asked for.
        for _ in 0..4 {
            history.retain(&disk, &lane, &mut rng);
            let payloads = random_payloads(&mut rng, 2, 3000);
            history.submit(&payloads);
            let submitted = submit(&mut lane, &payloads).is_ok();
            if !submitted || (!several && settle(&mut lane, &mut history).is_err()) {
                return (disk, history);
            }
        }
        if settle(&mut lane, &mut history).is_err() {
            return (disk, history);
        }
    }
    (disk, history)
}

/// Waits for everything outstanding.
fn settle(lane: &mut super::Lane, history: &mut History) -> Result<(), Failure> {
    while let Some(committed) = lane.reap(Wait::Done)? {
        let first = committed.first_lsn as usize;
        let end = history.boundaries.iter().find(|end| **end >= first);
        history.acknowledged = *end.expect("was submitted");
    }
    Ok(())
}

/// Loses power in every call of the recovery, until one gets through; each is a second crash on
/// top of whatever the ones before have left.
fn recrash(disk: &SimDisk, id: LaneId, history: &mut History, point: u64) {
    for second in 1..200 {
        disk.crash_after(second);
        let opened = open(disk, id, 4 * 4096);
        let through = !disk.crashed();
        disk.power_cycle();
        let what = format!("{id} crash at {point}, again at {second}");
        let (scan, seen) = look(disk, id).expect("no fault is armed");
        assert_eq!(scan.corruption, None, "{what}");
        history.check(&scan, &seen, &what);
        if through {
            assert!(opened.is_ok(), "{what}");
            return;
        }
    }
    panic!("recovery never got through");
}

/// After a failed sync the cache shows what no disk holds. A recovery that believes it builds on
/// sand: the next power loss takes the middle out of the log.
#[test]
pub(super) fn recovery_does_not_believe_the_cache() {
    let disk = SimDisk::new(1);
    let mut lane = open(&disk, LaneId::Fast, 1 << 16)
        .expect("opens")
        .lane
        .expect("is writable");
    commit(&mut lane, &[b"durable".to_vec()]).expect("commits");
    disk.fail(Call::SyncData, 1, How::Errno(libc::EIO));
    let failed = commit(&mut lane, &[b"in the cache only".to_vec()]);
    assert!(matches!(failed, Err(CommitError::Fatal(_))), "{failed:?}");
    disk.restart();
    let opened = open(&disk, LaneId::Fast, 1 << 16).expect("opens");
    assert_eq!(opened.seen, [(1, b"durable".to_vec())]);
    commit(&mut opened.lane.expect("is writable"), &[b"next".to_vec()]).expect("commits");
    disk.power_cycle();
    let (scan, seen) = look(&disk, LaneId::Fast).expect("reads");
    assert_eq!(scan.corruption, None);
    assert_eq!(seen, [(1, b"durable".to_vec()), (2, b"next".to_vec())]);
}
