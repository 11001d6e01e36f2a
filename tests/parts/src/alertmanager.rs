//! The real Alertmanager, with one receiver: a webhook.

use std::{
    ffi::CString,
    fs, io,
    net::SocketAddr,
    os::unix::{ffi::OsStrExt, process::CommandExt},
    path::Path,
    process::Command,
    ptr,
    time::Duration,
};

use anyhow::Context;
use serde_json::json;

use crate::{http, process::Process, tools};

/// A running Alertmanager.
#[derive(Debug)]
pub struct Alertmanager {
    address: SocketAddr,
    process: Process,
    _folder: tempfile::TempDir,
}

impl Alertmanager {
    /// Starts it with everything sent to `webhook` without waiting; ready when it returns.
    pub fn start(webhook: &str) -> anyhow::Result<Self> {
        Self::start_with(webhook, &["--cluster.listen-address=".to_owned()])
    }

    /// Two of them that know each other, as for high availability; each also notifies by itself when
    /// it has not heard of the other's notification in time.
    pub fn start_pair(webhook: &str) -> anyhow::Result<[Self; 2]> {
        let gossip = [http::free_address()?, http::free_address()?];
        let peer = |own: usize| {
            let (listen, peer) = (gossip[own], gossip[1 - own]);
            let args = [
                format!("--cluster.listen-address={listen}"),
                format!("--cluster.peer={peer}"),
                "--cluster.peer-timeout=200ms".to_owned(),
                "--cluster.settle-timeout=1s".to_owned(),
            ];
            Self::start_with(webhook, &args)
        };
        Ok([peer(0)?, peer(1)?])
    }

    fn start_with(webhook: &str, cluster: &[String]) -> anyhow::Result<Self> {
        let folder = tools::temporary_folder()?;
        let address = http::free_address()?;
        let file = folder.path().join("alertmanager.yml");
        // JSON is YAML, and quotes whatever it is given.
        let config = json!({
            "route": {
                "receiver": "paramedic",
                "group_by": ["..."],
                "group_wait": "0s",
                "group_interval": "1s",
                "repeat_interval": "1h",
            },
            "receivers": [{
                "name": "paramedic",
                "webhook_configs": [{"url": webhook, "send_resolved": true}],
            }],
        });
        fs::write(&file, config.to_string())
            .with_context(|| format!("cannot write {}", file.display()))?;
        let program = tools::tool("prometheus-alertmanager")?;
        let mut command = Command::new(&program);
        find_templates(&mut command, &program)?;
        command
            .arg(format!("--config.file={}", file.display()))
            .arg(format!(
                "--storage.path={}",
                folder.path().join("data").display()
            ))
            .arg(format!("--web.listen-address={address}"))
            .args(cluster);
        let log = folder.path().join("log");
        let mut process = Process::start("Alertmanager", command, &log)?;
        process.ready(Duration::from_secs(30), || {
            http::get(address, "/-/ready")?.ok()
        })?;
        Ok(Self {
            address,
            process,
            _folder: folder,
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Tells it of alerts, as Prometheus does.
    pub fn post_alerts(&self, alerts: &serde_json::Value) -> anyhow::Result<()> {
        let answer = http::post_json(self.address, "/api/v2/alerts", &alerts.to_string())?;
        answer.ok().map(drop)
    }

    /// The alerts that it knows, as its API tells them.
    pub fn alerts(&self) -> anyhow::Result<serde_json::Value> {
        http::get(self.address, "/api/v2/alerts")?.json()
    }

    /// The process.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }
}

/// Debian's Alertmanager opens its templates by this path whatever it is told.
const TEMPLATE: &str = "/usr/share/prometheus/alertmanager/default.tmpl";

/// Where the package is only unpacked, shows its `usr/share` to Alertmanager, and to nobody else,
/// at `/usr/share`: a bind mount in a mount namespace of its own (and a user namespace if we are
/// not root).
fn find_templates(command: &mut Command, program: &Path) -> anyhow::Result<()> {
    if Path::new(TEMPLATE).exists() {
        return Ok(());
    }
    let unpacked = program
        .ancestors()
        .nth(3)
        .context("the program lies in usr/bin")?;
    let template = unpacked.join(TEMPLATE.trim_start_matches('/'));
    if !template.is_file() {
        anyhow::bail!("no {}: run `cargo xtask setup`", template.display());
    }
    let share = CString::new(unpacked.join("usr/share").as_os_str().as_bytes())?;
    let root = rustix::process::geteuid().is_root();
    let namespaces = libc::CLONE_NEWNS | if root { 0 } else { libc::CLONE_NEWUSER };
    let done = |result: libc::c_int| match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    };
    let private = libc::MS_REC | libc::MS_PRIVATE;
    // SAFETY: between fork and exec only system calls are made; every pointer is to a C string that
    // the closure owns or that is static, or null where mount(2) ignores it.
    unsafe {
        command.pre_exec(move || {
            done(libc::unshare(namespaces))?;
            let none = ptr::null();
            done(libc::mount(none, c"/".as_ptr(), none, private, none.cast()))?;
            let at = c"/usr/share".as_ptr();
            done(libc::mount(
                share.as_ptr(),
                at,
                none,
                libc::MS_BIND,
                none.cast(),
            ))
        });
    }
    Ok(())
}
