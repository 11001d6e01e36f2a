//! Faults of the machine itself: its clock and its kernel.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::ensure;

use super::{FIVE, Injection, Place, disk};

/// `ADJ_STATUS | ADJ_MAXERROR`.
const STATUS_AND_ERROR: u32 = libc::ADJ_STATUS | libc::ADJ_MAXERROR;

/// Sets what the kernel believes of its clock; the time itself is not touched.
fn keep(status: i32, max_error_us: i64) -> anyhow::Result<()> {
    // SAFETY: all zero is a value of it, and asks for nothing.
    let mut clock: libc::timex = unsafe { std::mem::zeroed() };
    clock.modes = STATUS_AND_ERROR;
    clock.status = status;
    clock.maxerror = max_error_us;
    // SAFETY: a valid `timex`.
    let told = unsafe { libc::adjtimex(&raw mut clock) };
    ensure!(told >= 0, "adjtimex: {}", std::io::Error::last_os_error());
    Ok(())
}

fn belief() -> anyhow::Result<(bool, f64)> {
    // SAFETY: all zero is a value of it, and asks for nothing.
    let mut clock: libc::timex = unsafe { std::mem::zeroed() };
    // SAFETY: a valid `timex`.
    let told = unsafe { libc::adjtimex(&raw mut clock) };
    ensure!(told >= 0, "adjtimex: {}", std::io::Error::last_os_error());
    Ok((
        clock.status & libc::STA_UNSYNC != 0,
        clock.maxerror as f64 / 1e6,
    ))
}

pub(super) fn clock(place: &Place<'_>) -> anyhow::Result<Injection> {
    #[expect(clippy::cast_possible_truncation, reason = "at most 16 s")]
    let error_us = (place.figure("error_s") * 1e6) as i64;
    keep(libc::STA_PLL, 2_000)?;
    Ok(Injection::new(Vec::new(), |_| {
        let (free, off_s) = belief()?;
        ensure!(free && off_s > 1.0, "the clock is kept");
        Ok(format!("nobody keeps it, it may be off by {off_s:.1} s"))
    })
    .begins(move |_| keep(libc::STA_PLL | libc::STA_UNSYNC, error_us))
    .settles(FIVE)
    .undoes(|| keep(libc::STA_UNSYNC, 16_000_000)))
}

pub(super) fn kernel_error(place: &Place<'_>) -> anyhow::Result<Injection> {
    let (device, undo) = disk::forgiving()?;
    let every = Duration::from_millis(place.count("every_ms") as u64);
    let ended = Arc::new(AtomicBool::new(false));
    let told = Arc::new(AtomicU64::new(0));
    let (ends, counts) = (ended.clone(), told.clone());
    Ok(Injection::new(Vec::new(), move |_| {
        let count = counts.load(Ordering::Relaxed);
        ensure!(count > 0, "no error was provoked");
        Ok(format!("{count} errors were provoked"))
    })
    .begins(move |_| {
        thread::spawn(move || {
            while !ended.load(Ordering::Relaxed) && disk::ext4_error(&device).is_ok() {
                told.fetch_add(1, Ordering::Relaxed);
                thread::sleep(every);
            }
        });
        Ok(())
    })
    .releases(move || {
        ends.store(true, Ordering::Relaxed);
        thread::sleep(every);
        Ok(())
    })
    .undoes_all(undo))
}
