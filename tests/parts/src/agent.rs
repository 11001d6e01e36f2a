//! The agent itself, as people run it: `paramedic run --config FILE`.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Stdio},
    time::Duration,
};

use anyhow::{Context, bail, ensure};
use serde_json::Value;

use crate::{
    http::{self, Answer},
    process::Process,
    tools, wait_for,
};

/// For becoming ready, on an emulated CPU with probes to load.
const READY_WITHIN: Duration = Duration::from_mins(1);
/// For an orderly end.
const END_WITHIN: Duration = Duration::from_secs(30);

/// A running agent, and what it left on disk while it does not run.
#[derive(Debug)]
pub struct Agent {
    binary: PathBuf,
    listen: SocketAddr,
    process: Option<Process>,
    folder: tempfile::TempDir,
}

impl Agent {
    /// Starts the agent and waits for `/-/ready`. In the configuration's text `$STATE` stands for a
    /// state folder of its own and `$LISTEN` for a free address; both must be used.
    pub fn start(config_yaml: &str) -> anyhow::Result<Self> {
        let mut agent = Self::prepare(config_yaml)?;
        agent.restart()?;
        Ok(agent)
    }

    /// The same without starting it: [`Agent::restart`] does.
    pub fn prepare(config_yaml: &str) -> anyhow::Result<Self> {
        for place in ["$STATE", "$LISTEN"] {
            ensure!(
                config_yaml.contains(place),
                "the agent's configuration does not use {place}"
            );
        }
        let agent = Self {
            binary: tools::agent_binary()?,
            listen: http::free_address()?,
            process: None,
            folder: tools::temporary_folder()?,
        };
        agent.configure(config_yaml)?;
        Ok(agent)
    }

    /// Writes another configuration, for the next restart. Unless it says otherwise there are no local
    /// triggers: a test's own load must not open incidents that it does not expect.
    pub fn configure(&self, config_yaml: &str) -> anyhow::Result<()> {
        let quiet = if config_yaml.contains("pressure:") {
            ""
        } else {
            "\npressure: {enabled: false}\n"
        };
        let config_yaml = format!("{config_yaml}{quiet}");
        let text = config_yaml
            .replace("$STATE", &self.state_dir().display().to_string())
            .replace("$LISTEN", &self.listen.to_string());
        fs::write(self.config(), text)
            .with_context(|| format!("cannot write {}", self.config().display()))
    }

    /// Its configuration file.
    pub fn config(&self) -> PathBuf {
        self.folder.path().join("paramedic.yaml")
    }

    /// Its state folder.
    pub fn state_dir(&self) -> PathBuf {
        self.folder.path().join("state")
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.listen
    }

    /// `http://address` and a path.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.listen)
    }

    /// The running process.
    pub fn process(&mut self) -> anyhow::Result<&mut Process> {
        self.process.as_mut().context("the agent does not run")
    }

    /// Ends it, if it runs, as SIGTERM does, and starts it again on the same state and address.
    pub fn restart(&mut self) -> anyhow::Result<()> {
        if self.process.is_some() {
            self.terminate()?;
        }
        let mut command = Command::new(&self.binary);
        command.arg("run").arg("--config").arg(self.config());
        let log = self.folder.path().join("log");
        let mut process = Process::start("agent", command, &log)?;
        let listen = self.listen;
        process.ready(READY_WITHIN, || http::get(listen, "/-/ready")?.ok())?;
        self.process = Some(process);
        Ok(())
    }

    /// SIGKILL: what a crash of the agent leaves behind stays.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        self.process
            .take()
            .context("the agent does not run")?
            .kill()
    }

    /// SIGTERM, then its exit status.
    pub fn terminate(&mut self) -> anyhow::Result<ExitStatus> {
        self.process
            .take()
            .context("the agent does not run")?
            .terminate(END_WITHIN)
    }

    /// GET of its own API.
    pub fn get(&self, path: &str) -> anyhow::Result<Answer> {
        http::get(self.listen, path)
    }

    /// POST of JSON, to `/webhook` for instance.
    pub fn post(&self, path: &str, body: &str) -> anyhow::Result<Answer> {
        http::post_json(self.listen, path, body)
    }

    /// Summaries of incidents, newest first.
    pub fn incidents(&self) -> anyhow::Result<Vec<Value>> {
        match self.get("/api/v1/incidents")?.json()?["incidents"].take() {
            Value::Array(incidents) => Ok(incidents),
            other => bail!("/api/v1/incidents has no list of incidents but {other}"),
        }
    }

    /// One incident with all its entries.
    pub fn incident(&self, id: &str) -> anyhow::Result<Value> {
        self.get(&format!("/api/v1/incidents/{id}"))?.json()
    }

    /// Waits until an incident is closed; it with all its entries.
    pub fn wait_for_closed(&self, within: Duration) -> anyhow::Result<Value> {
        self.wait_for_incident("closed incident", within, |incident| {
            let mut lines = incident["entries"].as_array().into_iter().flatten();
            lines.any(|line| line["entry"] == "closed")
        })
    }

    /// Waits until a summary satisfies `wanted`; the incident with all its entries.
    pub fn wait_for_incident(
        &self,
        what: &str,
        within: Duration,
        wanted: impl Fn(&Value) -> bool,
    ) -> anyhow::Result<Value> {
        wait_for(what, within, || {
            let incidents = self.incidents()?;
            for summary in &incidents {
                let id = summary["id"].as_str().context("a summary without an id")?;
                let incident = self.incident(id)?;
                if wanted(&incident) {
                    return Ok(incident);
                }
            }
            bail!("only {}", serde_json::to_string_pretty(&incidents)?)
        })
        .with_context(|| {
            self.process
                .as_ref()
                .map_or_else(String::new, Process::tail)
        })
    }

    /// Runs `paramedic ARGS --config ITS-FILE` to its end; stdout, or an error with stderr.
    pub fn command(&self, args: &[&str]) -> anyhow::Result<String> {
        run(&self.binary, args, &self.config())
    }

    /// `paramedic incidents show ID`: reads the journal, with the agent running or not.
    pub fn show(&self, id: &str) -> anyhow::Result<String> {
        self.command(&["incidents", "show", id])
    }
}

fn run(binary: &Path, args: &[&str], config: &Path) -> anyhow::Result<String> {
    let mut command = Command::new(binary);
    command.args(args).arg("--config").arg(config);
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let told = format!("paramedic {}", args.join(" "));
    let output = crate::process::spawn(command)
        .and_then(std::process::Child::wait_with_output)
        .with_context(|| format!("cannot run {told}"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("{told} ended with {}: {}", output.status, said.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
