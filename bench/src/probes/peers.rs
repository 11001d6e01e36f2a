//! The peers: Debian's libbpf-tools and bpftrace, started, waited for, stopped.

use std::{
    io::{BufRead as _, BufReader},
    os::unix::process::CommandExt as _,
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, bail};

/// From its first line to everything being attached.
const SETTLE: Duration = Duration::from_millis(1500);
/// Until its first line.
const PATIENCE: Duration = Duration::from_secs(20);

/// How most people ask for what the syscall pair counts.
const HISTOGRAMS: &str = "tracepoint:raw_syscalls:sys_enter { @start[tid] = nsecs; @nr[tid] = args->id; } \
     tracepoint:raw_syscalls:sys_exit /@start[tid]/ { @took[comm, @nr[tid]] = hist(nsecs - @start[tid]); \
     delete(@start[tid]); delete(@nr[tid]); }";

/// Where the peers look tracepoints up.
const TRACEFS: &str = "/sys/kernel/tracing";

/// Where nobody has mounted it: for this process alone, so that the machine is left as it is.
fn own_tracefs() -> std::io::Result<()> {
    use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};
    // SAFETY: a new mount namespace for a process that has one thread.
    unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNS) }?;
    mount_change(
        c"/",
        MountPropagationFlags::PRIVATE | MountPropagationFlags::REC,
    )?;
    mount(
        c"tracefs",
        c"/sys/kernel/tracing",
        c"tracefs",
        MountFlags::empty(),
        None,
    )?;
    Ok(())
}

/// A running peer; stopped on drop.
pub(crate) struct Peer(Child);

/// A peer's command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Which {
    Syscount,
    Bpftrace,
    Runqlat,
    Execsnoop,
}

impl Which {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Syscount => "syscount -L",
            Self::Bpftrace => "bpftrace",
            Self::Runqlat => "runqlat",
            Self::Execsnoop => "execsnoop",
        }
    }

    fn command(self) -> Command {
        let (program, args): (&str, &[&str]) = match self {
            Self::Syscount => ("/usr/sbin/syscount", &["-L", "-i", "3600"]),
            Self::Bpftrace => ("/usr/bin/bpftrace", &["-e", HISTOGRAMS]),
            Self::Runqlat => ("/usr/sbin/runqlat", &["3600"]),
            Self::Execsnoop => ("/usr/sbin/execsnoop", &[]),
        };
        let mut command = Command::new(program);
        command.args(args);
        command
    }

    /// Starts it and waits until it is attached.
    pub(crate) fn start(self) -> anyhow::Result<Peer> {
        let mut command = self.command();
        if !Path::new(TRACEFS).join("events").is_dir() {
            // SAFETY: `own_tracefs` makes system calls only, with arguments that are there already.
            unsafe { command.pre_exec(own_tracefs) };
        }
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {}", self.name()))?;
        let stdout = child.stdout.take().context("stdout is a pipe")?;
        let (sender, first) = std::sync::mpsc::channel();
        // Reads to the end: a full pipe would stop the peer, or make it cheaper than it is.
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).split(b'\n').map_while(Result::ok) {
                // When nobody waits for lines any more they still have to be read.
                sender.send(line.len()).unwrap_or_default();
            }
        });
        // Those that print through a pipe without flushing say nothing: the time must do.
        let begun = Instant::now();
        while begun.elapsed() < PATIENCE {
            if let Some(status) = child.try_wait()? {
                let mut said = String::new();
                if let Some(stderr) = child.stderr.take() {
                    std::io::Read::read_to_string(&mut BufReader::new(stderr), &mut said)?;
                }
                bail!("{} ended with {status}: {}", self.name(), said.trim());
            }
            if first.recv_timeout(Duration::from_millis(100)).is_ok()
                || begun.elapsed() > Duration::from_secs(2)
            {
                break;
            }
        }
        std::thread::sleep(SETTLE);
        Ok(Peer(child))
    }
}

impl Peer {
    pub(crate) fn pid(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        if let Ok(pid) = i32::try_from(self.0.id())
            && let Some(pid) = rustix::process::Pid::from_raw(pid)
        {
            rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap_or_default();
        }
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(5) {
            if matches!(self.0.try_wait(), Ok(Some(_))) {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        self.0.kill().unwrap_or_default();
        drop(self.0.wait());
    }
}
