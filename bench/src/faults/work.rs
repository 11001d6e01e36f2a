//! The small programs of the faults: each does one thing until it is ended. They run in the guilty
//! cgroup, and in the neighbour's.

mod cpu;
mod disk;
mod memory;
mod neighbour;
mod network;
mod process;

use std::{net::SocketAddr, path::PathBuf, thread, time::Duration};

use clap::Subcommand;

/// What to do until it is ended.
#[derive(Clone, Debug, Subcommand)]
pub enum Work {
    /// Keeps CPUs busy
    Burn {
        /// Threads
        #[arg(long)]
        threads: usize,
        /// The CPU that all of them are bound to
        #[arg(long)]
        cpu: Option<usize>,
    },
    /// Threads that wake up together, work for a moment and sleep again
    Herd {
        /// Threads
        #[arg(long)]
        threads: usize,
        /// Work of each wake-up, ms
        #[arg(long)]
        burst_ms: f64,
    },
    /// Threads that wake each other, without end
    Futexes {
        /// Threads
        #[arg(long)]
        threads: usize,
    },
    /// Holds memory, and looks at all of it now and then
    Hold {
        /// MiB
        #[arg(long)]
        mib: usize,
    },
    /// Grows
    Leak {
        /// MiB at once
        #[arg(long)]
        begin_mib: usize,
        /// And then so many a second
        #[arg(long)]
        mib_per_s: f64,
    },
    /// Starts a child that takes this much, and another one when it is killed
    Oom {
        /// MiB
        #[arg(long)]
        mib: usize,
    },
    /// Touches its memory in no order
    Churn {
        /// MiB
        #[arg(long)]
        mib: usize,
    },
    /// Reads pages of a file in no order, through the cache
    Reread {
        /// The file
        #[arg(long)]
        file: PathBuf,
    },
    /// Writes past the cache, in no order
    Write {
        /// The file
        #[arg(long)]
        file: PathBuf,
        /// Threads
        #[arg(long)]
        threads: usize,
        /// KiB a write
        #[arg(long)]
        kib: usize,
    },
    /// Writes a little and flushes it, again and again
    Fsync {
        /// Where its files go
        #[arg(long)]
        folder: PathBuf,
        /// Threads
        #[arg(long)]
        threads: usize,
    },
    /// Reads past the cache, in no order; errors do not end it
    Read {
        /// The device
        #[arg(long)]
        device: PathBuf,
        /// Threads
        #[arg(long)]
        threads: usize,
        /// Between two reads of a thread
        #[arg(long, default_value_t = 0)]
        rest_ms: u64,
    },
    /// Creates processes that end at once
    Forks {
        /// Processes that fork
        #[arg(long)]
        loops: usize,
    },
    /// Starts a program that ends at once with an error, again and again
    Crashes {
        /// Between two starts, ms
        #[arg(long)]
        every_ms: u64,
    },
    /// Starts children that end, and does not wait for them
    Zombies {
        /// How many
        #[arg(long)]
        count: usize,
    },
    /// Starts children that sleep, until there are so many or it may not; then tries again
    Children {
        /// How many
        #[arg(long)]
        count: usize,
    },
    /// Opens files
    Files {
        /// Its own limit
        #[arg(long)]
        limit: u64,
        /// So many at once …
        #[arg(long)]
        begin: u64,
        /// … and then so many a second up to the limit
        #[arg(long)]
        per_s: f64,
    },
    /// Starts threads
    Threads {
        /// At once
        #[arg(long)]
        begin: usize,
        /// So many a second
        #[arg(long)]
        per_s: f64,
    },
    /// Sends datagrams
    Datagrams {
        /// Where to
        #[arg(long)]
        to: SocketAddr,
        /// Threads
        #[arg(long)]
        threads: usize,
        /// To every port from there on in turn
        #[arg(long, default_value_t = 1)]
        ports: u16,
    },
    /// Sends several datagrams at once, again and again
    Bursts {
        /// Where to
        #[arg(long)]
        to: SocketAddr,
        /// Threads
        #[arg(long)]
        threads: usize,
        /// At once
        #[arg(long)]
        datagrams: usize,
        /// Between two
        #[arg(long)]
        rest_ms: u64,
    },
    /// Takes datagrams
    Sink {
        /// Where it listens
        #[arg(long)]
        on: SocketAddr,
    },
    /// Accepts connections and reads what comes
    Drain {
        /// Where it listens
        #[arg(long)]
        on: SocketAddr,
    },
    /// Listens and accepts nothing
    Deaf {
        /// Where it listens
        #[arg(long)]
        on: SocketAddr,
        /// Connections that may wait
        #[arg(long)]
        backlog: i32,
    },
    /// Sends on kept connections, 64 KiB at a time
    Stream {
        /// Where to
        #[arg(long)]
        to: SocketAddr,
        /// Threads
        #[arg(long)]
        threads: usize,
        /// Between two sends of a thread; 0 = as much as goes
        #[arg(long, default_value_t = 0)]
        rest_ms: u64,
    },
    /// Lets the kernel send packets from every CPU; ends them when it is given nothing to send to
    Flood {
        /// Where to
        #[arg(long)]
        to: Option<std::net::Ipv4Addr>,
        /// Its hardware address
        #[arg(long, default_value = "ff:ff:ff:ff:ff:ff")]
        mac: String,
        /// Of a packet
        #[arg(long, default_value_t = 60)]
        bytes: usize,
        /// The device that they leave by
        #[arg(long)]
        device: String,
    },
    /// Connects again and again; errors do not end it
    Connect {
        /// Where to
        #[arg(long)]
        to: SocketAddr,
        /// So many a second
        #[arg(long)]
        per_s: f64,
        /// Keeps every connection
        #[arg(long)]
        keep: bool,
    },
    /// An ordinary service: a little of everything
    Neighbour(neighbour::Habits),
}

pub use neighbour::Habits;

impl Work {
    /// Does it.
    pub fn run(self) -> anyhow::Result<()> {
        match self {
            Self::Burn { threads, cpu } => cpu::burn(threads, cpu),
            Self::Herd { threads, burst_ms } => cpu::herd(threads, burst_ms),
            Self::Futexes { threads } => {
                cpu::futexes(threads);
                Ok(())
            }
            Self::Hold { mib } => memory::hold(mib),
            Self::Leak {
                begin_mib,
                mib_per_s,
            } => memory::leak(begin_mib, mib_per_s),
            Self::Oom { mib } => memory::oom(mib),
            Self::Churn { mib } => memory::churn(mib),
            Self::Reread { file } => disk::reread(&file),
            Self::Write { file, threads, kib } => disk::write(&file, threads, kib),
            Self::Fsync { folder, threads } => {
                disk::fsync(&folder, threads);
                Ok(())
            }
            Self::Read {
                device,
                threads,
                rest_ms,
            } => {
                disk::read(&device, threads, rest_ms);
                Ok(())
            }
            Self::Forks { loops } => process::forks(loops),
            Self::Crashes { every_ms } => process::crashes(every_ms),
            Self::Zombies { count } => process::zombies(count),
            Self::Children { count } => process::children(count),
            Self::Files {
                limit,
                begin,
                per_s,
            } => process::files(limit, begin, per_s),
            Self::Threads { begin, per_s } => process::threads(begin, per_s),
            Self::Datagrams { to, threads, ports } => {
                network::datagrams(to, threads, ports);
                Ok(())
            }
            Self::Bursts {
                to,
                threads,
                datagrams,
                rest_ms,
            } => {
                network::bursts(to, threads, datagrams, rest_ms);
                Ok(())
            }
            Self::Sink { on } => network::sink(on),
            Self::Drain { on } => network::drain(on),
            Self::Deaf { on, backlog } => network::deaf(on, backlog),
            Self::Stream {
                to,
                threads,
                rest_ms,
            } => {
                network::stream(to, threads, rest_ms);
                Ok(())
            }
            Self::Flood {
                to,
                mac,
                bytes,
                device,
            } => match to {
                Some(to) => network::flood(&device, to, &mac, bytes),
                None => network::end_flood(),
            },
            Self::Connect { to, per_s, keep } => network::connect(to, per_s, keep),
            Self::Neighbour(habits) => neighbour::live(&habits),
        }
    }
}

/// Until somebody ends us.
fn forever() -> ! {
    loop {
        thread::sleep(Duration::from_mins(1));
    }
}

/// The same work in so many threads, ours one of them.
fn in_threads(threads: usize, work: impl Fn(usize) + Clone + Send + 'static) {
    for number in 1..threads.max(1) {
        let work = work.clone();
        thread::spawn(move || work(number));
    }
    work(0);
}

/// Seconds between two of `per_s` a second.
fn every(per_s: f64) -> Duration {
    Duration::from_secs_f64(1.0 / per_s.clamp(0.01, 10_000.0))
}
