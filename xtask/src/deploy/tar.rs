//! An archive in the ustar format (POSIX.1-1988) of which every byte is given by its inputs: root owns
//! everything, and everything is from the epoch.

use anyhow::{Context, ensure};

const BLOCK: usize = 512;

/// An archive that grows.
#[derive(Debug, Default)]
pub(super) struct Tar {
    bytes: Vec<u8>,
}

impl Tar {
    /// A folder; those above it come first.
    pub(super) fn folder(&mut self, path: &str) -> anyhow::Result<()> {
        self.member(&format!("{path}/"), b'5', 0o755, &[])
    }

    /// A file.
    pub(super) fn file(&mut self, path: &str, mode: u32, content: &[u8]) -> anyhow::Result<()> {
        self.member(path, b'0', mode, content)
    }

    /// With the two empty blocks at its end.
    pub(super) fn finish(mut self) -> Vec<u8> {
        self.bytes.resize(self.bytes.len() + 2 * BLOCK, 0);
        self.bytes
    }

    fn member(&mut self, path: &str, kind: u8, mode: u32, content: &[u8]) -> anyhow::Result<()> {
        ensure!(path.len() <= 100, "{path:?} is too long for this archive");
        let mut header = [0; BLOCK];
        let mut put = |at: usize, text: &[u8]| header[at..at + text.len()].copy_from_slice(text);
        put(0, path.as_bytes());
        put(100, format!("{mode:07o}").as_bytes());
        put(108, b"0000000");
        put(116, b"0000000");
        put(124, format!("{:011o}", content.len()).as_bytes());
        put(136, b"00000000000");
        // The sum counts its own field as spaces.
        put(148, b"        ");
        put(156, &[kind]);
        put(257, b"ustar\x0000");
        let sum: u32 = header.iter().map(|&byte| u32::from(byte)).sum();
        let sum = format!("{sum:06o}\0 ");
        header[148..156].copy_from_slice(sum.as_bytes());
        self.bytes.extend_from_slice(&header);
        self.bytes.extend_from_slice(content);
        let whole = self
            .bytes
            .len()
            .checked_next_multiple_of(BLOCK)
            .context("an archive fits into memory")?;
        self.bytes.resize(whole, 0);
        Ok(())
    }
}
