//! Files of `/proc` that are read again and again: opened once, read from their start each time.
//!
//! Opening, asking for a size that is always 0, and closing cost more than reading most of them.

use std::{collections::HashMap, fs::File, io, os::unix::fs::FileExt as _};

/// A longer file is cut off; none of those read here is.
const FILE_BYTES_MAX: usize = 256 * 1024;
/// Read in one go; the kernel hands out a page or so at a time.
const CHUNK_BYTES: usize = 16 * 1024;

/// The open files.
#[derive(Debug, Default)]
pub(super) struct Files {
    open: HashMap<&'static str, File>,
    buffer: Vec<u8>,
}

impl Files {
    /// The whole text of a file, until the next is read.
    ///
    /// # Errors
    /// As those of opening and reading it; it is opened anew the next time.
    pub(super) fn read(&mut self, path: &'static str) -> io::Result<&str> {
        let read = self.fill(path);
        if read.is_err() {
            self.open.remove(path);
        }
        let len = read?;
        std::str::from_utf8(&self.buffer[..len]).map_err(|_| io::ErrorKind::InvalidData.into())
    }

    fn fill(&mut self, path: &'static str) -> io::Result<usize> {
        let file = match self.open.entry(path) {
            std::collections::hash_map::Entry::Occupied(entry) => entry.into_mut(),
            std::collections::hash_map::Entry::Vacant(entry) => entry.insert(File::open(path)?),
        };
        read_whole(file, &mut self.buffer, FILE_BYTES_MAX)
    }
}

/// Reads a file from its start into `buffer`, which grows as needed; gives the length, `bytes_max` of a
/// file that is longer.
pub(super) fn read_whole(file: &File, buffer: &mut Vec<u8>, bytes_max: usize) -> io::Result<usize> {
    let mut len = 0;
    loop {
        if buffer.len() < len + CHUNK_BYTES {
            buffer.resize(len + CHUNK_BYTES, 0);
        }
        match file.read_at(&mut buffer[len..], len as u64) {
            Ok(0) => return Ok(len),
            Ok(more) => len += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
        if len >= bytes_max {
            return Ok(bytes_max);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::Files;

    #[test]
    fn a_file_is_read_anew_each_time_and_whole() {
        let mut files = Files::default();
        let uptime = |files: &mut Files| -> f64 {
            let text = files.read("/proc/uptime").unwrap();
            text.split(' ').next().unwrap().parse().unwrap()
        };
        let first = uptime(&mut files);
        std::thread::sleep(std::time::Duration::from_millis(30));
        assert!(uptime(&mut files) > first);
        // Longer than the kernel hands out at once.
        let long = files.read("/proc/kallsyms");
        assert!(long.is_ok_and(|text| text.len() > 64 * 1024));
        let short = files.read("/proc/sys/kernel/ostype").unwrap();
        assert_eq!(short, "Linux\n");
    }

    #[test]
    fn what_cannot_be_read_says_so_each_time() {
        let mut files = Files::default();
        for _ in 0..2 {
            let missing = files.read("/nonexistent/table").unwrap_err();
            assert_eq!(missing.kind(), io::ErrorKind::NotFound);
            assert!(files.read("/proc").is_err());
        }
        assert!(files.open.is_empty());
    }
}
