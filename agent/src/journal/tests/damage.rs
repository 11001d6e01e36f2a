//! Damage from outside: every flip, every truncation, every zeroed end, blocks in wrong places.

use super::super::LaneId;
use super::super::block::sim::SimDisk;
use super::super::format::{BatchHeader, Damage};
use super::super::recover::Scan;
use super::{Lsn, Seen, commit, look, open};

const BLOCK: usize = 4096;
const SEGMENT: usize = 4 * BLOCK;

/// Four segments of four blocks: header and batches of 1 and 2 blocks; header, batch, fence,
/// batch; header, batch, fence, and a free block; one prepared and never begun. With history, there
/// were two more before these, of which retention has given up one.
struct Sample {
    disk: SimDisk,
    names: Vec<String>,
    images: Vec<Vec<u8>>,
    seen: Vec<Seen>,
}

fn samples() -> [Sample; 2] {
    [sample(false), sample(true)]
}

fn sample(history: bool) -> Sample {
    let disk = SimDisk::new(3);
    let mut lane = open(&disk, LaneId::Fast, SEGMENT as u64)
        .expect("opens")
        .lane
        .expect("writable");
    if history {
        commit(&mut lane, &[vec![0; 11_000]]).expect("commits");
        commit(&mut lane, &[vec![9; 11_000]]).expect("commits");
    }
    commit(&mut lane, &[vec![1; 100], vec![2; 50]]).expect("commits");
    lane.retention().retain(Lsn(2));
    commit(&mut lane, &[vec![3; 5000]]).expect("commits");
    commit(&mut lane, &[vec![4; 300]]).expect("commits");
    let removed = lane.retention().remove(&disk).expect("removes");
    assert_eq!(removed, usize::from(history));
    drop(lane);
    let mut lane = open(&disk, LaneId::Fast, SEGMENT as u64)
        .expect("opens")
        .lane
        .expect("writable");
    // The fence took one block, this takes the last: the tail is exactly full.
    commit(&mut lane, &[vec![5; 700], vec![6; 1]]).expect("commits");
    drop(lane);
    let mut lane = open(&disk, LaneId::Fast, SEGMENT as u64)
        .expect("opens")
        .lane
        .expect("writable");
    commit(&mut lane, &[vec![7; 90], vec![8; 900]]).expect("commits");
    drop(lane);
    drop(open(&disk, LaneId::Fast, SEGMENT as u64).expect("opens"));
    let (scan, seen) = look(&disk, LaneId::Fast).expect("reads");
    assert!(scan.corruption.is_none() && scan.cuts.is_empty());
    let more = usize::from(history);
    assert_eq!((seen.len(), disk.names().len()), (8 + more, 4 + more));
    let names = disk.names();
    let images = names.iter().map(|name| disk.peek(name)).collect();
    Sample {
        disk,
        names,
        images,
        seen,
    }
}

impl Sample {
    fn segments(&self) -> impl Iterator<Item = (&Self, (usize, &Vec<u8>))> {
        self.images
            .iter()
            .enumerate()
            .map(move |image| (self, image))
    }

    /// Scans with file `which` replaced, and puts it back.
    fn with(&self, which: usize, image: Vec<u8>) -> (Scan, Vec<Seen>) {
        self.disk.poke(&self.names[which], image);
        let result = look(&self.disk, LaneId::Fast).expect("reads");
        self.disk
            .poke(&self.names[which], self.images[which].clone());
        result
    }

    fn check(&self, found: &(Scan, Vec<Seen>), what: &str) -> bool {
        let (scan, seen) = found;
        assert!(seen.len() <= self.seen.len(), "{what}: a phantom");
        assert_eq!(seen, &self.seen[..seen.len()], "{what}: not a prefix");
        // Only the very last batch can be mistaken for a torn tail.
        if seen.len() < self.seen.len() - 2 {
            assert!(
                scan.corruption.is_some(),
                "{what}: a middle record silently gone"
            );
        }
        scan.corruption.is_some() || !scan.cuts.is_empty()
    }
}

#[test]
fn every_flipped_bit_is_reported() {
    let samples = samples();
    let mut flips = 0;
    for (sample, (which, image)) in samples.iter().flat_map(Sample::segments) {
        for at in 0..image.len() {
            // Every bit of the headers, one of every other byte.
            let bits = if at % BLOCK < 256 {
                0..8
            } else {
                at % 8..at % 8 + 1
            };
            for bit in bits {
                let mut bad = image.clone();
                bad[at] ^= 1 << bit;
                let found = sample.with(which, bad);
                let what = format!("segment {which} byte {at} bit {bit}");
                assert!(sample.check(&found, &what), "{what}: not reported");
                flips += 1;
            }
        }
    }
    println!("journal: {flips} flipped bits, each reported");
}

#[test]
fn every_truncation_is_reported() {
    let samples = samples();
    let mut cases = 0;
    for (sample, (which, image)) in samples.iter().flat_map(Sample::segments) {
        let begun = image.iter().any(|b| *b != 0);
        for len in 0..image.len() {
            let found = sample.with(which, image[..len].to_vec());
            let what = format!("segment {which} truncated to {len}");
            let reported = sample.check(&found, &what);
            // A prepared segment that shrank has lost nothing.
            assert!(reported || !begun, "{what}: not reported");
            cases += 1;
        }
    }
    println!("journal: {cases} truncations, each reported");
}

#[test]
fn every_zeroed_end_is_reported() {
    let samples = samples();
    for (sample, (which, image)) in samples.iter().flat_map(Sample::segments) {
        for from in 0..image.len() {
            let mut bad = image.clone();
            bad[from..].fill(0);
            if bad == *image {
                continue;
            }
            let found = sample.with(which, bad);
            let what = format!("segment {which} zeroed from {from}");
            let reported = sample.check(&found, &what);
            // Where nothing of the last batch is left, nothing can tell: a log's own end is the
            // one thing that it can't check. (Only a copy elsewhere could.)
            let first = image[from..]
                .iter()
                .position(|b| *b != 0)
                .map_or(0, |at| from + at);
            let whole_blocks = first % BLOCK == 0;
            let tail = which == sample.names.len() - 2;
            assert!(reported || (tail && whole_blocks), "{what}: not reported");
        }
    }
}

#[test]
fn blocks_in_wrong_places_are_reported() {
    let sample = sample(false);
    let blocks = SEGMENT / BLOCK;
    let block = |image: &[u8], i: usize| image[i * BLOCK..(i + 1) * BLOCK].to_vec();
    let mut moves = 0;
    for (from_file, from) in pairs(sample.images.len(), blocks) {
        for (which, to) in pairs(sample.images.len(), blocks) {
            let copy = block(&sample.images[from_file], from);
            let mut bad = sample.images[which].clone();
            if copy == block(&bad, to) || copy.iter().all(|b| *b == 0) {
                continue;
            }
            bad[to * BLOCK..(to + 1) * BLOCK].copy_from_slice(&copy);
            let found = sample.with(which, bad);
            let what = format!("block {from} of {from_file} written over {to} of {which}");
            assert!(sample.check(&found, &what), "{what}: not reported");
            moves += 1;
        }
    }
    println!("journal: {moves} misdirected blocks, each reported");
    assert!(moves > 50);
}

fn pairs(files: usize, blocks: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..files).flat_map(move |file| (0..blocks).map(move |block| (file, block)))
}

/// A batch of another life, valid in itself, of the same log, at its own place, with the LSN and
/// the epoch that are expected there: only the chain of checksums tells it apart.
#[test]
pub(super) fn a_stale_batch_is_not_taken_for_new() {
    let disk = SimDisk::new(5);
    let open = || {
        let opened = open(&disk, LaneId::Fast, SEGMENT as u64).expect("opens");
        opened.lane.expect("writable")
    };
    commit(&mut open(), &[vec![1; 10]]).expect("commits");
    let name = disk.names()[0].clone();
    let before = disk.peek(&name);
    // One life: header, batch, fence, batch.
    commit(&mut open(), &[vec![2; 10]]).expect("commits");
    let stale = disk.peek(&name);
    // Another from the same beginning: header, batch, fence, and there the stale batch.
    disk.poke(&name, before);
    drop(open());
    let mut image = disk.peek(&name);
    assert!(
        image[2 * BLOCK..3 * BLOCK] != stale[2 * BLOCK..3 * BLOCK],
        "fences bear their time"
    );
    image[3 * BLOCK..].copy_from_slice(&stale[3 * BLOCK..]);
    disk.poke(&name, image);
    let (scan, seen) = look(&disk, LaneId::Fast).expect("reads");
    assert_eq!((scan.corruption, seen), (None, vec![(1, vec![1; 10])]));
    assert_eq!(scan.cuts.len(), 1);
    assert_eq!(scan.cuts[0].reason, Damage::Chain);
}

/// Every field that ties a batch to its place is checked by itself: with all checksums made right
/// again, one wrong field is enough.
#[test]
pub(super) fn every_field_of_a_batch_header_counts() {
    type Change = fn(&mut BatchHeader);
    let cases: [(&str, Damage, Change); 9] = [
        ("uuid", Damage::Misplaced, |h| h.log_uuid[3] ^= 1),
        ("segment", Damage::Misplaced, |h| h.seq += 1),
        ("offset", Damage::Misplaced, |h| h.offset += BLOCK as u64),
        ("older epoch", Damage::Misplaced, |h| h.epoch -= 1),
        ("newer epoch", Damage::Misplaced, |h| h.epoch += 1),
        ("chain", Damage::Chain, |h| h.prev_check += 1),
        ("lsn", Damage::Chain, |h| h.first_lsn += 1),
        ("number", Damage::Chain, |h| h.batch_no += 1),
        ("count", Damage::Malformed, |h| h.count += 1),
    ];
    let disk = SimDisk::new(3);
    let opened = open(&disk, LaneId::Fast, SEGMENT as u64).expect("opens");
    let mut lane = opened.lane.expect("writable");
    commit(&mut lane, &[vec![1; 100]]).expect("commits");
    commit(&mut lane, &[vec![2; 100]]).expect("commits");
    let name = disk.names()[0].clone();
    let image = disk.peek(&name);
    for (field, reason, change) in cases {
        let mut bad = image.clone();
        let batch = &mut bad[2 * BLOCK..3 * BLOCK];
        let mut header = BatchHeader::decode(batch).expect("valid");
        change(&mut header);
        header.seal(batch);
        disk.poke(&name, bad);
        let (scan, seen) = look(&disk, LaneId::Fast).expect("reads");
        assert_eq!((scan.corruption, seen.len()), (None, 1), "{field}");
        assert_eq!(scan.cuts[0].reason, reason, "{field}");
    }
}
