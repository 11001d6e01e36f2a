//! The scheduler tier: ns added a context switch, beside the floor and runqlat.

use super::Bench;

/// Runs the part.
pub(crate) fn run(_bench: &mut Bench) -> anyhow::Result<()> {
    Ok(())
}
