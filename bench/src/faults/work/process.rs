//! Work for the tables of processes, threads and files.

use std::{
    fs::File,
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Context, bail};
use rustix::process::{Resource, Rlimit, setrlimit};

use super::{every, forever};

/// Between two tries of what is not allowed.
const AGAIN: Duration = Duration::from_millis(200);
/// Stack of a thread that only waits.
const STACK: usize = 16 << 10;

/// A child that does `what` and never returns; its number, or the error.
fn child(what: impl FnOnce()) -> std::io::Result<i32> {
    // SAFETY: this process has one thread, so the child may run any code.
    match unsafe { libc::fork() } {
        -1 => Err(std::io::Error::last_os_error()),
        0 => {
            what();
            // SAFETY: ends the child at once, without running what the parent registered.
            unsafe { libc::_exit(0) }
        }
        child => Ok(child),
    }
}

fn wait(child: i32) {
    let mut status = 0;
    // SAFETY: a child of ours and a place for its status.
    unsafe { libc::waitpid(child, &raw mut status, 0) };
}

pub(super) fn forks(loops: usize) -> anyhow::Result<()> {
    for _ in 1..loops.max(1) {
        child(forking)?;
    }
    forking();
    Ok(())
}

/// As vfork(2) and posix_spawn(3) do it: the child borrows our memory, so that making it costs little.
fn forking() {
    /// What the child does: it ends by returning.
    extern "C" fn nothing(_: *mut libc::c_void) -> libc::c_int {
        0
    }
    let mut stack = vec![0_u128; STACK / size_of::<u128>()];
    let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD;
    loop {
        let top = stack.as_mut_ptr_range().end.cast();
        // SAFETY: the child has this stack to itself, aligned to 16 bytes, and touches nothing else; we
        // stand still until it has ended (CLONE_VFORK).
        let child = unsafe { libc::clone(nothing, top, flags, std::ptr::null_mut()) };
        if child > 0 {
            wait(child);
        }
    }
}

pub(super) fn crashes(every_ms: u64) -> anyhow::Result<()> {
    loop {
        Command::new("/bin/false")
            .stdin(Stdio::null())
            .status()
            .context("cannot start /bin/false")?;
        thread::sleep(Duration::from_millis(every_ms));
    }
}

pub(super) fn zombies(count: usize) -> anyhow::Result<()> {
    for _ in 0..count {
        child(|| ())?;
    }
    forever()
}

pub(super) fn children(count: usize) -> anyhow::Result<()> {
    let mut left = count;
    while left > 0 {
        match child(|| forever()) {
            Ok(_) => left -= 1,
            Err(_) => thread::sleep(AGAIN),
        }
    }
    forever()
}

pub(super) fn files(limit: u64, begin: u64, per_s: f64) -> anyhow::Result<()> {
    let both = Rlimit {
        current: Some(limit),
        maximum: Some(limit),
    };
    setrlimit(Resource::Nofile, both)?;
    let mut open = Vec::new();
    // Three are open from the start.
    while (open.len() as u64) + 3 < limit {
        if open.len() as u64 >= begin {
            if per_s <= 0.0 {
                forever();
            }
            thread::sleep(every(per_s));
        }
        open.push(File::open("/dev/null")?);
    }
    forever()
}

pub(super) fn threads(begin: usize, per_s: f64) -> anyhow::Result<()> {
    for number in 0_usize.. {
        if number >= begin {
            thread::sleep(every(per_s));
        }
        let started = thread::Builder::new().stack_size(STACK).spawn(|| forever());
        if let Err(error) = started {
            bail!("thread {number}: {error}");
        }
    }
    Ok(())
}
