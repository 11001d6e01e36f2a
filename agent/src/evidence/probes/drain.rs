//! The thread that empties the rings: events for people, log lines of the probes for `tracing`.
//!
//! Kernel side counts everything in maps as well, so a lost event costs a line in a list and never
//! a number. The thread needs no runtime, and it ends at once when told. It waits at most `drain_ms`
//! while events come; while few do, longer and longer, up to eight times that: looking fifty times a
//! second for nothing was a third of what an idle agent took. A ring that fills up wakes it anyhow.

use std::{
    collections::VecDeque,
    fs::File,
    io::{Read as _, Write as _},
    net::{IpAddr, Ipv6Addr},
    os::fd::AsFd as _,
    sync::{Arc, Mutex, PoisonError},
    thread::JoinHandle,
    time::Duration,
};

use aya::maps::{MapData, RingBuf};
use aya_log::EbpfLogger;
use paramedic_abi::{Event, FATAL, probe, tcp_event};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use serde::Serialize;

use super::config::{ProbeName, ProbesConfig};
use crate::incident::CgroupId;

/// Between two drains while events come thick: below it the wake-ups cost more than the work.
const BREATH: Duration = Duration::from_millis(1);
/// The wait grows up to this many times `drain_ms`,
const STRETCH_MAX: u32 = 8;
/// as long as a drain finds fewer events than this.
const FEW: usize = 64;
/// Events taken in one go, so that a storm cannot keep the logs and the end waiting.
const BATCH_MAX: usize = 65_536;

/// What more an event tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Told {
    /// A signal.
    Signal {
        /// Its number.
        number: u32,
        /// Who sent it; `None`: the kernel.
        sender: Option<u32>,
        /// It ends its process.
        fatal: bool,
    },
    /// Of a TCP connection.
    Tcp {
        /// What happened.
        what: TcpEvent,
        /// The other end.
        peer: IpAddr,
        /// Port of the service.
        port: u16,
    },
}

/// What happened to a TCP connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum TcpEvent {
    /// It did not come about.
    Failed,
    /// A segment was sent again.
    Retransmit,
    /// A reset was sent.
    ResetSent,
    /// A reset was received.
    ResetReceived,
}

/// Something that happened to a process or a connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ProcessEvent {
    /// Which probe saw it.
    pub kind: ProbeName,
    /// Monotonic time, ns.
    pub at_ns: u64,
    /// Cgroup charged.
    pub cgroup: CgroupId,
    /// The process; 0 if not known.
    pub pid: u32,
    /// Its parent, for a fork.
    pub parent: Option<u32>,
    /// Wait status, for an exit.
    pub exit_code: Option<u32>,
    /// What more there is to say of a signal or a connection.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub told: Option<Told>,
    /// Task name; empty for a connection.
    pub comm: String,
}

impl ProcessEvent {
    /// Decodes a record of the ring; `None` if it is not one.
    fn decode(bytes: &[u8]) -> Option<Self> {
        if bytes.len() != size_of::<Event>() {
            return None;
        }
        // SAFETY: the length is right, `Event` is plain integers, and the read needs no alignment.
        let event = unsafe { bytes.as_ptr().cast::<Event>().read_unaligned() };
        let kind = match event.kind {
            probe::EXEC => ProbeName::Exec,
            probe::FORK => ProbeName::Fork,
            probe::EXIT => ProbeName::Exit,
            probe::OOM => ProbeName::Oom,
            probe::SIGNAL => ProbeName::Signal,
            probe::TCP => ProbeName::Tcp,
            _ => return None,
        };
        let told = told(kind, &event);
        if kind == ProbeName::Tcp {
            return Some(Self {
                kind,
                at_ns: event.at_ns,
                cgroup: CgroupId(event.cgroup),
                pid: 0,
                parent: None,
                exit_code: None,
                told: Some(told?),
                comm: String::new(),
            });
        }
        let end = event.comm.iter().position(|byte| *byte == 0);
        let comm = &event.comm[..end.unwrap_or(event.comm.len())];
        Some(Self {
            kind,
            at_ns: event.at_ns,
            cgroup: CgroupId(event.cgroup),
            pid: event.pid,
            parent: (kind == ProbeName::Fork).then_some(event.parent),
            exit_code: (kind == ProbeName::Exit).then_some(event.exit_code),
            told,
            comm: String::from_utf8_lossy(comm).into_owned(),
        })
    }
}

fn told(kind: ProbeName, event: &Event) -> Option<Told> {
    match kind {
        ProbeName::Signal => Some(Told::Signal {
            number: event.exit_code & !FATAL,
            sender: (event.parent != 0).then_some(event.parent),
            fatal: event.exit_code & FATAL != 0,
        }),
        ProbeName::Tcp => Some(Told::Tcp {
            what: match event.exit_code {
                tcp_event::FAILED => TcpEvent::Failed,
                tcp_event::RETRANSMIT => TcpEvent::Retransmit,
                tcp_event::RESET_SENT => TcpEvent::ResetSent,
                tcp_event::RESET_RECEIVED => TcpEvent::ResetReceived,
                _ => return None,
            },
            peer: Ipv6Addr::from(event.comm).to_canonical(),
            port: u16::try_from(event.parent).ok()?,
        }),
        _ => None,
    }
}

/// The last events, and how many there were.
#[derive(Debug, Default)]
pub(super) struct Recent {
    kept: VecDeque<ProcessEvent>,
    max: usize,
    read: u64,
}

impl Recent {
    fn take(&mut self, bytes: &[u8]) {
        self.read += 1;
        if self.max == 0 {
            return;
        }
        let Some(event) = ProcessEvent::decode(bytes) else {
            return;
        };
        if self.kept.len() == self.max {
            self.kept.pop_front();
        }
        self.kept.push_back(event);
    }
}

/// The running thread.
#[derive(Debug)]
pub(super) struct Drain {
    recent: Arc<Mutex<Recent>>,
    stop: File,
    thread: Option<JoinHandle<()>>,
}

impl Drain {
    /// Starts it. `logs` is there if the object has log lines.
    pub(super) fn start(
        events: RingBuf<MapData>,
        logs: Option<EbpfLogger<ToTracing>>,
        config: &ProbesConfig,
    ) -> std::io::Result<Self> {
        let stop = File::from(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
        let stopped = stop.try_clone()?;
        let recent = Arc::new(Mutex::new(Recent {
            max: config.recent_max,
            ..Recent::default()
        }));
        let waits = Waits::of(config);
        let shared = recent.clone();
        let thread = std::thread::Builder::new()
            .name("probe-drain".into())
            .spawn(move || run(events, logs, &stopped, waits, &shared))?;
        Ok(Self {
            recent,
            stop,
            thread: Some(thread),
        })
    }

    /// The last events, oldest first.
    pub(super) fn recent(&self) -> Vec<ProcessEvent> {
        let recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        recent.kept.iter().cloned().collect()
    }

    /// Events read from the ring so far.
    pub(super) fn read(&self) -> u64 {
        self.recent
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .read
    }
}

impl Drop for Drain {
    fn drop(&mut self) {
        // If the write fails the thread still sees the end within its wait: the eventfd is only to
        // hurry it. It cannot: the counter is far from full.
        if self.stop.write_all(&1_u64.to_ne_bytes()).is_ok()
            && let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread that drains the probes' rings panicked");
        }
    }
}

/// How long the thread waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Waits {
    shortest: Duration,
    /// In a ring that wakes nobody only the clock empties it: there it stays the same.
    longest: Duration,
    now: Duration,
}

impl Waits {
    fn of(config: &ProbesConfig) -> Self {
        let shortest = Duration::from_millis(config.drain_ms);
        let wakes = config.wake_bytes < config.ring_bytes;
        Self {
            shortest,
            longest: shortest * if wakes { STRETCH_MAX } else { 1 },
            now: shortest,
        }
    }

    /// A drain found so many events.
    fn drained(&mut self, events: usize) {
        self.now = if events < FEW {
            (self.now * 2).min(self.longest)
        } else {
            self.shortest
        };
    }

    fn timeout(self) -> Timespec {
        Timespec {
            tv_sec: i64::try_from(self.now.as_secs()).unwrap_or(1),
            tv_nsec: self.now.subsec_nanos().into(),
        }
    }
}

fn run(
    mut events: RingBuf<MapData>,
    mut logs: Option<EbpfLogger<ToTracing>>,
    stop: &File,
    mut waits: Waits,
    recent: &Mutex<Recent>,
) {
    loop {
        let timeout = waits.timeout();
        let mut sources = [
            PollFd::new(stop, PollFlags::IN),
            PollFd::from_borrowed_fd(events.as_fd(), PollFlags::IN),
        ];
        let polled = poll(&mut sources, Some(&timeout));
        let woken = matches!(polled, Ok(n) if n > 0);
        if polled.is_err() {
            // Interrupted, most likely: the clock goes on.
            std::thread::sleep(BREATH);
        }
        let mut taken = 0;
        {
            let mut recent = recent.lock().unwrap_or_else(PoisonError::into_inner);
            while taken < BATCH_MAX
                && let Some(bytes) = events.next()
            {
                recent.take(&bytes);
                taken += 1;
            }
        }
        waits.drained(taken);
        if let Some(logs) = &mut logs {
            logs.flush();
        }
        let mut counter = [0; 8];
        if (&*stop).read(&mut counter).is_ok() {
            return;
        }
        if woken {
            std::thread::sleep(BREATH);
        }
    }
}

/// Hands the probes' log lines to `tracing`.
#[derive(Debug)]
pub(super) struct ToTracing;

impl log::Log for ToTracing {
    fn enabled(&self, _metadata: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        let message = record.args();
        match record.level() {
            log::Level::Error => tracing::error!(target: "paramedic::probe", "{message}"),
            log::Level::Warn => tracing::warn!(target: "paramedic::probe", "{message}"),
            log::Level::Info => tracing::info!(target: "paramedic::probe", "{message}"),
            log::Level::Debug => tracing::debug!(target: "paramedic::probe", "{message}"),
            log::Level::Trace => tracing::trace!(target: "paramedic::probe", "{message}"),
        }
    }

    fn flush(&self) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(event: Event) -> Vec<u8> {
        // SAFETY: plain integers without padding, borrowed for the copy only.
        unsafe {
            std::slice::from_raw_parts((&raw const event).cast::<u8>(), size_of::<Event>()).to_vec()
        }
    }

    fn fork(pid: u32) -> Event {
        let mut comm = [0; 16];
        comm[..4].copy_from_slice(b"bash");
        Event {
            cgroup: 7,
            at_ns: 9,
            kind: probe::FORK,
            pid,
            parent: 3,
            exit_code: 0,
            comm,
        }
    }

    #[test]
    fn a_record_is_decoded_and_a_strange_one_is_not() {
        let decoded = ProcessEvent::decode(&bytes(fork(5))).unwrap();
        assert_eq!((decoded.pid, decoded.parent), (5, Some(3)));
        assert_eq!((decoded.comm.as_str(), decoded.exit_code), ("bash", None));
        assert_eq!(ProcessEvent::decode(&[0; 12]), None);
        let strange = Event {
            kind: 99,
            ..fork(1)
        };
        assert_eq!(ProcessEvent::decode(&bytes(strange)), None);
    }

    #[test]
    fn it_waits_longer_while_little_happens_and_only_where_a_full_ring_wakes_it() {
        let config = ProbesConfig::default();
        let mut waits = Waits::of(&config);
        for _ in 0..10 {
            waits.drained(3);
        }
        assert_eq!(waits.now, Duration::from_millis(config.drain_ms * 8));
        waits.drained(FEW);
        assert_eq!(waits.now, Duration::from_millis(config.drain_ms));
        let mut small = Waits::of(&ProbesConfig {
            ring_bytes: 4_096,
            ..config
        });
        small.drained(0);
        assert_eq!(small.now, small.shortest);
    }

    #[test]
    fn only_the_last_events_are_kept_and_all_are_counted() {
        let mut recent = Recent {
            max: 2,
            ..Recent::default()
        };
        for pid in 1..=5 {
            recent.take(&bytes(fork(pid)));
        }
        let pids: Vec<u32> = recent.kept.iter().map(|event| event.pid).collect();
        assert_eq!((pids, recent.read), (vec![4, 5], 5));
    }
}
