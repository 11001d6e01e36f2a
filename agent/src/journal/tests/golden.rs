//! A log written by version 1, byte for byte: what is on people's disks must stay readable.

use super::super::LaneId;
use super::super::block::sim::SimDisk;
use super::super::format::{BatchHeader, Damage, SegmentHeader, SegmentState, decode_batch};
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
}
