//! Repair after every kind of damage: writable again, nothing in the wrong order, nothing deleted.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::super::block::Disk;
use super::super::block::sim::{How, SimDisk};
use super::super::repair::repair_lane;
use super::super::{LaneId, store};
use super::{Call, commit, look, open};

const BLOCK: usize = 4096;
const SEGMENT: u64 = 4 * BLOCK as u64;

/// Ten batches of one to three records in several segments and three lives.
fn log(id: LaneId) -> SimDisk {
    let disk = SimDisk::new(9);
    let mut n = 0_u8;
    for _ in 0..3 {
        let mut lane = open(&disk, id, SEGMENT).expect("opens").lane.expect("new");
        for _ in 0..3 {
            let payloads: Vec<_> = (0..=n % 3).map(|i| vec![n + 100 * i; 900]).collect();
            commit(&mut lane, &payloads).expect("commits");
            n += 1;
        }
    }
    disk
}

/// Damages byte `at` of file `name`, repairs, and checks what can be checked of any damage.
fn damage_and_repair(id: LaneId, name: &str, at: usize, with: impl Fn(&mut [u8])) -> bool {
    let disk = log(id);
    let what = format!("{id} {name} damaged at {at}");
    let (_, before) = look(&disk, id).expect("reads");
    let mut image = disk.peek(name);
    with(&mut image[at..]);
    disk.poke(name, image);
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    let contents = files(&disk);
    let dry = repair_lane(&shared, id, true).expect("looks");
    assert!(files(&disk) == contents, "{what}: a dry run wrote");
    let Some(told) = dry else {
        return false;
    };
    let done = repair_lane(&shared, id, false)
        .expect("repairs")
        .expect("does");
    assert_eq!(
        (done.records_kept, done.records_beyond, done.records_lost),
        (told.records_kept, told.records_beyond, told.records_lost),
        "{what}"
    );
    // Nothing is deleted: every file's bytes are under its own name or under the one aside.
    let after = files(&disk);
    for (name, bytes) in &contents {
        let aside = done.aside.iter().find(|(from, _)| from == name);
        let now = aside.map_or(name, |(_, to)| to);
        assert!(after[now] == *bytes, "{what}: {name} is not in {now}");
    }
    disk.power_cycle();
    assert_eq!(
        repair_lane(&shared, id, false).expect("looks"),
        None,
        "{what}"
    );
    let (scan, seen) = look(&disk, id).expect("reads");
    assert_eq!(scan.corruption, None, "{what}");
    let payloads: Vec<_> = seen.iter().map(|(_, payload)| payload.clone()).collect();
    let mut rest = before.iter().map(|(_, payload)| payload);
    for payload in &payloads {
        assert!(rest.any(|known| known == payload), "{what}: out of order");
    }
    let appended = if done.appended_again {
        done.records_beyond
    } else {
        0
    };
    assert_eq!(
        payloads.len() as u64,
        done.records_kept + appended,
        "{what}"
    );
    if id == LaneId::Fast {
        // At most one batch is hit by one damaged block.
        assert!(
            payloads.len() + 3 >= before.len(),
            "{what}: {}",
            payloads.len()
        );
    }
    // And it takes records again.
    let mut lane = open(&disk, id, SEGMENT).expect("opens").lane.expect(&what);
    commit(&mut lane, &[b"new".to_vec()]).expect("commits");
    true
}

fn files(disk: &SimDisk) -> BTreeMap<String, Vec<u8>> {
    let names = disk.names().into_iter();
    names.map(|name| (name.clone(), disk.peek(&name))).collect()
}

#[test]
fn every_damaged_block_is_repaired() {
    let mut repaired = 0;
    for id in [LaneId::Fast, LaneId::Safe] {
        let names = log(id).names();
        for name in names {
            for block in 0..4 {
                let at = block * BLOCK + 140;
                repaired += u32::from(damage_and_repair(id, &name, at, |bytes| bytes[0] ^= 1));
                let at = block * BLOCK;
                repaired += u32::from(damage_and_repair(id, &name, at, |bytes| {
                    bytes[..BLOCK].fill(0);
                }));
                repaired += u32::from(damage_and_repair(id, &name, at, |bytes| {
                    bytes[..BLOCK].fill(0xA5);
                }));
            }
        }
    }
    println!("journal: {repaired} corruptions repaired, nothing deleted");
    assert!(repaired > 40, "{repaired}");
}

#[test]
fn a_lost_segment_is_repaired() {
    let disk = log(LaneId::Fast);
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    let (_, before) = look(&disk, LaneId::Fast).expect("reads");
    shared
        .remove(&store::segment_name(LaneId::Fast, 2))
        .expect("removes");
    let done = repair_lane(&shared, LaneId::Fast, false).expect("repairs");
    let done = done.expect("something was corrupt");
    assert!(done.records_lost > 0);
    let (scan, seen) = look(&disk, LaneId::Fast).expect("reads");
    assert_eq!(scan.corruption, None);
    assert_eq!(seen.len() as u64 + done.records_lost, before.len() as u64);
}

#[test]
fn a_repair_that_breaks_off_can_be_repeated_and_deletes_nothing() {
    let mut points = 0;
    for call in Call::ALL {
        for k in 1.. {
            let disk = log(LaneId::Fast);
            let name = store::segment_name(LaneId::Fast, 2);
            let mut image = disk.peek(&name);
            image[BLOCK + 300] ^= 1;
            disk.poke(&name, image);
            let before = files(&disk);
            disk.fail(call, k, How::Errno(libc::EIO));
            let shared: Arc<dyn Disk> = Arc::new(disk.clone());
            let first = repair_lane(&shared, LaneId::Fast, false);
            let happened = disk.faulted();
            disk.restart();
            let again = repair_lane(&shared, LaneId::Fast, false);
            let what = format!("{call:?} {k}: {first:?}, then {again:?}");
            assert!(again.is_ok(), "{what}");
            let (scan, _) = look(&disk, LaneId::Fast).expect("reads");
            assert_eq!(scan.corruption, None, "{what}");
            let after: Vec<_> = files(&disk).into_values().collect();
            for (name, bytes) in before {
                assert!(after.contains(&bytes), "{what}: {name} is gone");
            }
            points += 1;
            if !happened {
                break;
            }
        }
    }
    println!("journal: {points} interrupted repairs, nothing deleted");
}
