//! The disk's faults, at the agent's own calls: `born` puts a filter on itself and becomes the agent; the
//! storm answers each call, late or with an error where a fault is armed.

use std::{
    fs,
    os::{
        fd::OwnedFd,
        unix::{
            net::{UnixListener, UnixStream},
            process::CommandExt,
        },
    },
    path::{Path, PathBuf},
    process::Command,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use paramedic_parts::seccomp::{self, Call};

use crate::schedule::{DiskCall, Lane};

/// For the agent's handle to arrive.
const BORN_WITHIN: Duration = Duration::from_secs(20);
/// Between two looks at whether everybody is gone.
const LOOK_MS: i32 = 100;

/// Becomes the agent under the filter.
#[derive(Debug, clap::Args)]
pub struct Born {
    /// Where the handle goes
    socket: PathBuf,
    /// The agent and its arguments
    #[arg(last = true, required = true)]
    command: Vec<PathBuf>,
}

impl Born {
    pub fn become_it(&self) -> anyhow::Result<()> {
        let stream = UnixStream::connect(&self.socket).context("the storm")?;
        let calls = [seccomp::DISK, &[libc::SYS_bpf]].concat();
        let listener = seccomp::install(&calls, false)?;
        seccomp::hand_over(&listener, &stream)?;
        drop((listener, stream));
        let (program, arguments) = self.command.split_first().context("no command")?;
        let error = Command::new(program).args(arguments).exec();
        bail!("cannot become {}: {error}", program.display())
    }
}

/// What the disk does.
#[derive(Clone, Copy, Debug)]
enum Plan {
    Well,
    Slow(Duration),
    /// The call after so many others of its kind on this lane's files fails.
    Fails {
        call: DiskCall,
        lane: Lane,
        after: u64,
    },
    NoSpace,
    Failed,
}

/// One life's disk. Clones are the same.
#[derive(Clone, Debug)]
pub struct Disk {
    plan: Arc<Mutex<Plan>>,
    /// No program of BPF is let into the kernel.
    bpf_refused: bool,
}

impl Disk {
    /// Waits for the handle at `socket`, and answers from then on in a thread that ends with the life
    /// and all that it has started.
    pub fn attend(socket: &UnixListener, bpf_refused: bool) -> anyhow::Result<Self> {
        let listener = receive(socket)?;
        let disk = Self {
            plan: Arc::new(Mutex::new(Plan::Well)),
            bpf_refused,
        };
        let own = disk.clone();
        thread::spawn(move || {
            loop {
                match seccomp::next(&listener, LOOK_MS) {
                    Ok(Some(call)) => own.answer(&listener, call),
                    Ok(None) => {}
                    Err(_) => return,
                }
            }
        });
        Ok(disk)
    }

    fn plan(&self) -> MutexGuard<'_, Plan> {
        self.plan.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn slow(&self, call: Duration) {
        *self.plan() = Plan::Slow(call);
    }

    pub fn no_space(&self) {
        *self.plan() = Plan::NoSpace;
    }

    pub fn fail(&self, call: DiskCall, lane: Lane, after: u64) {
        *self.plan() = Plan::Fails { call, lane, after };
    }

    pub fn well(&self) {
        *self.plan() = Plan::Well;
    }

    /// Whether the armed call has come.
    pub fn failed(&self) -> bool {
        matches!(*self.plan(), Plan::Failed)
    }

    fn answer(&self, listener: &OwnedFd, call: Call) {
        if call.nr == libc::SYS_bpf {
            if self.bpf_refused {
                return seccomp::fail(listener, call, libc::EPERM);
            }
            return seccomp::let_through(listener, call);
        }
        let mut plan = self.plan();
        match &mut *plan {
            Plan::NoSpace if is(DiskCall::Allocate, call) => {
                return seccomp::fail(listener, call, libc::ENOSPC);
            }
            Plan::Well | Plan::Failed | Plan::NoSpace => {}
            Plan::Slow(each) => {
                let each = *each;
                // Not under the lock: the storm may want to lift it.
                drop(plan);
                thread::sleep(each);
                seccomp::let_through(listener, call);
                return;
            }
            Plan::Fails {
                call: which,
                lane,
                after,
            } => {
                if is(*which, call) && is_of(*lane, call) {
                    if *after == 0 {
                        *plan = Plan::Failed;
                        seccomp::fail(listener, call, libc::EIO);
                        return;
                    }
                    *after -= 1;
                }
            }
        }
        seccomp::let_through(listener, call);
    }
}

fn is(which: DiskCall, call: Call) -> bool {
    let sync = matches!(call.nr, libc::SYS_fsync | libc::SYS_fdatasync);
    let write = matches!(
        call.nr,
        libc::SYS_pwrite64 | libc::SYS_pwritev | libc::SYS_pwritev2
    );
    match which {
        DiskCall::Sync => sync,
        DiskCall::Write => write,
        DiskCall::Allocate => call.nr == libc::SYS_fallocate,
    }
}

/// Whether a call is about a file of this lane.
fn is_of(lane: Lane, call: Call) -> bool {
    let link = format!("/proc/{}/fd/{}", call.tid, call.args[0]);
    let begins = match lane {
        Lane::Fast => "fast-",
        Lane::Safe => "safe-",
    };
    fs::read_link(Path::new(&link)).is_ok_and(|path| {
        let name = path.file_name().unwrap_or_default();
        name.to_string_lossy().starts_with(begins)
    })
}

fn receive(socket: &UnixListener) -> anyhow::Result<OwnedFd> {
    socket.set_nonblocking(true)?;
    let begun = Instant::now();
    let stream = loop {
        match socket.accept() {
            Ok((stream, _)) => break stream,
            Err(error) if begun.elapsed() > BORN_WITHIN => return Err(error).context("no agent"),
            Err(_) => thread::sleep(Duration::from_millis(2)),
        }
    };
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(BORN_WITHIN))?;
    seccomp::take_over(&stream)
}
