//! How the safe lane makes bytes durable: one aligned write, `O_DIRECT | O_DSYNC`.
//!
//! Snapshots are large and read back rarely: they should neither pass through the page cache nor
//! push others' pages out of it.

use super::block::BlockFile;
use super::engine::whole;
use super::error::Failure;

/// Writes `bytes` at `offset` and returns once they are on the device.
///
/// # Errors
/// A short write, or what the system said. Never retried.
pub(crate) fn commit(
    file: &dyn BlockFile,
    name: &str,
    bytes: &[u8],
    offset: u64,
) -> Result<(), Failure> {
    write_whole(file, name, bytes, offset)
}

/// One pwrite that must take everything.
pub(crate) fn write_whole(
    file: &dyn BlockFile,
    name: &str,
    bytes: &[u8],
    offset: u64,
) -> Result<(), Failure> {
    let written = file
        .write_at(bytes, offset)
        .map_err(Failure::of("write", name))?;
    whole(written, bytes.len(), name, offset)
}
