//! How the fast lane makes bytes durable: through the page cache, then fdatasync.
//!
//! The segment is pre-written, so the fdatasync carries no filesystem metadata.

use super::block::BlockFile;
use super::error::Failure;
use super::safe::write_whole;

/// Writes `bytes` at `offset` and returns once they are on the device.
///
/// # Errors
/// A short write, or what the system said. Never retried: after a failed sync the pages are
/// clean and the data is gone, whatever a second sync would answer.
pub(crate) fn commit(
    file: &dyn BlockFile,
    name: &str,
    bytes: &[u8],
    offset: u64,
) -> Result<(), Failure> {
    write_whole(file, name, bytes, offset)?;
    file.sync_data().map_err(Failure::of("sync", name))
}
