//! HTTP from here to others: what every client of ours has in common.

use std::path::Path;

use reqwest::{Client, ClientBuilder, redirect};

use crate::secret::{SecretError, choose_crypto};

/// A client that talks to the configured address and to nowhere else: no redirect, no proxy.
pub(crate) fn client() -> ClientBuilder {
    // reqwest wants a choice even where no TLS is spoken.
    choose_crypto();
    Client::builder()
        .redirect(redirect::Policy::none())
        .no_proxy()
        .user_agent(concat!("paramedic/", env!("CARGO_PKG_VERSION")))
}

/// A file of certificates or of an identity; `key` is the configuration's.
///
/// # Errors
/// When it can't be read.
pub(crate) fn pem(path: &Path, key: &str) -> Result<Vec<u8>, SecretError> {
    std::fs::read(path).map_err(|source| SecretError::Read {
        path: path.to_owned(),
        key: key.to_owned(),
        source,
    })
}
