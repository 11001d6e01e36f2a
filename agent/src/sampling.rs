//! Stage: sampling. The series that the rules ask for, from Prometheus, on one time grid.
//!
//! It never fails and never outlives its budget: what could not be had is said in
//! [`Sampled::gaps`], and the diagnosis goes on without it.
//!
//! - `promql`: templates filled in with the alert's labels, which stay data (invariant 12);
//! - `client`: one query, bounded, through the breaker;
//! - `cache`: each question asked once in a storm;
//! - `matrix`: the grid, and answers laid onto it;
//! - `stats`: what each series did.

mod access;
mod cache;
mod client;
mod config;
mod matrix;
mod promql;
mod stats;

use std::{collections::VecDeque, sync::Arc, time::Duration};

use jiff::Timestamp;
use tokio::task::JoinSet;
use tracing::{Instrument, Span};

pub use config::SamplingConfig;
pub use promql::{FillError, fill};

use crate::{
    clock::Clock,
    incident::{Alert, Coverage, Series, SeriesGap, SeriesQuery, TraceContext},
    resilience::{Class, Deadline, random},
    secret::SecretError,
};
use cache::Cache;
use client::{Client, QueryError};
use matrix::{Aligned, Grid, Matrix};

/// Bytes of labels that all series of an episode keep together; beyond, they are kept without.
const LABELS_BYTES_MAX: usize = 1 << 20;

/// Why sampling cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum SamplingError {
    /// Fields out of bounds, all of them.
    #[error("{}", .0.join("; "))]
    Config(Vec<String>),
    /// The HTTP client could not be made.
    #[error("cannot set up the HTTP client for Prometheus")]
    Client(#[source] reqwest::Error),
    /// A file of credentials was refused.
    #[error(transparent)]
    Secret(#[from] SecretError),
}

/// What Prometheus gave, and what it did not.
#[derive(Clone, Debug, PartialEq)]
pub struct Sampled {
    /// In the order of the queries, all on one grid.
    pub series: Vec<Series>,
    /// What was asked for and not had, and what was cut.
    pub gaps: Vec<SeriesGap>,
    /// Whether Prometheus as a source was fully there. A query without a result is a gap in the
    /// series, but not one in the source.
    pub coverage: Coverage,
}

/// Prometheus, or its absence. Cheap to share by reference; one for the whole agent, because the
/// breaker counts failures over all episodes.
#[derive(Debug)]
pub struct Sampler {
    config: SamplingConfig,
    client: Option<Arc<Client>>,
    cache: Arc<Cache>,
}

impl Sampler {
    /// Checks the configuration; does not ask Prometheus anything.
    pub fn new(config: &SamplingConfig, clock: Arc<dyn Clock>) -> Result<Self, SamplingError> {
        let problems = config.problems();
        if !problems.is_empty() {
            return Err(SamplingError::Config(problems));
        }
        let endpoint = config
            .endpoint()
            .map_err(|why| SamplingError::Config(vec![why]))?;
        let client = endpoint
            .map(|endpoint| Client::new(config, endpoint, clock.clone()))
            .transpose()?;
        Ok(Self {
            config: config.clone(),
            client: client.map(Arc::new),
            cache: Arc::new(Cache::new(
                Duration::from_millis(config.cache_ms),
                Duration::from_secs(config.last_good_s.into()),
                clock,
            )),
        })
    }

    /// Asks all queries for the time from before the alert until `now`, within `budget_ms`.
    pub async fn sample(
        &self,
        queries: &[SeriesQuery],
        alert: &Alert,
        now: Timestamp,
        trace: &TraceContext,
    ) -> Sampled {
        let grid = Grid::new(&self.config, alert.starts_at, now);
        let grid = self.cache.grid(grid);
        let mut collected = Collected::new(&self.config, grid.before(alert.starts_at));
        let Some(client) = &self.client else {
            for query in queries {
                collected.gap(&query.name, "prometheus not configured");
            }
            return collected.finish("prometheus not configured");
        };
        let mut asked = VecDeque::new();
        for (at, query) in queries.iter().enumerate() {
            if at >= self.config.queries_max {
                let max = self.config.queries_max;
                collected.cut(
                    &query.name,
                    &format!("not asked: {max} queries an episode at most"),
                );
                continue;
            }
            match fill(&query.promql_template, &alert.labels) {
                Ok(promql) => asked.push_back((at, promql)),
                Err(error) => collected.gap(&query.name, &error.to_string()),
            }
        }
        let at_once = self.config.concurrency_max;
        let answers = ask_all(client, &self.cache, asked, grid, at_once, trace).await;
        for (query, answer) in answers {
            collected.answer(&queries[query].name, answer, &grid);
        }
        collected.finish("")
    }

    /// Whether Prometheus is left alone at present because it failed repeatedly; `None` without one.
    pub fn suspects(&self) -> Option<bool> {
        self.client.as_ref().map(|client| client.is_suspect())
    }

    /// Whether Prometheus has this alert firing; `None` if it can't say. An alert may have labels that
    /// Prometheus only adds when it sends it, so all of what Prometheus knows must be in the alert.
    pub async fn still_firing(&self, alert: &Alert) -> Option<bool> {
        let client = self.client.as_ref()?;
        let query = "ALERTS{alertname={{alertname}},alertstate=\"firing\"}";
        let promql = fill(query, &alert.labels).ok()?;
        // The last minute, and not less than up to now: an evaluation of this second counts, and one
        // that came late is no end.
        let grid = Grid {
            start_s: Timestamp::now().as_second() + 1 - 60,
            step_s: 15,
            points: 5,
        };
        let deadline = Deadline::after(client.budget());
        let trace = fresh_trace();
        let answer = client.query_range(&promql, &grid, deadline, &trace).await;
        let matrix = answer.ok()?;
        let own = |name: &str| name == "__name__" || name == "alertstate";
        let fires = matrix.series.kept.iter().any(|series| {
            let mut labels = series.metric.kept.iter().filter(|(name, _)| !own(name));
            labels.all(|(name, value)| alert.labels.get(name) == Some(value))
        });
        // Of those beyond what is read, nothing is known.
        (fires || matrix.series.dropped == 0).then_some(fires)
    }
}

fn fresh_trace() -> TraceContext {
    TraceContext {
        trace_id: format!("{:032x}", u128::from_be_bytes(random()) | 1),
        span_id: format!("{:016x}", u64::from_be_bytes(random()) | 1),
        sampled: false,
        begun_here: false,
    }
}

type Answer = Result<Answered, QueryError>;

/// What Prometheus said.
struct Answered {
    matrix: Arc<Matrix>,
    /// Where it is no answer to this question: how old it is, and why there is none.
    instead: Option<(Duration, QueryError)>,
}

/// The answer, or the last good one to the same query where Prometheus gives none.
fn or_last_good(cache: &Cache, promql: &str, answer: Result<Arc<Matrix>, QueryError>) -> Answer {
    let error = match answer {
        Ok(matrix) => {
            let instead = None;
            return Ok(Answered { matrix, instead });
        }
        // It would be refused again.
        Err(error) if error.class() == Class::Permanent => return Err(error),
        Err(error) => error,
    };
    match cache.last(promql) {
        Some((matrix, age)) => Ok(Answered {
            matrix,
            instead: Some((age, error)),
        }),
        None => Err(error),
    }
}

/// Asks several at once. While Prometheus is under suspicion one goes ahead and the others follow
/// only if it comes back well: the breaker lets one trial through, not a crowd.
async fn ask_all(
    client: &Arc<Client>,
    cache: &Arc<Cache>,
    mut asked: VecDeque<(usize, String)>,
    grid: Grid,
    concurrency_max: usize,
    trace: &TraceContext,
) -> Vec<(usize, Answer)> {
    let deadline = Deadline::after(client.budget());
    let mut running: JoinSet<(usize, Answer)> = JoinSet::new();
    let mut answers = Vec::with_capacity(asked.len());
    let mut lost: Vec<usize> = asked.iter().map(|(at, _)| *at).collect();
    loop {
        let at_once = if client.is_suspect() {
            1
        } else {
            concurrency_max
        };
        while running.len() < at_once
            && let Some((at, promql)) = asked.pop_front()
        {
            let (client, cache, trace) = (client.clone(), cache.clone(), trace.clone());
            let query = async move {
                let asking = client.query_range(&promql, &grid, deadline, &trace);
                let answer = cache.answer(&promql, &grid, asking);
                // Somebody else may be asking, with more time than we have.
                let answer = tokio::time::timeout_at(deadline.at(), answer).await;
                let answer = answer.unwrap_or(Err(QueryError::NoTime));
                (at, or_last_good(&cache, &promql, answer))
            };
            running.spawn(query.instrument(Span::current()));
        }
        match running.join_next().await {
            Some(Ok(answer)) => {
                lost.retain(|at| *at != answer.0);
                answers.push(answer);
            }
            Some(Err(error)) => tracing::error!(%error, "a query to Prometheus panicked"),
            None => break,
        }
    }
    answers.extend(lost.into_iter().map(|at| (at, Err(QueryError::Lost))));
    answers.sort_by_key(|(at, _)| *at);
    answers
}

/// The result as it grows, within its bounds.
struct Collected<'a> {
    config: &'a SamplingConfig,
    /// Grid points before the alert.
    baseline: usize,
    series: Vec<Series>,
    gaps: Vec<SeriesGap>,
    samples: usize,
    labels_bytes: usize,
    /// Queries that Prometheus answered, and all that it was asked.
    answered: usize,
    asked: usize,
    /// The first trouble that speaks against the source's completeness.
    trouble: Option<String>,
}

impl<'a> Collected<'a> {
    fn new(config: &'a SamplingConfig, baseline: usize) -> Self {
        Self {
            config,
            baseline,
            series: Vec::new(),
            gaps: Vec::new(),
            samples: 0,
            labels_bytes: 0,
            answered: 0,
            asked: 0,
            trouble: None,
        }
    }

    fn gap(&mut self, name: &str, why: &str) {
        self.gaps.push(SeriesGap {
            name: name.to_owned(),
            why: why.to_owned(),
        });
    }

    /// A gap that is our own limit's doing.
    fn cut(&mut self, name: &str, why: &str) {
        self.gap(name, why);
        self.trouble.get_or_insert_with(|| format!("{name}: {why}"));
    }

    fn answer(&mut self, name: &str, answer: Answer, grid: &Grid) {
        self.asked += 1;
        let Answered { matrix, instead } = match answer {
            Ok(answered) => answered,
            Err(error) => return self.cut(name, &error.to_string()),
        };
        if let Some((age, error)) = instead {
            let age_s = age.as_secs();
            self.cut(
                name,
                &format!("the last good answer, {age_s} s old, stands in: {error}"),
            );
        } else {
            self.answered += 1;
        }
        for warning in &matrix.warnings {
            self.cut(name, &format!("Prometheus warns: {warning}"));
        }
        let found = matrix.series.kept.len() + matrix.series.dropped;
        if found == 0 {
            return self.gap(name, "Prometheus has no such series in this time");
        }
        let (mut kept, mut unlabelled, mut nothing) = (0, 0, None);
        let mut by_rule = 0;
        for raw in &matrix.series.kept {
            let room = self.samples + grid.points <= self.config.samples_max;
            if kept >= self.config.series_max || !room {
                break;
            }
            let mut raw = raw.clone();
            let before = raw.metric.kept.len();
            raw.metric
                .kept
                .retain(|label, _| !self.config.drop_labels.contains(label));
            by_rule += usize::from(raw.metric.kept.len() < before);
            let bytes: usize = raw.metric.kept.iter().map(|(k, v)| k.len() + v.len()).sum();
            if self.labels_bytes + bytes > LABELS_BYTES_MAX {
                raw.metric.kept.clear();
                unlabelled += 1;
            } else {
                self.labels_bytes += bytes;
                unlabelled += usize::from(raw.metric.dropped > 0);
            }
            kept += 1;
            match matrix::align(name, raw, grid, self.baseline) {
                Aligned::Series(series) => {
                    self.samples += grid.points;
                    self.series.push(series);
                }
                Aligned::Nothing(why) => nothing = Some(why),
            }
        }
        if let Some(why) = nothing {
            self.gap(name, why);
        }
        if by_rule > 0 {
            self.gap(
                name,
                &format!("{by_rule} of {found} series are without labels of sampling.drop_labels"),
            );
        }
        if unlabelled > 0 {
            self.cut(
                name,
                &format!("{unlabelled} of {found} series lost labels: too many or too long"),
            );
        }
        if kept < found {
            let why = format!("{kept} of {found} series kept; aggregate in the query to see all");
            self.cut(name, &why);
        }
    }

    /// `absent`: why Prometheus was not asked at all, or nothing.
    fn finish(self, absent: &str) -> Sampled {
        let note = match self.trouble {
            _ if !absent.is_empty() => absent.to_owned(),
            Some(trouble) => {
                format!(
                    "{} of {} queries answered; {trouble}",
                    self.answered, self.asked
                )
            }
            None => String::new(),
        };
        Sampled {
            series: self.series,
            gaps: self.gaps,
            coverage: Coverage {
                source: "prometheus".to_owned(),
                complete: note.is_empty(),
                note,
            },
        }
    }
}

#[cfg(test)]
mod tests;
