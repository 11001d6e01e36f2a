//! Errors of syscalls that tell what has run out or is broken.
//!
//! Most errors are everyday: a file that isn't there, a socket with nothing to read. These few name a
//! trouble, so they are counted one by one, by cgroup and syscall.

/// Whose call failed how.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct ErrnoKey {
    /// The caller's cgroup.
    pub cgroup: u64,
    /// Number of the syscall.
    pub nr: u32,
    /// One of [`errno`].
    pub errno: u32,
}

/// Triples of cgroup, syscall and errno that the kernel's table has room for.
pub const ERRNO_PLACES: u32 = 4_096;

/// The numbers, from `asm-generic/errno-base.h` and `errno.h`. The same on every architecture that
/// this is built for.
pub mod errno {
    /// The device failed.
    pub const EIO: u32 = 5;
    /// No more processes, where fork or clone says it.
    pub const EAGAIN: u32 = 11;
    /// No memory.
    pub const ENOMEM: u32 = 12;
    /// The node's table of open files is full.
    pub const ENFILE: u32 = 23;
    /// The process has as many open files as it may.
    pub const EMFILE: u32 = 24;
    /// No space on the filesystem.
    pub const ENOSPC: u32 = 28;
    /// The filesystem is read-only.
    pub const EROFS: u32 = 30;
    /// The peer did not answer.
    pub const ETIMEDOUT: u32 = 110;
    /// Nobody listens there.
    pub const ECONNREFUSED: u32 = 111;
    /// The quota is used up.
    pub const EDQUOT: u32 = 122;
}

/// Whether an errno is one of [`errno`].
#[inline]
pub const fn is_telling(number: u32) -> bool {
    use errno::{
        EAGAIN, ECONNREFUSED, EDQUOT, EIO, EMFILE, ENFILE, ENOMEM, ENOSPC, EROFS, ETIMEDOUT,
    };
    matches!(
        number,
        EIO | EAGAIN
            | ENOMEM
            | ENFILE
            | EMFILE
            | ENOSPC
            | EROFS
            | ETIMEDOUT
            | ECONNREFUSED
            | EDQUOT
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_layout_has_no_hidden_padding() {
        assert_eq!(size_of::<ErrnoKey>(), 16);
    }

    #[test]
    fn everyday_errors_tell_nothing() {
        // ENOENT, EINTR, EBADF, EACCES, EEXIST, EINVAL, EPIPE, EINPROGRESS.
        for number in [2, 4, 9, 13, 17, 22, 32, 115] {
            assert!(!is_telling(number), "{number}");
        }
        assert_eq!((0..4096).filter(|number| is_telling(*number)).count(), 10);
    }
}
