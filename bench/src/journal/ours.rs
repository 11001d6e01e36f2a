//! This journal under load, through its public interface.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use bytes::Bytes;
use hdrhistogram::Histogram;
use paramedic::journal::{Journal, JournalConfig, LaneStats, Record, SnapshotMeta};
use tokio::runtime::Runtime;
use tokio::sync::Barrier;

use super::Sample;
use super::load::{Limit, Load, noise};
use super::sample::{histogram, nanos};

/// Which lane carries the load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lane {
    Fast,
    Safe,
}

impl Lane {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Fast => "fast",
            Self::Safe => "safe",
        }
    }
}

/// Who calls: tasks of one runtime, as in the agent, or a thread each, as the peers are called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Callers {
    Tasks,
    Threads,
}

/// A journal of its own, prepared and idle, and where it is.
pub(crate) struct Ours {
    journal: Journal,
    lane: Lane,
}

/// Longest wait until two segments are zeroed.
const PREPARE_MAX: Duration = Duration::from_mins(1);

pub(crate) fn config(dir: &Path, lane: Lane, segment_bytes: u64) -> anyhow::Result<JournalConfig> {
    const MIB: u64 = 1 << 20;
    let (fast, safe) = match lane {
        Lane::Fast => (segment_bytes, 16 * MIB),
        Lane::Safe => (4 * MIB, segment_bytes),
    };
    let config = JournalConfig {
        dir: dir.to_owned(),
        fast_segment_bytes: fast,
        safe_segment_bytes: safe,
        segments_ahead: 1,
        ..JournalConfig::default()
    };
    // Bounds of the history, by name: a version that has them asks for a few segments, and these
    // segments are larger than anybody's.
    let mut fields = serde_json::to_value(config)?;
    for name in ["fast_keep_bytes", "safe_keep_bytes"] {
        if let Some(bytes) = fields.get_mut(name) {
            *bytes = (1_u64 << 40).into();
        }
    }
    Ok(serde_json::from_value(fields)?)
}

impl Ours {
    /// Opens a new journal in `dir` and waits until nothing is being prepared.
    pub(crate) fn open(
        runtime: &Runtime,
        dir: &Path,
        lane: Lane,
        segment_bytes: u64,
    ) -> anyhow::Result<Self> {
        let (journal, _) = Journal::open(&config(dir, lane, segment_bytes)?)
            .with_context(|| format!("cannot open a journal in {}", dir.display()))?;
        let ours = Self { journal, lane };
        let until = Instant::now() + PREPARE_MAX;
        while !ours.prepared() {
            if Instant::now() > until {
                bail!("the journal's segments are not prepared after {PREPARE_MAX:?}");
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        // One record each way: every code path is warm, every thread is up.
        runtime.block_on(ours.write(Bytes::from_static(b"first")))?;
        Ok(ours)
    }

    fn prepared(&self) -> bool {
        let stats = self.journal.stats();
        let ready = |lane: Option<LaneStats>| lane.is_some_and(|lane| lane.segments_ready >= 1);
        ready(stats.fast) && ready(stats.safe)
    }

    pub(crate) fn stats(&self) -> anyhow::Result<LaneStats> {
        let stats = self.journal.stats();
        let lane = match self.lane {
            Lane::Fast => stats.fast,
            Lane::Safe => stats.safe,
        };
        lane.context("the journal is read-only")
    }

    async fn write(&self, payload: Bytes) -> anyhow::Result<()> {
        write(&self.journal, self.lane, payload).await
    }

    pub(crate) fn close(self, runtime: &Runtime) -> anyhow::Result<()> {
        runtime.block_on(self.journal.close())?;
        Ok(())
    }

    /// One slice of load.
    pub(crate) fn load(
        &self,
        runtime: &Runtime,
        load: Load,
        slice: Duration,
        bytes_max: u64,
        callers: Callers,
    ) -> anyhow::Result<Sample> {
        let payload = Bytes::from(noise(load.bytes));
        let mut sample = match callers {
            Callers::Tasks => runtime.block_on(self.tasks(load, slice, bytes_max, payload))?,
            Callers::Threads => super::load::threads(load, slice, bytes_max, |_, _| {
                runtime.handle().block_on(self.write(payload.clone()))
            })?,
        };
        let stats = self.stats()?;
        sample.rotated = stats.segments_ready == 0;
        sample.memory = stats.buffer_bytes as f64 / stats.buffer_bytes_max.max(1) as f64;
        Ok(sample)
    }

    async fn tasks(
        &self,
        load: Load,
        slice: Duration,
        bytes_max: u64,
        payload: Bytes,
    ) -> anyhow::Result<Sample> {
        let barrier = Arc::new(Barrier::new(load.writers + 1));
        let limit = Arc::new(Limit::new(
            slice + Duration::from_millis(5),
            load,
            bytes_max,
        ));
        let tasks: Vec<_> = (0..load.writers)
            .map(|_| {
                let journal = self.journal.clone();
                let lane = self.lane;
                let (barrier, limit) = (barrier.clone(), limit.clone());
                let payload = payload.clone();
                tokio::spawn(async move {
                    let mut own = histogram()?;
                    barrier.wait().await;
                    let mut begun = Instant::now();
                    while limit.go(begun) {
                        write(&journal, lane, payload.clone()).await?;
                        let ended = Instant::now();
                        own.saturating_record(nanos(ended - begun));
                        begun = ended;
                    }
                    anyhow::Ok(own)
                })
            })
            .collect();
        barrier.wait().await;
        let begun = Instant::now();
        let mut all: Histogram<u64> = histogram()?;
        for task in tasks {
            all.add(task.await.context("a writer panicked")??)?;
        }
        Ok(Sample::of(&all, load.bytes, begun.elapsed()))
    }
}

async fn write(journal: &Journal, lane: Lane, payload: Bytes) -> anyhow::Result<()> {
    let (kind, episode) = (1, [7; 16]);
    match lane {
        Lane::Fast => {
            let record = Record {
                kind,
                episode,
                payload,
            };
            journal.append(vec![record]).await?;
        }
        Lane::Safe => {
            let meta = SnapshotMeta { kind, episode };
            journal.store_snapshot(meta, payload).await?;
        }
    }
    Ok(())
}
