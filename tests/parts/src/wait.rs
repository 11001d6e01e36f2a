//! Waiting for something, always with a deadline.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::bail;

/// Between two looks.
const POLL: Duration = Duration::from_millis(50);

/// Looks every 50 ms until `look` finds something; an error names `what` and the last thing that
/// `look` said instead.
pub fn wait_for<T>(
    what: &str,
    within: Duration,
    mut look: impl FnMut() -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let begun = Instant::now();
    loop {
        match look() {
            Ok(found) => return Ok(found),
            Err(error) if begun.elapsed() >= within => {
                bail!("no {what} within {} s: {error:#}", within.as_secs_f32());
            }
            Err(_) => thread::sleep(POLL),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_returns_what_it_finds_and_says_what_it_did_not() {
        let mut looks = 0;
        let found = wait_for("luck", Duration::from_secs(5), || {
            looks += 1;
            anyhow::ensure!(looks == 3, "look {looks}");
            Ok(looks)
        });
        assert_eq!(found.unwrap(), 3);
        let error = wait_for(
            "luck",
            Duration::from_millis(10),
            || -> anyhow::Result<()> { bail!("nothing there") },
        );
        let said = error.unwrap_err().to_string();
        assert!(
            said.contains("luck") && said.contains("nothing there"),
            "{said}"
        );
    }
}
