//! A plain array of the kernel's, as memory of ours: read without a call an entry.

use std::{
    marker::PhantomData,
    num::NonZeroUsize,
    ops::Range,
    os::fd::{AsFd as _, BorrowedFd},
    ptr::NonNull,
};

use aya::{
    Ebpf,
    maps::{Map, MapData},
};

use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

/// A type of which any bytes are a value, spaced in the kernel's array as in ours.
///
/// # Safety
/// `#[repr(C)]`, integers only, without padding, of a size that is a multiple of 8.
pub(super) unsafe trait Entry: Copy {}

// SAFETY: as the abi crate's tests check.
unsafe impl Entry for paramedic_abi::SyscallCounters {}
// SAFETY: likewise.
unsafe impl Entry for paramedic_abi::SchedRow {}
// SAFETY: likewise.
unsafe impl Entry for paramedic_abi::Cell {}
// SAFETY: an integer of 8 bytes.
unsafe impl Entry for u64 {}

/// A map with `BPF_F_MMAPABLE`, mapped for reading and writing.
#[derive(Debug)]
pub(super) struct Mapped<T> {
    address: NonNull<T>,
    bytes: NonZeroUsize,
    len: usize,
    of: PhantomData<T>,
}

// SAFETY: the memory is shared with the kernel's programs anyway; we only read and write it volatile.
unsafe impl<T> Send for Mapped<T> {}
// SAFETY: as above.
unsafe impl<T> Sync for Mapped<T> {}

impl<T: Entry> Mapped<T> {
    /// Maps all `len` entries.
    pub(super) fn new(map: BorrowedFd<'_>, len: u32) -> std::io::Result<Self> {
        let len = len as usize;
        let bytes = NonZeroUsize::new(len * size_of::<T>())
            .ok_or_else(|| std::io::Error::from(std::io::ErrorKind::InvalidInput))?;
        // SAFETY: a fresh mapping at an address of the kernel's choice; the kernel refuses a length
        // beyond the map's.
        let address = unsafe {
            mmap(
                std::ptr::null_mut(),
                bytes.get(),
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED,
                map,
                0,
            )
        }?;
        let address = NonNull::new(address.cast())
            .ok_or_else(|| std::io::Error::from(std::io::ErrorKind::OutOfMemory))?;
        Ok(Self {
            address,
            bytes,
            len,
            of: PhantomData,
        })
    }

    /// An entry, which programs may be counting in meanwhile: each of its words is right by itself.
    pub(super) fn read(&self, index: usize) -> Option<T> {
        // SAFETY: inside the mapping, aligned (it begins at a page, and `Entry` gives the spacing).
        (index < self.len).then(|| unsafe { self.address.add(index).read_volatile() })
    }

    /// Whether an entry has something, as `look` finds by some of its words: a table that is mostly
    /// empty is not copied out to see that.
    pub(super) fn is_any(&self, index: usize, look: impl FnOnce(*const T) -> bool) -> bool {
        // SAFETY: inside the mapping.
        index < self.len && look(unsafe { self.address.add(index) }.as_ptr().cast_const())
    }

    /// Zeroes entries.
    pub(super) fn zero(&self, entries: Range<usize>) {
        let entries = entries.start.min(self.len)..entries.end.min(self.len);
        // SAFETY: inside the mapping; all bytes zero are a value of `T`.
        unsafe {
            self.address
                .add(entries.start)
                .write_bytes(0, entries.len());
        }
    }
}

impl<T> Drop for Mapped<T> {
    fn drop(&mut self) {
        // SAFETY: our own mapping, which nobody can hold a reference into.
        if let Err(error) = unsafe { munmap(self.address.as_ptr().cast(), self.bytes.get()) } {
            tracing::warn!(%error, "cannot unmap a map of the probes");
        }
    }
}

/// Maps a whole array, of which each entry is a `T`.
pub(super) fn mapped<T: Entry>(map: &MapData) -> Result<Mapped<T>, String> {
    let info = map.info().map_err(|error| error.to_string())?;
    mapped_as(map, info.max_entries())
}

/// Maps a whole array as `len` values of `T`, where the kernel's entries are several of them each.
pub(super) fn mapped_as<T: Entry>(map: &MapData, len: u32) -> Result<Mapped<T>, String> {
    Mapped::new(map.fd().as_fd(), len)
        .map_err(|error| format!("cannot map an array of the probes: {error}"))
}

/// Takes an array out of the object.
pub(super) fn plain_array(ebpf: &mut Ebpf, name: &str) -> Result<MapData, String> {
    match ebpf.take_map(name) {
        Some(Map::Array(data)) => Ok(data),
        _ => Err(format!(
            "the object has no array {name}: run `cargo xtask build`"
        )),
    }
}
