use std::{fs, sync::Mutex, time::Instant};

use axum::{http::StatusCode, routing::get};
use reqwest::{Client, Method};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    task::JoinHandle,
};

mod access;

use super::super::{AcceptError, Accepted, Delivery};
use super::*;
use crate::{
    incident::{Source, TenantId},
    resilience::Boxed,
};

/// A sink that answers as told and keeps what it was given.
#[derive(Default)]
struct Fake {
    answer: Mutex<Option<AcceptError>>,
    delay: Duration,
    delivered: Mutex<Vec<Delivery>>,
    refused: Mutex<Vec<&'static str>>,
    not_ready: Mutex<Option<String>>,
}

impl Sink for Fake {
    fn accept(&self, delivery: Delivery) -> Boxed<Result<Accepted, AcceptError>> {
        let alerts = delivery.groups.values().map(Vec::len).sum::<usize>() as u64;
        self.delivered.lock().unwrap().push(delivery);
        let answer = self.answer.lock().unwrap().clone();
        let delay = self.delay;
        Box::pin(async move {
            tokio::time::sleep(delay).await;
            let accepted = Accepted {
                opened: alerts,
                ..Accepted::default()
            };
            answer.map_or(Ok(accepted), Err)
        })
    }
    fn ready(&self) -> Result<(), String> {
        self.not_ready.lock().unwrap().clone().map_or(Ok(()), Err)
    }
    fn refused(&self, reason: &'static str) {
        self.refused.lock().unwrap().push(reason);
    }
}

struct Running {
    base: String,
    address: SocketAddr,
    sink: Arc<Fake>,
    stop: CancellationToken,
    task: JoinHandle<()>,
    client: Client,
}

fn config() -> IntakeConfig {
    IntakeConfig {
        listen: "127.0.0.1:0".to_owned(),
        tenants: ["default", "a"].map(|name| name.parse().unwrap()).to_vec(),
        ..IntakeConfig::default()
    }
}

impl Running {
    async fn start(config: IntakeConfig) -> Self {
        Self::with(config, Fake::default()).await
    }

    async fn with(config: IntakeConfig, sink: Fake) -> Self {
        crate::secret::choose_crypto();
        let server = Server::bind(config).await.unwrap();
        let address = server.local_addr();
        let (sink, stop) = (Arc::new(sink), CancellationToken::new());
        let slow = || async {
            tokio::time::sleep(Duration::from_mins(1)).await;
            "too late"
        };
        let extra = Router::new()
            .route("/api/test", get(|| async { "extra" }))
            .route("/api/slow", get(slow));
        let task = tokio::spawn(server.serve(sink.clone(), extra, stop.clone()));
        Self {
            base: format!("http://{address}"),
            address,
            sink,
            stop,
            task,
            client: Client::new(),
        }
    }

    fn post(&self, path: &str) -> reqwest::RequestBuilder {
        let url = format!("{}{path}", self.base);
        self.client
            .post(url)
            .header("content-type", "application/json")
    }

    /// Sends and gives the status and the JSON answer.
    async fn send(&self, request: reqwest::RequestBuilder) -> (u16, Value) {
        let response = request.send().await.unwrap();
        let status = response.status().as_u16();
        (status, response.json().await.unwrap_or(Value::Null))
    }

    /// The status and the `detail` of a refusal, which must have been counted as `reason`.
    async fn refusal(&self, request: reqwest::RequestBuilder, reason: &str) -> (u16, String) {
        let (status, answer) = self.send(request).await;
        let error = answer["detail"]
            .as_str()
            .unwrap_or_else(|| panic!("{status} {answer}"));
        assert_eq!(self.sink.refused.lock().unwrap().pop(), Some(reason));
        (status, error.to_owned())
    }

    async fn end(self) {
        self.stop.cancel();
        tokio::time::timeout(Duration::from_secs(10), self.task)
            .await
            .unwrap()
            .unwrap();
    }
}

fn body() -> String {
    json!({
        "receiver": "w",
        "version": "4",
        "alerts": [{
            "status": "firing",
            "labels": {"alertname": "HighCpu", "team": "a"},
            "startsAt": "2026-11-23T09:39:30.119Z",
        }],
    })
    .to_string()
}

#[tokio::test]
async fn alerts_are_delivered_with_tenant_source_and_trace() {
    let server = Running::start(IntakeConfig {
        tenant_label: Some("team".to_owned()),
        ..config()
    })
    .await;
    let opened = json!({"opened": 1, "seen": 0, "resolved": 0, "ignored": 0});
    let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let request = server
        .post("/webhook")
        .header("traceparent", parent)
        .body(body());
    assert_eq!(server.send(request).await, (200, opened.clone()));
    let utf8 = server.post("/webhook/default").body(body());
    let utf8 = utf8.header("traceparent", "rubbish");
    assert_eq!(server.send(utf8).await, (200, opened));
    let delivered = std::mem::take(&mut *server.sink.delivered.lock().unwrap());
    let tenants: Vec<Vec<&TenantId>> = delivered
        .iter()
        .map(|d| d.groups.keys().collect())
        .collect();
    assert_eq!(tenants[0][0].as_str(), "a", "by the label");
    assert_eq!(
        tenants[1][0].as_str(),
        "default",
        "the path goes before the label"
    );
    let receiver = "w".to_owned();
    assert_eq!(delivered[0].source, Source::Alertmanager { receiver });
    assert_eq!(delivered[0].trace.traceparent(), parent);
    let begun = &delivered[1].trace;
    assert_ne!(begun.trace_id, delivered[0].trace.trace_id);
    let parsed = crate::incident::TraceContext::parse(&begun.traceparent());
    let parsed = parsed.map(|trace| crate::incident::TraceContext {
        begun_here: true,
        ..trace
    });
    assert_eq!(parsed.as_ref(), Some(begun), "a valid trace");
    server.end().await;
}

#[tokio::test]
async fn every_refusal_says_what_is_wrong_and_what_to_do() {
    let server = Running::start(IntakeConfig {
        body_bytes_max: 2048,
        tenant_label: Some("team".to_owned()),
        ..config()
    })
    .await;
    let to = |path: &str| server.post(path).body(body());

    let plain = server
        .client
        .post(format!("{}/webhook", server.base))
        .body(body());
    let (status, error) = server.refusal(plain, "content_type").await;
    assert_eq!(status, 415);
    assert_eq!(
        error,
        "Content-Type (none) is not application/json; send that"
    );
    let (status, error) = server
        .refusal(
            server
                .client
                .post(format!("{}/webhook", server.base))
                .header("content-type", "application/jsonp")
                .body(body()),
            "content_type",
        )
        .await;
    assert_eq!(status, 415, "{error}");
    let gzip = to("/webhook").header("content-encoding", "gzip");
    let (status, error) = server.refusal(gzip, "content_encoding").await;
    assert_eq!(status, 415, "{error}");

    let announced = server.post("/webhook").body("x".repeat(2049));
    let (status, error) = server.refusal(announced, "body_too_large").await;
    assert_eq!(status, 413);
    assert!(
        error.contains("larger than 2048 bytes; raise intake.body_bytes_max"),
        "{error}"
    );

    let (status, error) = server
        .refusal(server.post("/webhook").body("{"), "not_json")
        .await;
    assert_eq!(status, 400);
    assert!(error.starts_with("the body is not JSON: EOF"), "{error}");
    let old = server
        .post("/webhook")
        .body(r#"{"version":"3","alerts":[]}"#);
    let (status, error) = server.refusal(old, "version").await;
    assert_eq!(
        (status, error.contains("only \"4\"")),
        (400, true),
        "{error}"
    );
    let shape = server.post("/webhook").body(r#"{"version":"4"}"#);
    assert_eq!(server.refusal(shape, "shape").await.0, 400);

    for path in ["/webhook/b", "/webhook/A", "/webhook/..%2Fetc"] {
        let (status, error) = server.refusal(to(path), "unknown_tenant").await;
        assert_eq!(status, 404, "{path}");
        let way_out = "(in the path); known: default, a; add it to intake.tenants";
        assert!(error.ends_with(way_out), "{error}");
    }
    let foreign = body().replace("\"team\":\"a\"", "\"team\":\"x\"");
    let foreign = server.post("/webhook").body(foreign);
    let (status, error) = server.refusal(foreign, "unknown_tenant").await;
    assert_eq!(status, 404);
    assert!(
        error.starts_with("unknown tenant \"x\" (label \"team\" of alerts[0]); known"),
        "{error}"
    );

    let (status, error) = server.refusal(to("/alerts"), "not_found").await;
    assert_eq!(status, 404);
    assert!(error.contains("alerts go to POST /webhook"), "{error}");
    let get = server.client.get(format!("{}/webhook", server.base));
    let (status, error) = server.refusal(get, "method").await;
    assert_eq!(
        (status, error.starts_with("/webhook does not take GET")),
        (405, true),
        "{error}"
    );
    let head = server
        .client
        .request(Method::PUT, format!("{}/webhook/a", server.base));
    let response = head.send().await.unwrap();
    assert_eq!(
        (response.status().as_u16(), &response.headers()["allow"]),
        (405, &"POST".parse().unwrap())
    );

    assert_eq!(
        server.sink.delivered.lock().unwrap().len(),
        0,
        "nothing refused is delivered"
    );
    server.end().await;
}

#[tokio::test]
async fn what_the_sink_refuses_is_answered_by_its_kind() {
    let server = Running::start(config()).await;
    let tenant = "a".parse().unwrap();
    for (error, status) in [
        (AcceptError::Busy("full".into()), 503),
        (AcceptError::Journal("disk".into()), 503),
        (AcceptError::ShuttingDown, 503),
        (AcceptError::Internal("oops".into()), 503),
        (AcceptError::TooLarge("9 bytes".into()), 413),
        (AcceptError::UnknownTenant(tenant), 404),
    ] {
        *server.sink.answer.lock().unwrap() = Some(error.clone());
        let request = server.post("/webhook").body(body());
        let got = server.refusal(request, error.reason()).await;
        assert_eq!(got, (status, error.to_string()));
    }
    server.end().await;
}

#[tokio::test]
async fn the_token_guards_all_but_the_health_checks() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("token");
    fs::write(&file, "sample-token\n").unwrap();
    let server = Running::start(IntakeConfig {
        token_file: Some(file.clone()),
        ..config()
    })
    .await;
    let request = || server.post("/webhook").body(body());
    for wrong in [
        request(),
        request().bearer_auth("sample-tokem"),
        request().basic_auth("sample-token", None::<&str>),
    ] {
        let (status, error) = server.refusal(wrong, "unauthorized").await;
        assert_eq!(
            (status, error.contains("intake.token_file")),
            (401, true),
            "{error}"
        );
    }
    let response = request().send().await.unwrap();
    assert_eq!(response.headers()["www-authenticate"], "Bearer");
    assert_eq!(
        server.send(request().bearer_auth("sample-token")).await.0,
        200
    );
    let read = |path: &str| server.client.get(format!("{}{path}", server.base));
    assert_eq!(server.send(read("/api/test")).await.0, 401);
    assert_eq!(
        server
            .send(read("/api/test").bearer_auth("sample-token"))
            .await
            .0,
        200
    );
    assert_eq!(server.send(read("/-/healthy")).await.0, 200);
    server.end().await;

    fs::write(&file, "").unwrap();
    let empty = IntakeConfig {
        token_file: Some(file),
        ..config()
    };
    let error = Server::bind(empty).await.unwrap_err().to_string();
    assert!(
        error.contains("(intake.token_file) has a token of fewer than 8"),
        "{error}"
    );
}

#[tokio::test]
async fn health_and_readiness() {
    let server = Running::start(config()).await;
    let read = |method: Method, path: &str| {
        server
            .client
            .request(method, format!("{}{path}", server.base))
            .send()
    };
    for method in [Method::GET, Method::HEAD] {
        for path in ["/-/healthy", "/-/ready"] {
            let response = read(method.clone(), path).await.unwrap();
            assert_eq!(response.status(), StatusCode::OK, "{method} {path}");
        }
    }
    *server.sink.not_ready.lock().unwrap() = Some("the journal is read-only".to_owned());
    let response = read(Method::GET, "/-/ready").await.unwrap();
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    let answer: Value = response.json().await.unwrap();
    assert_eq!(answer["detail"], "the journal is read-only");
    let response = read(Method::GET, "/-/healthy").await.unwrap();
    assert_eq!(response.status(), StatusCode::OK, "alive all the same");
    server.end().await;
}

#[tokio::test]
async fn a_taken_port_is_named_with_its_key() {
    let first = Server::bind(config()).await.unwrap();
    let listen = first.local_addr().to_string();
    let error = Server::bind(IntakeConfig {
        listen: listen.clone(),
        ..config()
    })
    .await
    .unwrap_err();
    assert!(matches!(error, ServerError::Taken(_)));
    assert_eq!(
        error.to_string(),
        format!(
            "cannot listen on {listen}: the port is taken; end the program that has it (perhaps \
             another agent), or set another port in intake.listen"
        )
    );
    let error = Server::bind(IntakeConfig {
        listen: "192.0.2.1:9911".to_owned(),
        ..config()
    })
    .await
    .unwrap_err();
    assert_eq!(
        error.to_string(),
        "cannot listen on 192.0.2.1:9911 (intake.listen)"
    );
}

/// Reads until the other side closes; how long that took and what came.
async fn closed(stream: &mut TcpStream, within: Duration) -> (Duration, String) {
    let begun = Instant::now();
    let mut text = Vec::new();
    let read = tokio::time::timeout(within, stream.read_to_end(&mut text)).await;
    match read.expect("not closed in time") {
        Ok(_) => {}
        Err(error) => assert_eq!(error.kind(), io::ErrorKind::ConnectionReset),
    }
    (begun.elapsed(), String::from_utf8_lossy(&text).into_owned())
}

#[tokio::test]
async fn slow_senders_are_closed_in_time() {
    let server = Running::start(IntakeConfig {
        header_read_ms: 300,
        request_ms: 400,
        ..config()
    })
    .await;
    let limit = Duration::from_secs(5);
    // A byte of the head now and then.
    let mut dripping = TcpStream::connect(server.address).await.unwrap();
    let (mut reader, mut writer) = dripping.split();
    let begun = Instant::now();
    let drip = async {
        for byte in b"POST /webhook HTTP/1.1\r\nHost: x\r\nX-Slow: "
            .iter()
            .cycle()
        {
            if writer.write_all(&[*byte]).await.is_err() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let mut rest = Vec::new();
    tokio::select! {
        () = drip => {}
        _ = reader.read_to_end(&mut rest) => {}
        () = tokio::time::sleep(limit) => panic!("never closed"),
    }
    assert!(
        begun.elapsed() >= Duration::from_millis(250),
        "{:?}",
        begun.elapsed()
    );
    // Nothing at all.
    let mut silent = TcpStream::connect(server.address).await.unwrap();
    closed(&mut silent, limit).await;
    // A body that never comes.
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    let head = "POST /webhook HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{";
    stream.write_all(head.as_bytes()).await.unwrap();
    let (took, text) = closed(&mut stream, limit).await;
    assert!(text.starts_with("HTTP/1.1 408 "), "{text}");
    assert!(
        text.contains("the body was not there within 400 ms (intake.request_ms)"),
        "{text}"
    );
    assert!(took >= Duration::from_millis(350), "{took:?}");
    // A body without an announced length that goes on and on.
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    let head = "POST /webhook HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    let chunk = format!("{:x}\r\n{}\r\n", 1 << 16, " ".repeat(1 << 16));
    for _ in 0..20 {
        if stream.write_all(chunk.as_bytes()).await.is_err() {
            break;
        }
    }
    let refused = server.sink.refused.lock().unwrap().clone();
    tokio::time::sleep(Duration::from_millis(100)).await;
    let refused = [refused, server.sink.refused.lock().unwrap().clone()].concat();
    assert!(refused.contains(&"body_too_large"), "{refused:?}");
    // Others' routes are bounded too.
    let slow = server.client.get(format!("{}/api/slow", server.base));
    let (status, error) = server.refusal(slow, "timeout").await;
    assert_eq!(status, 503, "{error}");
    server.end().await;
}

#[tokio::test]
async fn a_slow_sink_is_answered_503_in_time() {
    let sink = Fake {
        delay: Duration::from_mins(1),
        ..Fake::default()
    };
    let server = Running::with(
        IntakeConfig {
            request_ms: 200,
            ..config()
        },
        sink,
    )
    .await;
    let request = server.post("/webhook").body(body());
    let (status, error) = server.refusal(request, "busy").await;
    assert_eq!(status, 503);
    assert!(
        error.contains("not done within 200 ms (intake.request_ms)"),
        "{error}"
    );
    server.end().await;
}

#[tokio::test]
async fn connections_beyond_the_cap_wait_and_are_served_later() {
    let server = Running::start(IntakeConfig {
        connections_max: 2,
        header_read_ms: 600,
        ..config()
    })
    .await;
    let _silent = [
        TcpStream::connect(server.address).await.unwrap(),
        TcpStream::connect(server.address).await.unwrap(),
    ];
    tokio::time::sleep(Duration::from_millis(50)).await;
    let begun = Instant::now();
    let (status, _) = server.send(server.post("/webhook").body(body())).await;
    assert_eq!(status, 200);
    let took = begun.elapsed();
    assert!(
        took >= Duration::from_millis(300),
        "served beyond the cap after {took:?}"
    );
    server.end().await;
}

#[tokio::test]
async fn a_shutdown_finishes_what_runs_and_takes_no_more() {
    let sink = Fake {
        delay: Duration::from_millis(400),
        ..Fake::default()
    };
    let server = Running::with(config(), sink).await;
    let running = tokio::spawn(server.post("/webhook").body(body()).send());
    while server.sink.delivered.lock().unwrap().is_empty() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let address = server.address;
    let begun = Instant::now();
    server.end().await;
    assert!(
        begun.elapsed() < Duration::from_secs(3),
        "{:?}",
        begun.elapsed()
    );
    let response = running.await.unwrap().unwrap();
    assert_eq!(response.status(), StatusCode::OK, "it was running");
    assert!(
        TcpStream::connect(address).await.is_err(),
        "still accepting"
    );
}

#[tokio::test]
async fn the_grace_time_ends() {
    let sink = Fake {
        delay: Duration::from_mins(1),
        ..Fake::default()
    };
    let server = Running::with(
        IntakeConfig {
            shutdown_grace_ms: 200,
            ..config()
        },
        sink,
    )
    .await;
    let running = tokio::spawn(server.post("/webhook").body(body()).send());
    while server.sink.delivered.lock().unwrap().is_empty() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let begun = Instant::now();
    server.end().await;
    let took = begun.elapsed();
    assert!(
        took >= Duration::from_millis(150) && took < Duration::from_secs(5),
        "{took:?}"
    );
    assert!(running.await.unwrap().is_err(), "its connection was cut");
}
