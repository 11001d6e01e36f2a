//! The innocent neighbour: a little work again and again, with its own measure of how long each
//! piece took. It shows what a fault does to others.

use std::{
    fs::{self, File},
    hint::black_box,
    io::Write,
    path::Path,
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::Context;
use serde::{Deserialize, Serialize};

/// A request arrives this often, whether or not the one before it has been answered.
const EVERY: Duration = Duration::from_millis(70);
/// A request's work, on a calm CPU.
const WORK: Duration = Duration::from_millis(8);
/// A longer queue is thrown away, as a client's timeout would.
const BEHIND_MAX: Duration = Duration::from_secs(2);
/// Calls of [`spin`] between two looks at the clock while calibrating.
const SPINS: u64 = 2_000;

/// The median request, in milliseconds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Latencies {
    /// Of the last seconds before the fault.
    pub before: f64,
    /// From the fault to the action.
    pub during: f64,
    /// Once recovery was verified.
    pub after: f64,
}

impl Latencies {
    /// From the neighbour's file; `None` where a span has no request. Times are Unix seconds.
    pub fn read(file: &Path, fault: f64, action: f64, verified: f64) -> Option<Self> {
        let text = fs::read_to_string(file).ok()?;
        let requests: Vec<(f64, f64)> = text
            .lines()
            .filter_map(|line| {
                let (at, took) = line.split_once(' ')?;
                Some((at.parse().ok()?, took.parse().ok()?))
            })
            .collect();
        let within = |from: f64, to: f64| {
            let mut took: Vec<f64> = requests
                .iter()
                .filter(|(at, _)| (from..to).contains(at))
                .map(|(_, took)| *took)
                .collect();
            took.sort_by(f64::total_cmp);
            took.get(took.len() / 2).copied()
        };
        Some(Self {
            before: within(fault - 5.0, fault)?,
            during: within(fault, action)?,
            after: within(verified, f64::INFINITY)?,
        })
    }

    /// In a sentence.
    pub fn told(&self) -> String {
        let (before, during, after) = (self.before, self.during, self.after);
        format!(
            "The median request of the web service beside it took {before:.1} ms before the \
             fault, {during:.1} ms during it, {after:.1} ms after the cure."
        )
    }
}

/// Serves imaginary requests until it is killed; a line `UNIX_SECONDS MILLISECONDS` each.
pub fn serve(file: &Path) -> anyhow::Result<()> {
    let mut file =
        File::create(file).with_context(|| format!("cannot write {}", file.display()))?;
    let begun = Instant::now();
    let mut calls = 0;
    while begun.elapsed() < WORK {
        spin(SPINS);
        calls += SPINS;
    }
    let mut due = Instant::now();
    loop {
        due += EVERY;
        thread::sleep(due.saturating_duration_since(Instant::now()));
        if due.elapsed() > BEHIND_MAX {
            due = Instant::now();
        }
        spin(calls);
        // Since it arrived, so that waiting for a CPU counts.
        let took_ms = due.elapsed().as_secs_f64() * 1e3;
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
        writeln!(file, "{:.3} {took_ms:.3}", now.as_secs_f64())?;
    }
}

/// Some arithmetic that the compiler cannot leave out.
fn spin(calls: u64) {
    let mut state = 1_u64;
    for call in 0..calls {
        state = black_box(state ^ call).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
    black_box(state);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_kept_apart_and_an_empty_one_is_not_a_zero() {
        let file = std::env::temp_dir().join(format!("neighbour-{}", std::process::id()));
        fs::write(
            &file,
            "96.0 5\n98.0 7\n101.0 40\n102.0 30\n110.0 6\nbroken\n",
        )
        .unwrap();
        let found = Latencies::read(&file, 100.0, 104.0, 109.0).unwrap();
        let none = Latencies::read(&file, 100.0, 104.0, 120.0);
        fs::remove_file(&file).unwrap();
        assert_eq!(
            found,
            Latencies {
                before: 7.0,
                during: 40.0,
                after: 6.0
            }
        );
        assert_eq!(none, None);
    }
}
