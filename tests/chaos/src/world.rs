//! The agent under the storm: its configuration, its disk, its lives, and what the kernel says of it.

use std::{
    fs,
    net::SocketAddr,
    os::unix::net::UnixListener,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};
use paramedic_parts::{Process, http, tools};
use rustix::{
    mount::{MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_change, unmount},
    process::{Pid, Resource, Rlimit, Signal, prlimit},
};

use crate::{
    disk::Disk,
    schedule::{ProbesAre, Setting},
};

/// For `/-/ready` after a start, beside others on two CPUs.
pub const READY_WITHIN: Duration = Duration::from_secs(30);
/// For an orderly end.
const END_WITHIN: Duration = Duration::from_secs(30);
/// Written to the rules' folder besides the shipped ones.
const EXTRA_RULES: &str = "extra.yaml";
/// Not a rule file.
const BAD_RULES: &str = "family: cpu\nhypotheses:\n  - id: [\n";

/// Mounts from here on are this program's alone, and end with it. Before any thread is started.
pub fn own_mounts() -> anyhow::Result<()> {
    // SAFETY: only the namespace of mounts changes, and no other thread runs yet.
    unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNS) }
        .context("unshare the mounts: run this as root")?;
    let flags = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    mount_change("/", flags).context("make the mounts private")
}

/// A life of the agent.
#[derive(Debug)]
struct Life {
    process: Process,
    disk: Disk,
}

/// The agent, alive or not, and what it stands on.
#[derive(Debug)]
pub struct World {
    folder: tempfile::TempDir,
    program: PathBuf,
    listen: SocketAddr,
    life: Option<Life>,
    pub lives: u64,
    bpf_refused: bool,
}

impl World {
    /// Lays everything out; starts nothing.
    pub fn new(setting: &Setting, prometheus: SocketAddr) -> anyhow::Result<Self> {
        let world = Self {
            folder: tools::temporary_folder()?,
            program: tools::agent_binary()?,
            listen: http::free_address()?,
            life: None,
            lives: 0,
            bpf_refused: setting.probes == ProbesAre::Refused,
        };
        fs::create_dir(world.state())?;
        let size = format!("size={}m,mode=700", setting.disk_mib);
        let size = std::ffi::CString::new(size)?;
        mount(
            "chaos",
            world.state(),
            "tmpfs",
            MountFlags::NODEV,
            size.as_c_str(),
        )
        .context("mount a small disk: run this as root")?;
        let rules = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../rules");
        fs::create_dir(world.rules())?;
        for file in fs::read_dir(&rules).with_context(|| format!("{}", rules.display()))? {
            let file = file?;
            let name = file.file_name();
            let test = name.to_string_lossy().ends_with(".test.yaml");
            if file.file_type()?.is_file() && !test {
                fs::copy(file.path(), world.rules().join(name))?;
            }
        }
        fs::write(world.config(), world.text(setting, prometheus))?;
        Ok(world)
    }

    fn text(&self, setting: &Setting, prometheus: SocketAddr) -> String {
        let Setting {
            queue_len_max,
            concurrency_max,
            in_flight_max,
            journal_deadline_ms,
            probes,
            ..
        } = setting;
        let probes = *probes != ProbesAre::Off;
        let (state, rules, listen) = (self.state(), self.rules(), self.listen);
        format!(
            "state_dir: {state}
intake: {{listen: '{listen}', pending_wait_ms: 1000, shutdown_grace_ms: 2000}}
pressure: {{enabled: false}}
routing: {{queue_len_max: {queue_len_max}, concurrency_max: {concurrency_max}, \
             tenant_concurrency_max: {concurrency_max}}}
sampling: {{prometheus_url: 'http://{prometheus}', timeout_ms: 200, budget_ms: 400, attempts_max: 2, \
             baseline_s: 10}}
evidence: {{window_s: 1, period_ms: 250, history_s: 10, syscall_watch_ms: 0}}
probes: {{enabled: {probes}}}
rules: {{dirs: ['{rules}']}}
remedy: {{level: act, orphan_grace_s: 1}}
journal: {{fast_segment_bytes: 262144, safe_segment_bytes: 1048576, fast_keep_bytes: 67108864, \
             safe_keep_bytes: 67108864, segments_ahead: 1, outcome_reserve_bytes: 65536, \
             record_bytes_max: 131072, snapshot_bytes_max: 524288, batch_bytes_max: 262144, \
             queue_bytes_max: 4194304, in_flight_max: {in_flight_max}, \
             deadline_ms: {journal_deadline_ms}, space_retry_ms: 50, writer_realtime: false, \
             writer_nice: 0}}
",
            state = state.display(),
            rules = rules.display(),
        )
    }

    pub fn state(&self) -> PathBuf {
        self.folder.path().join("state")
    }

    fn rules(&self) -> PathBuf {
        self.folder.path().join("rules")
    }

    pub fn config(&self) -> PathBuf {
        self.folder.path().join("paramedic.yaml")
    }

    pub fn address(&self) -> SocketAddr {
        self.listen
    }

    /// Keeps everything for a look afterwards: what is in memory goes to `kept`.
    pub fn keep(&mut self) -> anyhow::Result<PathBuf> {
        self.folder.disable_cleanup(true);
        let mut folders = vec![(self.state(), self.folder.path().join("kept"))];
        while let Some((from, to)) = folders.pop() {
            fs::create_dir_all(&to)?;
            for file in fs::read_dir(from)? {
                let path = file?.path();
                let place = to.join(path.file_name().unwrap_or_default());
                if path.is_dir() {
                    folders.push((path, place));
                } else {
                    fs::copy(&path, place)?;
                }
            }
        }
        Ok(self.folder.path().to_owned())
    }

    /// Starts a life; returns once it is ready. Seconds that this took.
    pub fn start(&mut self) -> anyhow::Result<f64> {
        let begun = Instant::now();
        self.lives += 1;
        let socket = self.folder.path().join("born.sock");
        fs::remove_file(&socket).unwrap_or_default();
        let listener = UnixListener::bind(&socket)?;
        let mut command = Command::new(std::env::current_exe()?);
        command
            .arg("born")
            .arg(&socket)
            .arg("--")
            .arg(&self.program);
        command.arg("run").arg("--config").arg(self.config());
        command.env("RUST_LOG", "info");
        let log = self.folder.path().join("log");
        let process = Process::start("agent", command, &log)?;
        let disk = Disk::attend(&listener, self.bpf_refused)?;
        self.life = Some(Life { process, disk });
        self.ready(READY_WITHIN)?;
        Ok(begun.elapsed().as_secs_f64())
    }

    /// Waits until it is ready.
    pub fn ready(&mut self, within: Duration) -> anyhow::Result<()> {
        let begun = Instant::now();
        loop {
            let said = match http::get(self.listen, "/-/ready") {
                Ok(answer) if answer.status == 200 => return Ok(()),
                Ok(answer) => answer.body,
                Err(error) => format!("{error:#}"),
            };
            let life = self.life.as_mut().context("the agent does not run")?;
            if let Some(status) = life.process.ended() {
                bail!("the agent ended with {status}\n{}", life.process.tail());
            }
            if begun.elapsed() >= within {
                bail!("not ready after {} s: {said}", within.as_secs());
            }
            thread::sleep(Duration::from_millis(10));
        }
    }

    pub fn disk(&self) -> anyhow::Result<&Disk> {
        let life = self.life.as_ref().context("the agent does not run")?;
        Ok(&life.disk)
    }

    /// Whether it runs; one that has ended by itself is forgotten.
    pub fn lives_on(&mut self) -> bool {
        let ended = self
            .life
            .as_mut()
            .is_none_or(|life| life.process.ended().is_some());
        if ended {
            self.life = None;
        }
        !ended
    }

    pub fn signal(&mut self, signal: Signal) -> anyhow::Result<()> {
        let life = self.life.as_mut().context("the agent does not run")?;
        life.process.signal(signal)
    }

    /// SIGKILL; fine if it is dead already.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        match self.life.take() {
            Some(mut life) => life.process.kill(),
            None => Ok(()),
        }
    }

    /// SIGTERM; whether it ended well.
    pub fn terminate(&mut self) -> anyhow::Result<bool> {
        let mut life = self.life.take().context("the agent does not run")?;
        Ok(life.process.terminate(END_WITHIN)?.success())
    }

    /// Everything that it wrote, in all lives.
    pub fn log(&self) -> String {
        let bytes = fs::read(self.folder.path().join("log")).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    fn pid(&self) -> anyhow::Result<u32> {
        let life = self.life.as_ref().context("the agent does not run")?;
        Ok(life.process.pid())
    }

    /// Open file descriptors.
    pub fn files(&self) -> anyhow::Result<u64> {
        let dir = format!("/proc/{}/fd", self.pid()?);
        Ok(fs::read_dir(dir)?.count() as u64)
    }

    /// A figure of `/proc/PID/status`, as it stands there: kB, or a count.
    pub fn status(&self, field: &str) -> anyhow::Result<u64> {
        let text = fs::read_to_string(format!("/proc/{}/status", self.pid()?))?;
        let value = text.lines().find_map(|line| {
            let (name, rest) = line.split_once(':')?;
            (name == field).then(|| rest.split_whitespace().next()?.parse().ok())?
        });
        value.with_context(|| format!("no {field}"))
    }

    /// Sets a soft limit of the running agent; what it was.
    pub fn limit(&self, resource: Resource, current: Option<u64>) -> anyhow::Result<Rlimit> {
        let pid = i32::try_from(self.pid()?).ok().and_then(Pid::from_raw);
        let pid = pid.context("a process has a positive id")?;
        let before = prlimit_now(pid, resource)?;
        let maximum = before.maximum;
        prlimit(Some(pid), resource, Rlimit { current, maximum }).context("set a limit")?;
        Ok(before)
    }

    /// Puts another rule file beside the shipped ones and asks for a reload.
    pub fn reload(&mut self, good: bool, text: &str) -> anyhow::Result<()> {
        let text = if good { text } else { BAD_RULES };
        fs::write(self.rules().join(EXTRA_RULES), text)?;
        self.signal(Signal::HUP)
    }

    /// So that the next life starts.
    pub fn good_rules(&self) {
        fs::remove_file(self.rules().join(EXTRA_RULES)).unwrap_or_default();
    }

    /// Fills the disk; the handle of what fills it.
    pub fn fill(&self) -> anyhow::Result<Filled> {
        let path = self.state().join("filled");
        let file = fs::File::create(&path)?;
        let zeros = vec![0; 64 << 10];
        let mut size = zeros.len();
        // To the last byte.
        let mut out = &file;
        while size > 0 {
            match std::io::Write::write(&mut out, &zeros[..size]) {
                Ok(0) | Err(_) => size /= 2,
                Ok(_) => {}
            }
        }
        Ok(Filled(path))
    }

    /// Processes of ours that guard this agent's leases.
    pub fn guardians(&self) -> Vec<Pid> {
        let leases = self.state().join("leases").display().to_string();
        let listed = fs::read_dir("/proc").into_iter().flatten().flatten();
        listed
            .filter_map(|entry| {
                let pid = entry.file_name().to_str()?.parse().ok()?;
                let line = fs::read(entry.path().join("cmdline")).ok()?;
                let line = String::from_utf8_lossy(&line).replace('\0', " ");
                let is = line.contains("guardian") && line.contains(&leases);
                is.then(|| Pid::from_raw(pid))?
            })
            .collect()
    }

    /// Runs `paramedic ARGS` to its end.
    pub fn command(&self, args: &[&str]) -> anyhow::Result<Output> {
        let mut command = Command::new(&self.program);
        command.args(args).stdin(Stdio::null());
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        paramedic_parts::process::spawn(command)
            .and_then(std::process::Child::wait_with_output)
            .with_context(|| format!("cannot run paramedic {}", args.join(" ")))
    }

    /// A reader's command on this agent's state; its standard output if it ends well.
    pub fn read(&self, args: &[&str]) -> anyhow::Result<String> {
        let state = self.state().display().to_string();
        let args: Vec<&str> = args
            .iter()
            .copied()
            .chain(["--state-dir", &state])
            .collect();
        let output = self.command(&args)?;
        ensure!(
            output.status.success(),
            "paramedic {} ended with {}: {}{}",
            args.join(" "),
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr),
        );
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.kill().unwrap_or_default();
        for pid in self.guardians() {
            rustix::process::kill_process(pid, Signal::KILL).unwrap_or_default();
        }
        unmount(self.state(), UnmountFlags::DETACH).unwrap_or_default();
    }
}

/// Room again when dropped.
#[derive(Debug)]
pub struct Filled(PathBuf);

impl Drop for Filled {
    fn drop(&mut self) {
        fs::remove_file(&self.0).unwrap_or_default();
    }
}

/// The limits of another process.
fn prlimit_now(pid: Pid, resource: Resource) -> anyhow::Result<Rlimit> {
    let text = fs::read_to_string(format!("/proc/{}/limits", pid.as_raw_nonzero()))?;
    let name = match resource {
        Resource::Nofile => "Max open files",
        Resource::As => "Max address space",
        _ => bail!("a limit that no storm sets"),
    };
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let mut fields = line.context("no such limit")?.split_whitespace();
    let mut next = || fields.next().and_then(|field| field.parse().ok());
    Ok(Rlimit {
        current: next(),
        maximum: next(),
    })
}
