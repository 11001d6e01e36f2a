//! A file read once, from its beginning to its end.

use super::super::block::BlockFile;
use super::super::format::{Damage, GRANULE_MIN};

/// Reads a file through one growing buffer of at least 1 MiB.
pub(super) struct Window {
    file: Box<dyn BlockFile>,
    pub(super) len: u64,
    start: u64,
    buf: Vec<u8>,
}

const WINDOW_BYTES: usize = 1 << 20;

impl Window {
    pub(super) fn new(file: Box<dyn BlockFile>, len: u64) -> Self {
        Self {
            file,
            len,
            start: 0,
            buf: Vec::new(),
        }
    }

    /// Exactly `len` bytes at `offset`.
    pub(super) fn get(&mut self, offset: u64, len: usize) -> Result<&[u8], Damage> {
        if offset + len as u64 > self.len {
            return Err(Damage::Short);
        }
        let inside =
            offset >= self.start && offset + len as u64 <= self.start + self.buf.len() as u64;
        if !inside {
            self.fill(offset, len.max(WINDOW_BYTES))?;
        }
        let from = usize::try_from(offset - self.start).map_err(|_| Damage::Malformed)?;
        self.buf.get(from..from + len).ok_or(Damage::Short)
    }

    /// What is asked for next is read from the file.
    pub(super) fn forget(&mut self) {
        self.buf.clear();
    }

    fn fill(&mut self, offset: u64, want: usize) -> Result<(), Damage> {
        let left = usize::try_from(self.len - offset).unwrap_or(usize::MAX);
        self.buf.resize(want.min(left), 0);
        self.start = offset;
        let mut done = 0;
        while done < self.buf.len() {
            match self
                .file
                .read_at(&mut self.buf[done..], offset + done as u64)
            {
                Ok(0) => break,
                Ok(read) => done += read,
                Err(error) => {
                    self.buf.clear();
                    return Err(Damage::Unreadable(error.raw_os_error().unwrap_or(0)));
                }
            }
        }
        self.buf.truncate(done);
        Ok(())
    }

    pub(super) fn first_nonzero(&mut self, from: u64) -> Result<Option<u64>, Damage> {
        self.each_block(from, |bytes| bytes.iter().position(|b| *b != 0), true)
    }

    /// Offset behind the last byte that is not zero, at least `from`.
    pub(super) fn last_nonzero(&mut self, from: u64) -> Result<u64, Damage> {
        let last = self.each_block(from, |bytes| bytes.iter().rposition(|b| *b != 0), false)?;
        Ok(last.map_or(from, |at| at + 1))
    }

    fn each_block(
        &mut self,
        from: u64,
        find: impl Fn(&[u8]) -> Option<usize>,
        first: bool,
    ) -> Result<Option<u64>, Damage> {
        let mut offset = from;
        let mut found = None;
        while offset < self.len {
            let left = usize::try_from(self.len - offset).unwrap_or(usize::MAX);
            let len = left.min(GRANULE_MIN as usize);
            if let Some(at) = find(self.get(offset, len)?) {
                found = Some(offset + at as u64);
                if first {
                    return Ok(found);
                }
            }
            offset += len as u64;
        }
        Ok(found)
    }
}
