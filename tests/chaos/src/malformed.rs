//! Requests that are wrong, each with the answers that are right.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use anyhow::Context;

/// For an answer.
const WITHIN: Duration = Duration::from_secs(10);

/// Bytes and what they are.
type Wrong = (&'static str, Vec<u8>);

/// Sends all of them; those that were answered otherwise than with a refusal for good.
pub fn send_all(address: SocketAddr) -> (u64, Vec<String>) {
    let mut sent = 0;
    let mut odd = Vec::new();
    for (what, bytes) in all() {
        sent += 1;
        let status = exchange(address, &bytes).with_context(|| what.to_owned());
        match status {
            // 408, 411, 413, 414, 415, 431 are refusals as well. A closed connection is hyper's answer to
            // what is no HTTP at all.
            Ok(status) if (400..500).contains(&status) || status == 0 => {}
            Ok(status) => odd.push(format!("{what}: {status}")),
            Err(error) => odd.push(format!("{what}: {error:#}")),
        }
    }
    (sent, odd)
}

fn all() -> Vec<Wrong> {
    let alert = |labels: &str, starts: &str| {
        format!(
            "{{\"version\":\"4\",\"alerts\":[{{\"status\":\"firing\",\"labels\":{labels},\
             \"startsAt\":{starts}}}]}}"
        )
    };
    let now = "\"2026-01-01T00:00:00Z\"";
    let many = format!(
        "{{\"version\":\"4\",\"alerts\":[{}]}}",
        vec!["{\"status\":\"firing\",\"labels\":{},\"startsAt\":\"2026-01-01T00:00:00Z\"}"; 1001]
            .join(",")
    );
    let labels: Vec<String> = (0..65).map(|n| format!("\"l{n}\":\"x\"")).collect();
    let bodies = [
        ("nothing", String::new()),
        ("half an object", "{\"version\":\"4\",".to_owned()),
        ("a list", "[]".to_owned()),
        ("null", "null".to_owned()),
        ("no alerts", "{\"version\":\"4\"}".to_owned()),
        ("version 3", "{\"version\":\"3\",\"alerts\":[]}".to_owned()),
        (
            "a number for a version",
            "{\"version\":4,\"alerts\":[]}".to_owned(),
        ),
        ("deep nesting", "[".repeat(100_000)),
        ("a number for a label", alert("{\"a\":1}", now)),
        ("no time", alert("{\"a\":\"b\"}", "\"yesterday\"")),
        (
            "a time beyond all calendars",
            alert("{\"a\":\"b\"}", "\"99999-01-01T00:00:00Z\""),
        ),
        (
            "a long label",
            alert(&format!("{{\"a\":\"{}\"}}", "x".repeat(5000)), now),
        ),
        (
            "too many labels",
            alert(&format!("{{{}}}", labels.join(",")), now),
        ),
        ("too many alerts", many),
        ("half a surrogate", alert("{\"a\":\"\\ud800\"}", now)),
        (
            "another status",
            alert("{\"a\":\"b\"}", now).replace("firing", "burning"),
        ),
    ];
    let mut all: Vec<Wrong> = bodies
        .into_iter()
        .map(|(what, body)| (what, post("application/json", body.as_bytes())))
        .collect();
    all.push((
        "not UTF-8",
        post("application/json", b"{\"version\":\"4\xff\"}"),
    ));
    all.push(("a form", post("application/x-www-form-urlencoded", b"{}")));
    let raw = |text: &str| text.as_bytes().to_vec();
    all.push(("another method", raw("PUT /webhook HTTP/1.0\r\n\r\n")));
    all.push((
        "another path",
        raw("POST /../../etc HTTP/1.0\r\nContent-Length: 0\r\n\r\n"),
    ));
    all.push(("an unknown tenant", raw("POST /webhook/x%00y HTTP/1.0\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}")));
    all.push(("no HTTP", raw("\x16\x03\x01\x02\x00\x01\x00\x01\r\n\r\n")));
    all.push((
        "two lengths",
        raw(
            "POST /webhook HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx",
        ),
    ));
    all.push((
        "a negative length",
        raw("POST /webhook HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n"),
    ));
    let head = format!(
        "GET / HTTP/1.1\r\nHost: x\r\nX: {}\r\n\r\n",
        "y".repeat(64 << 10)
    );
    all.push(("a long head", head.into_bytes()));
    let chunk = "POST /webhook HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n";
    all.push(("chunks that are none", raw(chunk)));
    all
}

fn post(kind: &str, body: &[u8]) -> Vec<u8> {
    let length = body.len();
    let head = format!(
        "POST /webhook HTTP/1.0\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n\r\n"
    );
    [head.as_bytes(), body].concat()
}

/// The answer's status; 0 where the connection was closed without one.
fn exchange(address: SocketAddr, bytes: &[u8]) -> anyhow::Result<u16> {
    let mut stream = TcpStream::connect_timeout(&address, WITHIN)?;
    stream.set_read_timeout(Some(WITHIN))?;
    stream.set_write_timeout(Some(WITHIN))?;
    // Whoever is refused early may find the connection closed: the answer counts.
    stream.write_all(bytes).unwrap_or_default();
    let mut answer = [0; 32];
    let mut got = 0;
    while got < 12 {
        match stream.read(&mut answer[got..]) {
            Ok(0) => break,
            Ok(n) => got += n,
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => break,
            Err(error) => return Err(error.into()),
        }
    }
    let text = String::from_utf8_lossy(&answer[..got]).into_owned();
    let status = text.split_whitespace().nth(1);
    Ok(status.and_then(|status| status.parse().ok()).unwrap_or(0))
}
