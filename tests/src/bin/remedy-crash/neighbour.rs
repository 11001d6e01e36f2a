//! What a neighbour feels of hostile commands in the sandbox: its requests' latency beside each of them, and
//! with nothing, in turns.
//!
//! The neighbour is a process in a cgroup of its own that begins a request of a fixed amount of work every
//! 10 ms, whether or not the one before is done (an open loop: a stall counts for every request that it
//! delays). The latency of a request runs from when it was due to its end.

use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use paramedic::remedy::{
    Hierarchy, SandboxConfig,
    sandbox::{Program, Sandbox},
};
use paramedic_tests::{Cgroup, tools, wait_for};

const EVERY: Duration = Duration::from_millis(10);
/// Work of one request at full speed.
const WORK: Duration = Duration::from_millis(1);
/// One turn, quiet or beside a command; the command's own deadline.
const TURN_S: u64 = 4;
const TURNS: usize = 4;
const TRACE: &str = "00-11111111111111111111111111111111-2222222222222222-01";

/// Name, program, words.
type Hostile = (&'static str, &'static str, &'static [&'static str]);
const HOSTILE: [Hostile; 3] = [
    (
        "fork bomb",
        "/bin/bash",
        &["-c", "bomb() { bomb | bomb & }; bomb; sleep 100"],
    ),
    ("memory bomb", "/usr/bin/tail", &["/dev/zero"]),
    ("endless writer", "/usr/bin/yes", &[]),
];

/// Arguments of the neighbour itself.
#[derive(Debug, clap::Args)]
pub struct Requests {
    /// Turns of a loop in one request
    #[arg(long)]
    work: u64,
    /// Latencies in microseconds, a line each, go there
    #[arg(long)]
    into: PathBuf,
}

fn spin(turns: u64) {
    for turn in 0..turns {
        std::hint::black_box(turn);
    }
}

/// Turns of the loop that take so long here, undisturbed: the fastest of some tries.
fn calibrate() -> u64 {
    let turns = 200_000;
    let once = || {
        let begun = Instant::now();
        spin(turns);
        begun.elapsed()
    };
    let fastest = (0..20).map(|_| once()).min().unwrap_or(WORK);
    let share = WORK.as_secs_f64() / fastest.as_secs_f64().max(1e-9);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "of some millions"
    )]
    let fitting = (turns as f64 * share) as u64;
    fitting
}

impl Requests {
    /// Serves for one turn.
    pub fn run(&self) -> anyhow::Result<()> {
        let begun = Instant::now();
        let mut latencies = String::new();
        let all = TURN_S * 1000 / u64::try_from(EVERY.as_millis())?;
        for request in 0..all {
            let due = EVERY * u32::try_from(request)?;
            thread::sleep(due.saturating_sub(begun.elapsed()));
            spin(self.work);
            let late = begun.elapsed().saturating_sub(due);
            writeln!(latencies, "{}", late.as_micros())?;
        }
        let part = self.into.with_extension("part");
        fs::write(&part, latencies)?;
        Ok(fs::rename(part, &self.into)?)
    }
}

/// One turn of the neighbour; its latencies in microseconds.
fn turn(neighbour: &mut Cgroup, work: u64, into: &Path) -> anyhow::Result<Vec<u64>> {
    let mut command = Command::new(std::env::current_exe()?);
    command
        .args(["requests", "--work", &work.to_string(), "--into"])
        .arg(into);
    neighbour.spawn(command, Duration::from_mins(2))?;
    wait_for("the neighbour's latencies", Duration::from_mins(1), || {
        ensure!(into.is_file(), "not there");
        Ok(())
    })?;
    let text = fs::read_to_string(into)?;
    fs::remove_file(into)?;
    Ok(text.lines().map(str::parse).collect::<Result<_, _>>()?)
}

/// The command over and over while `work` runs; how often it was begun, and the last end.
fn beside<T>(
    (_, path, words): Hostile,
    work: impl FnOnce() -> anyhow::Result<T>,
) -> anyhow::Result<(T, usize, String)> {
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let bombing = scope.spawn(|| -> anyhow::Result<(usize, String)> {
            let config = SandboxConfig {
                deadline_s: TURN_S,
                ..SandboxConfig::default()
            };
            let sandbox = Sandbox::new(&config);
            let program = Program {
                path: path.into(),
                args: words.iter().map(|word| (*word).to_owned()).collect(),
            };
            let (mut times, mut ended) = (0, String::new());
            while !done.load(Ordering::Relaxed) {
                let hierarchy = Hierarchy::find()?;
                ended = sandbox.run(&hierarchy, &program, TRACE)?.status;
                times += 1;
            }
            Ok((times, ended))
        });
        let result = work();
        done.store(true, Ordering::Relaxed);
        let bombed = bombing.join().ok().context("the sandbox panicked")?;
        let (times, ended) = bombed?;
        Ok((result?, times, ended))
    })
}

fn p99(latencies: &mut [u64]) -> u64 {
    latencies.sort_unstable();
    latencies[latencies.len() * 99 / 100]
}

/// Measures and prints; always true where everything could be measured.
pub fn run() -> anyhow::Result<bool> {
    let mut neighbour = Cgroup::make("shows/neighbour")?;
    let folder = tools::temporary_folder()?;
    let into = folder.path().join("latencies");
    let work = calibrate();
    for hostile in HOSTILE {
        let (mut quiet, mut loud) = (Vec::new(), Vec::new());
        let (mut times, mut ended) = (0, String::new());
        for _ in 0..TURNS {
            quiet.extend(turn(&mut neighbour, work, &into)?);
            let (latencies, begun, end) = beside(hostile, || turn(&mut neighbour, work, &into))?;
            loud.extend(latencies);
            times += begun;
            ended = end;
        }
        let (before, after) = (p99(&mut quiet), p99(&mut loud));
        let grown = (after as f64 / before.max(1) as f64 - 1.0) * 100.0;
        println!(
            "show: a neighbour's p99 is {before} us alone and {after} us beside a {} in the sandbox \
             ({grown:+.1} %); it ran {times} times, the last: {ended}",
            hostile.0
        );
    }
    Ok(true)
}
