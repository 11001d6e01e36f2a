//! A fuzzer of the decoder, under plain stable Rust: logs of the corpus are cut up, overwritten,
//! spliced and (most of them) given valid checksums again, so that it is the rules behind the
//! checksums that are tried. Each is read by the real reader and by another one written from the
//! documentation (`oracle.rs`); they must agree, and what is readable must be writable.
//!
//! Deterministic: `PARAMEDIC_SEEDS` says how many logs. A log with a new kind of result joins the
//! corpus of the run, so that later ones go deeper. A log that shows a bug is written to the
//! temporary folder; add it to `corpus/` with the fix.

mod mutate;
mod oracle;

use std::collections::BTreeSet;

use super::super::block::sim::{Rng, SimDisk};
use super::super::block::{Access, Disk};
use super::super::recover::Scan;
use super::super::{LaneId, store};
use super::{Seen, commit, look, open, submit};
use mutate::mutate;
use oracle::{Files, Verdict};

/// Where the corpus lies, seen from the package's folder, in which cargo runs tests.
const CORPUS: &str = "src/journal/corpus";
/// Logs that a run may add to its corpus.
const GROWN_MAX: usize = 2_000;
/// Length of the segments that a readable log is continued with.
const SEGMENT: u64 = 4 * 4096;

/// A file is: for each segment its number, its length, and the runs of bytes that are not zero.
fn pack(files: &Files) -> Vec<u8> {
    let mut out = Vec::new();
    for (seq, bytes) in files {
        let runs: Vec<_> = bytes
            .chunks(64)
            .enumerate()
            .filter(|(_, run)| run.iter().any(|byte| *byte != 0))
            .collect();
        for number in [*seq, bytes.len() as u64, runs.len() as u64] {
            out.extend(number.to_le_bytes());
        }
        for (at, run) in runs {
            out.extend((at as u64 * 64).to_le_bytes());
            out.extend((run.len() as u64).to_le_bytes());
            out.extend(run);
        }
    }
    out
}

fn unpack(mut packed: &[u8]) -> Files {
    let number = |packed: &mut &[u8]| {
        let (head, rest) = packed.split_at(8);
        *packed = rest;
        u64::from_le_bytes(head.try_into().unwrap())
    };
    let mut files = Files::new();
    while !packed.is_empty() {
        let [seq, len, runs] = [(); 3].map(|()| number(&mut packed));
        let mut bytes = vec![0; len as usize];
        for _ in 0..runs {
            let [at, len] = [(); 2].map(|()| number(&mut packed) as usize);
            let (run, rest) = packed.split_at(len);
            bytes[at..at + len].copy_from_slice(run);
            packed = rest;
        }
        files.insert(seq, bytes);
    }
    files
}

fn corpus() -> Vec<Files> {
    let mut paths: Vec<_> = std::fs::read_dir(CORPUS)
        .expect("the corpus")
        .map(|entry| entry.expect("reads").path())
        .collect();
    paths.sort();
    assert!(paths.len() >= 6, "the corpus is not all here: {paths:?}");
    let read = |path| unpack(&std::fs::read(path).expect("reads"));
    paths.into_iter().map(read).collect()
}

fn put(files: &Files) -> SimDisk {
    let disk = SimDisk::new(1);
    for (seq, bytes) in files {
        let name = store::segment_name(LaneId::Fast, *seq);
        drop(disk.create(&name).expect("creates"));
        disk.poke(&name, bytes.clone());
    }
    disk
}

fn verdict(scan: &Scan, seen: Vec<Seen>) -> Verdict {
    Verdict {
        records: seen,
        corrupt: scan.corruption.is_some(),
        cut: !scan.cuts.is_empty(),
    }
}

/// Reads a log both ways; what kind of result it was, for telling a new kind.
fn judge(files: &Files, nth: u64) -> String {
    let disk = put(files);
    let (scan, seen) = look(&disk, LaneId::Fast).expect("reads");
    let kind = format!(
        "{} records, {:?}, {:?}, {} unused, {} torn, {} given up, epoch {}",
        seen.len(),
        scan.cuts.first().map(|cut| cut.reason),
        scan.corruption
            .as_ref()
            .map(|bad| (bad.reason, bad.valid_beyond.is_some())),
        scan.unused.len(),
        scan.torn_headers.len(),
        scan.obsolete.len(),
        scan.link.epoch.min(4),
    );
    let mut real = verdict(&scan, seen);
    let mut other = oracle::read(files);
    if real.corrupt && other.corrupt {
        // What is wrong with a log has an end; how much of it is still told is not promised.
        (real.cut, other.cut) = (false, false);
    }
    assert!(
        real == other,
        "log {nth}: {real:?}\nby the documentation: {other:?}"
    );
    if !real.corrupt && nth.is_multiple_of(4) {
        go_on(&disk, &real.records, nth);
    }
    kind
}

/// A log that reads well takes another record, and shows it after a power cut.
fn go_on(disk: &SimDisk, before: &[Seen], nth: u64) {
    let opened = open(disk, LaneId::Fast, SEGMENT).expect("opens");
    let mut lane = opened.lane.expect("no corruption");
    commit(&mut lane, &[b"and on".to_vec()]).expect("commits");
    drop(lane);
    disk.power_cycle();
    let (scan, seen) = look(disk, LaneId::Fast).expect("reads");
    assert_eq!(scan.corruption, None, "log {nth}, gone on with");
    let (last, rest) = seen.split_last().expect("one at least");
    assert_eq!((rest, &last.1[..]), (before, &b"and on"[..]), "log {nth}");
}

/// Tries `logs` of them; the number of kinds of results.
fn hunt(logs: u64) -> usize {
    let mut pool = corpus();
    let mut kinds = BTreeSet::new();
    for (nth, files) in pool.iter().enumerate() {
        kinds.insert(judge(files, nth as u64));
    }
    let mut rng = Rng(7);
    for nth in 0..logs {
        let mut files = pool[rng.below(pool.len())].clone();
        for _ in 0..=rng.below(3) {
            let other = rng.below(pool.len());
            mutate(&mut files, &pool[other], &mut rng);
        }
        let result = std::panic::catch_unwind(|| judge(&files, nth));
        match result {
            Ok(kind) => {
                if pool.len() < GROWN_MAX && kinds.insert(kind) {
                    pool.push(files);
                }
            }
            Err(why) => {
                let path = std::env::temp_dir().join(format!("journal-fuzz-{nth}.seed"));
                if super::mutation::none() {
                    std::fs::write(&path, pack(&files)).expect("writes");
                    println!("the log that shows it: {}", path.display());
                }
                std::panic::resume_unwind(why);
            }
        }
    }
    kinds.len()
}

#[test]
fn both_readers_agree_about_every_log() {
    let seeds = std::env::var("PARAMEDIC_SEEDS");
    let logs = seeds.ok().and_then(|n| n.parse().ok()).unwrap_or(10_000);
    let kinds = hunt(logs);
    println!("journal: {logs} forged logs, {kinds} kinds of results, two readers agree on each");
    assert!(kinds > 100 || logs < 10_000, "{kinds} kinds only");
}

/// For `mutation.rs`: must fail when a rule is left out of the real reader.
pub(super) fn short_hunt() {
    hunt(20_000);
}

#[test]
fn the_corpus_survives_packing() {
    for files in corpus() {
        assert!(unpack(&pack(&files)) == files);
    }
}

fn files_of(disk: &SimDisk) -> Files {
    let seq = |name: &String| {
        let digits = name.strip_prefix("fast-")?.strip_suffix(".seg")?;
        u64::from_str_radix(digits, 16).ok()
    };
    let names = disk.names();
    names
        .iter()
        .filter_map(|name| Some((seq(name)?, disk.peek(name))))
        .collect()
}

/// Takes little room in the corpus.
fn mostly_zeros(nth: u8, len: usize) -> Vec<u8> {
    let mut payload = vec![0; len];
    payload
        .iter_mut()
        .step_by(1500)
        .for_each(|byte| *byte = nth + 1);
    payload
}

/// Small logs of every shape that the writer makes.
fn shapes() -> Vec<(&'static str, Files)> {
    let lane = |disk: &SimDisk, len| {
        open(disk, LaneId::Fast, len)
            .expect("opens")
            .lane
            .expect("writable")
    };
    let mut shapes = Vec::new();
    let disk = SimDisk::new(1);
    drop(lane(&disk, SEGMENT));
    shapes.push(("new", files_of(&disk)));
    let mut writer = lane(&disk, SEGMENT);
    commit(&mut writer, &[vec![1; 100], vec![], vec![2; 50]]).expect("commits");
    shapes.push(("one-batch", files_of(&disk)));
    for nth in 0..6 {
        commit(
            &mut writer,
            &[mostly_zeros(nth, 3000 * usize::from(nth % 3))],
        )
        .expect("commits");
    }
    shapes.push(("segments", files_of(&disk)));
    writer.retention().retain(super::Lsn(5));
    for nth in 0..3 {
        commit(&mut writer, &[mostly_zeros(nth, 8000)]).expect("commits");
    }
    shapes.push(("given-up-files-there", files_of(&disk)));
    writer.retention().remove(&disk).expect("removes");
    drop(writer);
    drop(lane(&disk, SEGMENT));
    drop(lane(&disk, SEGMENT));
    shapes.push(("fences", files_of(&disk)));
    let disk = SimDisk::new(2);
    let mut writer = lane(&disk, 2 * SEGMENT);
    for nth in 0..4 {
        commit(&mut writer, &[vec![nth; 200]]).expect("commits");
    }
    drop(writer);
    let name = store::segment_name(LaneId::Fast, 1);
    let mut torn = disk.peek(&name);
    torn[4 * 4096 + 300] ^= 1;
    disk.poke(&name, torn);
    shapes.push(("torn-tail", files_of(&disk)));
    commit(&mut lane(&disk, 2 * SEGMENT), &[vec![9; 20]]).expect("commits");
    shapes.push(("sealed-tail", files_of(&disk)));
    shapes.push(("four-in-flight", in_flight()));
    let disk = SimDisk::new(4);
    disk.set_direct(super::super::DirectIo::Used { alignment: 8192 });
    let mut safe = open(&disk, LaneId::Safe, 1 << 17)
        .expect("opens")
        .lane
        .expect("writable");
    commit(&mut safe, &[mostly_zeros(3, 9000)]).expect("commits");
    let file = disk
        .open("safe-0000000000000001.seg", Access::Read)
        .expect("opens");
    let mut bytes = vec![0; 4 * 8192];
    file.read_at(&mut bytes, 0).expect("reads");
    // The same log as the fast lane would write it on such a device.
    bytes[18] = 0;
    mutate::reseal_all(&mut bytes);
    shapes.push(("large-granule", Files::from([(1, bytes)])));
    shapes
}

/// A safe lane's segment with four in flight, of which the second was lost, renamed to the fast lane.
fn in_flight() -> Files {
    let disk = SimDisk::new(3);
    disk.set_several(true);
    let mut lane = open(&disk, LaneId::Safe, 2 * SEGMENT)
        .expect("opens")
        .lane
        .expect("writable");
    for nth in 0..4 {
        submit(&mut lane, &[vec![nth; 500]]).expect("submits");
    }
    while lane
        .reap(super::super::engine::Wait::Done)
        .expect("writes")
        .is_some()
    {}
    let mut bytes = disk.peek("safe-0000000000000001.seg");
    bytes[18] = 0;
    mutate::reseal_all(&mut bytes);
    bytes[2 * 4096 + 200] ^= 1;
    Files::from([(1, bytes)])
}

#[test]
#[ignore = "writes the corpus; for a new version of the format, or a new shape"]
fn write_corpus() {
    std::fs::create_dir_all(CORPUS).expect("creates");
    for (name, files) in shapes() {
        judge(&files, 1);
        std::fs::write(format!("{CORPUS}/{name}.seed"), pack(&files)).expect("writes");
    }
}
