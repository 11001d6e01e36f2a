//! The agents of the matrix: one that sees everything, and one that is kept from something.

use std::{
    ffi::CString,
    fs,
    net::{SocketAddr, TcpListener},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicU16, Ordering},
    time::Duration,
};

use anyhow::{Context, bail, ensure};
use jiff::Timestamp;
use paramedic_parts::{Process, http, payload, tools, wait_for};
use serde_json::{Value, json};

use super::record::Answer;

/// For becoming ready on an emulated CPU, with a fault beside it.
const READY_WITHIN: Duration = Duration::from_secs(90);
/// For an orderly end.
const END_WITHIN: Duration = Duration::from_secs(30);
/// For a diagnosis of a node in trouble.
const DIAGNOSED_WITHIN: Duration = Duration::from_secs(45);
/// It observes; nothing is done about the fault.
const CONFIG: &str = "state_dir: STATE\nintake: {listen: \"LISTEN\"}\nremedy: {level: observe}\n\
                      pressure: {enabled: false}\n\
                      journal: {fast_segment_bytes: 4194304, safe_segment_bytes: 16777216}\n";

/// A running agent.
pub struct Agent {
    listen: SocketAddr,
    process: Process,
    _folder: tempfile::TempDir,
}

/// What an agent is kept from, and what it goes by.
#[derive(Clone, Debug, Default)]
pub struct Kept {
    /// Rules in place of the shipped ones.
    pub rules: Option<PathBuf>,
    /// Names of probes.
    pub probes: Vec<String>,
    /// Files that it finds empty.
    pub files: Vec<PathBuf>,
}

impl Agent {
    /// Starts it; not ready yet.
    pub fn start(kept: &Kept) -> anyhow::Result<Self> {
        let folder = tools::temporary_folder()?;
        let listen = free_address()?;
        let mut config = CONFIG
            .replace("STATE", &folder.path().join("state").display().to_string())
            .replace("LISTEN", &listen.to_string());
        if !kept.probes.is_empty() {
            let off = kept.probes.join(", ");
            config = format!("{config}probes: {{off: [{off}]}}\n");
        }
        if let Some(rules) = &kept.rules {
            let rules = rules.display();
            config = format!("{config}rules: {{dirs: [\"{rules}\"]}}\n");
        }
        let file = folder.path().join("paramedic.yaml");
        fs::write(&file, config).with_context(|| format!("cannot write {}", file.display()))?;
        let mut command = Command::new(tools::agent_binary()?);
        command.arg("run").arg("--config").arg(&file);
        if !kept.files.is_empty() {
            keep_from(&mut command, &kept.files)?;
        }
        let process = Process::start("agent", command, &folder.path().join("log"))?;
        Ok(Self {
            listen,
            process,
            _folder: folder,
        })
    }

    /// Waits until it is ready.
    pub fn ready(&mut self) -> anyhow::Result<()> {
        let listen = self.listen;
        let ready = || http::get(listen, "/-/ready")?.ok();
        self.process.ready(READY_WITHIN, ready).map(drop)
    }

    /// Whether it still runs.
    pub fn alive(&mut self) -> bool {
        self.process.ended().is_none()
    }

    /// Tells it of an alert, and waits for what it makes of it.
    pub fn diagnosis(&self, alert: &str, instance: &str) -> anyhow::Result<Answer> {
        let labels = json!({"alertname": alert, "instance": instance, "severity": "critical"});
        let body = payload::firing(&labels, &json!({}), Timestamp::now());
        let answer = http::post_json(self.listen, "/webhook", &body.to_string())?;
        ensure!(
            answer.status == 200,
            "the webhook answered {}: {}",
            answer.status,
            answer.body.trim()
        );
        wait_for("diagnosis", DIAGNOSED_WITHIN, || self.found(instance))
            .with_context(|| self.process.tail())
    }

    /// The last diagnosis of the incident of an instance.
    fn found(&self, instance: &str) -> anyhow::Result<Answer> {
        let mut listed = http::get(self.listen, "/api/v1/incidents")?.json()?;
        let Value::Array(summaries) = listed["incidents"].take() else {
            bail!("/api/v1/incidents has no list of incidents");
        };
        for summary in summaries.iter().take(4) {
            let id = summary["id"].as_str().context("a summary without an id")?;
            let incident = http::get(self.listen, &format!("/api/v1/incidents/{id}"))?.json()?;
            let entries = incident["entries"].as_array();
            let entries = || entries.into_iter().flatten();
            let ours = entries().any(|entry| {
                entry["entry"] == "opened" && entry.to_string().contains(&format!("\"{instance}\""))
            });
            let diagnosed = entries().rfind(|entry| entry["entry"] == "diagnosed");
            if let (true, Some(entry)) = (ours, diagnosed) {
                return Answer::of(&entry["diagnosis"]);
            }
        }
        bail!("no diagnosis of {instance} yet")
    }

    /// Ends it in order.
    pub fn end(mut self) -> anyhow::Result<()> {
        let status = self.process.terminate(END_WITHIN)?;
        ensure!(status.success(), "the agent ended with {status}");
        Ok(())
    }
}

/// A free address below the ports that the kernel gives out: a fault may have taken all of those.
fn free_address() -> anyhow::Result<SocketAddr> {
    static NEXT: AtomicU16 = AtomicU16::new(21_000);
    for _ in 0..100 {
        let port = NEXT.fetch_add(1, Ordering::Relaxed);
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        if TcpListener::bind(address).is_ok() {
            return Ok(address);
        }
    }
    bail!("no free port from 21000 on")
}

/// A folder that stays empty.
const EMPTY: &str = "/run/faults-empty";

/// Lets a program find these files and folders empty, and nobody else: in a mount namespace of its own,
/// `/dev/null` or an empty folder lies over each. Of `/proc/net` only the whole can be covered: the kernel
/// looks its files up anew each time.
fn keep_from(command: &mut Command, files: &[PathBuf]) -> anyhow::Result<()> {
    let text = |path: &Path| {
        CString::new(path.as_os_str().as_encoded_bytes())
            .with_context(|| format!("{} has a zero byte", path.display()))
    };
    fs::create_dir_all(EMPTY).with_context(|| format!("cannot make {EMPTY}"))?;
    let empty = text(Path::new(EMPTY))?;
    let files = files
        .iter()
        .map(|path| Ok((text(path)?, path.is_dir())))
        .collect::<anyhow::Result<Vec<(CString, bool)>>>()?;
    // SAFETY: between fork and exec only unshare(2) and mount(2) are called, on texts that were made
    // before and are moved in; nothing is allocated.
    unsafe {
        command.pre_exec(move || {
            let failed = || Err(std::io::Error::last_os_error());
            if libc::unshare(libc::CLONE_NEWNS) != 0 {
                return failed();
            }
            let private = libc::MS_REC | libc::MS_PRIVATE;
            let (none, root) = (std::ptr::null(), c"/".as_ptr());
            if libc::mount(none, root, none, private, none.cast()) != 0 {
                return failed();
            }
            for (file, is_folder) in &files {
                let from = if *is_folder {
                    empty.as_c_str()
                } else {
                    c"/dev/null"
                };
                let (from, over) = (from.as_ptr(), file.as_ptr());
                let laid = libc::mount(from, over, none, libc::MS_BIND, none.cast());
                // What is not there need not be hidden: a process may have ended meanwhile.
                if laid != 0 && std::io::Error::last_os_error().raw_os_error() != Some(libc::ENOENT)
                {
                    return failed();
                }
            }
            Ok(())
        });
    }
    Ok(())
}
