//! Whether somebody keeps the clock in step: `adjtimex(2)`, asked and not set.

use super::{Sheet, State};

const MICROSECONDS: f64 = 1e-6;

/// What the kernel says of its clock.
#[derive(Clone, Copy, Debug)]
struct Clock {
    unsynchronized: bool,
    /// Seconds that it may be off at most.
    max_error_s: f64,
    /// Somebody has steered it since the kernel was started.
    ever_kept: bool,
}

pub(super) fn read(sheet: &mut Sheet<'_>) {
    let mut levels = None;
    sheet.take("clock", ask().and_then(judge), |found| {
        levels = Some(*found);
    });
    if let Some((unsynchronized, max_error_s)) = levels {
        sheet.level("time.unsynchronized", Some(unsynchronized));
        sheet.level("time.max_error_s", Some(max_error_s));
    }
}

fn ask() -> Result<Clock, State> {
    // SAFETY: all zero is a value of it, and asks for nothing to be changed.
    let mut clock: libc::timex = unsafe { std::mem::zeroed() };
    // SAFETY: a valid `timex` to fill.
    let state = unsafe { libc::adjtimex(&raw mut clock) };
    if state < 0 {
        let error = std::io::Error::last_os_error();
        return Err(State::Failed(format!("adjtimex: {error}")));
    }
    let unsynchronized = clock.status & libc::STA_UNSYNC != 0;
    Ok(Clock {
        unsynchronized,
        max_error_s: clock.maxerror as f64 * MICROSECONDS,
        ever_kept: !unsynchronized || clock.freq != 0 || clock.status != libc::STA_UNSYNC,
    })
}

/// `time.unsynchronized` and `time.max_error_s`. A clock that nobody ever kept tells no fault but how
/// this node is set up: it was so before any alert.
fn judge(clock: Clock) -> Result<(f64, f64), State> {
    if !clock.ever_kept {
        return Err(State::NotHere(
            "nobody has kept this node's clock in step since it was started".to_owned(),
        ));
    }
    Ok((f64::from(u8::from(clock.unsynchronized)), clock.max_error_s))
}

#[cfg(test)]
mod tests {
    use super::{Clock, State, ask, judge};

    #[test]
    fn a_clock_that_is_no_longer_kept_is_told_from_one_that_never_was() {
        let clock = |unsynchronized, ever_kept| Clock {
            unsynchronized,
            max_error_s: 16.0,
            ever_kept,
        };
        assert_eq!(judge(clock(true, true)), Ok((1.0, 16.0)));
        assert_eq!(judge(clock(false, true)), Ok((0.0, 16.0)));
        assert!(matches!(judge(clock(true, false)), Err(State::NotHere(_))));
    }

    #[test]
    fn this_clock_can_be_asked() {
        assert!(ask().unwrap().max_error_s >= 0.0);
    }
}
