//! TLS, clients' certificates, tenants' credentials, reloading, and clients that keep still.

use hyper::client::conn::http2;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
};
use tokio_rustls::TlsConnector;

use super::*;
use crate::intake::{TenantCredentials, TlsConfig};

/// An authority, and files of certificates that it signed.
struct Authority {
    dir: tempfile::TempDir,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let issuer = CertifiedIssuer::self_signed(params, key).unwrap();
        fs::write(dir.path().join("ca.pem"), issuer.pem()).unwrap();
        Self { dir, issuer }
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.dir.path().join(name)
    }

    /// Writes NAME.pem and NAME.key, for 127.0.0.1; the certificate's bytes.
    fn sign(&self, name: &str) -> Vec<u8> {
        let params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
        let key = KeyPair::generate().unwrap();
        let signed = params.signed_by(&key, &self.issuer).unwrap();
        fs::write(self.path(&format!("{name}.pem")), signed.pem()).unwrap();
        fs::write(self.path(&format!("{name}.key")), key.serialize_pem()).unwrap();
        signed.der().to_vec()
    }

    fn server(&self, client_ca: bool) -> IntakeConfig {
        let tls = TlsConfig {
            cert_file: self.path("server.pem"),
            key_file: self.path("server.key"),
            client_ca_file: client_ca.then(|| self.path("ca.pem")),
        };
        IntakeConfig {
            tls: Some(tls),
            ..config()
        }
    }

    /// A connection with this protocol, with a client's certificate or without; and what the server
    /// showed.
    async fn connect(
        &self,
        address: SocketAddr,
        protocol: &[u8],
        client: Option<&str>,
    ) -> io::Result<(tokio_rustls::client::TlsStream<TcpStream>, Vec<u8>)> {
        let mut roots = RootCertStore::empty();
        roots
            .add(CertificateDer::from_pem_file(self.path("ca.pem")).unwrap())
            .unwrap();
        let builder = ClientConfig::builder().with_root_certificates(roots);
        let mut tls = match client {
            None => builder.with_no_client_auth(),
            Some(name) => {
                let file = |kind: &str| self.path(&format!("{name}.{kind}"));
                let cert = CertificateDer::from_pem_file(file("pem")).unwrap();
                let key = PrivateKeyDer::from_pem_file(file("key")).unwrap();
                builder.with_client_auth_cert(vec![cert], key).unwrap()
            }
        };
        tls.alpn_protocols = vec![protocol.to_vec()];
        let stream = TcpStream::connect(address).await?;
        let name = ServerName::try_from("127.0.0.1").unwrap();
        let stream = TlsConnector::from(Arc::new(tls))
            .connect(name, stream)
            .await?;
        let shown = stream.get_ref().1.peer_certificates().unwrap()[0].to_vec();
        Ok((stream, shown))
    }
}

/// One POST over HTTP/1.1; the answer's first line.
async fn post_http1(
    stream: &mut (impl AsyncReadExt + AsyncWriteExt + Unpin),
) -> io::Result<String> {
    let body = body();
    let request = format!(
        "POST /webhook HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nConnection: close\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).await?;
    let mut answer = vec![0; 15];
    stream.read_exact(&mut answer).await?;
    Ok(String::from_utf8(answer).unwrap())
}

#[tokio::test]
async fn tls_serves_both_protocols_and_takes_new_certificates() {
    let authority = Authority::new();
    let first = authority.sign("server");
    let bound = Server::bind(authority.server(false)).await.unwrap();
    crate::secret::choose_crypto();
    let (address, reload) = (bound.local_addr(), bound.reload());
    let (sink, stop) = (Arc::new(Fake::default()), CancellationToken::new());
    let task = tokio::spawn(bound.serve(sink.clone(), Router::new(), stop.clone()));

    let (mut stream, shown) = authority.connect(address, b"http/1.1", None).await.unwrap();
    assert_eq!(shown, first);
    assert_eq!(post_http1(&mut stream).await.unwrap(), "HTTP/1.1 200 OK");

    // Several requests at once over one HTTP/2 connection.
    let (stream, _) = authority.connect(address, b"h2", None).await.unwrap();
    let (mut sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
        .await
        .unwrap();
    let running = tokio::spawn(connection);
    let post = || {
        hyper::Request::post("https://127.0.0.1/webhook/a")
            .header("content-type", "application/json")
            .body(body())
            .unwrap()
    };
    let answers = [sender.send_request(post()), sender.send_request(post())];
    for answer in answers {
        assert_eq!(answer.await.unwrap().status(), StatusCode::OK);
    }
    drop(sender);
    running.await.unwrap().unwrap();
    assert_eq!(sink.delivered.lock().unwrap().len(), 3);

    // Plain HTTP is not answered.
    let mut plain = TcpStream::connect(address).await.unwrap();
    let answer = post_http1(&mut plain).await;
    assert!(answer.is_err() || !answer.unwrap().contains("200"));

    // A bad file changes nothing, a new certificate is shown from then on.
    fs::write(authority.path("server.pem"), "nothing").unwrap();
    reload.reload();
    let (_, shown) = authority.connect(address, b"h2", None).await.unwrap();
    assert_eq!(shown, first);
    tokio::time::sleep(Duration::from_millis(20)).await;
    let second = authority.sign("server");
    reload.reload();
    let (_, shown) = authority.connect(address, b"h2", None).await.unwrap();
    assert_eq!(shown, second);
    stop.cancel();
    task.await.unwrap();
}

#[tokio::test]
async fn without_a_certificate_of_the_right_authority_there_is_no_connection() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    for name in ["server", "client"] {
        authority.sign(name);
    }
    stranger.sign("client");
    for kind in ["pem", "key"] {
        let file = |name: &str| format!("{name}.{kind}");
        fs::copy(
            stranger.path(&file("client")),
            authority.path(&file("stranger")),
        )
        .unwrap();
    }
    let server = Running::start(authority.server(true)).await;
    for (client, fits) in [
        (Some("client"), true),
        (None, false),
        (Some("stranger"), false),
    ] {
        let answer = match authority.connect(server.address, b"http/1.1", client).await {
            // TLS 1.3 tells of a refused client only after the handshake.
            Ok((mut stream, _)) => post_http1(&mut stream).await,
            Err(error) => Err(error),
        };
        assert_eq!(
            answer.is_ok_and(|line| line == "HTTP/1.1 200 OK"),
            fits,
            "{client:?}"
        );
    }
    server.end().await;
}

#[tokio::test]
async fn a_handshake_that_never_ends_is_given_up() {
    let authority = Authority::new();
    authority.sign("server");
    let server = Running::start(IntakeConfig {
        header_read_ms: 200,
        ..authority.server(false)
    })
    .await;
    let mut silent = TcpStream::connect(server.address).await.unwrap();
    let begun = Instant::now();
    assert_eq!(silent.read(&mut [0; 16]).await.unwrap(), 0, "hung up");
    assert!(
        (150..3000).contains(&begun.elapsed().as_millis()),
        "{:?}",
        begun.elapsed()
    );
    server.end().await;
}

#[test]
fn bad_certificates_are_named() {
    let authority = Authority::new();
    authority.sign("server");
    authority.sign("other");
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let said = |change: fn(&Authority, &mut TlsConfig)| {
        let mut config = authority.server(false);
        change(&authority, config.tls.as_mut().unwrap());
        runtime
            .block_on(Server::bind(config))
            .unwrap_err()
            .to_string()
    };
    let absent = said(|authority, tls| tls.cert_file = authority.path("absent"));
    assert!(
        absent.contains("absent") && absent.contains("certificates"),
        "{absent}"
    );
    let key = said(|authority, tls| tls.key_file = authority.path("server.pem"));
    assert!(key.contains("private key"), "{key}");
    let unfit = said(|authority, tls| tls.key_file = authority.path("other.key"));
    assert!(unfit.contains("server.pem"), "{unfit}");
}

#[tokio::test]
async fn a_tenants_token_sends_for_that_tenant_and_does_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = dir.path().join(name);
        fs::write(&path, text).unwrap();
        Some(path)
    };
    let own = TenantCredentials {
        token_file: file("a", "token-of-a"),
        users_file: None,
    };
    let server = Running::start(IntakeConfig {
        token_file: file("all", "token-of-all"),
        tenant_credentials: [("a".parse().unwrap(), own)].into(),
        tenant_label: Some("team".to_owned()),
        ..config()
    })
    .await;
    let send = |path: &str, token: &str| server.post(path).body(body()).bearer_auth(token);
    assert_eq!(server.send(send("/webhook/a", "token-of-a")).await.0, 200);
    assert_eq!(
        server.send(send("/webhook", "token-of-a")).await.0,
        200,
        "by its label"
    );
    let other = server
        .refusal(send("/webhook/default", "token-of-a"), "forbidden")
        .await;
    assert_eq!(other.0, 403);
    let read = server.client.get(format!("{}/api/test", server.base));
    assert_eq!(
        server
            .refusal(read.bearer_auth("token-of-a"), "forbidden")
            .await
            .0,
        403
    );
    assert_eq!(
        server
            .send(send("/webhook/default", "token-of-all"))
            .await
            .0,
        200
    );
    server.end().await;
}

#[tokio::test]
async fn a_reload_is_asked_for_only_where_that_is_enabled() {
    for enabled in [false, true] {
        let bound = Server::bind(IntakeConfig {
            reload_endpoint: enabled,
            ..config()
        })
        .await
        .unwrap();
        crate::secret::choose_crypto();
        let (address, reload) = (bound.local_addr(), bound.reload());
        let stop = CancellationToken::new();
        let sink = Arc::new(Fake::default());
        let task = tokio::spawn(bound.serve(sink, Router::new(), stop.clone()));
        let url = format!("http://{address}/-/reload");
        let answer = Client::new().post(url).send().await.unwrap();
        assert_eq!(answer.status().as_u16(), if enabled { 200 } else { 403 });
        let asked = tokio::time::timeout(Duration::from_millis(100), reload.asked()).await;
        assert_eq!(asked.is_ok(), enabled);
        stop.cancel();
        task.await.unwrap();
    }
}

/// A byte now and then, of the head and then of the body, keeps nothing open.
#[tokio::test]
async fn drips_do_not_hold_connections() {
    let server = Running::start(IntakeConfig {
        header_read_ms: 300,
        request_ms: 400,
        ..config()
    })
    .await;
    let head = b"POST /webhook HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 500\r\n\r\n";
    for sent_at_once in [5, head.len()] {
        let mut slow = TcpStream::connect(server.address).await.unwrap();
        let begun = Instant::now();
        slow.write_all(&head[..sent_at_once]).await.unwrap();
        let mut answer = Vec::new();
        loop {
            let read = slow.read_buf(&mut answer);
            match tokio::time::timeout(Duration::from_millis(20), read).await {
                Ok(Ok(0) | Err(_)) => break,
                Ok(Ok(_)) => continue,
                Err(_) => slow.write_all(b"x").await.unwrap_or_default(),
            }
            assert!(
                begun.elapsed() < Duration::from_secs(5),
                "{:?}",
                begun.elapsed()
            );
        }
        let took = begun.elapsed();
        assert!(took >= Duration::from_millis(250), "{took:?}");
    }
    server.end().await;
}

#[test]
fn one_peer_gets_its_share_and_this_machine_all() {
    let peers = Peers::new(2);
    let far: IpAddr = "192.0.2.1".parse().unwrap();
    let other: IpAddr = "192.0.2.2".parse().unwrap();
    let (one, _two) = (peers.enter(far), peers.enter(far));
    assert!(one.is_some() && peers.enter(far).is_none());
    assert!(peers.enter(other).is_some());
    let own: Vec<_> = (0..9)
        .map(|_| peers.enter("127.0.0.1".parse().unwrap()))
        .collect();
    assert!(own.iter().all(Option::is_some));
    drop((one, own));
    assert!(peers.enter(far).is_some());
    assert_eq!(
        peers.counts.lock().unwrap().len(),
        1,
        "nothing is kept of those that left"
    );
}
