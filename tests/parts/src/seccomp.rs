//! A seccomp filter that asks somebody else about chosen calls, and the other end of it:
//! `seccomp_unotify(2)`. For crashing, failing or delaying a process at its own calls, without a hook in
//! the product.

use std::{
    io,
    mem::MaybeUninit,
    os::{
        fd::{AsFd, AsRawFd, FromRawFd, OwnedFd},
        unix::net::UnixStream,
    },
};

use anyhow::{Context, ensure};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};

#[cfg(target_arch = "x86_64")]
const ARCH: u32 = 0xC000_003E;
#[cfg(target_arch = "aarch64")]
const ARCH: u32 = 0xC000_00B7;

/// Calls that change a file or a process, but `openat` where it makes a file.
pub const CHANGES: &[libc::c_long] = &[
    libc::SYS_write,
    libc::SYS_writev,
    libc::SYS_pwrite64,
    libc::SYS_pwritev,
    libc::SYS_pwritev2,
    libc::SYS_fsync,
    libc::SYS_fdatasync,
    libc::SYS_ftruncate,
    libc::SYS_fallocate,
    libc::SYS_renameat,
    libc::SYS_renameat2,
    libc::SYS_unlinkat,
    libc::SYS_mkdirat,
    libc::SYS_io_uring_enter,
    libc::SYS_pidfd_send_signal,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_rename,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_unlink,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_rmdir,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_mkdir,
];

/// Calls that bring bytes to a disk.
pub const DISK: &[libc::c_long] = &[
    libc::SYS_pwrite64,
    libc::SYS_pwritev,
    libc::SYS_pwritev2,
    libc::SYS_fsync,
    libc::SYS_fdatasync,
    libc::SYS_fallocate,
];

/// Puts a filter for these calls, and for `openat` where it makes a file if `new_files`, on this process
/// and all that it starts; the handle is for who answers. Until somebody does, every such call waits.
///
/// # Errors
/// The kernel refuses: neither root nor `no_new_privs`, or a filter with a listener is there already.
pub fn install(calls: &[libc::c_long], new_files: bool) -> anyhow::Result<OwnedFd> {
    let mut program = program(calls, new_files);
    let filter = libc::sock_fprog {
        len: u16::try_from(program.len())?,
        filter: program.as_mut_ptr(),
    };
    // SAFETY: `filter` points to `program`, which outlives the call; the kernel copies it.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            libc::SECCOMP_FILTER_FLAG_NEW_LISTENER,
            &raw const filter,
        )
    };
    let refused = io::Error::last_os_error();
    ensure!(fd >= 0, "seccomp: {refused}");
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(i32::try_from(fd)?) })
}

/// Hands the filter's handle to whoever answers, over a socket that nothing has been sent on.
///
/// # Errors
/// Those of `sendmsg(2)`.
pub fn hand_over(listener: &OwnedFd, stream: &UnixStream) -> anyhow::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let handles = [listener.as_fd()];
    ensure!(
        ancillary.push(SendAncillaryMessage::ScmRights(&handles)),
        "no room for a handle"
    );
    let byte = [io::IoSlice::new(b"l")];
    sendmsg(stream, &byte, &mut ancillary, SendFlags::empty()).context("send the handle")?;
    Ok(())
}

/// The other end of [`hand_over`].
///
/// # Errors
/// Those of `recvmsg(2)`; no handle came.
pub fn take_over(stream: &UnixStream) -> anyhow::Result<OwnedFd> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    let mut into = [io::IoSliceMut::new(&mut byte)];
    recvmsg(stream, &mut into, &mut ancillary, RecvFlags::CMSG_CLOEXEC)
        .context("receive the handle")?;
    let handle = ancillary.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut handles) => handles.next(),
        _ => None,
    });
    handle.context("no handle came")
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // numbers of calls, codes of BPF
fn program(calls: &[libc::c_long], new_files: bool) -> Vec<libc::sock_filter> {
    let step = |code: u32, jt, jf, k| libc::sock_filter {
        code: code as u16,
        jt,
        jf,
        k,
    };
    let load = |offset: u32| step(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, offset);
    let answer = |action| step(libc::BPF_RET | libc::BPF_K, 0, 0, action);
    let unless = |k, skip| step(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, skip, k);
    // `struct seccomp_data`: nr at 0, arch at 4, args at 16.
    let mut steps = vec![load(4), unless(ARCH, 1), load(0)];
    // A foreign architecture has loaded no number: it falls through to being allowed.
    for call in calls {
        steps.push(unless(*call as u32, 1));
        steps.push(answer(libc::SECCOMP_RET_USER_NOTIF));
    }
    if new_files {
        steps.push(unless(libc::SYS_openat as u32, 3));
        steps.push(load(16 + 2 * 8));
        steps.push(step(
            libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K,
            0,
            1,
            libc::O_CREAT as u32,
        ));
        steps.push(answer(libc::SECCOMP_RET_USER_NOTIF));
    }
    steps.push(answer(libc::SECCOMP_RET_ALLOW));
    steps
}

/// A call that waits to be let through.
#[derive(Clone, Copy, Debug)]
pub struct Call {
    id: u64,
    /// The calling thread.
    pub tid: u32,
    /// Its number.
    pub nr: libc::c_long,
    /// Its arguments.
    pub args: [u64; 6],
}

/// Waits up to a while for the next call; `Ok(None)` when there is none yet.
///
/// # Errors
/// `NotFound` when all who have the filter are gone.
pub fn next(listener: &OwnedFd, wait_ms: i32) -> io::Result<Option<Call>> {
    let mut poll = libc::pollfd {
        fd: listener.as_raw_fd(),
        events: libc::POLLIN,
        revents: 0,
    };
    // SAFETY: one valid entry.
    let ready = unsafe { libc::poll(&raw mut poll, 1, wait_ms) };
    if ready <= 0 {
        return Ok(None);
    }
    if poll.revents & libc::POLLIN == 0 {
        return Err(io::ErrorKind::NotFound.into());
    }
    // SAFETY: plain numbers, for which zero is a value; the kernel wants it zeroed.
    let mut asked: libc::seccomp_notif = unsafe { std::mem::zeroed() };
    // SAFETY: the kernel writes one `seccomp_notif` into a valid place.
    let got = unsafe {
        libc::ioctl(
            listener.as_raw_fd(),
            libc::SECCOMP_IOCTL_NOTIF_RECV,
            &raw mut asked,
        )
    };
    if got < 0 {
        let error = io::Error::last_os_error();
        return match error.raw_os_error() {
            // It was killed before it could be asked about.
            Some(libc::ENOENT | libc::EINTR) => Ok(None),
            _ => Err(error),
        };
    }
    Ok(Some(Call {
        id: asked.id,
        tid: asked.pid,
        nr: libc::c_long::from(asked.data.nr),
        args: asked.data.args,
    }))
}

/// Lets a call through. One whose caller has died meanwhile is nobody's any more.
pub fn let_through(listener: &OwnedFd, call: Call) {
    #[allow(clippy::cast_possible_truncation)] // it is 1
    let flags = libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE as u32;
    answer(listener, call, 0, flags);
}

/// Fails a call, which the kernel then does not carry out.
pub fn fail(listener: &OwnedFd, call: Call, errno: i32) {
    answer(listener, call, -errno, 0);
}

fn answer(listener: &OwnedFd, call: Call, error: i32, flags: u32) {
    let mut answer = libc::seccomp_notif_resp {
        id: call.id,
        val: 0,
        error,
        flags,
    };
    // SAFETY: the kernel reads one `seccomp_notif_resp` from a valid place.
    unsafe {
        libc::ioctl(
            listener.as_raw_fd(),
            libc::SECCOMP_IOCTL_NOTIF_SEND,
            &raw mut answer,
        )
    };
}
