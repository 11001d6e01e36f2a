//! Looking and thinking, for one episode: a second time where the first came too early to decide.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use tracing::{Instrument, Span, debug_span, field::Empty, info, instrument, warn};

use super::Stages;
use crate::{
    incident::{Diagnosis, Episode, Evidence, Verdict},
    telemetry::trace,
};

/// Looks and thinks; a second time, over a whole new window, where the first look could not decide and
/// another may: see [`worth_another_look`].
pub(super) async fn examine(stages: &Stages, episode: &Episode) -> (Arc<Evidence>, Diagnosis) {
    let evidence = look(stages, episode, None).await;
    let diagnosis = think(stages, episode, &evidence);
    let Some(why) = worth_another_look(&diagnosis, evidence.window_s, stages.window) else {
        return (Arc::new(evidence), diagnosis);
    };
    let window_s = evidence.window_s;
    info!(window_s, why, "not conclusive: looking again");
    let recorder = stages.recorder.clone();
    let mark = tokio::task::spawn_blocking(move || recorder.mark()).await;
    tokio::time::sleep(stages.window).await;
    let evidence = look(stages, episode, mark.ok()).await;
    let diagnosis = think(stages, episode, &evidence);
    (Arc::new(evidence), diagnosis)
}

/// Why a look that could not decide is made again, if it is. A fault that has just begun still has the
/// quiet before it in the window: that thins what speaks for its cause, hides its culprit or even rules the
/// cause out, and its posterior says little then. Nothing would be done on this look, so another costs only
/// its time. Not so where no rule applies: a moment later none will.
fn worth_another_look(
    diagnosis: &Diagnosis,
    window_s: f64,
    asked: Duration,
) -> Option<&'static str> {
    if diagnosis.verdict == Verdict::Conclusive {
        return None;
    }
    // On a starved node samples come late, and the recorder may be younger than its window.
    if !is_fitting(window_s, asked) {
        return Some("the window was a poor one");
    }
    let is_any = !diagnosis.top.is_empty() || !diagnosis.excluded.is_empty();
    is_any.then_some("the fault may be younger than the window")
}

/// Whether a window is neither so short that its readings are partial nor so long that the quiet before
/// the fault thins them.
fn is_fitting(window_s: f64, asked: Duration) -> bool {
    let asked_s = asked.as_secs_f64();
    (asked_s / 2.0..=asked_s * 2.0).contains(&window_s)
}

/// Joins Prometheus' series with the kernel's evidence since a moment, or of the usual window; what is
/// missing is said, never waited for.
#[instrument(level = "debug", skip_all, fields(window_s = Empty))]
async fn look(stages: &Stages, episode: &Episode, since: Option<Instant>) -> Evidence {
    let queries = stages.rules().queries_for(&episode.alert);
    let now = Timestamp::now();
    let sampled = async {
        // Prometheus' own spans, if it has any, are below this one.
        let trace = trace::current(&episode.trace);
        let sampler = &stages.sampler;
        sampler.sample(&queries, &episode.alert, now, &trace).await
    };
    let sampled = sampled.instrument(debug_span!("sample", queries = queries.len()));
    let recorder = stages.recorder.clone();
    let window = stages.window;
    let syscall_watch = stages.syscall_watch;
    let observed = async move {
        tokio::time::sleep(syscall_watch).await;
        let observe = move || match since {
            Some(since) => recorder.evidence_since(since),
            None => recorder.evidence(window),
        };
        tokio::task::spawn_blocking(observe).await
    };
    let observed = observed.instrument(debug_span!("observe"));
    let (sampled, observed) = tokio::join!(sampled, observed);
    let mut evidence = observed.unwrap_or_else(|error| {
        warn!(%error, "the evidence reader failed; diagnosing without the kernel's evidence");
        Evidence::nothing(now)
    });
    Span::current().record("window_s", evidence.window_s);
    evidence.series = sampled.series;
    evidence.series_gaps = sampled.gaps;
    evidence.coverage.push(sampled.coverage);
    evidence
}

/// Pure: rules prune, Bayes ranks.
#[instrument(level = "debug", skip_all, fields(cause = Empty, posterior = Empty, conclusive = Empty))]
fn think(stages: &Stages, episode: &Episode, evidence: &Evidence) -> Diagnosis {
    let begun = Instant::now();
    let mut diagnosis = stages.gateway.decide(
        &stages.rules(),
        &episode.alert,
        &episode.source,
        evidence,
        &stages.diagnosis,
    );
    let conclusive = diagnosis.verdict == Verdict::Conclusive;
    Span::current().record("conclusive", conclusive);
    if let Some(top) = diagnosis.top.first() {
        Span::current().record("cause", top.id.as_str());
        Span::current().record("posterior", top.posterior);
    }
    diagnosis.took_us = u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX);
    diagnosis
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::incident::{FeatureTest, Hypothesis, Quality, WeighedFeature};

    const WINDOW: Duration = Duration::from_secs(3);

    fn diagnosis(posterior: f64, busy: Option<f64>, verdict: Verdict) -> Diagnosis {
        let decisive = WeighedFeature {
            id: "saturated".to_owned(),
            says: String::new(),
            test: FeatureTest {
                reading: "host.cpu.busy".to_owned(),
                at_least: Some(0.85),
                below: None,
            },
            value: busy,
            held: busy.map(|busy| busy >= 0.85),
            quality: busy.map(|_| Quality::Good),
            bits: 0.0,
            decisive: true,
        };
        let hypothesis = Hypothesis {
            id: "cpu-hog".to_owned(),
            title: String::new(),
            posterior,
            interval: None,
            prior: 0.1,
            culprit: None,
            features: vec![decisive],
            notes: Vec::new(),
            recovery: Vec::new(),
            remedies: Vec::new(),
        };
        Diagnosis {
            top: vec![hypothesis],
            unknown: 1.0 - posterior,
            excluded: Vec::new(),
            verdict,
            took_us: 0,
        }
    }

    fn unsure() -> Verdict {
        Verdict::Inconclusive("under the bar".to_owned())
    }

    #[test]
    fn what_is_not_decided_is_looked_at_again() {
        // A part of the window was before the fault.
        for (posterior, busy) in [(0.72, Some(0.62)), (0.43, Some(0.79)), (0.05, Some(0.3))] {
            let early = diagnosis(posterior, busy, unsure());
            assert!(worth_another_look(&early, 3.0, WINDOW).is_some());
        }
        // Its decisive reading may be that of a culprit that does not stand out yet.
        let blind = diagnosis(0.72, None, unsure());
        assert!(worth_another_look(&blind, 3.0, WINDOW).is_some());
        let mut ruled_out = diagnosis(0.3, Some(0.4), unsure());
        ruled_out.top.clear();
        ruled_out.excluded = vec![("cpu-hog".to_owned(), "the CPUs are idle".to_owned())];
        assert!(worth_another_look(&ruled_out, 3.0, WINDOW).is_some());
    }

    #[test]
    fn what_is_decided_or_no_rule_applies_to_is_not() {
        let decided = diagnosis(0.93, Some(0.97), Verdict::Conclusive);
        assert_eq!(worth_another_look(&decided, 0.4, WINDOW), None);
        let mut nothing = diagnosis(0.3, Some(0.4), unsure());
        nothing.top.clear();
        assert_eq!(worth_another_look(&nothing, 3.0, WINDOW), None);
    }

    #[test]
    fn a_poor_window_is_looked_at_again_whatever_it_said() {
        let unlikely = diagnosis(0.3, Some(0.4), unsure());
        assert!(worth_another_look(&unlikely, 1.0, WINDOW).is_some());
        assert!(worth_another_look(&unlikely, 7.0, WINDOW).is_some());
    }
}
