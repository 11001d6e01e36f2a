//! On the real filesystem under the temporary directory.

use std::path::Path;

use super::super::{
    Bytes, Damage, DirectIo, Journal, JournalConfig, JournalError, JournalHealth, Lsn, Reader,
    SnapshotMeta, read_snapshot,
};
use super::{record, small_config};

fn config(dir: &Path) -> JournalConfig {
    JournalConfig {
        dir: dir.join("journal"),
        ..small_config()
    }
}

#[tokio::test]
async fn both_lanes_come_back() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let config = config(dir.path());
    let (journal, recovered) = Journal::open(&config).expect("opens");
    assert_eq!(
        recovered.records.len() + recovered.snapshots.len() + recovered.cuts.len(),
        0
    );
    let first = journal
        .append(vec![record(b"alert".to_vec()), record(vec![])])
        .await;
    assert_eq!(first.expect("appends"), Lsn(1));
    let meta = SnapshotMeta {
        kind: 4,
        episode: [8; 16],
    };
    let bytes = Bytes::from((0..30_000_u32).map(|i| (i % 251) as u8).collect::<Vec<_>>());
    let reference = journal
        .store_snapshot(meta, bytes.clone())
        .await
        .expect("stores");
    assert_eq!(
        journal
            .append(vec![record(vec![1; 9999])])
            .await
            .expect("appends"),
        Lsn(3)
    );
    assert_eq!(journal.read_snapshot(&reference).expect("reads"), bytes);
    println!("{:?}", journal.stats());
    journal.close().await.expect("closes");

    for round in 0..3 {
        let (journal, recovered) = Journal::open(&config).expect("opens again");
        assert_eq!((&recovered.cuts, &recovered.corruption), (&vec![], &vec![]));
        let lsns: Vec<_> = recovered.records.iter().map(|(lsn, _, _)| lsn.0).collect();
        assert_eq!(lsns, (1..=3 + round).collect::<Vec<_>>());
        assert_eq!(recovered.records[0].2, record(b"alert".to_vec()));
        assert!(
            recovered.records[0].1 > 1_600_000_000_000_000_000,
            "has its time"
        );
        let (found, found_meta) = recovered.snapshots[0];
        assert_eq!(
            (found.lsn, found.offset, found_meta),
            (reference.lsn, reference.offset, meta)
        );
        assert_eq!(read_snapshot(&config.dir, &found).expect("reads"), bytes);
        journal
            .append(vec![record(b"more".to_vec())])
            .await
            .expect("appends");
        journal.close().await.expect("closes");
    }
}

#[tokio::test]
async fn segments_are_filled_one_after_another() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let config = config(dir.path());
    let (journal, _) = Journal::open(&config).expect("opens");
    for i in 0..100 {
        journal
            .append(vec![record(vec![i; 8000])])
            .await
            .expect("appends");
    }
    journal.close().await.expect("closes");
    let (journal, recovered) = Journal::open(&config).expect("opens");
    assert_eq!(
        (recovered.records.len(), recovered.corruption),
        (100, vec![])
    );
    journal.close().await.expect("closes");
}

#[tokio::test]
async fn a_second_agent_is_refused_and_told_by_whom() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let config = config(dir.path());
    let (journal, _) = Journal::open(&config).expect("opens");
    match Journal::open(&config) {
        Err(JournalError::Locked { pid, .. }) => assert_eq!(pid, Some(std::process::id())),
        other => panic!("{other:?}"),
    }
    journal.close().await.expect("closes");
    let (journal, _) = Journal::open(&config).expect("free again");
    journal.close().await.expect("closes");
}

#[tokio::test]
async fn a_reader_sees_what_a_running_agent_has_written() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let config = config(dir.path());
    let (journal, _) = Journal::open(&config).expect("opens");
    let writer = journal.clone();
    let task = tokio::spawn(async move {
        for i in 0..200_u32 {
            let meta = SnapshotMeta {
                kind: 1,
                episode: [0; 16],
            };
            writer
                .append(vec![record(i.to_le_bytes().to_vec())])
                .await
                .expect("appends");
            if i % 10 == 0 {
                let bytes = Bytes::from(vec![i as u8; 10_000]);
                writer.store_snapshot(meta, bytes).await.expect("stores");
            }
        }
    });
    let mut before = 0;
    while !task.is_finished() {
        let opened = tokio::task::spawn_blocking({
            let dir = config.dir.clone();
            move || Reader::open(&dir)
        });
        let reader = opened.await.expect("ends").expect("reads");
        let recovered = reader.recovered();
        assert_eq!(recovered.corruption, []);
        assert!(recovered.records.len() >= before, "a record disappeared");
        before = recovered.records.len();
        for (i, (lsn, _, record)) in recovered.records.iter().enumerate() {
            assert_eq!(lsn.0, i as u64 + 1);
            assert_eq!(record.payload[..], (i as u32).to_le_bytes());
        }
        for (reference, _) in &recovered.snapshots {
            assert_eq!(reader.snapshot(reference).expect("reads").len(), 10_000);
        }
    }
    task.await.expect("ends");
    assert_eq!(
        Reader::open(&config.dir)
            .expect("reads")
            .recovered()
            .records
            .len(),
        200
    );
    journal.close().await.expect("closes");
    let stopped = Reader::open(&config.dir)
        .expect("reads a stopped one")
        .into_recovered();
    assert_eq!((stopped.records.len(), stopped.snapshots.len()), (200, 20));
    let mut wrong = stopped.snapshots[3].0;
    wrong.offset += 4096;
    assert!(matches!(
        read_snapshot(&config.dir, &wrong),
        Err(JournalError::Snapshot {
            damage: Damage::RecordChecksum | Damage::Malformed,
            ..
        })
    ));
}

#[tokio::test]
async fn a_torn_tail_is_cut_reported_and_written_past() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let config = config(dir.path());
    let (journal, _) = Journal::open(&config).expect("opens");
    for i in 0..4 {
        journal
            .append(vec![record(vec![i; 100])])
            .await
            .expect("appends");
    }
    journal.close().await.expect("closes");
    let path = config.dir.join("fast-0000000000000001.seg");
    let mut image = std::fs::read(&path).expect("reads");
    image[4 * 4096 + 150] ^= 4;
    std::fs::write(&path, image).expect("writes");
    let (journal, recovered) = Journal::open(&config).expect("opens");
    assert_eq!(recovered.corruption, []);
    let [cut] = &recovered.cuts[..] else {
        panic!("{:?}", recovered.cuts)
    };
    assert_eq!(
        (cut.segment, cut.offset, cut.reason),
        (1, 4 * 4096, Damage::BodyChecksum)
    );
    assert_eq!(recovered.records.len(), 3);
    assert_eq!(
        journal
            .append(vec![record(vec![9])])
            .await
            .expect("appends"),
        Lsn(4)
    );
    journal.close().await.expect("closes");
    let (journal, recovered) = Journal::open(&config).expect("opens");
    assert_eq!(
        (recovered.records.len(), recovered.cuts),
        (4, vec![]),
        "reported once"
    );
    assert_eq!(recovered.records[3].2, record(vec![9]));
    journal.close().await.expect("closes");
}

#[tokio::test]
async fn the_outcome_of_direct_io_is_reported() {
    for base in ["/dev/shm".as_ref(), std::env::temp_dir().as_path()] as [&Path; 2] {
        let Ok(dir) = tempfile::tempdir_in(base) else {
            println!("skipped: {} is not writable", base.display());
            continue;
        };
        let (journal, _) = Journal::open(&config(dir.path())).expect("opens");
        let meta = SnapshotMeta {
            kind: 0,
            episode: [0; 16],
        };
        journal
            .store_snapshot(meta, Bytes::from_static(b"x"))
            .await
            .expect("stores");
        let direct = journal.stats().safe.expect("writable").direct_io;
        println!("{}: {direct:?}", base.display());
        assert_ne!(direct, DirectIo::NotWanted);
        journal.close().await.expect("closes");
    }
}

#[tokio::test]
async fn limits_are_refused_before_anything_is_written() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let bad = JournalConfig {
        segments_ahead: 0,
        deadline_ms: 0,
        ..config(dir.path())
    };
    match Journal::open(&bad) {
        Err(JournalError::Config { problems }) => assert_eq!(problems.len(), 2, "{problems:?}"),
        other => panic!("{other:?}"),
    }
    assert!(!bad.dir.exists());
    let (journal, _) = Journal::open(&config(dir.path())).expect("opens");
    let large = journal.append(vec![record(vec![0; (16 << 10) + 1])]).await;
    assert!(
        matches!(large, Err(JournalError::TooLarge { .. })),
        "{large:?}"
    );
    let many = journal
        .append((0..9).map(|_| record(vec![0; 16 << 10])).collect())
        .await;
    assert!(
        matches!(many, Err(JournalError::TooLarge { .. })),
        "{many:?}"
    );
    assert!(matches!(
        journal.append(vec![]).await,
        Err(JournalError::Empty)
    ));
    let clone = journal.clone();
    journal.close().await.expect("closes");
    let closed = clone.append(vec![record(vec![])]).await;
    assert!(
        matches!(closed, Err(JournalError::Closed { .. })),
        "{closed:?}"
    );
    assert_eq!(clone.health(), JournalHealth::Writable);
}

#[test]
fn the_default_configuration_is_valid_and_unknown_keys_are_refused() {
    JournalConfig::default().validate().expect("valid");
    let parsed: JournalConfig = serde_json::from_str(r#"{"dir":"/x"}"#).expect("parses");
    assert_eq!(parsed.fast_segment_bytes, 16 << 20);
    assert!(serde_json::from_str::<JournalConfig>(r#"{"dirr":"/x"}"#).is_err());
}
