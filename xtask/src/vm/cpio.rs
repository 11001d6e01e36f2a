//! The initramfs archive: cpio "newc" (SVR4), written here because a missing `cpio` silently makes
//! an empty one. Format: cpio(5), "New ASCII Format".

/// An archive under construction.
#[derive(Default)]
pub struct Archive {
    bytes: Vec<u8>,
    inode: u32,
}

impl Archive {
    /// Adds a directory.
    pub fn dir(&mut self, path: &str) {
        self.entry(path, 0o040_755, &[]);
    }

    /// Adds a file with `mode` permission bits.
    pub fn file(&mut self, path: &str, mode: u32, bytes: &[u8]) {
        self.entry(path, 0o100_000 | mode, bytes);
    }

    /// The finished archive.
    pub fn finish(mut self) -> Vec<u8> {
        self.inode = 0;
        self.entry("TRAILER!!!", 0, &[]);
        self.bytes
    }

    fn entry(&mut self, path: &str, mode: u32, bytes: &[u8]) {
        self.inode += 1;
        let header = format!(
            "070701{:08X}{mode:08X}{:08X}{:08X}{:08X}{:08X}{:08X}{:08X}{:08X}{:08X}{:08X}{:08X}{:08X}",
            self.inode,
            0,
            0,
            1,
            0,
            bytes.len(),
            0,
            0,
            0,
            0,
            path.len() + 1,
            0
        );
        self.bytes.extend_from_slice(header.as_bytes());
        self.bytes.extend_from_slice(path.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(bytes);
        self.pad();
    }

    fn pad(&mut self) {
        while !self.bytes.len().is_multiple_of(4) {
            self.bytes.push(0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Archive;

    #[test]
    fn every_part_is_aligned_and_the_header_is_110_bytes() {
        let mut archive = Archive::default();
        archive.dir("bin");
        archive.file("init", 0o755, b"#!x\n1");
        let bytes = archive.finish();
        assert_eq!(bytes.len() % 4, 0);
        assert_eq!(&bytes[..6], b"070701");
        // "bin" and its NUL end at 114, padded to 116: the next header begins there.
        assert_eq!(&bytes[116..122], b"070701");
        let at = 116 + 110 + 6;
        assert_eq!(&bytes[at..at + 5], b"#!x\n1");
        assert!(bytes.windows(10).any(|w| w == b"TRAILER!!!"));
    }
}
