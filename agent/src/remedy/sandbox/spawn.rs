//! A child that is born inside its cgroup. `std::process::Command` can only move a child after it has
//! begun, when it may already have forked or allocated.

use std::{
    ffi::{CString, c_char, c_int},
    io::{self, Read},
    mem,
    os::{
        fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd},
        unix::ffi::OsStrExt,
    },
    ptr,
};

use rustix::pipe::{PipeFlags, pipe_with};

use super::Program;
use crate::{
    confine::{Role, calls::Calls, files},
    remedy::Cgroup,
};

// libc declares both as `c_int`, in which 1 << 33 is 0: the child would be born in our own cgroup.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;
const CLONE_CLEAR_SIGHAND: u64 = 0x1_0000_0000;
const CLONE_PIDFD: u64 = 0x1000;

/// User and group that it runs as. Reading `/proc` needs no more.
const NOBODY: u32 = 65_534;

/// A child and what it writes.
#[derive(Debug)]
pub(super) struct Child {
    pub(super) pidfd: OwnedFd,
    /// Read end of its output and error, non-blocking.
    pub(super) output: OwnedFd,
}

/// Everything that the child needs, made before it is born: afterwards it must not allocate, because
/// another thread may hold the allocator's lock at that moment.
struct Prepared {
    executable: RawFd,
    null: RawFd,
    output: RawFd,
    failure: RawFd,
    /// Files that it may touch; -1 where the kernel has no Landlock.
    files: RawFd,
    /// System calls that it may not make.
    calls: libc::sock_fprog,
    argv: Vec<*const c_char>,
    envp: Vec<*const c_char>,
}

/// Starts `executable` inside `cgroup`.
pub(super) fn spawn(
    cgroup: &Cgroup,
    executable: &OwnedFd,
    program: &Program,
    traceparent: &str,
) -> io::Result<Child> {
    let words = c_strings(
        std::iter::once(program.path.as_os_str().as_bytes())
            .chain(program.args.iter().map(String::as_bytes)),
    )?;
    let trace = format!("TRACEPARENT={traceparent}");
    let environment = c_strings(
        [
            "PATH=/usr/sbin:/usr/bin:/sbin:/bin",
            "LANG=C.UTF-8",
            "HOME=/",
            &trace,
        ]
        .into_iter()
        .map(str::as_bytes),
    )?;
    let null = std::fs::File::open("/dev/null")?;
    let (output, output_end) = pipe_with(PipeFlags::CLOEXEC)?;
    rustix::io::ioctl_fionbio(&output, true)?;
    let (failure, failure_end) = pipe_with(PipeFlags::CLOEXEC)?;
    let files = files::of_command(executable.as_fd()).map_err(io::Error::other)?;
    let calls = Calls::of(Role::Command).map_err(io::Error::other)?;
    let prepared = Prepared {
        executable: executable.as_raw_fd(),
        null: null.as_raw_fd(),
        output: output_end.as_raw_fd(),
        failure: failure_end.as_raw_fd(),
        files: files.as_ref().map_or(-1, AsRawFd::as_raw_fd),
        calls: calls.as_fprog(),
        argv: pointers(&words),
        envp: pointers(&environment),
    };
    let pidfd = clone_into(cgroup, &prepared)?;
    // Our copies of the child's ends: while they are open, reading never ends.
    drop((output_end, failure_end));
    let mut code = [0; mem::size_of::<c_int>()];
    // Ends at once: the child closes its end by executing or by failing to.
    let read = std::fs::File::from(failure).read(&mut code)?;
    if read == code.len() {
        super::reap(&pidfd)?;
        return Err(io::Error::from_raw_os_error(c_int::from_ne_bytes(code)));
    }
    Ok(Child { pidfd, output })
}

fn c_strings<'a>(words: impl Iterator<Item = &'a [u8]>) -> io::Result<Vec<CString>> {
    words
        .map(|word| CString::new(word).map_err(io::Error::from))
        .collect()
}

fn pointers(words: &[CString]) -> Vec<*const c_char> {
    words
        .iter()
        .map(|word| word.as_ptr())
        .chain([ptr::null()])
        .collect()
}

fn clone_into(cgroup: &Cgroup, prepared: &Prepared) -> io::Result<OwnedFd> {
    let mut pidfd: RawFd = -1;
    let cgroup = u64::try_from(cgroup.as_fd().as_raw_fd()).map_err(io::Error::other)?;
    // SAFETY: all zero is a valid clone_args: no pointer in it is used unless its flag is set.
    let mut args: libc::clone_args = unsafe { mem::zeroed() };
    args.flags = CLONE_INTO_CGROUP | CLONE_CLEAR_SIGHAND | CLONE_PIDFD;
    args.pidfd = (&raw mut pidfd).addr() as u64;
    args.exit_signal = libc::SIGCHLD as u64;
    args.cgroup = cgroup;
    // SAFETY: `args` is valid for its size and outlives the call; `pidfd` is written by the kernel
    // before the parent returns. Without CLONE_VM the child has its own copy of this stack.
    let result = unsafe { libc::syscall(libc::SYS_clone3, &raw mut args, mem::size_of_val(&args)) };
    match result {
        -1 => Err(io::Error::last_os_error()),
        // SAFETY: this is the child, with everything prepared.
        0 => unsafe { become_program(prepared) },
        // SAFETY: the kernel made this descriptor for us just now.
        _ => Ok(unsafe { OwnedFd::from_raw_fd(pidfd) }),
    }
}

/// The child's whole life before its program.
///
/// # Safety
/// Only in a child just cloned: it calls nothing but system calls, and never returns.
unsafe fn become_program(prepared: &Prepared) -> ! {
    // SAFETY: plain system calls on descriptors and strings that were prepared; nothing allocates.
    unsafe {
        if enter(prepared) {
            libc::syscall(
                libc::SYS_execveat,
                prepared.executable,
                c"".as_ptr(),
                prepared.argv.as_ptr(),
                prepared.envp.as_ptr(),
                libc::AT_EMPTY_PATH,
            );
        }
        let code = *libc::__errno_location();
        libc::write(
            prepared.failure,
            (&raw const code).cast(),
            mem::size_of_val(&code),
        );
        libc::_exit(127)
    }
}

/// Leaves everything of the agent's behind. False with errno set when one step fails.
///
/// # Safety
/// As for [`become_program`].
unsafe fn enter(prepared: &Prepared) -> bool {
    let no_core = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: plain system calls; the signal set is initialised by sigemptyset before its use.
    unsafe {
        let mut none: libc::sigset_t = mem::zeroed();
        libc::sigemptyset(&raw mut none);
        // Raw system calls for ids: glibc's wrappers signal the other threads, which are not here.
        libc::sigprocmask(libc::SIG_SETMASK, &raw const none, ptr::null_mut()) == 0
            && libc::setsid() != -1
            && libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) == 0
            && libc::chdir(c"/".as_ptr()) == 0
            && libc::dup2(prepared.null, 0) != -1
            && libc::dup2(prepared.output, 1) != -1
            && libc::dup2(prepared.output, 2) != -1
            && libc::syscall(
                libc::SYS_close_range,
                3,
                u32::MAX,
                libc::CLOSE_RANGE_CLOEXEC,
            ) == 0
            && libc::setrlimit(libc::RLIMIT_CORE, &raw const no_core) == 0
            && drop_identity()
            && libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
            && confine(prepared)
    }
}

/// To a few files, and without the system calls that no command needs.
///
/// # Safety
/// As for [`become_program`], after `no_new_privs`.
unsafe fn confine(prepared: &Prepared) -> bool {
    // SAFETY: plain system calls on a descriptor and a filter that were prepared; `calls` points into the
    // parent's filter, of which the child has its own copy.
    unsafe {
        (prepared.files == -1
            || libc::syscall(libc::SYS_landlock_restrict_self, prepared.files, 0) == 0)
            && libc::syscall(
                libc::SYS_seccomp,
                libc::SECCOMP_SET_MODE_FILTER,
                0,
                &raw const prepared.calls,
            ) == 0
    }
}

/// From root to nobody; what isn't root stays what it is.
///
/// # Safety
/// As for [`become_program`].
unsafe fn drop_identity() -> bool {
    // SAFETY: plain system calls without pointers (no group list: its length is 0).
    unsafe {
        if libc::geteuid() != 0 {
            return true;
        }
        libc::syscall(libc::SYS_setgroups, 0, ptr::null::<libc::gid_t>()) == 0
            && libc::syscall(libc::SYS_setresgid, NOBODY, NOBODY, NOBODY) == 0
            && libc::syscall(libc::SYS_setresuid, NOBODY, NOBODY, NOBODY) == 0
            // Changing the user clears the death signal.
            && libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) == 0
    }
}
