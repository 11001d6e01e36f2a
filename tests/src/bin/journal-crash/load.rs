//! The writing side: records that can be recognised, and events that say what was acknowledged.

use std::{
    fs::{File, OpenOptions},
    io::Write,
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use paramedic::journal::{Journal, JournalConfig, LaneId, Lsn, Record, SnapshotMeta};
use paramedic_tests::chance::Rng;

/// Records of one call at most, so that a writer's unacknowledged ones are bounded.
pub const CALL_RECORDS_MAX: u64 = 3;

/// Which record of which writer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    pub run: u32,
    pub writer: u16,
    pub n: u64,
}

/// What the outside ledger is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// The call returned: this record is durable.
    Acknowledged { lane: LaneId, lsn: u64, key: Key },
    /// Retention is about to be asked: records below may go.
    MayGo { lane: LaneId, lsn: u64 },
}

pub const EVENT_LEN: usize = 64;
const EVENT_MAGIC: &[u8; 8] = b"PMDC-ACK";

impl Event {
    pub fn encode(self) -> [u8; EVENT_LEN] {
        let mut out = [0; EVENT_LEN];
        let (kind, lane, lsn, key) = match self {
            Self::Acknowledged { lane, lsn, key } => (1, lane, lsn, key),
            Self::MayGo { lane, lsn } => {
                let key = Key {
                    run: 0,
                    writer: 0,
                    n: 0,
                };
                (2, lane, lsn, key)
            }
        };
        out[..8].copy_from_slice(EVENT_MAGIC);
        out[8] = kind;
        out[9] = u8::from(lane == LaneId::Safe);
        out[10..12].copy_from_slice(&key.writer.to_le_bytes());
        out[12..16].copy_from_slice(&key.run.to_le_bytes());
        out[16..24].copy_from_slice(&lsn.to_le_bytes());
        out[24..32].copy_from_slice(&key.n.to_le_bytes());
        out
    }

    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; EVENT_LEN] = bytes.get(..EVENT_LEN)?.try_into().ok()?;
        if bytes[..8] != EVENT_MAGIC[..] {
            return None;
        }
        let lane = if bytes[9] == 0 {
            LaneId::Fast
        } else {
            LaneId::Safe
        };
        let lsn = u64::from_le_bytes(bytes[16..24].try_into().ok()?);
        let key = Key {
            run: u32::from_le_bytes(bytes[12..16].try_into().ok()?),
            writer: u16::from_le_bytes(bytes[10..12].try_into().ok()?),
            n: u64::from_le_bytes(bytes[24..32].try_into().ok()?),
        };
        match bytes[8] {
            1 => Some(Self::Acknowledged { lane, lsn, key }),
            2 => Some(Self::MayGo { lane, lsn }),
            _ => None,
        }
    }
}

/// The payload of a record: its key, then bytes that follow from the key.
pub fn payload(key: Key, lane: LaneId) -> Vec<u8> {
    let seed = u64::from(key.run) << 48 ^ u64::from(key.writer) << 32 ^ key.n;
    let mut rng = Rng(seed);
    let max = match lane {
        LaneId::Fast => 2500,
        LaneId::Safe => 20_000,
    };
    let len = rng.below(max);
    let mut out = Vec::with_capacity(14 + 8 + usize::try_from(len).unwrap_or(0));
    out.extend(key.run.to_le_bytes());
    out.extend(key.writer.to_le_bytes());
    out.extend(key.n.to_le_bytes());
    while (out.len() as u64) < 14 + len {
        out.extend(rng.next().to_le_bytes());
    }
    out
}

/// The key of a payload, if every byte of it is as written.
pub fn recognise(bytes: &[u8], lane: LaneId) -> Option<Key> {
    let key = Key {
        run: u32::from_le_bytes(bytes.get(..4)?.try_into().ok()?),
        writer: u16::from_le_bytes(bytes.get(4..6)?.try_into().ok()?),
        n: u64::from_le_bytes(bytes.get(6..14)?.try_into().ok()?),
    };
    (payload(key, lane) == bytes).then_some(key)
}

/// Small segments, so that they are begun, and given up, often.
pub fn config(dir: &Path) -> JournalConfig {
    JournalConfig {
        dir: dir.join("journal"),
        fast_segment_bytes: 128 << 10,
        safe_segment_bytes: 192 << 10,
        fast_keep_bytes: 512 << 10,
        safe_keep_bytes: 768 << 10,
        segments_ahead: 1,
        outcome_reserve_bytes: 32 << 10,
        record_bytes_max: 16 << 10,
        snapshot_bytes_max: 32 << 10,
        batch_bytes_max: 64 << 10,
        queue_bytes_max: 1 << 20,
        writer_nice: 0,
        deadline_ms: 120_000,
        ..JournalConfig::default()
    }
}

/// Where events go.
enum Sink {
    Stdout,
    /// One sector an event, over and over: each write has its place in the device's own order.
    Markers {
        file: File,
        next: u64,
    },
}

const SECTOR: usize = 512;
const MARKERS: u64 = 1024;

/// A buffer for direct I/O.
#[repr(align(4096))]
struct Sector([u8; SECTOR]);

impl Sink {
    fn open(markers: Option<&Path>) -> anyhow::Result<Self> {
        let Some(path) = markers else {
            return Ok(Self::Stdout);
        };
        let mut file =
            File::create(path).with_context(|| format!("cannot create {}", path.display()))?;
        // Written before, so that a marker changes no metadata and needs no flush.
        for _ in 0..MARKERS {
            file.write_all(&[0xEE; SECTOR])?;
        }
        file.sync_all()?;
        let file = OpenOptions::new()
            .write(true)
            .custom_flags(libc::O_DIRECT)
            .open(path)?;
        Ok(Self::Markers { file, next: 0 })
    }

    fn put(&mut self, event: Event) -> std::io::Result<()> {
        match self {
            Self::Stdout => {
                let mut out = std::io::stdout().lock();
                out.write_all(&event.encode())?;
                out.flush()
            }
            Self::Markers { file, next } => {
                let mut sector = Box::new(Sector([0; SECTOR]));
                sector.0[..EVENT_LEN].copy_from_slice(&event.encode());
                file.write_all_at(&sector.0, *next % MARKERS * SECTOR as u64)?;
                *next += 1;
                Ok(())
            }
        }
    }
}

type SharedSink = Arc<Mutex<Sink>>;

fn put(sink: &SharedSink, event: Event) -> anyhow::Result<()> {
    let mut sink = sink.lock().unwrap_or_else(PoisonError::into_inner);
    sink.put(event).context("cannot report")
}

/// Lives one after another; the last ends by itself or by a kill.
pub fn write(
    dir: &Path,
    run: u32,
    markers: Option<&Path>,
    lives: u32,
    life: Duration,
    writers: u16,
) -> anyhow::Result<()> {
    let sink = Arc::new(Mutex::new(Sink::open(markers)?));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    for live in 0..lives {
        let (journal, recovered) = Journal::open(&config(dir)).context("cannot open")?;
        if let Some(corruption) = recovered.corruption.first() {
            bail!("{corruption}");
        }
        let until = Instant::now() + life;
        let run = run + live;
        runtime.block_on(async {
            let mut tasks = tokio::task::JoinSet::new();
            for writer in 0..writers {
                let one = Writer {
                    journal: journal.clone(),
                    sink: sink.clone(),
                    run,
                    number: writer,
                    until,
                };
                tasks.spawn(one.run());
            }
            while let Some(done) = tasks.join_next().await {
                done??;
            }
            anyhow::Ok(())
        })?;
        runtime.block_on(journal.close())?;
    }
    Ok(())
}

struct Writer {
    journal: Journal,
    sink: SharedSink,
    run: u32,
    number: u16,
    until: Instant,
}

impl Writer {
    fn key(&self, n: u64) -> Key {
        Key {
            run: self.run,
            writer: self.number,
            n,
        }
    }

    async fn run(self) -> anyhow::Result<()> {
        let mut rng = Rng(u64::from(self.run) << 16 | u64::from(self.number));
        let mut n = 0;
        // Every third writer stores snapshots.
        let lane = if self.number % 3 == 2 {
            LaneId::Safe
        } else {
            LaneId::Fast
        };
        while Instant::now() < self.until {
            let first = match lane {
                LaneId::Fast => self.append(&mut n, &mut rng).await?,
                LaneId::Safe => self.store(&mut n).await?,
            };
            if n % 16 == 0 {
                let event = Event::MayGo { lane, lsn: first };
                put(&self.sink, event)?;
                let journal = self.journal.clone();
                tokio::task::spawn_blocking(move || journal.retain(lane, Lsn(first))).await??;
            }
        }
        Ok(())
    }

    async fn append(&self, n: &mut u64, rng: &mut Rng) -> anyhow::Result<u64> {
        let count = 1 + rng.below(CALL_RECORDS_MAX);
        let records = (*n..*n + count).map(|n| Record {
            kind: 7,
            episode: [1; 16],
            payload: payload(self.key(n), LaneId::Fast).into(),
        });
        let first = self.journal.append(records.collect()).await?.0;
        for i in 0..count {
            let event = Event::Acknowledged {
                lane: LaneId::Fast,
                lsn: first + i,
                key: self.key(*n + i),
            };
            put(&self.sink, event)?;
        }
        *n += count;
        Ok(first)
    }

    async fn store(&self, n: &mut u64) -> anyhow::Result<u64> {
        let key = self.key(*n);
        let meta = SnapshotMeta {
            kind: 7,
            episode: [1; 16],
        };
        let bytes = payload(key, LaneId::Safe).into();
        let lsn = self.journal.store_snapshot(meta, bytes).await?.lsn.0;
        let event = Event::Acknowledged {
            lane: LaneId::Safe,
            lsn,
            key,
        };
        put(&self.sink, event)?;
        *n += 1;
        Ok(lsn)
    }
}
