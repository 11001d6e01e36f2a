//! The three servers, each a process.

use std::{
    io::{BufRead, BufReader, Read},
    net::SocketAddr,
    path::Path,
    process::{Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use axum::{Json, Router, body::Bytes, extract::State, http::StatusCode, routing::post};
use paramedic::{
    app::Gate,
    incident::TenantId,
    intake::{IntakeConfig, Server, payload},
    journal::{Journal, JournalConfig},
    ledger::Ledger,
    report::Metrics,
    routing::{Handler, OnFailure, RoutingConfig},
};
use tokio_util::sync::CancellationToken;

/// A server to be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum Kind {
    /// Parses, and that is all
    Bare,
    /// Intake, gate, queues and journal
    Durable,
    /// Starts a program an alert
    Script,
}

impl Kind {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Bare => "bare",
            Self::Durable => "durable",
            Self::Script => "script",
        }
    }
}

/// As the agent's own.
pub(super) fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .max_blocking_threads(16)
        .enable_all()
        .build()
        .context("cannot start a runtime")
}

/// A server in a process of its own; ends with its standard input.
pub(super) struct Child {
    process: std::process::Child,
    pub(super) address: SocketAddr,
}

impl Child {
    pub(super) fn start(kind: Kind, dir: &Path) -> anyhow::Result<Self> {
        let mut process = Command::new(std::env::current_exe()?)
            .args(["--serve", kind.name(), "--dir"])
            .arg(dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            // Where a service manager would take the log.
            .stderr(Stdio::null())
            .spawn()
            .context("cannot start a server")?;
        let mut line = String::new();
        let stdout = process.stdout.take().context("stdout is a pipe")?;
        BufReader::new(stdout).read_line(&mut line)?;
        let address = line
            .trim()
            .parse()
            .with_context(|| format!("the {} server did not start", kind.name()))?;
        Ok(Self { process, address })
    }

    /// Most memory that it ever had.
    pub(super) fn peak_rss_mib(&self) -> anyhow::Result<f64> {
        let path = format!("/proc/{}/status", self.process.id());
        let text = std::fs::read_to_string(&path)?;
        let kib = text
            .lines()
            .find_map(|line| line.strip_prefix("VmHWM:"))
            .and_then(|rest| {
                rest.trim()
                    .trim_end_matches("kB")
                    .trim()
                    .parse::<f64>()
                    .ok()
            })
            .context("no VmHWM")?;
        Ok(kib / 1024.0)
    }

    /// CPU time that it took so far.
    pub(super) fn cpu_us(&self) -> anyhow::Result<f64> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.process.id()))?;
        // After the name, which may hold anything: fields 14 and 15 of proc(5), in ticks.
        let fields = stat.rsplit_once(')').context("no name")?.1;
        let ticks = fields.split_whitespace().skip(11).take(2);
        let ticks: f64 = ticks.filter_map(|field| field.parse::<f64>().ok()).sum();
        let per_s = rustix::param::clock_ticks_per_second();
        Ok(ticks * 1e6 / per_s as f64)
    }

    pub(super) fn end(mut self) -> anyhow::Result<()> {
        drop(self.process.stdin.take());
        let status = self.process.wait()?;
        ensure!(status.success(), "a server ended with {status}");
        Ok(())
    }
}

/// Is one of the servers until standard input ends.
pub(super) fn serve(kind: Kind, dir: &Path) -> anyhow::Result<()> {
    paramedic::telemetry::init(paramedic::telemetry::LogFormat::Text);
    let stop = CancellationToken::new();
    let ended = stop.clone();
    std::thread::spawn(move || {
        let mut nothing = Vec::new();
        std::io::stdin().read_to_end(&mut nothing).unwrap_or(0);
        ended.cancel();
    });
    runtime()?.block_on(async move {
        match kind {
            Kind::Bare => plain(post(parse_only), stop).await,
            Kind::Script => plain(post(run_scripts), stop).await,
            Kind::Durable => durable(dir, stop).await,
        }
    })
}

async fn plain(
    route: axum::routing::MethodRouter<Arc<IntakeConfig>>,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    println!("{}", listener.local_addr()?);
    let routes = Router::new()
        .route("/webhook", route)
        .with_state(Arc::new(IntakeConfig::default()));
    let served = axum::serve(listener, routes);
    tokio::select! {
        ended = async { served.await } => Ok(ended?),
        () = stop.cancelled() => Ok(()),
    }
}

#[derive(serde::Serialize)]
struct Taken {
    opened: usize,
}

async fn parse_only(
    State(config): State<Arc<IntakeConfig>>,
    body: Bytes,
) -> Result<Json<Taken>, StatusCode> {
    let payload = payload::parse(&body, &config).map_err(|_| StatusCode::BAD_REQUEST)?;
    let opened = payload.alerts.len();
    Ok(Json(Taken { opened }))
}

/// What is commonly run: one process an alert, labels in its environment.
async fn run_scripts(
    State(config): State<Arc<IntakeConfig>>,
    body: Bytes,
) -> Result<Json<Taken>, StatusCode> {
    let payload = payload::parse(&body, &config).map_err(|_| StatusCode::BAD_REQUEST)?;
    let opened = payload.alerts.len();
    for alert in payload.alerts {
        let ended = tokio::process::Command::new("/bin/true")
            .env_clear()
            .envs(
                alert
                    .labels
                    .iter()
                    .map(|(k, v)| (format!("AMX_LABEL_{k}"), v)),
            )
            .status()
            .await;
        if !ended.is_ok_and(|status| status.success()) {
            return Err(StatusCode::INTERNAL_SERVER_ERROR);
        }
    }
    Ok(Json(Taken { opened }))
}

async fn durable(dir: &Path, stop: CancellationToken) -> anyhow::Result<()> {
    let state = tempfile::tempdir_in(dir)?;
    let journal = JournalConfig {
        dir: state.path().join("journal"),
        // Large enough that none is filled within a slice.
        fast_segment_bytes: 64 << 20,
        ..JournalConfig::default()
    };
    let config = IntakeConfig {
        listen: "127.0.0.1:0".to_owned(),
        connections_max: 1024,
        episodes_max: 10_000_000,
        ..IntakeConfig::default()
    };
    let ahead = u64::from(journal.segments_ahead);
    let (ledger, _) = Ledger::open(&journal, 100_000)?;
    let ledger = Arc::new(ledger);
    prepared(ledger.journal(), ahead).await?;
    let handler: Handler = Arc::new(|_, _| Box::pin(async { Ok(()) }));
    let on_failure: OnFailure = Arc::new(|_, _| Box::pin(async {}));
    let routing = RoutingConfig {
        queue_len_max: 65_536,
        ..RoutingConfig::default()
    };
    let tenants: Vec<TenantId> = config.tenants.clone();
    let router = paramedic::routing::Router::new(&routing, &tenants, handler, on_failure);
    let gate = Arc::new(Gate::new(
        &config,
        ledger.clone(),
        router,
        Arc::new(Metrics::new()),
    ));
    let server = Server::bind(config).await?;
    println!("{}", server.local_addr());
    server.serve(gate.clone(), Router::new(), stop).await;
    gate.close().await;
    ledger.journal().clone().close().await?;
    Ok(())
}

/// Longest wait until a new journal's segments are zeroed.
const PREPARE_MAX: Duration = Duration::from_secs(30);

/// Waits until the journal has prepared what it keeps ahead: an agent that has just been installed
/// zeroes its segments, beside which no sync is quick, and one that has run for a minute does not.
async fn prepared(journal: &Journal, ahead: u64) -> anyhow::Result<()> {
    let ready = || {
        let stats = journal.stats();
        let lanes = [stats.fast, stats.safe];
        lanes
            .into_iter()
            .all(|lane| lane.is_some_and(|lane| lane.segments_ready >= ahead))
    };
    let until = Instant::now() + PREPARE_MAX;
    while !ready() {
        ensure!(
            Instant::now() < until,
            "the journal's segments are not prepared after {PREPARE_MAX:?}"
        );
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    Ok(())
}
