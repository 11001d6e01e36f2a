//! `cargo xtask test intake`: the front of the agent under a full storm, and the figures of fairness.
//!
//! `PARAMEDIC_STORM_ALERTS` (100,000) and `PARAMEDIC_STORM_KILLS` (20) change how much.

use crate::sh;

/// Runs both; the result is the exit code.
pub fn intake() -> anyhow::Result<u8> {
    let or = |name: &str, default: &str| std::env::var(name).unwrap_or_else(|_| default.to_owned());
    let status = sh::cargo()
        .args([
            "test",
            "--package",
            "paramedic-tests",
            "--test",
            "intake_storm",
            "--",
        ])
        .arg("--nocapture")
        .env(
            "PARAMEDIC_STORM_ALERTS",
            or("PARAMEDIC_STORM_ALERTS", "100000"),
        )
        .env("PARAMEDIC_STORM_KILLS", or("PARAMEDIC_STORM_KILLS", "20"))
        .status()?;
    let fair = sh::cargo()
        .args(["test", "--package", "paramedic", "--lib", "routing::", "--"])
        .args(["--nocapture", "a_flood"])
        .status()?;
    Ok(u8::from(!(status.success() && fair.success())))
}
