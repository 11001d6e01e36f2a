//! The task that empties the queue: in batches, by size and time, through the breaker, with repeats that
//! end. Whoever stops it says how long the last ones may take.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use bytes::Bytes;
use tokio::{
    sync::oneshot,
    task::JoinHandle,
    time::{Instant, sleep, timeout, timeout_at},
};
use tracing::{debug, info, warn};

use super::{
    Finished, OtlpConfig, OtlpError, encode,
    opened::Ended,
    send::{Attempt, Collector},
};
use crate::{
    clock::Clock,
    report::Metrics,
    resilience::{Backoff, Breaker, BreakerConfig, BreakerState, random},
};

/// Spans of one request.
const BATCH_MAX: usize = 512;
/// How long the first span of a batch waits for others.
const BATCH_EVERY: Duration = Duration::from_secs(2);
/// How long a batch is tried. The queue fills meanwhile: a collector that restarts loses nothing, one that
/// is gone for longer loses spans and no memory.
const GIVE_UP: Duration = Duration::from_secs(30);
/// A collector that failed three times in a row is left alone this long.
const BREAKER: BreakerConfig = BreakerConfig {
    failures_max: 3,
    open_for: Duration::from_secs(10),
};
const BACKOFF: Backoff = Backoff {
    attempts_max: u32::MAX,
    base: Duration::from_millis(500),
    max: Duration::from_secs(5),
};

/// Sends what has ended.
#[derive(Debug)]
pub struct Exporter {
    finished: Finished,
    collector: Collector,
    breaker: Arc<Breaker>,
    metrics: Arc<Metrics>,
    host: String,
    batch: Vec<Ended>,
    /// The collector's failure was said; the next one is not, until it is back.
    told: bool,
}

/// An exporter that runs.
#[derive(Debug)]
pub struct Exporting {
    stop: oneshot::Sender<Duration>,
    task: JoinHandle<()>,
}

impl Exporter {
    /// Sets up the way to the collector; asks nothing of it yet.
    ///
    /// # Errors
    /// A file that can't be read, or an address that is none.
    pub fn new(
        config: &OtlpConfig,
        finished: Finished,
        clock: Arc<dyn Clock>,
        metrics: Arc<Metrics>,
    ) -> Result<Self, OtlpError> {
        for result in ["sent", "failed", "refused", "dropped"] {
            metrics.exported(result, 0);
        }
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname");
        Ok(Self {
            finished,
            collector: Collector::new(config)?,
            breaker: Arc::new(Breaker::new(BREAKER, clock)),
            metrics,
            host: host.map_or_else(|_| "localhost".to_owned(), |name| name.trim().to_owned()),
            batch: Vec::new(),
            told: false,
        })
    }

    /// Of the collector.
    pub fn breaker(&self) -> Arc<Breaker> {
        self.breaker.clone()
    }

    /// Begins, on the current runtime.
    pub fn start(self) -> Exporting {
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(self.run(stopped));
        Exporting { stop, task }
    }

    async fn run(mut self, mut stopped: oneshot::Receiver<Duration>) {
        let within = loop {
            tokio::select! {
                biased;
                within = &mut stopped => break within.unwrap_or_default(),
                // Cut off anywhere, it leaves what it has in the batch.
                () = self.turn() => {}
            }
        };
        // What ends from here on is nobody's.
        self.finished.queue.close();
        // One that was dead a moment ago would only use up the time.
        let well = self.breaker.state() == BreakerState::Closed;
        if well && timeout(within, self.flush()).await.is_err() {
            warn!(
                spans = self.batch.len() + self.finished.queue.len(),
                "the collector did not take the last spans in time"
            );
        }
        let left = self.batch.len() + self.finished.queue.len();
        self.count("failed", left);
        self.count_dropped();
    }

    /// One batch.
    async fn turn(&mut self) {
        if !self.gather().await {
            // Nobody makes spans any more: only the stop is still to come.
            std::future::pending::<()>().await;
        }
        self.deliver().await;
        self.batch.clear();
    }

    /// Fills the batch until it is full or its first span has waited. Whether there may be more.
    async fn gather(&mut self) -> bool {
        let queue = &mut self.finished.queue;
        if self.batch.is_empty() {
            match queue.recv().await {
                Some(ended) => self.batch.push(ended),
                None => return false,
            }
        }
        let until = Instant::now() + BATCH_EVERY;
        while self.batch.len() < BATCH_MAX {
            match timeout_at(until, queue.recv()).await {
                Ok(Some(ended)) => self.batch.push(ended),
                Ok(None) | Err(_) => break,
            }
        }
        true
    }

    /// Tries until it is taken, refused for good, or old.
    async fn deliver(&mut self) {
        let Some(body) = self.body() else {
            self.count("failed", self.batch.len());
            return;
        };
        let breaker = self.breaker.clone();
        let give_up = Instant::now() + GIVE_UP;
        let mut attempt = 0;
        loop {
            self.count_dropped();
            let mut wait = BACKOFF.delay(attempt, u64::from_ne_bytes(random()));
            match breaker.try_pass() {
                Ok(pass) => match self.collector.post(body.clone()).await {
                    Attempt::Failed(why, after) => {
                        pass.failure();
                        self.complain(&why);
                        attempt += 1;
                        wait = wait.max(after.unwrap_or_default());
                    }
                    answered => {
                        pass.success();
                        self.settle(answered);
                        return;
                    }
                },
                Err(open) => wait = wait.max(open.retry_in),
            }
            if Instant::now() + wait >= give_up {
                self.count("failed", self.batch.len());
                return;
            }
            sleep(wait).await;
        }
    }

    /// What is left, each once: there is no time for more.
    async fn flush(&mut self) {
        loop {
            while self.batch.len() < BATCH_MAX
                && let Ok(ended) = self.finished.queue.try_recv()
            {
                self.batch.push(ended);
            }
            if self.batch.is_empty() {
                return;
            }
            let Some(body) = self.body() else {
                return;
            };
            match self.collector.post(body).await {
                Attempt::Failed(why, _) => {
                    self.complain(&why);
                    self.count("failed", self.batch.len());
                }
                answered => self.settle(answered),
            }
            self.batch.clear();
        }
    }

    fn body(&self) -> Option<Bytes> {
        encode::request(&self.host, &self.batch)
            .inspect_err(|error| warn!(%error, "spans cannot be written as JSON"))
            .ok()
            .map(Bytes::from)
    }

    /// The collector has answered.
    fn settle(&mut self, answered: Attempt) {
        let all = self.batch.len();
        match answered {
            Attempt::Taken(refused, why) => {
                let refused = usize::try_from(refused).unwrap_or(all).min(all);
                self.count("sent", all - refused);
                self.count("refused", refused);
                if refused > 0 {
                    self.complain(&format!("it refused {refused} of {all}: {why}"));
                } else if std::mem::take(&mut self.told) {
                    info!("the collector takes spans again");
                }
            }
            Attempt::Refused(why) | Attempt::Failed(why, _) => {
                self.complain(&why);
                self.count("refused", all);
            }
        }
    }

    /// Once until it is back: a dead collector must not fill the log.
    fn complain(&mut self, why: &str) {
        if std::mem::replace(&mut self.told, true) {
            debug!(why, "the collector does not take spans");
        } else {
            warn!(
                why,
                "the collector does not take spans; nothing waits for it"
            );
        }
    }

    fn count_dropped(&self) {
        let dropped = self.finished.dropped.swap(0, Ordering::Relaxed);
        self.metrics.exported("dropped", dropped);
    }

    fn count(&self, result: &'static str, spans: usize) {
        self.metrics.exported(result, spans as u64);
    }
}

impl Exporting {
    /// Sends what is left, within this time, and ends.
    pub async fn end(self, within: Duration) {
        // It may have ended by itself, which is told below.
        self.stop.send(within).unwrap_or_default();
        if self.task.await.is_err() {
            warn!("the exporter of traces panicked");
        }
    }
}

#[cfg(test)]
mod tests;
