//! One life of an agent: settles the past, handles one episode with one action, keeps what helped until
//! its lease ends, and stops when there is nothing left to do.

use std::{
    collections::BTreeMap,
    fs,
    io::{Read, Write},
    os::unix::{fs::MetadataExt, net::UnixStream},
    path::{Path, PathBuf},
    sync::{Arc, RwLock},
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use jiff::Timestamp;
use paramedic::{
    clock::SystemClock,
    diagnosis::{DiagnosisConfig, RuleSet, gateway::Gateway, history::Store},
    evidence::{EvidenceConfig, NoKernel, Recorder},
    incident::{
        ActionKind, Alert, AlertStatus, CgroupId, Culprit, Diagnosis, Entry, Episode, EpisodeId,
        FeatureTest, Fingerprint, Hypothesis, Level, Source, Suggestion, TraceContext, Verdict,
    },
    journal::JournalConfig,
    ledger::{Incident, Ledger},
    pipeline::{self, Effects, Keeper, Stages, SyscallWatch},
    remedy::{
        Remedies, RemedyConfig,
        guardian::{GuardianError, Warden},
    },
    report::Metrics,
    sampling::{Sampler, SamplingConfig},
    verify::VerifyConfig,
};
use paramedic_tests::{cgroup::ROOT, seccomp};

use crate::target;

/// How long a dead agent's restart is waited for.
const GRACE: Duration = Duration::from_secs(1);
/// What a life may take at most; the sweep waits longer.
const LIFE_MAX: Duration = Duration::from_mins(1);
/// Between two looks at whether everything is done.
const LOOK: Duration = Duration::from_millis(20);

/// From here on the sweep counts calls.
pub const BEGUN: u8 = b'b';
/// What an earlier life left is settled.
pub const SETTLED: u8 = b's';

/// Arguments.
#[derive(Debug, clap::Args)]
pub struct Life {
    /// State of this agent, and the sweep's socket
    #[arg(long)]
    dir: PathBuf,
    /// Target, below the mount
    #[arg(long)]
    path: String,
    /// Name of the action
    #[arg(long)]
    action: String,
    /// Recovery is seen at the first look
    #[arg(long)]
    heals: bool,
}

/// The journal of a life, as small as it may be: most of the time would go into making it.
pub fn journal(dir: &Path) -> JournalConfig {
    JournalConfig {
        dir: dir.join("journal"),
        fast_segment_bytes: 128 << 10,
        safe_segment_bytes: 128 << 10,
        fast_keep_bytes: 1 << 20,
        safe_keep_bytes: 1 << 20,
        segments_ahead: 1,
        outcome_reserve_bytes: 8 << 10,
        record_bytes_max: 16 << 10,
        snapshot_bytes_max: 16 << 10,
        batch_bytes_max: 32 << 10,
        queue_bytes_max: 256 << 10,
        writer_realtime: false,
        writer_nice: 0,
        ..JournalConfig::default()
    }
}

impl Life {
    /// Lives.
    pub fn run(&self) -> anyhow::Result<()> {
        let mut sweep = UnixStream::connect(self.dir.join("sweep.sock")).context("the sweep")?;
        let listener = seccomp::install(seccomp::CHANGES, true)?;
        seccomp::hand_over(&listener, &sweep)?;
        drop(listener);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .max_blocking_threads(4)
            .enable_all()
            .build()?;
        runtime.block_on(async {
            tokio::time::timeout(LIFE_MAX, self.live(&mut sweep))
                .await
                .context("nothing ends")?
        })
    }

    async fn live(&self, sweep: &mut UnixStream) -> anyhow::Result<()> {
        let stages = Arc::new(self.stages()?);
        tell(sweep, BEGUN)?;
        let resumed = pipeline::resume(&stages).await?;
        tell(sweep, SETTLED)?;
        for (episode, _) in resumed.again {
            self.handle(&stages, &episode).await?;
        }
        if stages.ledger.with_index(|index| index.iter().count()) == 0 {
            let episode = episode()?;
            let opened = Entry::Opened {
                episode: episode.clone(),
            };
            stages.ledger.append(episode.id, opened).await?;
            self.handle(&stages, &episode).await?;
        }
        let open = || {
            let ledger = &stages.ledger;
            ledger.with_index(|index| index.iter().any(|incident| !Incident::closed(incident)))
        };
        while open() {
            tokio::time::sleep(LOOK).await;
            // As the agent does every two seconds.
            let remedies = stages.remedies.clone();
            let ensured = tokio::task::spawn_blocking(move || {
                remedies.warden().map_or(Ok(()), Warden::ensure)
            });
            if let Err(error) = ensured.await? {
                eprintln!("{error}");
            }
        }
        stages.keeper.close().await;
        stages.ledger.journal().clone().close().await?;
        Ok(())
    }

    fn stages(&self) -> anyhow::Result<Stages> {
        let clock = SystemClock::shared();
        let mut config = RemedyConfig {
            level: Level::Act,
            lease_s: 2,
            orphan_grace_s: 1,
            ..RemedyConfig::default()
        };
        config.allow.push(ActionKind::FreezeCgroup);
        config.limits.target_cooldown_s = 0;
        config.limits.actions_per_hour = 1000;
        let warden = self.warden()?;
        let (ledger, found) = Ledger::open(&journal(&self.dir), 16)?;
        ensure!(found.corruption.is_empty(), "{:?}", found.corruption);
        let verify = VerifyConfig {
            poll_ms: 50,
            window_ms: 100,
            healed_polls: 1,
            ..VerifyConfig::default()
        };
        let evidence = EvidenceConfig {
            window_s: 1,
            syscall_watch_ms: 0,
            cgroups_max: 16,
            cgroups_kept: 16,
            processes_max: 256,
            ..EvidenceConfig::default()
        };
        Ok(Stages {
            ledger: Arc::new(ledger),
            sampler: Sampler::new(&SamplingConfig::default(), clock.clone())?,
            recorder: Arc::new(Recorder::start(&evidence, Arc::new(NoKernel))?),
            rules: RwLock::new(Arc::new(RuleSet::default())),
            diagnosis: DiagnosisConfig::default(),
            gateway: Gateway::default(),
            history: Store::new(&self.dir),
            remedies: Arc::new(Remedies::new(&config, clock).guarded(warden)),
            verify,
            window: evidence.window(),
            syscall_watch: Duration::ZERO,
            watch: SyscallWatch::default(),
            effects: Effects::default(),
            keeper: Keeper::default(),
            metrics: Arc::new(Metrics::new()),
        })
    }

    /// A guardian that starts slowly, because each of its calls is asked about on a machine with much else
    /// to do, is waited for longer than the agent itself would.
    fn warden(&self) -> anyhow::Result<Warden> {
        let begun = Instant::now();
        loop {
            match Warden::start(&self.dir.join("leases"), GRACE) {
                Err(GuardianError::NotRunning(_)) if begun.elapsed() < LIFE_MAX => {}
                started => return Ok(started?),
            }
        }
    }

    async fn handle(&self, stages: &Arc<Stages>, episode: &Episode) -> anyhow::Result<()> {
        let diagnosis = self.diagnosis()?;
        let recorder = stages.recorder.clone();
        let before =
            tokio::task::spawn_blocking(move || recorder.evidence(Duration::from_secs(1))).await?;
        let diagnosed = Entry::Diagnosed {
            diagnosis: diagnosis.clone(),
            snapshot: None,
            since_open_ms: 0,
        };
        stages.ledger.append(episode.id, diagnosed).await?;
        let (remedies, blamed, owner) =
            (stages.remedies.clone(), diagnosis.clone(), episode.clone());
        let seen = before.clone();
        let planned = tokio::task::spawn_blocking(move || {
            remedies.plan(&blamed, &seen, &owner, Timestamp::now())
        });
        let intent = planned
            .await?
            .map_err(|refusal| anyhow::anyhow!("{}: {}", refusal.reason, refusal.detail))?;
        let (_sender, mut resolved) = tokio::sync::watch::channel(false);
        let treated = pipeline::treat(stages, &diagnosis, intent, &before, &mut resolved).await;
        if let Err(error) = treated {
            // A guardian that was killed at the wrong moment may be missed: then nothing was done.
            pipeline::abandon(stages, episode.id, &error.to_string()).await?;
        }
        Ok(())
    }

    fn diagnosis(&self) -> anyhow::Result<Diagnosis> {
        let kind: ActionKind = serde_json::from_value(self.action.clone().into())?;
        let dir = Path::new(ROOT).join(self.path.trim_start_matches('/'));
        let always = FeatureTest {
            reading: "host.mem.available".to_owned(),
            at_least: Some(0.0),
            below: None,
        };
        Ok(Diagnosis {
            top: vec![Hypothesis {
                id: "scripted".to_owned(),
                title: "scripted".to_owned(),
                posterior: 0.95,
                interval: None,
                prior: 0.5,
                culprit: Some(Culprit {
                    cgroup: CgroupId(fs::metadata(&dir)?.ino()),
                    path: self.path.clone(),
                    chosen_by: "script".to_owned(),
                    value: 1.0,
                }),
                features: Vec::new(),
                notes: Vec::new(),
                // Without a test there is no proof, and what is not proven is undone.
                recovery: if self.heals { vec![always] } else { Vec::new() },
                remedies: vec![Suggestion {
                    action: kind,
                    amount: target::amount(kind),
                    level: Level::Act,
                    dry_run: false,
                }],
            }],
            unknown: 0.05,
            excluded: Vec::new(),
            verdict: Verdict::Conclusive,
            took_us: 1,
        })
    }
}

/// Says where this life stands, and waits until it may go on.
fn tell(sweep: &mut UnixStream, what: u8) -> anyhow::Result<()> {
    sweep.write_all(&[what])?;
    Ok(sweep.read_exact(&mut [0])?)
}

fn episode() -> anyhow::Result<Episode> {
    let labels = BTreeMap::from([("alertname".to_owned(), "Crash".to_owned())]);
    let now = Timestamp::now();
    Ok(Episode {
        id: EpisodeId([7; 16]),
        tenant: "default".parse().map_err(anyhow::Error::msg)?,
        alert: Alert {
            status: AlertStatus::Firing,
            fingerprint: Fingerprint::of(&labels),
            labels,
            annotations: BTreeMap::new(),
            starts_at: now,
            ends_at: None,
        }
        .into(),
        source: Source::Manual,
        opened_at: now,
        trace: TraceContext {
            trace_id: "1".repeat(32),
            span_id: "2".repeat(16),
            sampled: false,
            begun_here: false,
        },
    })
}
