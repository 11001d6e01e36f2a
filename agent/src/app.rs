//! The only wiring: configuration -> build -> run -> drain.
//!
//! The order of a start matters. The listener is bound first, so that a taken port is known before
//! anything else is touched. What an earlier life left unfinished is settled before intake opens, so
//! that no alert meets a half-known past. A stop goes the other way round: intake closes, episodes
//! that are being handled get their grace time, leases stay in the journal, the journal closes last.

mod answers;
pub mod gate;
mod glance;
mod local;
pub(crate) mod privileges;
mod service;
#[cfg(test)]
mod simulation;
mod standing;

use std::{
    sync::{Arc, RwLock},
    time::{Duration, Instant},
};

use jiff::Timestamp;
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::Semaphore,
};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

pub use gate::Gate;

use crate::{
    clock::SystemClock,
    config::{Config, RulesConfig},
    diagnosis::{Finding, RuleSet, gateway::Gateway, history::Store},
    evidence::{EvidenceError, Recorder, probes::Probes},
    incident::Level,
    intake::{Reload, Server, ServerError},
    journal::JournalError,
    ledger::{Found, Ledger, LedgerError, SharedLedger},
    pipeline::{self, Effects, Keeper, Stages, SyscallWatch},
    remedy::{
        Remedies,
        guardian::{GuardianError, Warden},
    },
    report::{self, Metrics, Notifier, NotifyError, ReportState},
    resilience,
    routing::{Drained, Handler, OnFailure, Router},
    sampling::{Sampler, SamplingError},
    telemetry::{Exporter, Finished, OtlpError},
};

/// Why the agent could not start, or did not end well.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// The address is taken or not ours.
    #[error(transparent)]
    Server(#[from] ServerError),
    /// The state directory cannot be used.
    #[error(
        "cannot open the journal in {dir}: is another agent running there, or is state_dir not writable?"
    )]
    Journal {
        /// The journal's directory.
        dir: String,
        /// Why.
        #[source]
        source: JournalError,
    },
    /// Rule files with findings.
    #[error("the rules were refused:\n{}", findings.iter().map(Finding::to_string).collect::<Vec<_>>().join("\n"))]
    Rules {
        /// All of them.
        findings: Vec<Finding>,
    },
    /// The readers could not start.
    #[error("cannot start reading this host")]
    Evidence(#[from] EvidenceError),
    /// Prometheus' address is not one.
    #[error("cannot set up the sampling of Prometheus")]
    Sampling(#[from] SamplingError),
    /// A sink of notifications.
    #[error("cannot set up notifications")]
    Notify(#[from] NotifyError),
    /// The collector of traces.
    #[error("cannot set up the export of traces")]
    Otlp(#[from] OtlpError),
    /// What an earlier life left could not be settled.
    #[error("cannot settle what an earlier run left unfinished")]
    Resume(#[source] LedgerError),
    /// The guardian.
    #[error("cannot start the guardian")]
    Guardian(#[from] GuardianError),
    /// Signals.
    #[error("cannot listen for signals")]
    Signals(#[source] std::io::Error),
}

/// The rules that the configuration names, or the shipped ones.
///
/// # Errors
/// Every finding of the rule files.
pub fn load_rules(config: &RulesConfig) -> Result<RuleSet, Vec<Finding>> {
    if config.dirs.is_empty() {
        RuleSet::shipped()
    } else {
        RuleSet::load(&config.dirs)
    }
}

/// The rules with the priors that verified outcomes taught; as they are when the history cannot be
/// read.
fn learned(rules: RuleSet, config: &Config) -> RuleSet {
    match Store::new(&config.state_dir).load() {
        Ok(history) => history.adjust(&rules, &config.diagnosis, Timestamp::now()),
        Err(error) => {
            let error = &error as &dyn std::error::Error;
            warn!(
                error,
                "what was learned cannot be read; the rules' own priors hold"
            );
            rules
        }
    }
}

/// An agent that is built and bound, not yet running.
pub struct App {
    config: Config,
    server: Server,
    stages: Arc<Stages>,
    probes: Arc<Probes>,
    notifier: Notifier,
    exporter: Option<Exporter>,
}

impl App {
    /// Binds, opens the journal, loads rules and probes. Nothing is changed on the system yet.
    pub async fn build(config: Config) -> Result<Self, AppError> {
        service::settle_in_own_cgroup();
        for sentence in own_missing_privileges() {
            warn!("{sentence}");
        }
        let rules = load_rules(&config.rules).map_err(|findings| AppError::Rules { findings })?;
        let server = Server::bind(config.intake.clone()).await?;
        let ledger = open_ledger(&config)?;
        let probes = Arc::new(Probes::start(&config.probes));
        let clock = SystemClock::shared();
        let mut remedies = Remedies::new(&config.remedy, clock.clone());
        if config.remedy.level >= Level::Approve {
            let grace = Duration::from_secs(config.remedy.orphan_grace_s);
            let warden = Warden::start(&config.state_dir.join("leases"), grace)?;
            remedies = remedies.guarded(warden);
        }
        let stages = Arc::new(Stages {
            ledger,
            sampler: Sampler::new(&config.sampling, clock.clone())?,
            recorder: Arc::new(Recorder::start(&config.evidence, probes.clone())?),
            rules: RwLock::new(Arc::new(learned(rules, &config))),
            diagnosis: config.diagnosis.clone(),
            gateway: Gateway::default(),
            history: Store::new(&config.state_dir),
            remedies: Arc::new(remedies),
            verify: config.verify.clone(),
            window: config.evidence.window(),
            syscall_watch: Duration::from_millis(config.evidence.syscall_watch_ms),
            watch: SyscallWatch::default(),
            effects: Effects::default(),
            keeper: Keeper::default(),
            metrics: Arc::new(Metrics::new()),
        });
        let notifier = Notifier::new(&config.notify, &clock, &stages.metrics)?;
        Ok(Self {
            config,
            server,
            stages,
            probes,
            notifier,
            exporter: None,
        })
    }

    /// Has these spans exported as the configuration says.
    ///
    /// # Errors
    /// The way to the collector cannot be set up.
    pub fn exporting(mut self, finished: Option<Finished>) -> Result<Self, AppError> {
        if let (Some(config), Some(finished)) = (&self.config.telemetry.otlp, finished) {
            let metrics = self.stages.metrics.clone();
            let exporter = Exporter::new(config, finished, SystemClock::shared(), metrics)?;
            self.exporter = Some(exporter);
        }
        Ok(self)
    }

    /// Settles the past, opens intake, and serves until SIGTERM or SIGINT; SIGHUP reloads rules,
    /// secrets and certificates.
    pub async fn run(self) -> Result<(), AppError> {
        let Self {
            config,
            server,
            stages,
            probes,
            notifier,
            exporter,
        } = self;
        let collector = exporter.as_ref().map(Exporter::breaker);
        // Before the past is settled: what is undone then is traced as well.
        let exporting = exporter.map(Exporter::start);
        let mut signals = Signals::new()?;
        let resumed = pipeline::resume(&stages).await.map_err(AppError::Resume)?;
        info!(
            again = resumed.again.len(),
            rolled_back = resumed.rolled_back,
            taken_over = resumed.taken_over,
            proposed = resumed.proposed,
            "settled what an earlier run left"
        );
        let router = start_router(&config, &stages);
        let (ledger, metrics) = (stages.ledger.clone(), stages.metrics.clone());
        let gate = Gate::new(
            &config.intake,
            ledger.clone(),
            router.clone(),
            metrics.clone(),
        );
        let gate = Arc::new(gate.joining(Arc::new(config.pressure.kin())));
        gate.restore(ledger.take_heard());
        for (episode, resolved) in resumed.again {
            router.readmit(episode, resolved);
        }
        let stop = CancellationToken::new();
        let notifying = tokio::spawn(notifier.clone().run(ledger.clone(), stop.clone()));
        let report = report::routes(ReportState {
            ledger: ledger.clone(),
            metrics,
            standing: standing::asked(stages.clone(), router.clone(), notifier, collector),
            recorder: recorder_query(&stages, probes),
            streams: Arc::new(Semaphore::new(PAGES_MAX)),
            stop: stop.clone(),
        });
        let report = report.merge(report::answer_routes(answers::state(&stages)));
        let intake = server.reload();
        let address = server.local_addr();
        let serving = tokio::spawn(server.serve(gate.clone(), report, stop.clone()));
        let bounding = tokio::spawn(bound_history(ledger.clone(), stop.clone()));
        let guarding = tokio::spawn(keep_guarded(stages.clone(), stop.clone()));
        let local = tokio::spawn(local::run(&config, &gate, &stages, &stop));
        let watched = tokio::spawn(service::pet_watchdog(stop.clone()));
        info!(%address, level = ?config.remedy.level, "ready");
        service::ready(&format!("listens on {address}"));
        while signals.next_or(&intake).await == What::Reload {
            intake.reload();
            reload(&stages, &config);
        }
        info!("stopping");
        let stopping = Instant::now();
        service::stopping();
        stop.cancel();
        for (what, task) in [
            ("the watchdog's task", watched),
            ("the HTTP server", serving),
            ("the keeper of the journal's bounds", bounding),
            ("the watch over the guardian", guarding),
            ("the local triggers", local),
            ("the notifier", notifying),
        ] {
            if task.await.is_err() {
                error!("{what} panicked");
            }
        }
        gate.close().await;
        let grace = Duration::from_millis(config.intake.shutdown_grace_ms);
        drain(&stages, &router, grace).await;
        if let Some(exporting) = exporting {
            // Last, and with what the episodes left of the time.
            let left = grace.saturating_sub(stopping.elapsed());
            exporting.end(left.max(FLUSH_MIN)).await;
        }
        Ok(())
    }
}

/// After intake has closed: episodes get their grace time, what is in force is undone, the journal closes.
async fn drain(stages: &Arc<Stages>, router: &Router, grace: Duration) {
    let drained = router.drain(grace).await;
    if drained != Drained::default() {
        warn!(
            queued = drained.queued,
            cut = drained.cut,
            "episodes are left for the next start; the journal has them"
        );
    }
    stages.keeper.close().await;
    match pipeline::leave(stages).await {
        Ok(0) => {}
        Ok(undone) => info!(undone, "effects still in force were undone"),
        Err(error) => {
            let error = &error as &dyn std::error::Error;
            error!(
                error,
                "not every undoing was recorded; the next start checks them again"
            );
        }
    }
    if let Err(error) = stages.ledger.journal().clone().close().await {
        error!(
            error = &error as &dyn std::error::Error,
            "the journal did not close in time"
        );
    }
}

/// Answers what the recorder is asked from outside.
fn recorder_query(stages: &Arc<Stages>, probes: Arc<Probes>) -> report::RecorderQuery {
    let recorder = stages.recorder.clone();
    Arc::new(move |window| {
        serde_json::to_vec(&glance::glance(&recorder, &probes, window))
            .map_err(|error| format!("the evidence cannot be written as JSON: {error}"))
    })
}

/// For the last spans, even if the episodes used up the grace time: one request to a collector that is well.
const FLUSH_MIN: Duration = Duration::from_millis(500);

/// Pages that may follow this agent live at the same time. Below `intake.connections_max`, so that
/// Alertmanager always finds a connection.
const PAGES_MAX: usize = 16;

fn own_missing_privileges() -> Vec<String> {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    privileges::missing(&status)
}

/// How often the journal's history is checked against its bounds. A segment takes minutes to fill at
/// the very least; what is beyond the bounds by one round's worth is harmless.
const BOUND_EVERY: Duration = Duration::from_mins(1);

async fn bound_history(ledger: SharedLedger, stop: CancellationToken) {
    let mut ticks = tokio::time::interval(BOUND_EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while stop.run_until_cancelled(ticks.tick()).await.is_some() {
        match ledger.retain().await {
            Ok(done) if done.carried + done.files_removed > 0 => {
                info!(
                    carried = done.carried,
                    snapshots = done.snapshots,
                    files_removed = done.files_removed,
                    "gave up old history; open episodes were carried forward"
                );
            }
            Ok(_) => {}
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                warn!(error, "old history stays for now");
            }
        }
    }
}

/// How often the guardian is looked after. Its absence matters only if the agent dies too.
const GUARDED_EVERY: Duration = Duration::from_secs(2);

async fn keep_guarded(stages: Arc<Stages>, stop: CancellationToken) {
    if stages.remedies.warden().is_none() {
        return;
    }
    let mut ticks = tokio::time::interval(GUARDED_EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while stop.run_until_cancelled(ticks.tick()).await.is_some() {
        let remedies = stages.remedies.clone();
        let look = move || remedies.warden().map_or(Ok(()), Warden::ensure);
        match tokio::task::spawn_blocking(look).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                let error = &error as &dyn std::error::Error;
                error!(
                    error,
                    "no guardian: nothing will be done until there is one"
                );
            }
            Err(_) => error!("looking after the guardian panicked"),
        }
    }
}

fn open_ledger(config: &Config) -> Result<SharedLedger, AppError> {
    let (ledger, found) =
        Ledger::open(&config.journal, config.incidents_max).map_err(|source| {
            AppError::Journal {
                dir: config.journal.dir.display().to_string(),
                source,
            }
        })?;
    let Found {
        cuts,
        corruption,
        unreadable,
        ..
    } = found;
    for cut in &cuts {
        info!(
            lane = %cut.lane,
            segment = cut.segment,
            offset = cut.offset,
            bytes = cut.bytes_lost,
            reason = ?cut.reason,
            "the journal's torn tail was cut; nothing acknowledged was in it"
        );
    }
    for damage in &corruption {
        error!(%damage, "the journal is damaged and read-only: this agent only reports");
    }
    for (lsn, why) in &unreadable {
        warn!(
            lsn = lsn.0,
            why, "a record of the journal cannot be decoded"
        );
    }
    Ok(Arc::new(ledger))
}

/// What an episode's owner does with it: the pipeline, and the tidying up where it broke off.
fn start_router(config: &Config, stages: &Arc<Stages>) -> Router {
    let own = stages.clone();
    let handler: Handler = Arc::new(move |episode, resolved| {
        let stages = own.clone();
        Box::pin(async move {
            let handled = pipeline::handle(&stages, episode, resolved).await;
            handled.map_err(|error| resilience::chain(&error))
        })
    });
    let abandoned = stages.clone();
    let on_failure: OnFailure = Arc::new(move |episode, failure| {
        let stages = abandoned.clone();
        Box::pin(async move {
            let id = episode.id;
            stages.metrics.episode_failed();
            if let Err(error) = pipeline::abandon(&stages, id, &failure.to_string()).await {
                let error = &error as &dyn std::error::Error;
                error!(episode = %id, error, "the end of an abandoned episode was not recorded");
            }
        })
    });
    Router::new(&config.routing, &config.intake.tenants, handler, on_failure)
}

/// Replaces the rules whole; a bad set changes nothing.
fn reload(stages: &Stages, config: &Config) {
    match load_rules(&config.rules) {
        Ok(rules) => {
            info!(hypotheses = rules.rules().len(), "rules reloaded");
            stages.replace_rules(learned(rules, config));
        }
        Err(findings) => {
            for finding in &findings {
                error!(%finding, "the new rules were refused; the old ones stay in force");
            }
        }
    }
}

#[derive(PartialEq, Eq)]
enum What {
    Reload,
    Stop,
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    fn new() -> Result<Self, AppError> {
        let listen = |kind| signal(kind).map_err(AppError::Signals);
        Ok(Self {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
            hangup: listen(SignalKind::hangup())?,
        })
    }

    /// What a signal says, or somebody over HTTP.
    async fn next_or(&mut self, intake: &Reload) -> What {
        tokio::select! {
            what = self.next() => what,
            () = intake.asked() => What::Reload,
        }
    }

    async fn next(&mut self) -> What {
        tokio::select! {
            _ = self.terminate.recv() => What::Stop,
            _ = self.interrupt.recv() => What::Stop,
            _ = self.hangup.recv() => What::Reload,
        }
    }
}
