//! The whole journal, threads and all, on a disk whose k-th call of each kind fails.

use std::sync::Arc;
use std::time::Duration;

use super::super::block::DirectIo;
use super::super::block::sim::{Call, How, SimDisk};
use super::super::{
    Bytes, Journal, JournalError, JournalHealth, LaneId, Lsn, Recovered, SnapshotMeta,
};
use super::{record, small_config};

fn open(disk: &SimDisk) -> Result<(Journal, Recovered), JournalError> {
    Journal::open_on(&small_config(), Arc::new(disk.clone()), None)
}

fn payload(i: usize) -> Vec<u8> {
    vec![i as u8; 7000 + i]
}

/// 24 appends and 8 snapshots, enough to begin a second segment in both lanes; what was
/// acknowledged, by lane.
async fn workload(journal: &Journal) -> (Vec<usize>, Vec<usize>) {
    let mut fast = Vec::new();
    let mut safe = Vec::new();
    let mut dead = [false; 2];
    for i in 0..24 {
        let answer = journal.append(vec![record(payload(i))]).await;
        observe(&answer, &mut dead[0]);
        if answer.is_ok() {
            fast.push(i);
        }
        if i % 3 == 0 {
            let meta = SnapshotMeta {
                kind: 2,
                episode: [i as u8; 16],
            };
            let answer = journal
                .store_snapshot(meta, Bytes::from(vec![i as u8; 20_000]))
                .await;
            observe(&answer, &mut dead[1]);
            if let Ok(reference) = answer {
                safe.push(i);
                // A read may be the call that fails; what it returns must be right.
                if let Ok(bytes) = journal.read_snapshot(&reference) {
                    assert_eq!(bytes, vec![i as u8; 20_000]);
                }
            }
        }
    }
    (fast, safe)
}

/// No acknowledgement after a failure: a lane once dead stays dead.
fn observe<T: std::fmt::Debug>(answer: &Result<T, JournalError>, dead: &mut bool) {
    match answer {
        Err(JournalError::Poisoned { .. }) => *dead = true,
        Err(JournalError::Full { .. }) => {}
        Ok(_) => assert!(!*dead, "acknowledged after a failure"),
        Err(other) => panic!("unexpected: {other}"),
    }
}

async fn kth_failure(call: Call, k: u64, how: How, several: bool) -> bool {
    let what = format!("{call:?} {k} {how:?} several {several}");
    let disk = SimDisk::new(k);
    disk.set_several(several);
    // The failing call may be one of a reopening, so there is something to reopen.
    let (journal, _) = open(&disk).expect("opens");
    journal
        .append(vec![record(vec![255; 10])])
        .await
        .expect("appends");
    journal.close().await.expect("closes");
    disk.power_cycle();
    disk.fail(call, k, how);
    let acknowledged = match open(&disk) {
        Ok((journal, recovered)) => {
            if recovered.corruption.is_empty() {
                assert_eq!(recovered.records.len(), 1, "{what}");
                let acknowledged = workload(&journal).await;
                let poisoned = matches!(journal.health(), JournalHealth::Poisoned { .. });
                let failed = acknowledged.0.len() < 24 || acknowledged.1.len() < 8;
                assert!(!failed || disk.faulted(), "{what}: failed without a fault");
                assert!(
                    poisoned || !failed || how == How::Errno(libc::ENOSPC),
                    "{what}"
                );
                journal.close().await.expect("closes");
                acknowledged
            } else {
                assert_eq!(call, Call::Read, "{what}: {:?}", recovered.corruption);
                (vec![], vec![])
            }
        }
        Err(_) => (vec![], vec![]),
    };
    let happened = disk.faulted();
    disk.power_cycle();
    let (journal, recovered) = open(&disk).expect("no fault is armed");
    assert_eq!(recovered.corruption, [], "{what}");
    let found: Vec<_> = recovered
        .records
        .iter()
        .map(|(_, _, r)| r.payload.clone())
        .collect();
    assert_eq!(found[0], vec![255; 10]);
    for (n, i) in acknowledged.0.iter().enumerate() {
        assert_eq!(found[1 + n], payload(*i), "{what}: lost or out of order");
    }
    assert!(
        found.len() <= 2 + acknowledged.0.len(),
        "{what}: more than one unacknowledged"
    );
    for (n, i) in acknowledged.1.iter().enumerate() {
        let (reference, meta) = &recovered.snapshots[n];
        assert_eq!(meta.episode, [*i as u8; 16], "{what}");
        assert_eq!(
            journal.read_snapshot(reference).expect("reads"),
            vec![*i as u8; 20_000]
        );
    }
    journal.close().await.expect("closes");
    happened
}

#[tokio::test]
async fn the_kth_failure_of_every_call() {
    let mut runs = 0;
    for call in Call::ALL {
        let mut hows = vec![libc::EIO, libc::ENOSPC, libc::EINTR]
            .into_iter()
            .map(How::Errno);
        let short = (call == Call::Write).then_some(How::Short);
        for how in hows.by_ref().chain(short) {
            for (k, several) in (1..).flat_map(|k| [(k, false), (k, true)]) {
                let run = kth_failure(call, k, how, several);
                let limit = Duration::from_secs(20);
                let happened = tokio::time::timeout(limit, run).await.expect("hangs");
                runs += 1;
                // The preparer's calls interleave, so a few more than a quiet run makes.
                if !happened && several {
                    break;
                }
            }
        }
    }
    println!("journal: {runs} runs with one failing call, 0 lost, none acknowledged after");
    assert!(runs > 200, "{runs}");
}

/// Found by the storms: an agent without descriptors for a moment was read-only from then on.
#[tokio::test]
async fn a_lane_outlives_a_shortage_of_file_descriptors() {
    for call in [Call::Create, Call::SyncDir, Call::Open] {
        let disk = SimDisk::new(1);
        let (journal, _) = open(&disk).expect("opens");
        disk.fail(call, 1, How::Errno(libc::EMFILE));
        for i in 0..48 {
            let appended = async {
                loop {
                    match journal.append(vec![record(payload(i))]).await {
                        Ok(_) => return,
                        Err(JournalError::Full { .. }) => {
                            tokio::time::sleep(Duration::from_millis(1)).await;
                        }
                        Err(other) => panic!("{call:?}: {other}"),
                    }
                }
            };
            let limit = Duration::from_secs(20);
            tokio::time::timeout(limit, appended)
                .await
                .expect("goes on");
        }
        assert!(disk.faulted(), "{call:?}");
        assert_eq!(journal.health(), JournalHealth::Writable, "{call:?}");
        journal.close().await.expect("closes");
    }
}

#[tokio::test]
async fn a_full_disk_refuses_keeps_the_reserve_and_recovers() {
    let disk = SimDisk::new(1);
    let (journal, _) = open(&disk).expect("opens");
    // Room for what is there and one more fast segment.
    disk.set_capacity(5 * (128 << 10));
    let mut stored = 0;
    let full = loop {
        match journal.append(vec![record(payload(stored))]).await {
            Ok(_) => stored += 1,
            Err(error) => break error,
        }
        assert!(stored < 200, "never full");
    };
    let JournalError::Full {
        lane: LaneId::Fast,
        reserve_bytes,
        ..
    } = full
    else {
        panic!("{full}")
    };
    assert_eq!(reserve_bytes, 32 << 10);
    assert!(
        matches!(journal.health(), JournalHealth::Full { .. }),
        "{:?}",
        journal.health()
    );
    let outcome = journal
        .append_outcome(vec![record(b"rolled back".to_vec())])
        .await;
    let Lsn(last) = outcome.expect("the reserve is for this");
    assert_eq!(last, stored as u64 + 1, "a refused call takes no number");
    // The reserve holds what it promises: 32 KiB are seven more batches of one block at least.
    for _ in 0..6 {
        journal
            .append_outcome(vec![record(vec![0; 9])])
            .await
            .expect("the reserve");
    }
    disk.set_capacity(u64::MAX);
    let mut waited = 0;
    while journal
        .append(vec![record(b"again".to_vec())])
        .await
        .is_err()
    {
        waited += 1;
        assert!(waited < 500, "never recovers");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(journal.health(), JournalHealth::Writable);
    journal.close().await.expect("closes");
    disk.power_cycle();
    let (_, recovered) = open(&disk).expect("opens");
    assert_eq!((recovered.corruption, recovered.cuts), (vec![], vec![]));
    assert_eq!(recovered.records.len(), stored + 1 + 6 + 1);
}

#[tokio::test]
async fn opening_on_a_full_disk_still_reads_and_uses_what_is_prepared() {
    let disk = SimDisk::new(1);
    let (journal, _) = open(&disk).expect("opens");
    journal
        .append(vec![record(payload(1))])
        .await
        .expect("appends");
    journal.close().await.expect("closes");
    disk.set_capacity(0);
    let (journal, recovered) = open(&disk).expect("a full disk is no reason not to start");
    assert_eq!(recovered.records.len(), 1);
    journal
        .append_outcome(vec![record(payload(2))])
        .await
        .expect("the tail has room");
    journal.close().await.expect("closes");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_callers_share_commits() {
    let disk = SimDisk::new(1);
    disk.set_sync_time(Duration::from_millis(2));
    let (journal, _) = open(&disk).expect("opens");
    let before = disk.count(Call::SyncData);
    let tasks: Vec<_> = (0..16)
        .map(|task| {
            let journal = journal.clone();
            tokio::spawn(async move {
                let mut lsns = Vec::new();
                for i in 0..20_u8 {
                    let records = vec![record(vec![task, i]), record(vec![task, i, 1])];
                    lsns.push(journal.append(records).await.expect("appends").0);
                }
                lsns
            })
        })
        .collect();
    let mut lsns = Vec::new();
    for task in tasks {
        let own = task.await.expect("ends");
        assert!(own.is_sorted(), "one caller's records are in its order");
        lsns.extend(own);
    }
    let syncs = disk.count(Call::SyncData) - before;
    let stats = journal.stats().fast.expect("writable");
    println!(
        "{} records in {} commits, {syncs} syncs",
        stats.records, stats.commits
    );
    assert_eq!((stats.records, stats.queue_depth), (640, 0));
    assert!(syncs < 160, "{syncs} syncs for 320 calls");
    assert!(stats.sync.p50_us >= 2000 && stats.append.count == 320);
    // No close, no flush: what was acknowledged is on the platter already.
    disk.crash_after(1);
    drop(journal);
    disk.power_cycle();
    let (_, recovered) = open(&disk).expect("opens");
    assert_eq!(recovered.corruption, []);
    assert_eq!(recovered.records.len(), 640);
    for (i, pair) in recovered.records.chunks(2).enumerate() {
        assert_eq!(pair[0].0.0, 1 + 2 * i as u64);
        assert_eq!(
            pair[0].2.payload[..],
            pair[1].2.payload[..2],
            "records of a call together"
        );
    }
    lsns.sort_unstable();
    let expected: Vec<u64> = (0..320).map(|i| 1 + 2 * i).collect();
    assert_eq!(lsns, expected);
}

#[tokio::test]
pub(super) async fn corruption_makes_the_journal_read_only_and_changes_nothing() {
    let disk = SimDisk::new(1);
    let (journal, _) = open(&disk).expect("opens");
    for i in 0..3 {
        journal
            .append(vec![record(payload(i))])
            .await
            .expect("appends");
    }
    journal.close().await.expect("closes");
    let name = "fast-0000000000000001.seg";
    let mut image = disk.peek(name);
    image[4096 + 200] ^= 1;
    disk.poke(name, image);
    let before: Vec<_> = disk
        .names()
        .iter()
        .map(|name| (name.clone(), disk.peek(name)))
        .collect();
    let (journal, recovered) = open(&disk).expect("opens read-only");
    assert_eq!(recovered.records.len(), 0, "the prefix before the damage");
    let [corruption] = &recovered.corruption[..] else {
        panic!("{:?}", recovered.corruption)
    };
    assert_eq!((corruption.segment, corruption.offset), (1, 4096));
    assert!(matches!(journal.health(), JournalHealth::Corrupt { .. }));
    let refused = journal.append(vec![record(payload(9))]).await;
    assert!(
        matches!(refused, Err(JournalError::ReadOnly(_))),
        "{refused:?}"
    );
    journal.close().await.expect("closes");
    let after: Vec<_> = disk
        .names()
        .iter()
        .map(|name| (name.clone(), disk.peek(name)))
        .collect();
    assert!(before == after, "a read-only journal wrote");
}

#[tokio::test]
async fn a_refused_direct_io_is_reported_and_survived() {
    let disk = SimDisk::new(1);
    let refused = DirectIo::Refused {
        reason: "Invalid argument".to_owned(),
    };
    disk.set_direct(refused.clone());
    let (journal, _) = open(&disk).expect("opens");
    let meta = SnapshotMeta {
        kind: 2,
        episode: [0; 16],
    };
    journal
        .store_snapshot(meta, Bytes::from(vec![1; 30_000]))
        .await
        .expect("stores");
    assert_eq!(journal.stats().safe.expect("writable").direct_io, refused);
    journal.close().await.expect("closes");
    disk.power_cycle();
    assert_eq!(open(&disk).expect("opens").1.snapshots.len(), 1);
}

#[tokio::test]
async fn a_coarser_device_gets_coarser_segments() {
    let disk = SimDisk::new(1);
    let meta = SnapshotMeta {
        kind: 2,
        episode: [0; 16],
    };
    let bytes = Bytes::from(vec![1; 9_000]);
    let (journal, _) = open(&disk).expect("opens");
    let fine = journal
        .store_snapshot(meta, bytes.clone())
        .await
        .expect("stores");
    journal.close().await.expect("closes");
    disk.power_cycle();
    disk.set_direct(DirectIo::Used { alignment: 16384 });
    let (journal, _) = open(&disk).expect("opens");
    let coarse = journal
        .store_snapshot(meta, bytes.clone())
        .await
        .expect("stores");
    assert!(coarse.segment > fine.segment);
    journal.close().await.expect("closes");
    let (journal, recovered) = open(&disk).expect("opens");
    assert_eq!(recovered.corruption, []);
    for reference in [fine, coarse] {
        assert_eq!(journal.read_snapshot(&reference).expect("reads"), bytes);
    }
    journal.close().await.expect("closes");
}
