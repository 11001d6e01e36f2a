//! `kill -9` at random moments. It proves the protocol, not durability: the kernel survives.

use std::{
    fs,
    io::Read,
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};

use paramedic_tests::chance::Rng;

use super::{
    check::Ledger,
    load::{EVENT_LEN, Event},
};

/// `false` and a message if anything was lost.
pub fn kill(dir: &Path, rounds: u32, seed: u64) -> anyhow::Result<bool> {
    if dir.exists() {
        fs::remove_dir_all(dir).with_context(|| format!("cannot empty {}", dir.display()))?;
    }
    fs::create_dir_all(dir)?;
    let mut rng = Rng(seed);
    let mut ledger = Ledger::default();
    let (mut acknowledged, mut checked, mut cuts) = (0_u64, 0, 0);
    let begun = Instant::now();
    for round in 0..rounds {
        ledger.run = round;
        // Some die while they still recover, most while they write.
        let wait = Duration::from_micros(500 + rng.below(120_000));
        let events = one_life(dir, round, wait)?;
        acknowledged += events
            .iter()
            .filter(|e| matches!(e, Event::Acknowledged { .. }))
            .count() as u64;
        for event in events {
            ledger.put(event);
        }
        match ledger.check(&dir.join("journal")) {
            Ok(found) => {
                checked += found.checked;
                cuts += found.cuts;
            }
            Err(error) => {
                println!(
                    "round {round} after {wait:?}: {error:#}; kept in {}",
                    dir.display()
                );
                return Ok(false);
            }
        }
    }
    println!(
        "{rounds} kill rounds, {acknowledged} records acknowledged, looked for {checked} times, \
         {cuts} torn tails, 0 lost, {:.1} s",
        begun.elapsed().as_secs_f64()
    );
    ensure!(
        acknowledged > u64::from(rounds),
        "hardly anything was written"
    );
    Ok(true)
}

/// Ended by us, whatever happens here.
struct Guarded(Child);

impl Drop for Guarded {
    fn drop(&mut self) {
        self.0.kill().unwrap_or_default();
        drop(self.0.wait());
    }
}

fn one_life(dir: &Path, run: u32, wait: Duration) -> anyhow::Result<Vec<Event>> {
    let mut child = Guarded(
        Command::new(std::env::current_exe()?)
            .arg("write")
            .arg(dir)
            .args(["--run", &run.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start the writer")?,
    );
    let mut pipe = child.0.stdout.take().context("stdout is a pipe")?;
    // Reads until the pipe's end, so that the writer never waits for us.
    let reader = std::thread::spawn(move || {
        let mut bytes = Vec::new();
        pipe.read_to_end(&mut bytes).map(|_| bytes)
    });
    std::thread::sleep(wait);
    ensure!(
        child.0.try_wait()?.is_none(),
        "the writer of run {run} ended by itself"
    );
    drop(child);
    let bytes = reader
        .join()
        .map_err(|_| anyhow::anyhow!("the reader panicked"))??;
    let events = bytes.chunks_exact(EVENT_LEN).map(Event::decode);
    events
        .collect::<Option<Vec<_>>>()
        .context("an event that is none")
}
