//! Encoding and decoding are each other's inverse, and no single changed byte goes unnoticed.

use proptest::collection::vec;
use proptest::prelude::*;

use super::super::format::{
    BATCH_HEADER_LEN, BatchHeader, SegmentHeader, SegmentState, batch_size, decode_batch,
    record_size,
};
use super::super::lane::{Batch, Chain, Pending};
use super::Bytes;

const UUID: [u8; 16] = [4; 16];

fn pending() -> impl Strategy<Value = Pending> {
    let payload = prop_oneof![
        4 => vec(any::<u8>(), 0..200),
        1 => vec(any::<u8>(), 4000..9000),
    ];
    let fields = (any::<u16>(), any::<[u8; 16]>(), any::<u64>(), payload);
    fields.prop_map(|(kind, episode, unix_ns, payload)| Pending {
        kind,
        episode,
        unix_ns,
        payload: Bytes::from(payload),
    })
}

/// The bytes of a batch with `records` at `offset`, and the check that the next one continues.
fn encode(records: &[Pending], granule: u32, before: u64, first_lsn: u64) -> (Vec<u8>, u64) {
    let body = records.iter().map(|r| record_size(r.payload.len())).sum();
    let size = batch_size(body, granule);
    let header = BatchHeader {
        magic: [0; 8],
        check: 0.into(),
        body_check: 0.into(),
        prev_check: 0.into(),
        version: 0.into(),
        flags: 0.into(),
        count: (records.len() as u32).into(),
        total_len: (size as u32).into(),
        body_len: (body as u32).into(),
        log_uuid: UUID,
        seq: 3.into(),
        offset: u64::from(granule).into(),
        epoch: 2.into(),
        first_lsn: first_lsn.into(),
        batch_no: 9.into(),
        unix_ns: 1.into(),
        reserved: [0; 16],
    };
    // What an earlier use has left in the buffer.
    let mut bytes = vec![0xEE; size];
    let batch = Batch::new(header, records.to_vec(), Chain::known(before));
    let chain = batch.chain();
    batch.encode("a buffer", &mut bytes).expect("encodes");
    (bytes, chain.wait("a buffer").expect("encoded"))
}

fn decode(bytes: &[u8]) -> Option<(BatchHeader, Vec<(u64, Pending)>)> {
    let header = BatchHeader::decode(bytes).ok()?;
    let records = decode_batch(&header, bytes).ok()?;
    let record = |raw: &super::super::format::RawRecord<'_>| Pending {
        kind: raw.header.kind.get(),
        episode: raw.header.episode,
        unix_ns: raw.header.unix_ns.get(),
        payload: Bytes::copy_from_slice(raw.payload),
    };
    let records = records
        .iter()
        .map(|raw| (raw.header.lsn.get(), record(raw)))
        .collect();
    Some((header, records))
}

proptest! {
    #[test]
    fn a_batch_comes_back_as_it_went(
        records in vec(pending(), 0..12),
        granule in prop_oneof![Just(4096_u32), Just(8192), Just(65536)],
        before in any::<u64>(),
        first_lsn in 1_u64..1 << 62,
        hit in any::<prop::sample::Index>(),
        bit in 0..8_u32,
    ) {
        let (mut bytes, check) = encode(&records, granule, before, first_lsn);
        prop_assert!(bytes.len().is_multiple_of(granule as usize));
        let (header, found) = decode(&bytes).expect("decodes");
        prop_assert_eq!(header.prev_check.get(), before);
        prop_assert_eq!(header.check.get(), check);
        prop_assert_eq!(found.len(), records.len());
        for (((lsn, found), wanted), nth) in found.iter().zip(&records).zip(first_lsn..) {
            prop_assert_eq!(*lsn, nth);
            prop_assert_eq!((found.kind, found.episode), (wanted.kind, wanted.episode));
            prop_assert_eq!((found.unix_ns, &found.payload), (wanted.unix_ns, &wanted.payload));
        }
        // Any bit of it, padding included.
        bytes[hit.index(header.total_len.get() as usize)] ^= 1 << bit;
        prop_assert!(decode(&bytes).is_none(), "a flipped bit went unnoticed");
    }

    /// The chain comes out the same whoever is encoded first, and a batch given up ends it.
    #[test]
    fn a_chain_is_the_same_in_whatever_order_it_is_encoded(
        payloads in vec(vec(any::<u8>(), 0..5000), 2..5),
    ) {
        let batches: Vec<Vec<Pending>> = payloads.into_iter().map(|payload| vec![Pending {
            kind: 1,
            episode: [0; 16],
            unix_ns: 0,
            payload: Bytes::from(payload),
        }]).collect();
        let mut before = 77;
        let mut one_by_one = Vec::new();
        for records in &batches {
            let (bytes, check) = encode(records, 4096, before, 1);
            one_by_one.push(bytes);
            before = check;
        }
        // The last first, each in a thread of its own: they wait for the one before.
        let mut chain = Chain::known(77);
        let mut waiting = Vec::new();
        for (records, wanted) in batches.iter().zip(&one_by_one) {
            let header = BatchHeader::decode(wanted).expect("valid");
            let batch = Batch::new(header, records.clone(), chain);
            chain = batch.chain();
            waiting.push((batch, wanted.len()));
        }
        let beside: Vec<Vec<u8>> = std::thread::scope(|scope| {
            let threads: Vec<_> = waiting.into_iter().rev().map(|(batch, len)| {
                scope.spawn(move || {
                    let mut bytes = vec![0xEE; len];
                    batch.encode("a buffer", &mut bytes).map(|()| bytes)
                })
            }).collect();
            let ended = threads.into_iter().rev();
            ended.map(|thread| thread.join().expect("ends").expect("encodes")).collect()
        });
        prop_assert!(beside == one_by_one);
    }

    #[test]
    fn a_segment_header_comes_back_as_it_went(
        numbers in any::<[u64; 9]>(),
        shift in 12..=16_u32,
        window in any::<u32>(),
        hit in any::<prop::sample::Index>(),
    ) {
        let [seq, epoch, lsn, batch, prev, end, check, base, len] = numbers;
        let header = SegmentHeader {
            magic: [0; 8],
            check: 0.into(),
            version: 0.into(),
            lane: 1,
            reserved: 0,
            granule: (1 << shift).into(),
            in_flight_max: window.into(),
            reserved2: 0.into(),
            log_uuid: UUID,
            seq: seq.into(),
            epoch: epoch.into(),
            first_lsn: lsn.into(),
            first_batch: batch.into(),
            prev_seq: prev.into(),
            prev_end: end.into(),
            prev_check: check.into(),
            base_seq: base.into(),
            segment_len: len.into(),
            created_unix_ns: 3.into(),
        };
        let mut block = vec![0xEE; 1 << shift];
        let told = header.encode(&mut block);
        let SegmentState::Valid(found) = SegmentHeader::decode(&block) else {
            return Err(TestCaseError::fail("not valid"));
        };
        prop_assert_eq!(found.check.get(), told);
        let found = [found.seq, found.epoch, found.first_lsn, found.first_batch, found.prev_seq,
            found.prev_end, found.prev_check, found.base_seq, found.segment_len];
        prop_assert_eq!(found.map(zerocopy::little_endian::U64::get), numbers);
        block[hit.index(1 << shift)] ^= 0x10;
        prop_assert!(!matches!(SegmentHeader::decode(&block), SegmentState::Valid(_)));
    }
}

#[test]
fn a_batch_given_up_ends_the_chain() {
    let (bytes, _) = encode(&[], 4096, 5, 1);
    let header = BatchHeader::decode(&bytes).expect("valid");
    let first = Batch::new(header, Vec::new(), Chain::known(5));
    let second = Batch::new(header, Vec::new(), first.chain());
    let third = second.chain();
    drop(first);
    let mut bytes = vec![0; BATCH_HEADER_LEN.next_multiple_of(4096)];
    let error = second.encode("a buffer", &mut bytes).expect_err("ended");
    assert_eq!((error.operation, &error.object[..]), ("encode", "a buffer"));
    assert!(third.wait("a buffer").is_err());
}
