//! The listening socket and its connections: how many, how slow, how long.
//!
//! hyper's own connections rather than `axum::serve`, because only they have a time limit on a
//! request's head: a sender of one byte a second must not hold a connection for ever.

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use axum::Router;
use hyper::server::conn::{http1, http2};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::{Notify, Semaphore},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{debug, warn};

use super::{
    Auth, IntakeConfig, Sink,
    tls::{Tls, TlsError},
    webhook,
};
use crate::secret::SecretError;

/// Longest head of a request, bytes; longer ones are answered 431.
const HEAD_BYTES_MAX: usize = 32 << 10;
/// Pause after a failed `accept` (out of file descriptors, most likely), so that it is no busy loop.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Why the server could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The configured address is not one.
    #[error("intake.listen: {0:?} is not an address and port such as 127.0.0.1:9911")]
    Address(String),
    /// Somebody else has the port.
    #[error(
        "cannot listen on {0}: the port is taken; end the program that has it (perhaps another \
         agent), or set another port in intake.listen"
    )]
    Taken(SocketAddr),
    /// The system refused for another reason.
    #[error("cannot listen on {address} (intake.listen)")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file of tokens or users was refused.
    #[error(transparent)]
    Auth(#[from] SecretError),
    /// Certificates or keys were refused.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

/// A bound socket that does not answer yet: senders that come early wait in the kernel's backlog.
#[derive(Debug)]
pub struct Server {
    config: Arc<IntakeConfig>,
    reload: Reload,
    listener: TcpListener,
    address: SocketAddr,
}

impl Server {
    /// Reads secrets and certificates and binds the address. Requires a runtime.
    pub async fn bind(config: IntakeConfig) -> Result<Self, ServerError> {
        let reload = Reload {
            auth: Arc::new(Auth::load(&config)?),
            tls: config
                .tls
                .as_ref()
                .map(Tls::load)
                .transpose()?
                .map(Arc::new),
            asked: Arc::default(),
        };
        let address: SocketAddr = config
            .listen
            .parse()
            .map_err(|_| ServerError::Address(config.listen.clone()))?;
        let refused = |source: io::Error| match source.kind() {
            io::ErrorKind::AddrInUse => ServerError::Taken(address),
            _ => ServerError::Listen { address, source },
        };
        let listener = TcpListener::bind(address).await.map_err(refused)?;
        let address = listener.local_addr().map_err(refused)?;
        Ok(Self {
            config: Arc::new(config),
            reload,
            listener,
            address,
        })
    }

    /// What a reload is done with, and asked for by.
    pub fn reload(&self) -> Reload {
        self.reload.clone()
    }

    /// Where it listens: with port 0 configured, the port that the kernel chose.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Answers until `stop`; then accepts no more and gives what runs the configured grace time.
    /// `extra` are routes of others; the token is asked for there too.
    pub async fn serve(self, sink: Arc<dyn Sink>, extra: Router, stop: CancellationToken) {
        let grace = Duration::from_millis(self.config.shutdown_grace_ms);
        let limits = Limits::of(&self.config);
        let places = Arc::new(Semaphore::new(self.config.connections_max));
        let (tls, peers) = (
            self.reload.tls.clone(),
            Peers::new(self.config.peer_connections_max),
        );
        let routes = webhook::routes(self.config, self.reload, sink.clone(), extra, stop.clone());
        let (tasks, kill) = (TaskTracker::new(), CancellationToken::new());
        loop {
            let next = async {
                let place = places.clone().acquire_owned().await;
                (place, self.listener.accept().await)
            };
            let (place, accepted) = tokio::select! {
                biased;
                () = stop.cancelled() => break,
                next = next => next,
            };
            match accepted {
                Ok((stream, peer)) => {
                    let Some(of_peer) = peers.enter(peer.ip()) else {
                        debug!(%peer, "too many connections from there (intake.peer_connections_max)");
                        sink.refused("peer_connections");
                        continue;
                    };
                    let tls = tls.clone();
                    let service = routes.clone();
                    let (stop, kill) = (stop.clone(), kill.clone());
                    tasks.spawn(async move {
                        let served = accepted_connection(stream, tls, service, limits, &stop);
                        tokio::select! {
                            () = served => {}
                            () = kill.cancelled() => debug!(%peer, "connection cut at the end of the grace time"),
                        }
                        drop((place, of_peer));
                    });
                }
                Err(error) => {
                    warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
        drop(self.listener);
        tasks.close();
        if tokio::time::timeout(grace, tasks.wait()).await.is_err() {
            kill.cancel();
            tasks.wait().await;
        }
    }
}

#[derive(Clone, Copy)]
struct Limits {
    head: Duration,
    request: Duration,
    age: Duration,
}

impl Limits {
    fn of(config: &IntakeConfig) -> Self {
        Self {
            head: Duration::from_millis(config.header_read_ms),
            request: config.request_limit(),
            age: Duration::from_secs(config.connection_age_max_s),
        }
    }
}

/// What can be read again while the server runs. Clones share it.
#[derive(Clone, Debug)]
pub struct Reload {
    pub(super) auth: Arc<Auth>,
    tls: Option<Arc<Tls>>,
    /// Somebody asked over HTTP.
    asked: Arc<Notify>,
}

impl Reload {
    /// Reads tokens, users, certificates and keys again; what is bad leaves the last good in force.
    pub fn reload(&self) {
        self.auth.reload();
        if let Some(tls) = &self.tls {
            tls.reload();
        }
    }

    /// Waits until somebody asks for a reload.
    pub async fn asked(&self) {
        self.asked.notified().await;
    }

    pub(super) fn ask(&self) {
        self.asked.notify_one();
    }
}

/// Connections a remote address.
struct Peers {
    max: usize,
    counts: Mutex<HashMap<IpAddr, usize>>,
}

/// One connection of a peer, until it is dropped.
struct OfPeer {
    peers: Arc<Peers>,
    address: IpAddr,
}

impl Peers {
    fn new(max: usize) -> Arc<Self> {
        let counts = Mutex::default();
        Arc::new(Self { max, counts })
    }

    /// This machine's own programs are not each other's enemies.
    fn enter(self: &Arc<Self>, address: IpAddr) -> Option<OfPeer> {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(address).or_default();
        if *count >= self.max && !address.is_loopback() {
            return None;
        }
        *count += 1;
        Some(OfPeer {
            peers: self.clone(),
            address,
        })
    }
}

impl Drop for OfPeer {
    fn drop(&mut self) {
        let counts = self.peers.counts.lock();
        let mut counts = counts.unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.address);
            }
        }
    }
}

/// Streams of one HTTP/2 connection: as many requests as there may be connections by default.
const STREAMS_MAX: u32 = 64;

/// Serves one connection, over TLS if so configured.
async fn accepted_connection(
    stream: TcpStream,
    tls: Option<Arc<Tls>>,
    routes: Router,
    limits: Limits,
    stop: &CancellationToken,
) {
    if let Err(error) = stream.set_nodelay(true) {
        debug!(%error, "answers may be late");
    }
    let Some(tls) = tls else {
        return http1(stream, routes, limits, stop).await;
    };
    // A handshake gets the time of a request's head.
    match tokio::time::timeout(limits.head, tls.accept(stream)).await {
        Ok(Ok(stream)) if stream.get_ref().1.alpn_protocol() == Some(b"h2") => {
            http2(stream, routes, limits, stop).await;
        }
        Ok(Ok(stream)) => http1(stream, routes, limits, stop).await,
        Ok(Err(error)) => debug!(%error, "no TLS connection"),
        Err(_) => debug!("no TLS connection: its handshake was too slow"),
    }
}

async fn http1(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    routes: Router,
    limits: Limits,
    stop: &CancellationToken,
) {
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.head)
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(routes));
    let mut served = std::pin::pin!(served);
    let ended = tokio::select! {
        ended = served.as_mut() => Ok(ended),
        () = time_is_up(limits, stop) => {
            served.as_mut().graceful_shutdown();
            // The answer of a request that has just begun, and as long again to take it.
            tokio::time::timeout(2 * limits.request, served.as_mut()).await
        }
    };
    tell(ended);
}

async fn http2(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    routes: Router,
    limits: Limits,
    stop: &CancellationToken,
) {
    let served = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        // A peer that does not answer a ping is gone.
        .keep_alive_interval(limits.head)
        .keep_alive_timeout(limits.head)
        .max_concurrent_streams(STREAMS_MAX)
        .max_header_list_size(u32::try_from(HEAD_BYTES_MAX).unwrap_or(u32::MAX))
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(routes));
    let mut served = std::pin::pin!(served);
    let ended = tokio::select! {
        ended = served.as_mut() => Ok(ended),
        () = time_is_up(limits, stop) => {
            served.as_mut().graceful_shutdown();
            tokio::time::timeout(2 * limits.request, served.as_mut()).await
        }
    };
    tell(ended);
}

/// The server stops, or the connection is old.
async fn time_is_up(limits: Limits, stop: &CancellationToken) {
    tokio::select! {
        () = stop.cancelled() => {}
        () = tokio::time::sleep(limits.age) => {}
    }
}

fn tell(ended: Result<Result<(), hyper::Error>, tokio::time::error::Elapsed>) {
    match ended {
        Ok(Ok(())) => {}
        Ok(Err(error)) => debug!(%error, "connection ended"),
        Err(_) => debug!("connection cut: its answer was not taken in time"),
    }
}

#[cfg(test)]
mod tests;
