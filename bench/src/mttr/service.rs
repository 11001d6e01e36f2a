//! The innocent service: a small HTTP server whose requests cost a fixed amount of CPU, memory and
//! disk. It runs in a cgroup of its own and knows nothing of what goes on around it.

use std::{
    fs::File,
    hint::black_box,
    net::SocketAddr,
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::Context;
use axum::{Router, extract::State, http::StatusCode, routing::get};
use tokio::sync::Semaphore;

/// Requests worked upon at once, as a pool of that size would.
const WORKERS: usize = 4;
/// Requests that wait for a worker; more are refused at once.
const WAITING_MAX: usize = 64;
/// Work is not begun for a client that has given up by now; see the driver's own timeout.
const STALE: Duration = Duration::from_secs(2);
/// The file that requests write to, round and round.
const FILE_BYTES: u64 = 1 << 20;

/// What a request costs.
#[derive(Clone, Debug, clap::Args)]
pub struct Costs {
    /// Where it listens
    #[arg(long)]
    pub listen: SocketAddr,
    /// Rounds of arithmetic; see [`calibrate`]
    #[arg(long)]
    pub spins: u64,
    /// Memory allocated and touched, KiB
    #[arg(long)]
    pub memory_kib: usize,
    /// Bytes written and synced, KiB
    #[arg(long)]
    pub write_kib: usize,
    /// The file that they go to
    #[arg(long)]
    pub file: PathBuf,
}

struct Service {
    costs: Costs,
    file: File,
    place: AtomicU64,
    workers: Semaphore,
    present: AtomicU64,
}

/// Serves until it is killed.
pub fn serve(costs: Costs) -> anyhow::Result<()> {
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .custom_flags(libc::O_DSYNC)
        .open(&costs.file)
        .with_context(|| format!("cannot open {}", costs.file.display()))?;
    // Written beforehand: a request overwrites, it does not extend.
    file.write_all_at(&vec![0; usize::try_from(FILE_BYTES)?], 0)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .max_blocking_threads(WORKERS)
        .enable_all()
        .build()
        .context("cannot start a runtime")?;
    runtime.block_on(async move {
        let listener = tokio::net::TcpListener::bind(costs.listen)
            .await
            .with_context(|| format!("cannot listen at {}", costs.listen))?;
        let service = Arc::new(Service {
            file,
            place: AtomicU64::new(0),
            workers: Semaphore::new(WORKERS),
            present: AtomicU64::new(0),
            costs,
        });
        let routes = Router::new().route("/", get(answer)).with_state(service);
        axum::serve(listener, routes).await?;
        Ok(())
    })
}

async fn answer(State(service): State<Arc<Service>>) -> StatusCode {
    let arrived = Instant::now();
    let place = Place::take(&service);
    if place.others > (WORKERS + WAITING_MAX) as u64 {
        return StatusCode::SERVICE_UNAVAILABLE;
    }
    service.clone().admitted(arrived).await
}

/// A request that is here, until it is answered or its client has gone: then this is dropped without
/// ever having been continued.
struct Place {
    service: Arc<Service>,
    others: u64,
}

impl Place {
    fn take(service: &Arc<Service>) -> Self {
        Self {
            service: service.clone(),
            others: service.present.fetch_add(1, Ordering::Relaxed),
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.service.present.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Service {
    async fn admitted(self: Arc<Self>, arrived: Instant) -> StatusCode {
        let Ok(_worker) = self.workers.acquire().await else {
            return StatusCode::SERVICE_UNAVAILABLE;
        };
        if arrived.elapsed() > STALE {
            return StatusCode::GATEWAY_TIMEOUT;
        }
        let service = self.clone();
        match tokio::task::spawn_blocking(move || service.work()).await {
            Ok(Ok(())) => StatusCode::OK,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    fn work(&self) -> std::io::Result<()> {
        spin(self.costs.spins);
        // Fresh from the kernel each time: larger than the allocator keeps for itself.
        let mut memory = vec![0_u8; self.costs.memory_kib * 1024];
        for page in memory.chunks_mut(4096) {
            page[0] = black_box(1);
        }
        black_box(&memory);
        let bytes = self.costs.write_kib * 1024;
        if bytes > 0 {
            let place = self.place.fetch_add(bytes as u64, Ordering::Relaxed);
            let room = FILE_BYTES - bytes as u64;
            self.file
                .write_all_at(&vec![1; bytes], place % room.max(1))?;
        }
        Ok(())
    }
}

/// Some arithmetic that the compiler cannot leave out.
pub fn spin(rounds: u64) {
    let mut state = 1_u64;
    for round in 0..rounds {
        state = black_box(state ^ round).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
    black_box(state);
}

/// Rounds of [`spin`] that take `ms` of this thread's CPU time: time in which somebody else had the
/// CPU does not count.
pub fn calibrate(ms: f64) -> u64 {
    const ROUNDS: u64 = 200_000;
    let used = || {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
        time.tv_sec as f64 * 1e3 + time.tv_nsec as f64 / 1e6
    };
    // The fastest of several: the first ones warm the translation of an emulated CPU.
    let best = (0..12)
        .map(|_| {
            let before = used();
            spin(ROUNDS);
            used() - before
        })
        .fold(f64::INFINITY, f64::min);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a positive number of rounds, far below 2^64"
    )]
    let rounds = (ROUNDS as f64 * ms / best.max(1e-3)) as u64;
    rounds.max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn twice_the_time_is_twice_the_rounds() {
        let (one, ten) = (calibrate(1.0), calibrate(10.0));
        let ratio = ten as f64 / one as f64;
        assert!((2.0..50.0).contains(&ratio), "{one} {ten}");
    }
}
