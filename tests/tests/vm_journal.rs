//! The journal on full filesystems: real ones, in the VM.

use std::{
    fs::{self, File},
    os::fd::AsFd,
    path::{Path, PathBuf},
    time::Duration,
};

use paramedic::journal::{Journal, JournalConfig, JournalError, JournalHealth, Record};
use rustix::{
    fs::{FallocateFlags, fallocate, statvfs},
    mount::{MountFlags, UnmountFlags, mount, unmount},
};

/// Half of the journal's limits are megabytes: small segments for small disks.
fn config(dir: &Path) -> JournalConfig {
    JournalConfig {
        dir: dir.join("journal"),
        fast_segment_bytes: 256 << 10,
        safe_segment_bytes: 256 << 10,
        fast_keep_bytes: 1 << 30,
        safe_keep_bytes: 1 << 30,
        segments_ahead: 1,
        outcome_reserve_bytes: 64 << 10,
        record_bytes_max: 32 << 10,
        snapshot_bytes_max: 32 << 10,
        batch_bytes_max: 64 << 10,
        queue_bytes_max: 1 << 20,
        space_retry_ms: 20,
        writer_nice: 0,
        ..JournalConfig::default()
    }
}

fn record(n: u32) -> Record {
    let mut payload = vec![0x5A; 20_000];
    payload[..4].copy_from_slice(&n.to_le_bytes());
    Record {
        kind: 1,
        episode: [0; 16],
        payload: payload.into(),
    }
}

/// Fills up, keeps the reserve, records outcomes, gets space, goes on; all of it is there after.
async fn full_and_back(dir: &Path, make_room: impl FnOnce()) {
    let (journal, _) = Journal::open(&config(dir)).expect("opens");
    let mut n = 0;
    let full = loop {
        match journal.append(vec![record(n)]).await {
            Ok(_) => n += 1,
            Err(error) => break error,
        }
        assert!(n < 5000, "never full");
    };
    assert!(matches!(full, JournalError::Full { .. }), "{full}");
    assert!(matches!(journal.health(), JournalHealth::Full { .. }));
    for _ in 0..2 {
        let outcome = journal.append_outcome(vec![record(n)]).await;
        outcome.expect("the reserve is for outcomes");
        n += 1;
    }
    make_room();
    let mut waited = 0;
    while let Err(error) = journal.append(vec![record(n)]).await {
        assert!(matches!(error, JournalError::Full { .. }), "{error}");
        waited += 1;
        assert!(waited < 500, "never recovers");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    n += 1;
    assert_eq!(journal.health(), JournalHealth::Writable);
    journal.close().await.expect("closes");
    let (journal, recovered) = Journal::open(&config(dir)).expect("opens");
    assert_eq!((recovered.corruption, recovered.cuts), (vec![], vec![]));
    let found: Vec<u32> = recovered
        .records
        .iter()
        .map(|(_, _, record)| u32::from_le_bytes(record.payload[..4].try_into().expect("4")))
        .collect();
    assert_eq!(found, (0..n).collect::<Vec<_>>());
    println!("{n} records, full and back");
    journal.close().await.expect("closes");
}

/// Takes all but `left` bytes of a filesystem.
fn ballast(dir: &Path, left: u64) -> PathBuf {
    let path = dir.join("ballast");
    let file = File::create(&path).expect("creates");
    let free = statvfs(dir).expect("statvfs");
    let bytes = (free.f_bavail * free.f_frsize).saturating_sub(left);
    fallocate(file.as_fd(), FallocateFlags::empty(), 0, bytes).expect("allocates");
    path
}

#[tokio::test]
async fn a_tiny_tmpfs() {
    let dir = PathBuf::from("/run/tiny");
    fs::create_dir_all(&dir).expect("creates");
    mount("tiny", &dir, "tmpfs", MountFlags::empty(), Some(c"size=4m")).expect("mounts");
    let filler = ballast(&dir, 3 << 20);
    full_and_back(&dir, || fs::remove_file(filler).expect("removes")).await;
    unmount(&dir, UnmountFlags::empty()).expect("unmounts");
}

#[tokio::test]
async fn a_full_ext4() {
    let dir = PathBuf::from("/run/disk/full");
    fs::create_dir_all(&dir).expect("creates");
    let filler = ballast(&dir, 3 << 20);
    full_and_back(&dir, || fs::remove_file(filler).expect("removes")).await;
}
