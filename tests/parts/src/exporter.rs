//! The real node exporter.

use std::{net::SocketAddr, process::Command, time::Duration};

use crate::{http, process::Process, tools};

/// What the alerts and the rules read. All of the exporter's collectors, every second, are a good
/// part of an emulated CPU.
const COLLECTORS: [&str; 9] = [
    "--collector.disable-defaults",
    "--collector.cpu",
    "--collector.meminfo",
    "--collector.stat",
    "--collector.loadavg",
    "--collector.vmstat",
    "--collector.pressure",
    "--collector.diskstats",
    "--collector.filesystem",
];

/// A running node exporter.
#[derive(Debug)]
pub struct NodeExporter {
    address: SocketAddr,
    process: Process,
    _folder: tempfile::TempDir,
}

impl NodeExporter {
    /// Starts it and waits until it answers.
    pub fn start() -> anyhow::Result<Self> {
        Self::start_with(&[])
    }

    /// The same with few collectors, for a VM.
    pub fn start_small() -> anyhow::Result<Self> {
        Self::start_with(&COLLECTORS)
    }

    /// The same with further arguments.
    pub fn start_with(arguments: &[&str]) -> anyhow::Result<Self> {
        let folder = tools::temporary_folder()?;
        let address = http::free_address()?;
        let mut command = Command::new(tools::tool("prometheus-node-exporter")?);
        command
            .arg(format!("--web.listen-address={address}"))
            .args(arguments);
        let log = folder.path().join("log");
        let mut process = Process::start("node exporter", command, &log)?;
        process.ready(Duration::from_secs(30), || {
            http::get(address, "/metrics")?.ok()
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

    /// The process.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }
}
