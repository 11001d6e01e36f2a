//! TLS of the webhook: certificates that are read again when they change, clients' certificates if
//! asked for, HTTP/2 and HTTP/1.1 by ALPN.

use std::{
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, RwLock},
    time::{Duration, Instant},
};

use rustls::{
    RootCertStore, ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::WebPkiClientVerifier,
};
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use super::TlsConfig;
use crate::secret::{Stamp, stamp_of};

/// Between two looks at whether the files changed.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// Why certificates or keys were refused.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file is not there, or not PEM of what is wanted.
    #[error("cannot read {what} from {} (intake.tls)", path.display())]
    Pem {
        /// What was wanted.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: rustls::pki_types::pem::Error,
    },
    /// A file without a certificate.
    #[error("no certificate in {} (intake.tls)", .0.display())]
    Empty(PathBuf),
    /// They do not fit together, or are of a kind that is not supported.
    #[error("cannot use {} with its key or authorities (intake.tls)", path.display())]
    Unfit {
        /// The certificate's file.
        path: PathBuf,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// The acceptor in force.
pub(super) struct Tls {
    config: TlsConfig,
    acceptor: RwLock<TlsAcceptor>,
    seen: Mutex<(Vec<Option<Stamp>>, Instant)>,
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Tls({})", self.config.cert_file.display())
    }
}

impl Tls {
    pub(super) fn load(config: &TlsConfig) -> Result<Self, TlsError> {
        let seen = Mutex::new((stamps(config), Instant::now()));
        Ok(Self {
            acceptor: RwLock::new(acceptor(config)?),
            config: config.clone(),
            seen,
        })
    }

    /// The handshake; the caller bounds its time.
    pub(super) async fn accept(&self, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        let due = {
            let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
            seen.1.elapsed() >= LOOK_EVERY
        };
        if due {
            self.reload();
        }
        let acceptor = {
            let acceptor = self.acceptor.read();
            acceptor.unwrap_or_else(PoisonError::into_inner).clone()
        };
        acceptor.accept(stream).await
    }

    /// Looks now; running connections keep what they have.
    pub(super) fn reload(&self) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let now = stamps(&self.config);
        let same = seen.0 == now;
        *seen = (now, Instant::now());
        if same {
            return;
        }
        match acceptor(&self.config) {
            Ok(fresh) => {
                *self
                    .acceptor
                    .write()
                    .unwrap_or_else(PoisonError::into_inner) = fresh;
                tracing::info!(cert = %self.config.cert_file.display(), "certificates read again");
            }
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::error!(error, "the old certificates stay in force");
            }
        }
    }
}

fn stamps(config: &TlsConfig) -> Vec<Option<Stamp>> {
    [
        Some(&config.cert_file),
        Some(&config.key_file),
        config.client_ca_file.as_ref(),
    ]
    .into_iter()
    .flatten()
    .map(|path| stamp_of(path))
    .collect()
}

fn acceptor(config: &TlsConfig) -> Result<TlsAcceptor, TlsError> {
    let unfit = |source: Box<dyn std::error::Error + Send + Sync>| TlsError::Unfit {
        path: config.cert_file.clone(),
        source,
    };
    let provider = Arc::new(ring::default_provider());
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|error| unfit(error.into()))?;
    let builder = match &config.client_ca_file {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let mut roots = RootCertStore::empty();
            for authority in certificates(path)? {
                roots.add(authority).map_err(|error| unfit(error.into()))?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider)
                .build()
                .map_err(|error| unfit(error.into()))?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let path = &config.key_file;
    let key = PrivateKeyDer::from_pem_file(path).map_err(|source| TlsError::Pem {
        what: "a private key",
        path: path.clone(),
        source,
    })?;
    let mut server = builder
        .with_single_cert(certificates(&config.cert_file)?, key)
        .map_err(|error| unfit(error.into()))?;
    server.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(server)))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let pem = |source| TlsError::Pem {
        what: "certificates",
        path: path.to_owned(),
        source,
    };
    let found = CertificateDer::pem_file_iter(path).map_err(pem)?;
    let found: Vec<_> = found.collect::<Result<_, _>>().map_err(pem)?;
    if found.is_empty() {
        return Err(TlsError::Empty(path.to_owned()));
    }
    Ok(found)
}
