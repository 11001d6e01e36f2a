//! Work for memory.

use std::{hint::black_box, thread, time::Duration};

use anyhow::{Context, bail};
use paramedic_parts::chance::Rng;

use super::forever;

const PAGE: usize = 4096;
/// A leak takes its next piece this often.
const LEAK_EVERY: Duration = Duration::from_millis(250);
/// Between two children that are killed.
const OOM_EVERY: Duration = Duration::from_millis(150);

/// Memory, every page of it written.
fn touched(bytes: usize) -> Vec<u8> {
    let mut memory = vec![0_u8; bytes.max(PAGE)];
    for (number, page) in memory.chunks_mut(PAGE).enumerate() {
        page[0] = black_box(number.to_le_bytes()[0] | 1);
    }
    memory
}

pub(super) fn hold(mib: usize) -> anyhow::Result<()> {
    let memory = touched(mib << 20);
    loop {
        let sum: u64 = memory
            .iter()
            .step_by(PAGE)
            .map(|byte| u64::from(*byte))
            .sum();
        black_box(sum);
        thread::sleep(Duration::from_secs(2));
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a few MiB"
)]
pub(super) fn leak(begin_mib: usize, mib_per_s: f64) -> anyhow::Result<()> {
    let piece = (mib_per_s.max(0.0) * f64::from(1 << 20) * LEAK_EVERY.as_secs_f64()) as usize;
    let mut kept = vec![touched(begin_mib << 20)];
    loop {
        thread::sleep(LEAK_EVERY);
        kept.push(touched(piece));
        black_box(&kept);
    }
}

pub(super) fn oom(mib: usize) -> anyhow::Result<()> {
    loop {
        // SAFETY: this process has one thread; the child only allocates and ends by `_exit`.
        match unsafe { libc::fork() } {
            -1 => bail!("fork: {}", std::io::Error::last_os_error()),
            0 => {
                black_box(touched(mib << 20));
                // SAFETY: ends the child at once, without running what the parent registered.
                unsafe { libc::_exit(0) }
            }
            child => {
                let mut status = 0;
                // SAFETY: a child of ours and a place for its status.
                if unsafe { libc::waitpid(child, &raw mut status, 0) } < 0 {
                    return Err(std::io::Error::last_os_error()).context("waitpid");
                }
            }
        }
        thread::sleep(OOM_EVERY);
    }
}

pub(super) fn churn(mib: usize) -> anyhow::Result<()> {
    let mut memory = touched(mib << 20);
    let pages = (memory.len() / PAGE) as u64;
    let mut rng = Rng(u64::from(std::process::id()));
    loop {
        let page = usize::try_from(rng.below(pages))?;
        memory[page * PAGE] = black_box(memory[page * PAGE].wrapping_add(1));
        if memory.is_empty() {
            forever();
        }
    }
}
