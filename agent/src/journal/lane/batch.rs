//! A batch between its place in the log and its bytes.
//!
//! Its place (segment, offset, LSNs, number) is fixed when it is submitted; its bytes are made by
//! whoever writes it, so that large batches are copied and checked beside one another. The chain
//! is the only thing that one batch needs of the one before, and only for its header.

use std::io;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;

use super::super::error::Failure;
use super::super::format::{BATCH_HEADER_LEN, BatchHeader, RecordHeader, encode_record};

/// One record to be written.
#[derive(Clone, Debug)]
pub(crate) struct Pending {
    pub(crate) kind: u16,
    pub(crate) episode: [u8; 16],
    pub(crate) unix_ns: u64,
    pub(crate) payload: Bytes,
}

/// The check of a batch, for the header of the next: known once the batch is encoded.
#[derive(Clone)]
pub(crate) struct Chain(Arc<OnceLock<Option<u64>>>);

impl Chain {
    pub(crate) fn known(check: u64) -> Self {
        Self(Arc::new(OnceLock::from(Some(check))))
    }

    fn open() -> Self {
        Self(Arc::new(OnceLock::new()))
    }

    /// Waits for the encoding, which is under way in another thread and waits for no device.
    ///
    /// # Errors
    /// The batch was given up before it was encoded: nothing can follow it.
    pub(crate) fn wait(&self, name: &str) -> Result<u64, Failure> {
        let given_up = || io::Error::other("the batch before was given up");
        self.0
            .wait()
            .ok_or_else(|| Failure::of("encode", name)(given_up()))
    }

    fn set(&self, check: Option<u64>) {
        // Where it is set already, this is the drop of a batch that was encoded.
        self.0.get_or_init(|| check);
    }
}

/// Records with their place, not yet encoded.
pub(crate) struct Batch {
    header: BatchHeader,
    records: Vec<Pending>,
    before: Chain,
    own: Chain,
}

impl Batch {
    /// `header` lacks only its checks; `before` is the chain up to here.
    pub(crate) fn new(header: BatchHeader, records: Vec<Pending>, before: Chain) -> Self {
        Self {
            header,
            records,
            before,
            own: Chain::open(),
        }
    }

    /// What the next batch continues.
    pub(crate) fn chain(&self) -> Chain {
        self.own.clone()
    }

    /// Fills `bytes`, which is as long as the header says, and tells the next batch its check.
    pub(crate) fn encode(mut self, name: &str, bytes: &mut [u8]) -> Result<(), Failure> {
        let too_long = |_| Failure::of("encode", name)(io::ErrorKind::InvalidInput.into());
        let mut at = BATCH_HEADER_LEN;
        for (lsn, record) in (self.header.first_lsn.get()..).zip(self.records.drain(..)) {
            let header = RecordHeader {
                crc: 0.into(),
                len: u32::try_from(record.payload.len())
                    .map_err(too_long)?
                    .into(),
                kind: record.kind.into(),
                flags: 0.into(),
                reserved: 0.into(),
                lsn: lsn.into(),
                unix_ns: record.unix_ns.into(),
                episode: record.episode,
            };
            at = encode_record(bytes, at, header, &record.payload);
        }
        self.header.check_body(bytes);
        self.header.prev_check = self.before.wait(name)?.into();
        self.own.set(Some(self.header.seal_header(bytes)));
        Ok(())
    }
}

impl Drop for Batch {
    /// However it ends, nobody waits for a check that won't come.
    fn drop(&mut self) {
        self.own.set(None);
    }
}
