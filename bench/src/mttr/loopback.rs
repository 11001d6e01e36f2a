//! Small HTTP servers of a run, on loopback, on a thread of their own.

use std::net::SocketAddr;

use anyhow::Context;
use axum::Router;

/// Serves `routes` at a free port as long as the runtime lives.
pub fn serve(routes: Router) -> anyhow::Result<(SocketAddr, tokio::runtime::Runtime)> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .context("cannot start a runtime")?;
    let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0"))?;
    let address = listener.local_addr()?;
    runtime.spawn(async move { axum::serve(listener, routes).await });
    Ok((address, runtime))
}
