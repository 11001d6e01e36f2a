//! A child process that never outlives its test: killed on drop, and by the kernel if we die.

use std::{
    fs::{self, File},
    io,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{
        OnceLock,
        mpsc::{Sender, SyncSender, channel, sync_channel},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal, kill_process, set_parent_process_death_signal};

/// Of a log, what an error shows.
const TAIL_LINES: usize = 40;

/// A running part with its log.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
    ended: Option<ExitStatus>,
}

impl Process {
    /// Starts a command; stdout and stderr are appended to `log`.
    pub fn start(name: &str, mut command: Command, log: &Path) -> anyhow::Result<Self> {
        let out = File::options()
            .create(true)
            .append(true)
            .open(log)
            .with_context(|| format!("cannot open {}", log.display()))?;
        let err = out.try_clone().context("cannot duplicate a log's handle")?;
        command.stdin(Stdio::null()).stdout(out).stderr(err);
        let program = PathBuf::from(command.get_program());
        let child = spawn(command)
            .with_context(|| format!("cannot start {name} ({})", program.display()))?;
        Ok(Self {
            name: name.to_owned(),
            child,
            log: log.to_owned(),
            ended: None,
        })
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Everything that it wrote so far.
    pub fn log(&self) -> String {
        let bytes = fs::read(&self.log).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        if self.ended.is_none() {
            self.ended = self.child.try_wait().ok().flatten();
        }
        self.ended
    }

    /// Waits until `look` finds something; fails at once when the process ends, and shows its log.
    pub fn ready<T>(
        &mut self,
        within: Duration,
        mut look: impl FnMut() -> anyhow::Result<T>,
    ) -> anyhow::Result<T> {
        let begun = Instant::now();
        loop {
            let error = match look() {
                Ok(found) => return Ok(found),
                Err(error) => error,
            };
            if let Some(status) = self.ended() {
                bail!("{} ended with {status}\n{}", self.name, self.tail());
            }
            if begun.elapsed() >= within {
                let (name, s) = (&self.name, within.as_secs_f32());
                bail!(
                    "{name} is not ready after {s} s: {error:#}\n{}",
                    self.tail()
                );
            }
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// Sends a signal; fine if it has ended already.
    pub fn signal(&mut self, signal: Signal) -> anyhow::Result<()> {
        if self.ended().is_some() {
            return Ok(());
        }
        let pid = i32::try_from(self.pid()).ok().and_then(Pid::from_raw);
        let pid = pid.context("a child has a positive id")?;
        kill_process(pid, signal).with_context(|| format!("cannot signal {}", self.name))
    }

    /// Waits for its end.
    pub fn wait(&mut self, within: Duration) -> anyhow::Result<ExitStatus> {
        let begun = Instant::now();
        loop {
            if let Some(status) = self.ended() {
                return Ok(status);
            }
            if begun.elapsed() >= within {
                let (name, s) = (&self.name, within.as_secs_f32());
                bail!("{name} still runs after {s} s\n{}", self.tail());
            }
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// SIGTERM, then waits.
    pub fn terminate(&mut self, within: Duration) -> anyhow::Result<ExitStatus> {
        self.signal(Signal::TERM)?;
        self.wait(within)
    }

    /// SIGKILL: no goodbye.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        self.signal(Signal::KILL)?;
        self.wait(Duration::from_secs(10)).map(drop)
    }

    /// The log's end, under a title.
    pub fn tail(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        let from = lines.len().saturating_sub(TAIL_LINES);
        format!(
            "--- {}, end of its log:\n{}\n---",
            self.name,
            lines[from..].join("\n")
        )
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let failed = self
            .ended()
            .is_some_and(|status| status.code().is_some_and(|code| code != 0));
        if self.kill().is_err() || thread::panicking() || failed {
            eprintln!("{}", self.tail());
        }
    }
}

type Order = (Command, SyncSender<io::Result<Child>>);

/// Spawns a child that dies with us.
///
/// The kernel sends the death signal when the *thread* that forked ends, and test threads and
/// runtime workers come and go: one thread that lives as long as the program does all forking.
pub fn spawn(mut command: Command) -> io::Result<Child> {
    static SPAWNER: OnceLock<Sender<Order>> = OnceLock::new();
    let spawner = SPAWNER.get_or_init(|| {
        let (orders, inbox) = channel::<Order>();
        thread::spawn(move || {
            for (mut command, reply) in inbox {
                // Nobody waits any more: then the child is dropped, and dies with us.
                drop(reply.send(command.spawn()));
            }
        });
        orders
    });
    let us = rustix::process::getpid();
    // SAFETY: between fork and exec only two system calls are made, both async-signal-safe.
    unsafe {
        command.pre_exec(move || {
            set_parent_process_death_signal(Some(Signal::KILL))?;
            // Our death before the call above would go unnoticed.
            if rustix::process::getppid() != Some(us) {
                return Err(io::Error::other("the parent has ended"));
            }
            Ok(())
        });
    }
    let (reply, answer) = sync_channel(1);
    let gone = |_| io::Error::other("the spawning thread has ended");
    spawner
        .send((command, reply))
        .map_err(|_| io::Error::other("the spawning thread has ended"))?;
    answer.recv().map_err(gone)?
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;

    use super::*;

    fn sleeper(folder: &Path) -> Process {
        let mut command = Command::new("sleep");
        command.arg("60");
        Process::start("sleep", command, &folder.join("log")).unwrap()
    }

    #[test]
    fn a_child_outlives_the_thread_that_asked_for_it_and_not_its_handle() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().to_owned();
        let mut process = thread::spawn(move || sleeper(&path)).join().unwrap();
        thread::sleep(Duration::from_millis(100));
        assert_eq!(process.ended(), None);
        let stat = PathBuf::from(format!("/proc/{}", process.pid()));
        assert!(stat.exists());
        drop(process);
        assert!(!stat.exists());
    }

    #[test]
    fn an_early_end_is_told_with_the_log() {
        let folder = tempfile::tempdir().unwrap();
        let mut command = Command::new("ls");
        command.arg("/nowhere/at/all");
        let mut process = Process::start("ls", command, &folder.path().join("log")).unwrap();
        let error = process.ready(Duration::from_secs(10), || -> anyhow::Result<()> {
            bail!("no")
        });
        let said = error.unwrap_err().to_string();
        assert!(
            said.contains("ls ended with") && said.contains("/nowhere/at/all"),
            "{said}"
        );
    }

    #[test]
    fn signals_end_it() {
        let folder = tempfile::tempdir().unwrap();
        let mut process = sleeper(folder.path());
        let status = process.terminate(Duration::from_secs(5)).unwrap();
        assert_eq!(status.signal(), Some(15));
        process.kill().unwrap();
    }
}
