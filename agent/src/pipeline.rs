//! One episode, top to bottom: look, think, write down, act, check, undo.
//!
//! Read [`handle`]; everything else here serves it. Two invariants live in its order: the intent is
//! durable before the first write to the system, and an effect that is not verified is undone.

mod approval;
mod effects;
mod examine;
mod keeper;
mod learning;
#[cfg(test)]
mod traced;
mod unfinished;
mod watch;

use std::{
    sync::{Arc, PoisonError, RwLock},
    time::{Duration, Instant},
};

use jiff::Timestamp;
use tokio::sync::watch::Receiver;
use tracing::{Instrument, Span, debug_span, field::Empty, info, instrument, warn};

pub use approval::{AnswerError, Word, answer};
pub use effects::Effects;
pub use keeper::Keeper;
pub use unfinished::{Resumed, abandon, leave, resume};
pub use watch::SyscallWatch;

use self::examine::examine;
use crate::{
    diagnosis::{self, DiagnosisConfig, RuleSet, gateway::Gateway, history::Store},
    evidence::Recorder,
    incident::{
        Action, Diagnosis, Entry, Episode, EpisodeId, Evidence, Intent, Outcome, OutcomeKind,
        Refusal,
    },
    ledger::{Incident, LedgerError, SharedLedger},
    remedy::{CollectError, Decision, Remedies, UndoReport, refuse},
    report::Metrics,
    resilience::blocking,
    sampling::Sampler,
    telemetry::trace,
    verify::{self, Verifier, VerifyConfig},
};

/// What ends the handling of one episode early. The episode itself is kept in the journal.
#[derive(Debug, thiserror::Error)]
pub enum PipelineError {
    /// The journal would not take the next step's record: nothing is done without it.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// The effect could not be applied; what was written has been undone.
    #[error("cannot apply {action} to {path}: {why}")]
    Apply {
        /// Action.
        action: String,
        /// Target.
        path: String,
        /// Why.
        why: String,
    },
    /// A worker thread ended by a panic.
    #[error("{0} panicked")]
    Panicked(&'static str),
}

/// Everything that one episode needs, shared by all.
pub struct Stages {
    /// The record.
    pub ledger: SharedLedger,
    /// Prometheus.
    pub sampler: Sampler,
    /// Kernel evidence.
    pub recorder: Arc<Recorder>,
    /// The rules in force; replaced whole.
    pub rules: RwLock<Arc<RuleSet>>,
    /// Bars of the diagnosis.
    pub diagnosis: DiagnosisConfig,
    /// The strategy that decides, and the one that shadows.
    pub gateway: Gateway,
    /// What verified outcomes taught.
    pub history: Store,
    /// What may be done.
    pub remedies: Arc<Remedies>,
    /// How long and how often to check.
    pub verify: VerifyConfig,
    /// Window of evidence before the alert.
    pub window: Duration,
    /// How long the syscall pair counts before the first diagnosis; Prometheus is asked meanwhile.
    pub syscall_watch: Duration,
    /// Who wants the syscall pair attached.
    pub watch: SyscallWatch,
    /// Keeps applying and undoing in order.
    pub effects: Effects,
    /// Effects that helped, until their leases end.
    pub keeper: Keeper,
    /// Own figures.
    pub metrics: Arc<Metrics>,
}

impl Stages {
    /// Of tests: no rules, no Prometheus, nothing waits for evidence.
    #[cfg(test)]
    pub(crate) fn bare(
        ledger: crate::ledger::Ledger,
        clock: Arc<dyn crate::clock::Clock>,
        recorder: Arc<Recorder>,
        remedies: Remedies,
        history: &std::path::Path,
    ) -> Self {
        let sampling = crate::sampling::SamplingConfig::default();
        Self {
            ledger: Arc::new(ledger),
            sampler: Sampler::new(&sampling, clock).expect("the default address is one"),
            recorder,
            rules: RwLock::default(),
            diagnosis: DiagnosisConfig::default(),
            gateway: Gateway::default(),
            history: Store::new(history),
            remedies: Arc::new(remedies),
            verify: VerifyConfig::default(),
            window: Duration::from_secs(1),
            syscall_watch: Duration::ZERO,
            watch: SyscallWatch::default(),
            effects: Effects::default(),
            keeper: Keeper::default(),
            metrics: Arc::new(Metrics::new()),
        }
    }

    fn rules(&self) -> Arc<RuleSet> {
        self.rules
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Puts another set of rules in force, from the next diagnosis on.
    pub fn replace_rules(&self, rules: RuleSet) {
        *self.rules.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(rules);
    }
}

/// Takes one episode from its alert to its end. `resolved` turns true when the alert resolves.
#[instrument(skip_all, fields(episode = %episode.id, tenant = %episode.tenant, trace_id = %episode.trace.trace_id))]
pub async fn handle(
    stages: &Arc<Stages>,
    episode: Episode,
    resolved: Receiver<bool>,
) -> Result<(), PipelineError> {
    trace::begin(&episode.trace);
    let handled = steps(stages, episode, resolved).await;
    trace::end(&handled);
    handled
}

/// The steps of [`handle`]; each has a span of its own.
async fn steps(
    stages: &Arc<Stages>,
    episode: Episode,
    mut resolved: Receiver<bool>,
) -> Result<(), PipelineError> {
    // Attached from here to the verdict: the record shows what the culprit asked of the kernel.
    let _watched = stages.watch.begin(&stages.recorder);
    let (evidence, diagnosis) = examine(stages, &episode).await;
    let remembered = remember(stages, &episode, &diagnosis, &evidence);
    trace::stage(debug_span!("remember"), remembered).await?;
    learning::shadow(stages, &episode, &diagnosis, &evidence);
    collect(stages, &episode, &diagnosis).await?;

    let intent = match decide(stages, &episode, &diagnosis, &evidence).await {
        Ok(Decision::Act(intent)) => intent,
        // A person's word may take hours: this handling ends, and the answer begins another.
        Ok(Decision::Ask(intent)) => return approval::propose(stages, episode.id, intent).await,
        Err(refusal) => return report_only(stages, episode.id, refusal).await,
    };
    let outcome = treat(stages, &diagnosis, intent, &evidence, &mut resolved).await?;
    if outcome == OutcomeKind::Healed {
        learning::learn(stages, &episode, &diagnosis).await;
    }
    Ok(())
}

/// Carries out one planned action: intent, effect, verification, and its keeping or its undoing. `before`
/// is the evidence that recovery is measured against.
pub async fn treat(
    stages: &Arc<Stages>,
    diagnosis: &Diagnosis,
    intent: Intent,
    before: &Evidence,
    resolved: &mut Receiver<bool>,
) -> Result<OutcomeKind, PipelineError> {
    let Action { kind, path, .. } = &intent.action;
    let span = debug_span!("act", action = %kind, target = %path);
    trace::stage(span, act(stages, &intent)).await?;
    let (outcome, after) = check(stages, diagnosis, &intent, before, resolved).await;
    let (kind, action) = (outcome.kind, intent.action.kind);
    let settled = settle(stages, intent, outcome, &after);
    trace::stage(debug_span!("settle"), settled).await?;
    if let Some(top) = diagnosis.top.first() {
        stages.remedies.judged(&top.id, action, kind);
    }
    Ok(kind)
}

/// Evidence into the safe lane, the diagnosis into the fast one.
pub(crate) async fn remember(
    stages: &Stages,
    episode: &Episode,
    diagnosis: &Diagnosis,
    evidence: &Evidence,
) -> Result<(), PipelineError> {
    let (entry, since_open_ms) = diagnosed(stages, episode, diagnosis, evidence).await;
    stages.metrics.diagnosed(diagnosis, since_open_ms);
    if let Some(top) = diagnosis.top.first() {
        info!(hypothesis = %top.id, posterior = top.posterior, since_open_ms, "diagnosed");
    }
    Ok(stages.ledger.append(episode.id, entry).await?)
}

/// The entry of a diagnosis, its evidence being stored, and the milliseconds since the opening.
async fn diagnosed(
    stages: &Stages,
    episode: &Episode,
    diagnosis: &Diagnosis,
    evidence: &Evidence,
) -> (Entry, u64) {
    let snapshot = store(stages, episode.id, evidence).await;
    let since_open = Timestamp::now()
        .duration_since(episode.opened_at)
        .as_millis();
    let since_open_ms = u64::try_from(since_open).unwrap_or(0);
    let entry = Entry::Diagnosed {
        diagnosis: diagnosis.clone(),
        snapshot,
        since_open_ms,
    };
    (entry, since_open_ms)
}

/// A diagnosis or an outcome is worth recording without its evidence; an intent is not, and its own
/// append decides.
async fn store(stages: &Stages, episode: EpisodeId, evidence: &Evidence) -> Option<String> {
    match stages.ledger.store_evidence(episode, evidence).await {
        Ok(reference) => Some(reference),
        Err(error) => {
            let error = &error as &dyn std::error::Error;
            warn!(error, "the evidence was not stored");
            None
        }
    }
}

/// Runs the diagnostic commands that the rule asks for, inside the sandbox slice. Their failure is
/// recorded and changes nothing.
async fn collect(
    stages: &Arc<Stages>,
    episode: &Episode,
    diagnosis: &Diagnosis,
) -> Result<(), PipelineError> {
    let commands = stages.remedies.collections(diagnosis);
    for command in commands {
        let remedies = stages.remedies.clone();
        let name = command.name().to_owned();
        let span = debug_span!("collect", command = name);
        let traceparent = span.in_scope(|| trace::current(&episode.trace).traceparent());
        let run = tokio::task::spawn_blocking(move || remedies.collect(&command, &traceparent));
        let run = run.instrument(span).await;
        let (status, output) = match run {
            Ok(Ok(collected)) => (collected.status, collected.output),
            Ok(Err(CollectError::NotAvailable(why))) => ("not available".to_owned(), why),
            Ok(Err(error)) => ("failed".to_owned(), error.to_string()),
            Err(_) => return Err(PipelineError::Panicked("the sandbox")),
        };
        stages
            .ledger
            .append(
                episode.id,
                Entry::Collected {
                    command: name,
                    status,
                    output,
                },
            )
            .await?;
    }
    Ok(())
}

/// The one safe thing that policy, protection and budgets allow, planned with its prior values.
#[instrument(level = "debug", skip_all, fields(decision = Empty))]
async fn decide(
    stages: &Arc<Stages>,
    episode: &Episode,
    diagnosis: &Diagnosis,
    evidence: &Arc<Evidence>,
) -> Result<Decision, Refusal> {
    let (diagnosis, evidence) = (diagnosis.clone(), evidence.clone());
    let episode = episode.clone();
    let decision = planned(stages, move |remedies| {
        remedies.decide(&diagnosis, &evidence, &episode, Timestamp::now())
    })
    .await;
    let word = match &decision {
        Ok(Decision::Act(_)) => "act",
        Ok(Decision::Ask(_)) => "ask",
        Err(refusal) => refusal.reason.as_str(),
    };
    Span::current().record("decision", word);
    decision
}

/// Runs a planner, which reads files, on a thread that may block.
async fn planned<T: Send + 'static>(
    stages: &Stages,
    plan: impl FnOnce(&Remedies) -> Result<T, Refusal> + Send + 'static,
) -> Result<T, Refusal> {
    let remedies = stages.remedies.clone();
    tokio::task::spawn_blocking(move || plan(&remedies))
        .await
        .unwrap_or_else(|_| Err(refuse("internal", "the planner panicked".to_owned())))
}

pub(crate) async fn report_only(
    stages: &Stages,
    episode: EpisodeId,
    refusal: Refusal,
) -> Result<(), PipelineError> {
    info!(reason = %refusal.reason, detail = %refusal.detail, "no action");
    stages.metrics.refused(&refusal);
    let closed = Entry::Closed;
    let refused = Entry::Refused {
        action: None,
        refusal,
    };
    Ok(stages
        .ledger
        .append_all(vec![(episode, refused), (episode, closed)])
        .await?)
}

/// Intent first, then the effect, then that it was done.
pub(crate) async fn act(stages: &Arc<Stages>, intent: &Intent) -> Result<(), PipelineError> {
    let intended = Entry::Intended {
        intent: intent.clone(),
    };
    if let Err(error) = stages.ledger.append(intent.episode, intended).await {
        // Nothing was written; this gives its place in the budgets back.
        undo(stages, intent, "not_recorded").await;
        return Err(error.into());
    }
    let (shared, planned) = (stages.clone(), intent.clone());
    let apply = move || shared.effects.apply(&shared.remedies, &planned);
    let applied = blocking(apply).await;
    let why = match applied {
        Ok(Ok(applied)) => {
            let took_us = applied.took_us;
            info!(action = %intent.action.kind, target = %intent.action.path, took_us, "applied");
            stages
                .ledger
                .append_outcome(intent.episode, vec![Entry::Applied { took_us }])
                .await?;
            return Ok(());
        }
        Ok(Err(why)) => why,
        Err(_) => "the remedy panicked".to_owned(),
    };
    let undone = undo(stages, intent, "apply_failed").await;
    let failed = Entry::Failed { error: why.clone() };
    let closed = Entry::Closed;
    stages
        .ledger
        .append_outcome(intent.episode, vec![undone, failed, closed])
        .await?;
    Err(PipelineError::Apply {
        action: intent.action.kind.to_string(),
        path: intent.action.path.clone(),
        why,
    })
}

/// Watches the rule's recovery tests until they hold, fail for good, or time is up.
#[instrument(level = "debug", skip_all, fields(outcome = Empty))]
async fn check(
    stages: &Arc<Stages>,
    diagnosis: &Diagnosis,
    intent: &Intent,
    before: &Evidence,
    resolved: &mut Receiver<bool>,
) -> (Outcome, Evidence) {
    let recorder = stages.recorder.clone();
    let begun = tokio::task::spawn_blocking(move || recorder.mark())
        .await
        .unwrap_or_else(|_| Instant::now());
    let recovery = diagnosis
        .top
        .first()
        .map(|top| top.recovery.clone())
        .unwrap_or_default();
    let culprit = Some(intent.action.cgroup);
    let mut verifier = Verifier::new(&stages.verify, begun);
    if let Some(top) = diagnosis.top.first() {
        verifier = verifier.within(stages.rules().recovery_within(&top.id));
    }
    loop {
        let poll = Duration::from_millis(stages.verify.poll_ms);
        tokio::select! {
            () = tokio::time::sleep(poll) => {}
            _ = resolved.wait_for(|now| *now), if !*resolved.borrow() => {}
        }
        let recorder = stages.recorder.clone();
        let window = Duration::from_millis(stages.verify.window_ms);
        let after = move || recorder.evidence_after(begun, window);
        let Ok(after) = tokio::task::spawn_blocking(after).await else {
            continue;
        };
        let lookup = |evidence: &Evidence, reading: &str| {
            diagnosis::features::lookup(evidence, culprit, reading).map(|found| found.value)
        };
        let judgement = verify::judge(&recovery, before, &after, culprit, lookup);
        if let Some(kind) = verifier.observe(Instant::now(), &judgement) {
            Span::current().record("outcome", tracing::field::debug(kind));
            let outcome = Outcome {
                kind,
                checks: judgement.checks,
                after_s: begun.elapsed().as_secs_f64(),
            };
            return (outcome, after);
        }
    }
}

/// Keeps what helped until its lease ends; undoes everything else at once.
pub(crate) async fn settle(
    stages: &Arc<Stages>,
    intent: Intent,
    outcome: Outcome,
    after: &Evidence,
) -> Result<(), PipelineError> {
    info!(outcome = ?outcome.kind, after_s = outcome.after_s, "verified");
    stages.metrics.verified(&intent, &outcome);
    let episode = intent.episode;
    let healed = outcome.kind == OutcomeKind::Healed;
    let undone = if healed {
        keep(stages, &intent).await;
        None
    } else {
        // Before anything is written down: what did not help must not wait for a disk.
        Some(undo(stages, &intent, "did_not_help").await)
    };
    let snapshot = store(stages, episode, after).await;
    let mut entries = vec![Entry::Verified { outcome, snapshot }];
    if let Some(undone) = undone {
        entries.extend([undone, Entry::Closed]);
    }
    stages.ledger.append_outcome(episode, entries).await?;
    if healed {
        stages.keeper.hold(stages, intent);
    }
    Ok(())
}

/// Tells the guardian, before the journal: an effect that is kept too long ends with its lease, one that
/// is undone too early is a cure lost.
#[instrument(level = "debug", skip_all)]
async fn keep(stages: &Arc<Stages>, intent: &Intent) {
    let (shared, kept) = (stages.clone(), intent.clone());
    let keep = move || shared.remedies.keep(&kept);
    if blocking(keep).await.is_err() {
        warn!("the remedy panicked while keeping an effect");
    }
}

/// Restores prior values and says what was left alone. Never blocked by a breaker or a budget.
#[instrument(level = "debug", skip_all, fields(episode = %intent.episode, action = %intent.action.kind,
    target = %intent.action.path, reason, left_alone = Empty))]
async fn undo(stages: &Arc<Stages>, intent: &Intent, reason: &str) -> Entry {
    // At the end of a lease, or of an earlier life's effect, no handling is around it.
    let id = intent.episode;
    trace::join(|| {
        let trace = |incident: &Incident| incident.episode.trace.clone();
        stages.ledger.with_index(|index| index.get(id).map(trace))
    });
    let (shared, planned) = (stages.clone(), intent.clone());
    let undo = move || shared.effects.undo(&shared.remedies, &planned);
    let report = blocking(undo).await.unwrap_or_else(|_| UndoReport {
        left_alone: vec!["the remedy panicked while undoing".to_owned()],
        ..UndoReport::default()
    });
    let left_alone = report.left_alone;
    Span::current().record("left_alone", left_alone.len());
    let reason = match &report.guardian {
        Some(done) => done.reason.as_str(),
        None => reason,
    };
    info!(action = %intent.action.kind, target = %intent.action.path, reason, ?left_alone, "rolled back");
    stages.metrics.rolled_back(intent, reason);
    Entry::RolledBack {
        reason: reason.to_owned(),
        by_guardian: report.guardian.map(|done| done.at),
        left_alone,
    }
}
