//! A file of the simulated disk: what a read sees, what the platter holds, and what is in between.

use std::collections::BTreeMap;
use std::io;

use super::super::super::lock;
use super::super::{BlockFile, DirectIo};
use super::{Call, Entered, Rng, SECTOR, SimDisk};

#[derive(Clone, Default)]
pub(super) struct Inode {
    /// What a read sees.
    pub(super) current: Vec<u8>,
    /// What the platter holds.
    pub(super) durable: Vec<u8>,
    /// Versions written since the last sync, oldest first, by sector.
    pub(super) pending: BTreeMap<usize, Vec<[u8; SECTOR]>>,
}

impl Inode {
    pub(super) fn sync(&mut self) {
        self.durable.resize(self.current.len(), 0);
        for (sector, versions) in std::mem::take(&mut self.pending) {
            let at = sector * SECTOR;
            if let Some(last) = versions.last() {
                self.durable[at..at + SECTOR].copy_from_slice(last);
            }
        }
    }

    /// Puts sectors of a write into the cache; `torn` keeps a random part of them.
    pub(super) fn cache(&mut self, bytes: &[u8], offset: usize, torn: Option<&mut Rng>) {
        let mut rng = torn;
        let end = (offset + bytes.len()).next_multiple_of(SECTOR);
        if self.current.len() < end {
            self.current.resize(end, 0);
        }
        for (i, chunk) in bytes.chunks(SECTOR).enumerate() {
            if rng.as_mut().is_some_and(|rng| rng.below(2) == 0) {
                continue;
            }
            let at = offset + i * SECTOR;
            self.current[at..at + chunk.len()].copy_from_slice(chunk);
            let mut version = [0; SECTOR];
            version.copy_from_slice(&self.current[at..at + SECTOR]);
            self.pending.entry(at / SECTOR).or_default().push(version);
        }
    }

    pub(super) fn power_cycle(&mut self, rng: &mut Rng) {
        let len = [self.durable.len(), self.current.len()][rng.below(2)];
        let before = self.durable.len().min(len);
        self.durable.resize(len, 0);
        for sector in self.durable[before..].chunks_mut(SECTOR) {
            if rng.below(2) == 0 {
                sector.fill_with(|| (rng.next() & 0xFF) as u8);
            }
        }
        for (sector, versions) in std::mem::take(&mut self.pending) {
            let pick = rng.below(versions.len() + 1);
            let at = sector * SECTOR;
            if pick > 0 && at + SECTOR <= len {
                self.durable[at..at + SECTOR].copy_from_slice(&versions[pick - 1]);
            }
        }
        self.current = self.durable.clone();
    }
}

pub(super) struct SimFile {
    pub(super) disk: SimDisk,
    pub(super) inode: u64,
    pub(super) direct: DirectIo,
    pub(super) dsync: bool,
}

impl SimFile {
    fn sync(&self, call: Call) -> io::Result<()> {
        let mut state = lock(&self.disk.state);
        let entered = SimDisk::enter(&mut state, call)?;
        let lie = state.lies.contains(&call);
        let Some(inode) = state.inodes.get_mut(&self.inode) else {
            return Err(io::Error::from_raw_os_error(libc::EBADF));
        };
        match entered {
            Entered::Normal | Entered::Short if lie => Ok(()),
            Entered::Normal | Entered::Short => {
                inode.sync();
                Ok(())
            }
            Entered::Failing(errno) => {
                // As Linux does it: the pages are clean now, and the data is on no disk.
                inode.pending.clear();
                Err(io::Error::from_raw_os_error(errno))
            }
            Entered::Crashing => Err(io::Error::other("power failed")),
        }
    }
}

impl BlockFile for SimFile {
    fn allocate(&self, len: u64) -> io::Result<()> {
        let inode = self.inode;
        self.disk.simple(Call::Allocate, |state| {
            let used: usize = state.inodes.values().map(|inode| inode.current.len()).sum();
            // Files whose name is gone are held by nobody here.
            let named: Vec<u64> = state.names.values().copied().collect();
            let held = state.inodes.iter().filter(|(id, _)| !named.contains(id));
            let unlinked: usize = held.map(|(_, inode)| inode.current.len()).sum();
            if (used - unlinked) as u64 + len > state.capacity {
                return Err(io::Error::from_raw_os_error(libc::ENOSPC));
            }
            if let Some(inode) = state.inodes.get_mut(&inode) {
                inode.current.resize(len as usize, 0);
            }
            Ok(())
        })
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        if let DirectIo::Used { alignment } = self.direct {
            let alignment = alignment as usize;
            let aligned = bytes.as_ptr().align_offset(alignment) == 0
                && bytes.len().is_multiple_of(alignment)
                && (offset as usize).is_multiple_of(alignment);
            if !aligned {
                return Err(io::Error::from_raw_os_error(libc::EINVAL));
            }
        }
        let mut state = lock(&self.disk.state);
        let entered = SimDisk::enter(&mut state, Call::Write)?;
        let state = &mut *state;
        let Some(inode) = state.inodes.get_mut(&self.inode) else {
            return Err(io::Error::from_raw_os_error(libc::EBADF));
        };
        let offset = offset as usize;
        let (taken, torn) = match entered {
            Entered::Normal => (bytes.len(), false),
            Entered::Short => (bytes.len() / 2 / SECTOR * SECTOR, false),
            Entered::Failing(_) | Entered::Crashing => (bytes.len(), true),
        };
        inode.cache(&bytes[..taken], offset, torn.then_some(&mut state.rng));
        match entered {
            Entered::Failing(errno) => Err(io::Error::from_raw_os_error(errno)),
            Entered::Crashing => Err(io::Error::other("power failed")),
            Entered::Normal | Entered::Short => {
                // Call::Write stands for O_DSYNC here: the bytes arrive, the wait is left out.
                if self.dsync && !state.lies.contains(&Call::Write) {
                    inode.sync();
                }
                Ok(taken)
            }
        }
    }

    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut taken = 0;
        let inode = self.inode;
        self.disk.simple(Call::Read, |state| {
            let current = &state.inodes[&inode].current;
            let from = (offset as usize).min(current.len());
            taken = bytes.len().min(current.len() - from);
            bytes[..taken].copy_from_slice(&current[from..from + taken]);
            Ok(())
        })?;
        Ok(taken)
    }

    fn sync_data(&self) -> io::Result<()> {
        let time = lock(&self.disk.state).sync_time;
        std::thread::sleep(time);
        self.sync(Call::SyncData)
    }

    fn sync_all(&self) -> io::Result<()> {
        self.sync(Call::SyncAll)
    }

    fn drop_cache(&self) -> io::Result<()> {
        let inode = self.inode;
        self.disk.simple(Call::DropCache, |state| {
            if state.lies.contains(&Call::DropCache) {
                return Ok(());
            }
            let Some(inode) = state.inodes.get_mut(&inode) else {
                return Ok(());
            };
            let mut clean = inode.durable.clone();
            clean.resize(inode.current.len(), 0);
            for (sector, versions) in &inode.pending {
                if let Some(last) = versions.last() {
                    clean[sector * SECTOR..(sector + 1) * SECTOR].copy_from_slice(last);
                }
            }
            inode.current = clean;
            Ok(())
        })
    }

    fn len(&self) -> io::Result<u64> {
        Ok(lock(&self.disk.state).inodes[&self.inode].current.len() as u64)
    }

    fn direct(&self) -> DirectIo {
        self.direct.clone()
    }
}
