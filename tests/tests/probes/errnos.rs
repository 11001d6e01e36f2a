//! Workloads whose calls fail: so often, in these ways.
#![allow(dead_code, reason = "each test program uses its own part")]
#![allow(clippy::unwrap_used, reason = "only tests call these")]

use std::{
    fs::File,
    io::{Error, Write as _},
    os::{
        linux::net::SocketAddrExt as _,
        unix::net::{SocketAddr, UnixStream},
    },
};

fn errno() -> Option<i32> {
    Error::last_os_error().raw_os_error()
}

/// Opens files and never closes them until that has failed so often; then so many `dup` fail.
pub fn leak(opens: u32, dups: u32) {
    let limit = libc::rlimit {
        rlim_cur: 64,
        rlim_max: 64,
    };
    // SAFETY: a valid struct.
    let set = unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) };
    assert_eq!(set, 0);
    let path = c"/dev/null";
    let mut failed = 0;
    while failed < opens {
        // SAFETY: a null-terminated path. By number: a C library may choose another call.
        let opened = unsafe {
            libc::syscall(
                libc::SYS_openat,
                libc::AT_FDCWD,
                path.as_ptr(),
                libc::O_RDONLY,
                0,
            )
        };
        if opened < 0 {
            assert_eq!(errno(), Some(libc::EMFILE));
            failed += 1;
        }
    }
    for _ in 0..dups {
        // SAFETY: fails.
        assert_eq!(unsafe { libc::syscall(libc::SYS_dup, 0) }, -1);
        assert_eq!(errno(), Some(libc::EMFILE));
    }
}

/// So many writes to a device that is always full.
pub fn no_space(times: u32) {
    let mut full = File::options().write(true).open("/dev/full").unwrap();
    for _ in 0..times {
        let error = full.write(b"x").unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENOSPC));
    }
}

/// So many connections to where nobody listens.
pub fn refused(times: u32) {
    let nobody = SocketAddr::from_abstract_name(b"paramedic-nobody-listens").unwrap();
    for _ in 0..times {
        let error = UnixStream::connect_addr(&nobody).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ECONNREFUSED));
    }
}

/// So many forks, all of which fail.
pub fn no_fork(times: u32) {
    for _ in 0..times {
        // SAFETY: as `fork`; a child that came about against expectation ends at once.
        let pid = unsafe { libc::syscall(libc::SYS_clone, libc::SIGCHLD, 0, 0, 0, 0) };
        if pid == 0 {
            // SAFETY: ends the child only.
            unsafe { libc::_exit(0) };
        }
        assert_eq!((pid, errno()), (-1, Some(libc::EAGAIN)));
    }
}

/// Errors that every healthy program has: nothing to read yet, a wait that ran out, a file that isn't
/// there.
pub fn everyday(times: u32) {
    let mut pipe = [0; 2];
    // SAFETY: two ints are what pipe2 fills.
    let made = unsafe { libc::pipe2(pipe.as_mut_ptr(), libc::O_NONBLOCK) };
    assert_eq!(made, 0);
    let (word, limit) = (
        0_u32,
        libc::timespec {
            tv_sec: 0,
            tv_nsec: 1_000,
        },
    );
    for _ in 0..times {
        let mut byte = 0_u8;
        // SAFETY: reads at most one byte into one byte.
        let read = unsafe { libc::read(pipe[0], (&raw mut byte).cast(), 1) };
        assert_eq!(read, -1);
        assert_eq!(errno(), Some(libc::EAGAIN));
        // SAFETY: an aligned word, which nobody changes, and a valid timespec.
        let waited = unsafe {
            libc::syscall(
                libc::SYS_futex,
                &raw const word,
                libc::FUTEX_WAIT,
                0,
                &raw const limit,
                std::ptr::null::<u32>(),
                0,
            )
        };
        assert_eq!((waited, errno()), (-1, Some(libc::ETIMEDOUT)));
        assert!(File::open("/nonexistent").is_err());
    }
}
