//! The listening socket and its connections: how many, how slow, how long.
//!
//! hyper's own connections rather than `axum::serve`, because only they have a time limit on a
//! request's head: a sender of one byte a second must not hold a connection for ever.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{debug, warn};

use super::{AuthError, IntakeConfig, Sink, Token, webhook};

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
    /// The token file was refused.
    #[error(transparent)]
    Auth(#[from] AuthError),
}

/// A bound socket that does not answer yet: senders that come early wait in the kernel's backlog.
#[derive(Debug)]
pub struct Server {
    config: Arc<IntakeConfig>,
    token: Option<Token>,
    listener: TcpListener,
    address: SocketAddr,
}

impl Server {
    /// Reads the token and binds the address. Requires a runtime.
    pub async fn bind(config: IntakeConfig) -> Result<Self, ServerError> {
        let token = config.token_file.as_deref().map(Token::load).transpose()?;
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
            token,
            listener,
            address,
        })
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
        let routes = webhook::routes(self.config, self.token, sink, extra, stop.clone());
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
                    let service = routes.clone();
                    let (stop, kill) = (stop.clone(), kill.clone());
                    tasks.spawn(async move {
                        let served = connection(stream, service, limits, &stop);
                        tokio::select! {
                            () = served => {}
                            () = kill.cancelled() => debug!(%peer, "connection cut at the end of the grace time"),
                        }
                        drop(place);
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

/// Serves one connection until it ends, is old, or the server stops.
async fn connection(stream: TcpStream, routes: Router, limits: Limits, stop: &CancellationToken) {
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.head)
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(routes));
    let mut served = std::pin::pin!(served);
    let ended = tokio::select! {
        ended = served.as_mut() => Ok(ended),
        () = async {
            tokio::select! {
                () = stop.cancelled() => {}
                () = tokio::time::sleep(limits.age) => {}
            }
        } => {
            served.as_mut().graceful_shutdown();
            // The answer of a request that has just begun, and as long again to take it.
            tokio::time::timeout(2 * limits.request, served.as_mut()).await
        }
    };
    match ended {
        Ok(Ok(())) => {}
        Ok(Err(error)) => debug!(%error, "connection ended"),
        Err(_) => debug!("connection cut: its answer was not taken in time"),
    }
}

#[cfg(test)]
mod tests;
