//! Where the running agent is, and what lets us in: the same for every command that asks it.

use std::path::Path;

use anyhow::{Context, anyhow};

use crate::{
    config::Config,
    secret::{lines, single},
};

/// Its address by its own configuration, without a path.
pub(super) fn address(config: &Config) -> String {
    let intake = &config.intake;
    let scheme = if intake.tls.is_some() {
        "https"
    } else {
        "http"
    };
    // An agent that listens everywhere is found at home.
    let address = intake.listen.replace("0.0.0.0:", "127.0.0.1:");
    format!("{scheme}://{}", address.replace("[::]:", "[::1]:"))
}

/// A bearer token of a file. The agent takes several; any of them will do.
pub(super) fn token(path: &Path) -> anyhow::Result<String> {
    let text = std::fs::read(path)
        .with_context(|| format!("cannot read the token in {}", path.display()))?;
    let first = lines(&text)
        .next()
        .with_context(|| format!("there is no token in {}", path.display()))?;
    single(first).map_err(|why| anyhow!("the token in {} {why}", path.display()))
}
