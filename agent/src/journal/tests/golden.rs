//! A log written by version 1, byte for byte: what is on people's disks must stay readable.

use super::super::LaneId;
use super::super::block::sim::SimDisk;
use super::super::format::{BatchHeader, Damage, SegmentHeader, SegmentState, decode_batch};
use super::super::repair::repair_lane;
use super::look;

const V1: &[u8] = include_bytes!("../golden/v1.seg");

#[test]
fn version_1_is_read() {
    let disk = SimDisk::new(1);
    let name = "fast-0000000000000001.seg";
    let file = super::Disk::create(&disk, name).expect("creates");
    file.write_at(V1, 0).expect("writes");
    let (scan, seen) = look(&disk, LaneId::Fast).expect("reads");
    assert_eq!((scan.corruption, scan.cuts), (None, vec![]));
    let expected = [
        (1, b"accepted".to_vec()),
        (2, vec![]),
        (3, vec![0xA5; 5000]),
    ];
    assert_eq!(seen, expected);
    assert_eq!(scan.uuid, Some([7; 16]));
}

/// Makes the file above: one segment of five blocks with two batches and a fence between them.
#[test]
#[ignore = "writes the golden file of the current version; for a new version only"]
fn write_golden_file() {
    let disk = SimDisk::new(1);
    let open = || {
        super::open(&disk, LaneId::Fast, 6 * 4096)
            .expect("opens")
            .lane
            .expect("new")
    };
    super::commit(&mut open(), &[b"accepted".to_vec(), vec![]]).expect("commits");
    super::commit(&mut open(), &[vec![0xA5; 5000]]).expect("commits");
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/src/journal/golden/v1.seg");
    std::fs::write(path, disk.peek("fast-0000000000000001.seg")).expect("writes");
}

#[test]
fn a_newer_version_is_named_not_guessed() {
    let mut block = V1[..4096].to_vec();
    let SegmentState::Valid(header) = SegmentHeader::decode(&block) else {
        panic!("golden")
    };
    header.encode(&mut block);
    assert!(matches!(
        SegmentHeader::decode(&block),
        SegmentState::Valid(_)
    ));
    block[16] = 2;
    let check = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc64Nvme, &block[16..]);
    block[8..16].copy_from_slice(&check.to_le_bytes());
    let state = SegmentHeader::decode(&block);
    assert!(
        matches!(state, SegmentState::Invalid(Damage::Version(2))),
        "{state:?}"
    );
}

proptest::proptest! {
    /// No decoder panics or allocates by what a forged header claims.
    #[test]
    fn decoders_survive_any_bytes(bytes in proptest::collection::vec(0_u8.., 0..600),
                                  magic in 0..3_usize) {
        let mut bytes = bytes;
        let magics: [&[u8]; 3] = [b"", b"PMDC-SEG", b"PMDC-BAT"];
        if bytes.len() >= 8 {
            bytes[..magics[magic].len()].copy_from_slice(magics[magic]);
        }
        let segment = matches!(SegmentHeader::decode(&bytes), SegmentState::Valid(_));
        let batch = BatchHeader::decode(&bytes).is_ok();
        proptest::prop_assert!(!segment && !batch, "600 random bytes passed a checksum");
        if let Ok((header, _)) = <BatchHeader as zerocopy::FromBytes>::read_from_prefix(&bytes) {
            drop(decode_batch(&header, &bytes));
        }
    }
    /// A whole log whose bytes were copied about, overwritten and, some of them, given valid checks
    /// again: recovery and repair come to an end without a panic, whatever the forger wrote.
    #[test]
    fn a_forged_log_is_read_and_repaired(changes in proptest::collection::vec(change(), 1..12)) {
        let mut image = V1.to_vec();
        for change in &changes {
            change.apply(&mut image);
        }
        let disk = SimDisk::new(1);
        for name in ["fast-0000000000000001.seg", "fast-0000000000000002.seg"] {
            let file = super::Disk::create(&disk, name).expect("creates");
            file.write_at(&image, 0).expect("writes");
        }
        let _found = look(&disk, LaneId::Fast).expect("reads");
        let shared: std::sync::Arc<dyn super::Disk> = std::sync::Arc::new(disk.clone());
        // Numbers at their very end can't be continued: an error, not a panic.
        if repair_lane(&shared, LaneId::Fast, false).is_ok() {
            let (scan, _) = look(&disk, LaneId::Fast).expect("reads");
            proptest::prop_assert!(scan.corruption.is_none(), "{:?}", scan.corruption);
        }
    }
}

#[derive(Clone, Debug)]
enum Change {
    Copy { from: usize, to: usize, len: usize },
    Set { at: usize, value: u64 },
    Reseal { block: usize },
    Truncate { len: usize },
}

fn change() -> impl proptest::strategy::Strategy<Value = Change> {
    use proptest::prelude::*;
    let blocks = V1.len() / 4096;
    // Where the fields are, more often than anywhere.
    let at = prop_oneof![
        (0..blocks, 0..16_usize).prop_map(|(block, word)| block * 4096 + word * 8),
        0..V1.len() - 8,
    ];
    let value = prop_oneof![
        Just(0),
        Just(1),
        Just(u64::MAX),
        Just(u64::MAX - 1),
        Just(1 << 32),
        Just(4096),
        any::<u64>(),
    ];
    prop_oneof![
        (0..blocks, 0..blocks, 1..9000_usize).prop_map(|(from, to, len)| Change::Copy {
            from: from * 4096,
            to: to * 4096,
            len
        }),
        (at, value).prop_map(|(at, value)| Change::Set { at, value }),
        (0..blocks).prop_map(|block| Change::Reseal { block }),
        (0..V1.len()).prop_map(|len| Change::Truncate { len }),
    ]
}

impl Change {
    fn apply(&self, image: &mut Vec<u8>) {
        match *self {
            Self::Copy { from, to, len } => {
                let len = len
                    .min(image.len().saturating_sub(from))
                    .min(image.len().saturating_sub(to));
                if len > 0 {
                    image.copy_within(from..from + len, to);
                }
            }
            Self::Set { at, value } => {
                if let Some(place) = image.get_mut(at..at + 8) {
                    place.copy_from_slice(&value.to_le_bytes());
                }
            }
            Self::Reseal { block } => reseal(image, block * 4096),
            Self::Truncate { len } => image.truncate(len),
        }
    }
}

/// Gives whatever header stands at `at` valid checks.
fn reseal(image: &mut [u8], at: usize) {
    use zerocopy::FromBytes;
    let Some(rest) = image.get_mut(at..) else {
        return;
    };
    if at == 0 {
        if let Ok((header, _)) = SegmentHeader::read_from_prefix(rest)
            && let Some(block) = rest.get_mut(..4096)
        {
            header.encode(block);
        }
        return;
    }
    if let Ok((header, _)) = BatchHeader::read_from_prefix(rest) {
        let total = header.total_len.get() as usize;
        let body = header.body_len.get() as usize;
        if total >= 128
            && body <= total - 128
            && let Some(batch) = rest.get_mut(..total)
        {
            header.seal(batch);
        }
    }
}
