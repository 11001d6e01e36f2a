//! `cargo xtask vm`: one command as root on another kernel, in QEMU, on this machine's own root
//! filesystem shared read-only.
//!
//! Four serial ports: the kernel's console (kept, shown on trouble), the command's stdout, its
//! stderr, and its exit status. Nothing of a run stays behind: QEMU and the file server die with us.

mod cpio;
mod guest;
mod systemd;

use std::{
    ffi::OsString,
    fs::{self, File},
    io::{self, BufRead, BufReader, Read, Write},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, bail};

use crate::kernels::{Kernel, Series};

/// A machine for one command.
#[derive(Clone, Debug)]
pub struct Vm {
    /// Which kernel.
    pub series: Series,
    /// The whole run, boot included.
    pub timeout: Duration,
    /// Memory in MiB.
    pub memory_mib: u32,
    /// Virtual CPUs.
    pub cpus: u32,
    /// Size of the ext4 disk at `/run/disk` in MiB; 0 = none.
    pub disk_mib: u32,
    /// Flushes of the disk reach ours. Without, its speed does not hang on what else this machine does,
    /// and nothing of it outlives QEMU.
    pub flushes: bool,
    /// Record every write and flush of the disk: the fresh disk goes to `base` in this folder, the
    /// recording to `log`.
    pub record_to: Option<PathBuf>,
    /// Boot systemd as process 1 and run the command as one of its services.
    pub systemd: bool,
    /// Environment on top of the few variables that are passed on.
    pub env: Vec<(String, String)>,
    /// A folder of the guest's disk and the folder of ours that it is copied to at the end, if it
    /// is there.
    pub rescue: Option<(PathBuf, PathBuf)>,
}

impl Default for Vm {
    fn default() -> Self {
        Self {
            series: Series::V6_12,
            timeout: Duration::from_mins(5),
            memory_mib: 2048,
            cpus: 2,
            disk_mib: 512,
            flushes: true,
            record_to: None,
            systemd: false,
            env: Vec::new(),
            rescue: None,
        }
    }
}

/// The guest's kernel died of an error of the emulator, not of what ran in it: QEMU before 8.1 may
/// execute a breakpoint that the kernel has already replaced.
#[derive(Debug)]
pub struct EmulatorFault;

impl std::fmt::Display for EmulatorFault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(
            "the emulator ran code that the guest's kernel had already replaced (Oops: int3)",
        )
    }
}

impl std::error::Error for EmulatorFault {}

/// Runs in a VM that may be started a second and a third time, for an [`EmulatorFault`] only; what it
/// did before is void.
pub fn retrying<T>(mut run: impl FnMut() -> anyhow::Result<T>) -> anyhow::Result<T> {
    for _ in 0..2 {
        match run() {
            Err(error) if error.is::<EmulatorFault>() => eprintln!("xtask: {error}; once more"),
            ended => return ended,
        }
    }
    run()
}

impl Vm {
    /// Runs `command` in the folder that we are in; `line` gets each line of its stdout as it
    /// comes. Returns its exit status (128 + signal if it was killed).
    pub fn run(&self, command: &[OsString], mut line: impl FnMut(&str)) -> anyhow::Result<i32> {
        if !rustix::process::geteuid().is_root() {
            bail!(
                "the VM shares this machine's root filesystem and so needs root: run it with sudo"
            );
        }
        let kernel = Kernel::unpacked(&crate::sh::cache(), self.series).with_context(|| {
            format!(
                "there is no Linux {} here: run `cargo xtask setup`",
                self.series.name()
            )
        })?;
        let dir = RunDir::new()?;
        let deadline = Instant::now() + self.timeout;
        guest::write_initramfs(&kernel, &dir.file("initrd"), &guest::script(self, command)?)?;
        let mut server = Guarded::spawn(Self::file_server(&dir), "virtiofsd")?;
        wait_for(&dir.file("fs.sock"), deadline, &mut server)?;
        if self.disk_mib > 0 {
            make_disk(&dir.file("disk"), self.disk_mib)?;
            if let Some(folder) = &self.record_to {
                fs::copy(dir.file("disk"), folder.join("base"))?;
                File::create(folder.join("log"))?;
            }
        }
        make_fifo(&dir.file("stderr"))?;
        let errors = forward(&dir.file("stderr"))?;
        let mut qemu = Guarded::spawn(self.qemu(&kernel, &dir), "qemu-system-x86_64")?;
        let stdout = qemu.0.stdout.take().context("QEMU's stdout is a pipe")?;
        let (sender, lines) = std::sync::mpsc::sync_channel::<String>(1024);
        let reader = std::thread::spawn(move || {
            for text in BufReader::new(stdout).split(b'\n').map_while(Result::ok) {
                let text = String::from_utf8_lossy(&text)
                    .trim_end_matches('\r')
                    .to_owned();
                if sender.send(text).is_err() {
                    return;
                }
            }
        });
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match lines.recv_timeout(left) {
                Ok(text) => line(&text),
                Err(std::sync::mpsc::RecvTimeoutError::Disconnected) => break,
                Err(std::sync::mpsc::RecvTimeoutError::Timeout) => {
                    bail!(
                        "the VM was not done after {} s; its console ends:\n{}",
                        self.timeout.as_secs(),
                        trouble(&dir)
                    );
                }
            }
        }
        qemu.0.wait().context("cannot wait for QEMU")?;
        reader
            .join()
            .map_err(|_| anyhow::anyhow!("the reader of the VM's stdout panicked"))?;
        errors
            .join()
            .map_err(|_| anyhow::anyhow!("the reader of the VM's stderr panicked"))?;
        if let Some((from, to)) = &self.rescue {
            rescue(&dir.file("disk"), from, to)?;
        }
        let status = fs::read_to_string(dir.file("status")).unwrap_or_default();
        // Anywhere in it: what died of it may have gone on talking.
        if status.is_empty() && lossy(&dir.file("console")).contains("Oops: int3") {
            return Err(EmulatorFault.into());
        }
        status.trim().parse().with_context(|| {
            format!(
                "the VM ended before the command did; its console ends:\n{}",
                trouble(&dir)
            )
        })
    }

    fn file_server(dir: &RunDir) -> Command {
        let mut command = Command::new("/usr/lib/qemu/virtiofsd");
        command
            .args([
                "-o",
                "source=/",
                "-o",
                "sandbox=chroot",
                "-o",
                "cache=always",
                "-f",
            ])
            .arg(format!("--socket-path={}", dir.file("fs.sock").display()))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(dir.log("virtiofsd.log"));
        command
    }

    fn drive(&self, disk: &str) -> Vec<String> {
        let Some(folder) = &self.record_to else {
            let cache = if self.flushes { "none" } else { "unsafe" };
            let drive = format!("file={disk},if=none,id=disk,format=raw,cache={cache}");
            return vec!["-drive".into(), drive];
        };
        let log = folder.join("log").display().to_string();
        let nodes = [
            format!("driver=file,node-name=plain,filename={disk}"),
            format!("driver=file,node-name=log,filename={log}"),
            "driver=blklogwrites,node-name=disk,file=plain,log=log,log-sector-size=512".to_owned(),
        ];
        nodes
            .into_iter()
            .flat_map(|node| ["-blockdev".to_owned(), node])
            .collect()
    }

    fn qemu(&self, kernel: &Kernel, dir: &RunDir) -> Command {
        let path = |name: &str| dir.file(name).display().to_string();
        let mut command = Command::new("qemu-system-x86_64");
        // Emulation is slower than KVM and works everywhere; nested KVM may not even decompress a
        // kernel. PARAMEDIC_VM_ACCEL=kvm is for machines that are known to have a sound one.
        if std::env::var_os("PARAMEDIC_VM_ACCEL").is_some_and(|accel| accel == "kvm") {
            command.args(["-accel", "kvm", "-cpu", "host"]);
        } else {
            command.args(["-accel", "tcg,thread=multi", "-cpu", "max"]);
        }
        command
            .args([
                "-nodefaults",
                "-no-user-config",
                "-display",
                "none",
                "-no-reboot",
            ])
            .args([
                "-smp",
                &self.cpus.to_string(),
                "-m",
                &format!("{}M", self.memory_mib),
            ])
            .args([
                "-object",
                &format!(
                    "memory-backend-memfd,id=mem,size={}M,share=on",
                    self.memory_mib
                ),
            ])
            .args(["-numa", "node,memdev=mem"])
            .args([
                "-chardev",
                &format!("socket,id=fs,path={}", path("fs.sock")),
            ])
            .args(["-device", "vhost-user-fs-pci,chardev=fs,tag=root"])
            .args(["-serial", &format!("file:{}", path("console"))])
            .args([
                "-chardev",
                "stdio,id=out,signal=off",
                "-serial",
                "chardev:out",
            ])
            .args(["-serial", &format!("file:{}", path("stderr"))])
            .args(["-serial", &format!("file:{}", path("status"))])
            .arg("-kernel")
            .arg(kernel.image())
            .arg("-initrd")
            .arg(dir.file("initrd"))
            .args([
                "-append",
                "console=ttyS0 psi=1 quiet loglevel=4 panic=-1 mitigations=off nokaslr \
                 rcupdate.rcu_cpu_stall_suppress=1 random.trust_cpu=1 lsm=landlock,bpf",
            ])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(dir.log("qemu.log"));
        if self.disk_mib > 0 {
            command
                .args(self.drive(&path("disk")))
                .args(["-device", "virtio-blk-pci,drive=disk"]);
        }
        command
    }
}

/// A folder for one run, removed at its end.
struct RunDir(PathBuf);

impl RunDir {
    fn new() -> anyhow::Result<Self> {
        let base = crate::sh::cache().join("vm");
        fs::create_dir_all(&base).with_context(|| format!("cannot make {}", base.display()))?;
        let nanos = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)?
            .as_nanos();
        let dir = base.join(format!("{}-{nanos}", std::process::id()));
        fs::create_dir(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        Ok(Self(dir))
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    fn log(&self, name: &str) -> Stdio {
        File::create(self.file(name)).map_or_else(|_| Stdio::null(), Stdio::from)
    }
}

impl Drop for RunDir {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            eprintln!("cannot remove {}: {error}", self.0.display());
        }
    }
}

/// A child that dies with us, whichever way we end.
struct Guarded(Child);

impl Guarded {
    fn spawn(mut command: Command, name: &str) -> anyhow::Result<Self> {
        // SAFETY: prctl(PR_SET_PDEATHSIG) is async-signal-safe and touches no memory of ours.
        unsafe {
            command.pre_exec(|| {
                rustix::process::set_parent_process_death_signal(Some(
                    rustix::process::Signal::KILL,
                ))?;
                Ok(())
            });
        }
        let child = command
            .spawn()
            .with_context(|| format!("cannot start {name}: run `cargo xtask setup`"))?;
        Ok(Self(child))
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        // It may have ended by itself; both calls then say so, which is all right here.
        self.0.kill().unwrap_or_default();
        drop(self.0.wait());
    }
}

fn wait_for(socket: &Path, deadline: Instant, server: &mut Guarded) -> anyhow::Result<()> {
    while !socket.exists() {
        if let Some(status) = server.0.try_wait()? {
            bail!("virtiofsd ended at once with {status}");
        }
        if Instant::now() > deadline {
            bail!("virtiofsd made no socket in time");
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

fn make_disk(path: &Path, mib: u32) -> anyhow::Result<()> {
    File::create(path)?.set_len(u64::from(mib) << 20)?;
    crate::sh::run(
        Command::new("mkfs.ext4")
            .args(["-q", "-F"])
            .arg(path)
            .stdin(Stdio::null()),
    )
}

/// Copies a folder out of a disk that is mounted at `/run/disk` in the guest. debugfs(8) reads it
/// without mounting; it knows nothing of ext4's journal, which is replayed first.
fn rescue(disk: &Path, from: &Path, to: &Path) -> anyhow::Result<()> {
    let within = from
        .strip_prefix("/run/disk")
        .with_context(|| format!("{} is not on the guest's disk", from.display()))?;
    let replayed = Command::new("/sbin/e2fsck")
        .args(["-y", "-E", "journal_only"])
        .arg(disk)
        .stdin(Stdio::null())
        .output()
        .context("cannot start e2fsck: run `cargo xtask setup`")?;
    // 1: something was put right.
    if !matches!(replayed.status.code(), Some(0 | 1)) {
        let said = String::from_utf8_lossy(&replayed.stderr);
        bail!("e2fsck cannot replay the guest's disk: {}", said.trim());
    }
    fs::create_dir_all(to).with_context(|| format!("cannot make {}", to.display()))?;
    let listing = debugfs(disk, &format!("ls -p /{}", within.display()))?;
    // `/inode/mode/uid/gid/name/size/`
    for name in listing.lines().filter_map(|line| line.split('/').nth(5)) {
        if matches!(name, "." | "..") {
            continue;
        }
        let path = format!("/{}/{name}", within.display());
        debugfs(disk, &format!("rdump \"{path}\" \"{}\"", to.display()))?;
        if !to.join(name).exists() {
            bail!("debugfs did not copy {path} out of the guest's disk");
        }
    }
    Ok(())
}

fn debugfs(disk: &Path, request: &str) -> anyhow::Result<String> {
    let output = Command::new("/sbin/debugfs")
        .args(["-R", request])
        .arg(disk)
        .stdin(Stdio::null())
        .output()
        .context("cannot start debugfs: run `cargo xtask setup`")?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn make_fifo(path: &Path) -> anyhow::Result<()> {
    rustix::fs::mknodat(
        rustix::fs::CWD,
        path,
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR,
        0,
    )
    .with_context(|| format!("cannot make {}", path.display()))
}

/// Copies a fifo to our stderr. Opened for writing too, so that neither side waits for the other;
/// the thread ends at QEMU's own end through `POLLHUP`-free means: a zero byte from `finish`.
fn forward(path: &Path) -> anyhow::Result<std::thread::JoinHandle<()>> {
    // O_NONBLOCK for the open only: the reader is there before QEMU opens its end.
    let fifo = File::from(rustix::fs::open(
        path,
        rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::NONBLOCK | rustix::fs::OFlags::CLOEXEC,
        rustix::fs::Mode::empty(),
    )?);
    Ok(std::thread::spawn(move || {
        let mut fifo = fifo;
        let mut buffer = [0; 4096];
        let mut seen_writer = false;
        // Before QEMU opens its end a read gives 0; afterwards 0 means that QEMU has gone.
        let begun = Instant::now();
        loop {
            match fifo.read(&mut buffer) {
                Ok(0) if seen_writer || begun.elapsed() > Duration::from_secs(20) => return,
                Ok(0) => std::thread::sleep(Duration::from_millis(20)),
                Ok(n) => {
                    seen_writer = true;
                    let text: Vec<u8> = buffer[..n]
                        .iter()
                        .copied()
                        .filter(|b| *b != b'\r')
                        .collect();
                    if io::stderr().write_all(&text).is_err() {
                        return;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    seen_writer = true;
                    std::thread::sleep(Duration::from_millis(20));
                }
                Err(_) => return,
            }
        }
    }))
}

/// The end of the console, and what QEMU and the file server said.
fn trouble(dir: &RunDir) -> String {
    let parts = ["virtiofsd.log", "qemu.log", "console"].map(|name| tail(&dir.file(name)));
    parts
        .into_iter()
        .filter(|part| !part.is_empty())
        .collect::<Vec<_>>()
        .join("\n")
}

fn lossy(path: &Path) -> String {
    String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned()
}

fn tail(path: &Path) -> String {
    let text = lossy(path);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(60)..].join("\n")
}
