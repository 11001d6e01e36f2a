//! The engines that keep several writes in flight, on the real disk, and the queue before them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::super::block::{Access, AlignedBuf, BlockFile, Disk, RealDisk};
use super::super::engine::{Content, Engine, Threads, Uring, Wait, Write};
use super::super::sync::Until;
use super::super::writer::queue::Queue;
use super::super::{
    Bytes, Journal, JournalConfig, JournalHealth, LaneId, SnapshotMeta, WriteEngine,
};

const BLOCK: usize = 8192;

/// Both engines, or a word on why one is missing.
fn engines() -> Vec<Box<dyn Engine>> {
    let mut engines: Vec<Box<dyn Engine>> = vec![Box::new(Threads::new(LaneId::Safe, 4, None))];
    match Uring::new(LaneId::Safe, 4) {
        Ok(ring) => engines.push(Box::new(ring)),
        Err(error) => println!("skipped io_uring: {error}"),
    }
    engines
}

fn file(dir: &std::path::Path) -> Arc<dyn BlockFile> {
    let disk = RealDisk::new(dir);
    let made = disk.create("file").expect("creates");
    made.write_at(&vec![0; 64 * BLOCK], 0).expect("writes");
    made.sync_all().expect("syncs");
    disk.open("file", Access::Direct).expect("opens").into()
}

fn write(file: &Arc<dyn BlockFile>, nth: u64) -> Write {
    let mut buf = AlignedBuf::new();
    buf.slice(BLOCK).fill(nth as u8 + 1);
    Write {
        file: file.clone(),
        name: "file".into(),
        offset: nth * BLOCK as u64,
        buf,
        len: BLOCK,
        content: Content::There,
    }
}

#[test]
fn every_write_in_flight_comes_back_once_and_is_on_the_disk() {
    for mut engine in engines() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let file = file(dir.path());
        let mut seen = [0; 64];
        let (mut submitted, mut done) = (0, 0);
        while done < 64 {
            while submitted < 64 && submitted - done < 4 {
                engine.submit(submitted, write(&file, submitted), submitted % 9 == 0);
                submitted += 1;
            }
            let finished = engine.reap(Wait::Done).expect("something is in flight");
            finished.result.expect("writes");
            seen[finished.ticket as usize] += 1;
            done += 1;
        }
        assert!(engine.reap(Wait::Done).is_none(), "nothing is in flight");
        assert_eq!(seen, [1; 64], "{:?}", engine.kind());
        let bytes = std::fs::read(dir.path().join("file")).expect("reads");
        for (nth, block) in bytes.chunks(BLOCK).enumerate() {
            assert!(block.iter().all(|b| *b == nth as u8 + 1), "block {nth}");
        }
    }
}

#[test]
fn a_failing_write_is_told_and_the_others_are_not_lost() {
    for mut engine in engines() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let good = file(dir.path());
        let disk = RealDisk::new(dir.path());
        // A handle for reading refuses the write, whatever the filesystem.
        let bad: Arc<dyn BlockFile> = disk.open("file", Access::Read).expect("opens").into();
        engine.submit(0, write(&good, 0), false);
        engine.submit(1, write(&bad, 1), false);
        engine.submit(2, write(&good, 2), false);
        let mut results = [None, None, None];
        for _ in 0..3 {
            let finished = engine.reap(Wait::Done).expect("in flight");
            results[finished.ticket as usize] = Some(finished.result.is_ok());
        }
        assert_eq!(results, [Some(true), Some(false), Some(true)]);
    }
}

#[test]
fn the_bell_ends_a_wait_and_a_drop_waits_for_what_is_in_flight() {
    for mut engine in engines() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let file = file(dir.path());
        let bell = engine.bell().expect("has one");
        // Rung before the wait, the bell must not be missed. A write may be done first.
        engine.submit(0, write(&file, 0), false);
        bell.ring();
        let first = engine.reap(Wait::DoneOrBell);
        let second = engine.reap(Wait::Done);
        assert!(first.is_some() || second.is_some(), "{:?}", engine.kind());
        engine.submit(1, write(&file, 1), false);
        drop(engine);
        let bytes = std::fs::read(dir.path().join("file")).expect("reads");
        assert!(bytes[BLOCK..2 * BLOCK].iter().all(|b| *b == 2));
    }
}

/// Nobody sleeps through a call: pushed before, while and after the writer lies down.
#[test]
fn the_queue_loses_no_wake_up() {
    let queue = Arc::new(Queue::new(None));
    let pusher = queue.clone();
    let thread = std::thread::spawn(move || {
        for n in 0..20_000_u64 {
            pusher.push(n, 1).expect("is open");
            if n % 64 == 0 {
                std::thread::yield_now();
            }
        }
        pusher.close();
        assert_eq!(pusher.push(0, 1), Err(0), "closed");
    });
    let mut taken = std::collections::VecDeque::new();
    while queue.wait() {
        queue.wait_for(40, &Until::after(Duration::from_micros(50)));
        queue.take(&mut taken);
    }
    thread.join().expect("ends");
    assert!(taken.into_iter().eq(0..20_000));
}

#[test]
fn a_wait_for_calls_that_do_not_come_ends() {
    let queue = Queue::<u8>::new(None);
    for calls in [1, 1000] {
        let begun = Instant::now();
        queue.wait_for(calls, &Until::after(Duration::from_millis(5)));
        assert!(begun.elapsed() >= Duration::from_millis(5));
    }
}

/// Byte-bound load with real threads: several batches in flight, a rotation in the middle.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_snapshots_in_flight_come_back() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let config = JournalConfig {
        dir: dir.path().join("journal"),
        safe_segment_bytes: 16 << 20,
        segments_ahead: 1,
        writer_realtime: false,
        ..JournalConfig::default()
    };
    let (journal, _) = Journal::open(&config).expect("opens");
    let engine = journal.stats().safe.expect("writable").engine;
    assert_ne!(engine, WriteEngine::Pwrite);
    let tasks: Vec<_> = (0..48_u8)
        .map(|task| {
            let journal = journal.clone();
            tokio::spawn(async move {
                let meta = SnapshotMeta {
                    kind: 1,
                    episode: [task; 16],
                };
                let bytes = Bytes::from(vec![task; 250_000 + usize::from(task)]);
                for _ in 0..2 {
                    let stored = journal.store_snapshot(meta, bytes.clone()).await;
                    stored.expect("stores");
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.expect("ends");
    }
    let stats = journal.stats().safe.expect("writable");
    println!("{engine:?}: {stats:?}");
    assert!(stats.buffer_bytes <= stats.buffer_bytes_max, "{stats:?}");
    assert_eq!(journal.health(), JournalHealth::Writable);
    journal.close().await.expect("closes");
    let (journal, recovered) = Journal::open(&config).expect("opens again");
    assert_eq!((recovered.cuts, recovered.corruption), (vec![], vec![]));
    assert_eq!(recovered.snapshots.len(), 96);
    for (reference, meta) in &recovered.snapshots {
        let bytes = journal.read_snapshot(reference).expect("reads");
        let task = meta.episode[0];
        assert_eq!(bytes.len(), 250_000 + usize::from(task));
        assert!(bytes.iter().all(|b| *b == task));
    }
    journal.close().await.expect("closes");
}
