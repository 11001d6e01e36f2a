//! Workloads with known answers, and cgroups to run them in.
#![allow(dead_code, reason = "each test program uses its own part")]
#![allow(clippy::unwrap_used, reason = "only tests call these")]

use std::{
    cell::Cell,
    fs,
    os::unix::fs::MetadataExt as _,
    path::PathBuf,
    thread::sleep,
    time::{Duration, Instant},
};

/// Waits for a condition; fails the test with its name when time is up.
pub fn wait_until(what: &str, patience: Duration, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < patience, "in vain: {what}");
        sleep(Duration::from_millis(10));
    }
}

/// A cgroup of our own, emptied and removed at the end.
pub struct Cgroup(PathBuf);

impl Cgroup {
    pub fn new(name: &str) -> Self {
        Self::at(PathBuf::from("/sys/fs/cgroup").join(format!("probes-{name}")))
    }

    pub fn child(&self, name: &str) -> Self {
        Self::at(self.0.join(name))
    }

    fn at(path: PathBuf) -> Self {
        fs::create_dir(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        Self(path)
    }

    /// What `bpf_get_current_cgroup_id` gives inside.
    pub fn id(&self) -> u64 {
        fs::metadata(&self.0).unwrap().ino()
    }

    pub fn write(&self, file: &str, value: &str) {
        let path = self.0.join(file);
        fs::write(&path, value).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    }

    pub fn read(&self, file: &str) -> String {
        fs::read_to_string(self.0.join(file)).unwrap()
    }

    /// Lets children have limits of a controller.
    pub fn delegate(&self, controller: &str) {
        self.write("cgroup.subtree_control", &format!("+{controller}"));
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        fs::write(self.0.join("cgroup.kill"), "1").unwrap_or_default();
        for _ in 0..200 {
            if fs::remove_dir(&self.0).is_ok() {
                return;
            }
            sleep(Duration::from_millis(10));
        }
        eprintln!("cannot remove {}", self.0.display());
    }
}

/// A process that runs a workload, in a cgroup before it starts.
pub struct Job {
    pid: i32,
    ended: Cell<Option<i32>>,
}

impl Job {
    pub fn start(cgroup: &Cgroup, work: impl FnOnce()) -> Self {
        Self::start_when(work, |pid| cgroup.write("cgroup.procs", &pid.to_string()))
    }

    /// Where we are ourselves.
    pub fn start_here(work: impl FnOnce()) -> Self {
        Self::start_when(work, |_| ())
    }

    fn start_when(work: impl FnOnce(), prepare: impl FnOnce(i32)) -> Self {
        let mut pipe = [0; 2];
        // SAFETY: two ints are what pipe2 fills.
        let made = unsafe { libc::pipe2(pipe.as_mut_ptr(), libc::O_CLOEXEC) };
        assert_eq!(made, 0);
        // SAFETY: the child uses what it inherits, runs the work and ends without unwinding.
        let pid = unsafe { libc::fork() };
        assert!(pid >= 0, "cannot fork");
        if pid == 0 {
            let mut go = 0_u8;
            // The links of the probes must not live on in here: detached is detached.
            // SAFETY: nothing in this process uses what is closed; reads one byte into one byte.
            let read = unsafe {
                libc::dup2(pipe[0], 0);
                libc::syscall(libc::SYS_close_range, 3, u32::MAX, 0);
                libc::read(0, (&raw mut go).cast(), 1)
            };
            let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
            // SAFETY: ends this process only, without the parent's exit handlers.
            unsafe { libc::_exit(i32::from(read != 1 || done.is_err())) };
        }
        prepare(pid);
        // SAFETY: writes one byte from one byte, closes what was opened above.
        unsafe {
            assert_eq!(libc::write(pipe[1], [1_u8].as_ptr().cast(), 1), 1);
            libc::close(pipe[0]);
            libc::close(pipe[1]);
        }
        Self {
            pid,
            ended: Cell::new(None),
        }
    }

    pub fn pid(&self) -> u32 {
        u32::try_from(self.pid).unwrap()
    }

    /// Waits for its end, which must be a good one.
    pub fn finish(self) {
        let status = self.wait();
        assert!(
            libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0,
            "the workload ended with status {status:#x}"
        );
    }

    /// Waits for its end; the signal that ended it.
    pub fn wait_status(&self) -> Option<i32> {
        let status = self.wait();
        libc::WIFSIGNALED(status).then(|| libc::WTERMSIG(status))
    }

    /// Waits until it is inside a call.
    pub fn wait_for_syscall(&self, nr: libc::c_long) {
        let file = format!("/proc/{}/syscall", self.pid);
        let wanted = nr.to_string();
        wait_until(
            "the workload is in its call",
            Duration::from_secs(10),
            || {
                fs::read_to_string(&file)
                    .is_ok_and(|text| text.split(' ').next() == Some(wanted.as_str()))
            },
        );
    }

    fn wait(&self) -> i32 {
        if let Some(status) = self.ended.get() {
            return status;
        }
        let mut status = 0;
        // SAFETY: our own child, not waited for before.
        let waited = unsafe { libc::waitpid(self.pid, &raw mut status, 0) };
        assert_eq!(waited, self.pid);
        self.ended.set(Some(status));
        status
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        if self.ended.get().is_none() {
            // SAFETY: our own child, not waited for yet, so the pid is still its own.
            unsafe {
                libc::kill(self.pid, libc::SIGKILL);
                libc::waitpid(self.pid, std::ptr::null_mut(), 0);
            }
        }
    }
}

fn fork_and(times: u32, child: impl Fn() -> i32) {
    for _ in 0..times {
        // SAFETY: the child calls `child` and ends.
        let pid = unsafe { libc::fork() };
        assert!(pid >= 0, "cannot fork");
        if pid == 0 {
            let code = child();
            // SAFETY: ends the child only.
            unsafe { libc::_exit(code) };
        }
        let mut status = 0;
        // SAFETY: our own child.
        assert_eq!(unsafe { libc::waitpid(pid, &raw mut status, 0) }, pid);
    }
}

/// So many children, each ending at once with status 7.
pub fn fork_and_exit(times: u32) {
    fork_and(times, || 7);
}

/// So many children, each becoming `/bin/true`.
pub fn fork_and_exec(times: u32) {
    let program = c"/bin/true";
    fork_and(times, || {
        let arguments = [program.as_ptr(), std::ptr::null()];
        // SAFETY: a null-terminated list of null-terminated strings.
        unsafe { libc::execv(program.as_ptr(), arguments.as_ptr()) };
        127
    });
}

/// So many threads, one after another.
pub fn threads(times: u32) {
    for _ in 0..times {
        std::thread::spawn(|| ()).join().unwrap();
    }
}

/// So many `clock_nanosleep` of this length.
pub fn sleep_ms(ms: i64, times: u32) {
    let time = libc::timespec {
        tv_sec: ms / 1_000,
        tv_nsec: ms % 1_000 * 1_000_000,
    };
    for _ in 0..times {
        // SAFETY: a valid timespec, and no remainder wanted.
        let slept = unsafe {
            libc::syscall(
                libc::SYS_clock_nanosleep,
                libc::CLOCK_MONOTONIC,
                0,
                &raw const time,
                std::ptr::null_mut::<libc::timespec>(),
            )
        };
        assert_eq!(slept, 0);
    }
}

/// So many `fchdir` of a file that isn't open.
pub fn failing_calls(times: u32) {
    for _ in 0..times {
        // SAFETY: fails without doing anything.
        assert_eq!(unsafe { libc::syscall(libc::SYS_fchdir, -1) }, -1);
    }
}

/// So many `getpgid` of ourselves.
pub fn good_calls(times: u32) {
    for _ in 0..times {
        // SAFETY: has no side effect.
        assert!(unsafe { libc::syscall(libc::SYS_getpgid, 0) } >= 0);
    }
}

/// First choice of the out-of-memory killer, or never one.
///
/// Never, not last: the kernel looks for a next victim as soon as the first one's pages are unmapped,
/// up to 10,000 of them before they are given back (`exit_mmap` batches them, and hides the task from
/// the killer first). Within that moment the next best is killed as well, though nothing is missing.
pub fn be_the_victim(first: bool) {
    fs::write(
        "/proc/self/oom_score_adj",
        if first { "1000" } else { "-1000" },
    )
    .unwrap();
}

/// Takes memory and writes to every page of it.
pub fn touch_mib(mib: usize) {
    let mut memory = vec![0_u8; mib << 20];
    for at in (0..memory.len()).step_by(4_096) {
        memory[at] = 1;
    }
    // Kept to the end of the process.
    std::mem::forget(std::hint::black_box(memory));
}

/// Takes from this thread what loading probes needs.
pub fn drop_capabilities() {
    use rustix::thread::{CapabilitySet, capabilities, set_capabilities};
    let mut sets = capabilities(None).unwrap();
    sets.effective
        .remove(CapabilitySet::BPF | CapabilitySet::PERFMON | CapabilitySet::SYS_ADMIN);
    set_capabilities(None, sets).unwrap();
}

/// How many BPF programs the kernel holds.
pub fn loaded_programs() -> usize {
    const BPF_PROG_GET_NEXT_ID: i32 = 11;
    let mut attributes = [0_u32; 3];
    let mut count = 0;
    loop {
        // SAFETY: `union bpf_attr` of this command: start id, next id (filled), flags.
        let done = unsafe {
            libc::syscall(
                libc::SYS_bpf,
                BPF_PROG_GET_NEXT_ID,
                attributes.as_mut_ptr(),
                size_of_val(&attributes),
            )
        };
        if done != 0 {
            return count;
        }
        count += 1;
        attributes[0] = attributes[1];
    }
}

/// Overwrites the first instruction of a section with one that does not exist.
pub fn break_section(object: &mut [u8], name: &str) {
    let word = |object: &[u8], at: usize, len: usize| {
        let mut bytes = [0; 8];
        bytes[..len].copy_from_slice(&object[at..at + len]);
        usize::try_from(u64::from_le_bytes(bytes)).unwrap()
    };
    // The ELF64 header's place, size, number of section headers, and which holds the names.
    let table = word(object, 0x28, 8);
    let size = word(object, 0x3a, 2);
    let count = word(object, 0x3c, 2);
    let names = table + word(object, 0x3e, 2) * size;
    let names = word(object, names + 24, 8);
    for index in 0..count {
        let header = table + index * size;
        let at = names + word(object, header, 4);
        let is_it = object[at..].starts_with(name.as_bytes()) && object[at + name.len()] == 0;
        if is_it {
            let start = word(object, header + 24, 8);
            object[start] = 0xff;
            return;
        }
    }
    panic!("the object has no section {name}");
}

/// Keeps a CPU busy.
pub fn spin_ms(ms: u64) {
    let begun = std::time::Instant::now();
    while begun.elapsed() < Duration::from_millis(ms) {
        std::hint::spin_loop();
    }
}
