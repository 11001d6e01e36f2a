//! The agent, wired as `App` wires it, over the simulated machine; and how it handles an episode: the
//! pipeline's own steps, with an opinion in place of diagnosis and verification.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
    time::Duration,
};

use jiff::SignedDuration;
use tokio::time::sleep;

use super::{
    machine::{FILE, LIMITED, Machine, PRIOR, VirtualClock, cgroup},
    sender::TENANTS,
};
use crate::{
    app::Gate,
    clock::Clock,
    evidence::{EvidenceConfig, NoKernel, Recorder},
    incident::{
        Action, ActionKind, Diagnosis, Episode, Evidence, Holder, Intent, KnobChange, Outcome,
        OutcomeKind, Refusal, TenantId, Verdict,
    },
    intake::IntakeConfig,
    journal::{Journal, JournalConfig, JournalHealth, sim::Rng},
    ledger::{Index, Ledger},
    pipeline::{self, PipelineError, Stages},
    remedy::{Hierarchy, LimitsConfig, Remedies, RemedyConfig},
    resilience,
    routing::{Handler, OnFailure, Router, RoutingConfig},
};

/// Incidents in memory: all.
const INCIDENTS_MAX: usize = 10_000;
/// Of an effect beyond its lease, in virtual time: the order of what happens at one moment.
const LEASE_SLACK: SignedDuration = SignedDuration::from_secs(1);

/// A life of it.
pub(super) struct Agent {
    stages: Arc<Stages>,
    pub(super) gate: Gate,
    router: Router,
    clock: Arc<VirtualClock>,
}

impl Agent {
    /// As `App::build` and `App::run` begin.
    pub(super) async fn begin(machine: &Machine, clock: Arc<VirtualClock>) -> Result<Self, String> {
        let disk = Arc::new(machine.disk.clone());
        let root = machine.root().to_owned();
        let opened = Journal::open_on(&journal(), disk, None);
        let (journal, recovered) = opened.map_err(|error| resilience::chain(&error))?;
        if let Some(corruption) = recovered.corruption.first() {
            return Err(corruption.to_string());
        }
        let (ledger, found) = Ledger::over(journal, recovered, INCIDENTS_MAX);
        if let Some((lsn, why)) = found.unreadable.first() {
            return Err(format!("record {} cannot be decoded: {why}", lsn.0));
        }
        let wall: Arc<dyn Clock> = clock.clone();
        let stages = Arc::new(stages(ledger, wall.clone(), &root));
        let resumed = pipeline::resume(&stages).await;
        let resumed = resumed.map_err(|error| resilience::chain(&error))?;
        let router = router(&stages, &root);
        let gate = Gate::with_clock(
            &IntakeConfig::default(),
            stages.ledger.clone(),
            router.clone(),
            stages.metrics.clone(),
            wall,
        );
        gate.restore(stages.ledger.take_heard());
        for (episode, resolved) in resumed.again {
            router.readmit(episode, resolved);
        }
        Ok(Self {
            stages,
            gate,
            router,
            clock,
        })
    }

    /// As `App::run` ends.
    pub(super) async fn stop(&self) {
        self.gate.close().await;
        self.router.drain(Duration::from_secs(5)).await;
        self.stages.keeper.close().await;
        // `App` says so in the log; the next start checks again.
        drop(pipeline::leave(&self.stages).await);
    }

    /// Stops, and gives what it knows.
    pub(super) async fn finish(self) -> Index {
        self.stop().await;
        self.index()
    }

    pub(super) fn health(&self) -> JournalHealth {
        self.stages.ledger.journal().health()
    }

    pub(super) fn index(&self) -> Index {
        self.stages.ledger.with_index(|index| {
            let mut copy = Index::new(INCIDENTS_MAX);
            for incident in index.iter() {
                for line in &incident.entries {
                    copy.push(incident.id, line.clone());
                }
            }
            copy
        })
    }

    /// Invariants 3 and 4, of every cgroup that is limited now.
    pub(super) fn effects_hold(&self, limited: &[String]) -> Result<(), String> {
        let now = self.clock.now();
        for path in limited {
            let until = self.stages.ledger.with_index(|index| {
                let intents = index.iter().filter(|incident| !incident.rolled_back());
                let of_path = intents.filter_map(|incident| {
                    let (intent, _) = incident.intent()?;
                    (intent.action.path == *path).then_some(intent.lease_until)
                });
                of_path.max()
            });
            let Some(until) = until else {
                return Err(format!("{path} is limited and no record says so"));
            };
            // What ended while nobody lived is undone once somebody does: until then it is the guardian's,
            // which is no part of this.
            if now > until.max(self.clock.base()) + LEASE_SLACK {
                let told = self.stages.ledger.with_index(|index| {
                    let of_path = index.iter().filter(|incident| {
                        let intent = incident.intent();
                        intent.is_some_and(|(intent, _)| intent.action.path == *path)
                    });
                    let lines = of_path.flat_map(|incident| &incident.entries);
                    lines.map(|line| line.entry.name()).collect::<Vec<_>>()
                });
                return Err(format!(
                    "{path} is limited at {now}, its lease ended at {until}: {told:?}"
                ));
            }
        }
        Ok(())
    }
}

fn journal() -> JournalConfig {
    JournalConfig {
        fast_keep_bytes: 512 << 10,
        safe_keep_bytes: 512 << 10,
        inline: true,
        ..JournalConfig::small()
    }
}

/// Reads this host, and is never asked.
fn recorder() -> Arc<Recorder> {
    static RECORDER: OnceLock<Arc<Recorder>> = OnceLock::new();
    let start = || Recorder::start(&EvidenceConfig::default(), Arc::new(NoKernel)).unwrap();
    RECORDER.get_or_init(|| Arc::new(start())).clone()
}

fn stages(ledger: Ledger, wall: Arc<dyn Clock>, root: &Path) -> Stages {
    let remedy = RemedyConfig {
        limits: LimitsConfig {
            actions_per_hour: 1000,
            target_cooldown_s: 0,
            held_max: 64,
        },
        ..RemedyConfig::default()
    };
    let remedies = Remedies::with(&remedy, wall.clone(), Hierarchy::at(root));
    Stages::bare(ledger, wall, recorder(), remedies, root)
}

/// As `app::start_router`, with the handling below.
fn router(stages: &Arc<Stages>, root: &Path) -> Router {
    let (own, root) = (stages.clone(), root.to_owned());
    let handler: Handler = Arc::new(move |episode, _resolved| {
        let (stages, root) = (own.clone(), root.clone());
        Box::pin(async move {
            let handled = handle(&stages, &episode, root).await;
            handled.map_err(|error| resilience::chain(&error))
        })
    });
    let abandoned = stages.clone();
    let on_failure: OnFailure = Arc::new(move |episode, failure| {
        let stages = abandoned.clone();
        Box::pin(async move {
            let why = failure.to_string();
            // `App` says so in the log.
            drop(pipeline::abandon(&stages, episode.id, &why).await);
        })
    });
    let routing = RoutingConfig {
        queue_len_max: 3,
        concurrency_max: 4,
        tenant_concurrency_max: 2,
        ..RoutingConfig::default()
    };
    let tenants: Vec<TenantId> = TENANTS.iter().map(|name| name.parse().unwrap()).collect();
    Router::new(&routing, &tenants, handler, on_failure)
}

/// What is to become of an episode: the opinion of diagnosis and verification.
#[derive(Clone, Debug)]
struct Opinion {
    looks_ms: u64,
    acts: bool,
    verifies_ms: u64,
    outcome: OutcomeKind,
    lease_s: i64,
    /// It takes longer than an episode may.
    hangs: bool,
}

impl Opinion {
    /// The same for an episode in every life.
    fn of(episode: &Episode) -> Self {
        let alert = &episode.alert;
        let mut rng = Rng(alert.fingerprint.0 ^ alert.starts_at.as_second().unsigned_abs());
        let outcomes = [
            OutcomeKind::Healed,
            OutcomeKind::Healed,
            OutcomeKind::NoEffect,
        ];
        let hangs = rng.below(10) == 0;
        // What hangs beyond its lease is the guardian's, which is no part of this.
        let lease_s = if hangs {
            3600
        } else {
            [90, 300, 3600][rng.below(3)]
        };
        Self {
            looks_ms: [0, 100, 3000][rng.below(3)],
            acts: rng.below(3) != 0,
            verifies_ms: [0, 1500, 60_000][rng.below(3)],
            outcome: outcomes[rng.below(3)],
            lease_s,
            hangs,
        }
    }
}

async fn handle(
    stages: &Arc<Stages>,
    episode: &Episode,
    root: PathBuf,
) -> Result<(), PipelineError> {
    let opinion = Opinion::of(episode);
    sleep(Duration::from_millis(opinion.looks_ms)).await;
    let evidence = evidence(stages);
    let diagnosis = Diagnosis {
        top: Vec::new(),
        unknown: 0.1,
        excluded: Vec::new(),
        verdict: Verdict::Conclusive,
        took_us: 1,
    };
    pipeline::remember(stages, episode, &diagnosis, &evidence).await?;
    let fingerprint = episode.alert.fingerprint;
    let (id, path, prior) = cgroup(&root, fingerprint);
    let intent = Intent {
        episode: episode.id,
        action: Action {
            kind: ActionKind::DeprioritiseCpu,
            cgroup: id,
            path,
            amount: None,
        },
        changes: vec![KnobChange {
            of: Holder::Cgroup,
            file: FILE.to_owned(),
            prior: prior.clone(),
            value: LIMITED.to_owned(),
        }],
        lease_until: stages.remedies.now() + SignedDuration::from_secs(opinion.lease_s),
    };
    let refused = if opinion.acts && prior == PRIOR {
        stages.remedies.take_place(&intent).err()
    } else {
        Some(refusal())
    };
    if let Some(refusal) = refused {
        return pipeline::report_only(stages, episode.id, refusal).await;
    }
    pipeline::act(stages, &intent).await?;
    sleep(Duration::from_millis(opinion.verifies_ms)).await;
    if opinion.hangs {
        sleep(Duration::from_hours(24)).await;
    }
    let outcome = Outcome {
        kind: opinion.outcome,
        checks: Vec::new(),
        after_s: 0.0,
    };
    pipeline::settle(stages, intent, outcome, &evidence).await
}

fn refusal() -> Refusal {
    Refusal {
        reason: "policy".to_owned(),
        detail: "the simulation's opinion".to_owned(),
    }
}

fn evidence(stages: &Stages) -> Evidence {
    Evidence {
        window_s: 1.0,
        ..Evidence::nothing(stages.remedies.now())
    }
}
