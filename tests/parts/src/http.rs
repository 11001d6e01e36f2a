//! A small blocking HTTP client for tests: HTTP/1.0, so that a body ends where the connection does.

use std::{
    collections::BTreeSet,
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context, bail};

/// For connecting, and for each read and write.
const TIMEOUT: Duration = Duration::from_secs(10);
/// A body longer than this is an error.
const BODY_BYTES_MAX: u64 = 64 << 20;

/// An answer.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// The body; bytes that are not UTF-8 are replaced.
    pub body: String,
}

impl Answer {
    /// The body of a 200; anything else is an error that shows it.
    pub fn ok(self) -> anyhow::Result<String> {
        if self.status != 200 {
            bail!("status {}: {}", self.status, self.body.trim());
        }
        Ok(self.body)
    }

    /// The JSON body of a 200.
    pub fn json(self) -> anyhow::Result<serde_json::Value> {
        let body = self.ok()?;
        serde_json::from_str(&body).with_context(|| format!("not JSON: {body}"))
    }
}

/// GET; `path` begins with a slash and is sent as it is.
pub fn get(address: SocketAddr, path: &str) -> anyhow::Result<Answer> {
    request(address, "GET", path, &[], "")
}

/// POST of a JSON body.
pub fn post_json(address: SocketAddr, path: &str, body: &str) -> anyhow::Result<Answer> {
    request(
        address,
        "POST",
        path,
        &[("Content-Type", "application/json")],
        body,
    )
}

/// Any request.
pub fn request(
    address: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> anyhow::Result<Answer> {
    exchange(address, method, path, headers, body)
        .with_context(|| format!("{method} http://{address}{path}"))
}

fn exchange(
    address: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> anyhow::Result<Answer> {
    let mut stream = TcpStream::connect_timeout(&address, TIMEOUT)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    let headers: String = headers
        .iter()
        .flat_map(|(name, value)| [*name, ": ", *value, "\r\n"])
        .collect();
    let length = body.len();
    let head = format!(
        "{method} {path} HTTP/1.0\r\nHost: {address}\r\n{headers}Content-Length: {length}\r\n\r\n"
    );
    stream.write_all(head.as_bytes())?;
    // A server that refuses early may close before it has read everything: its answer counts.
    let sent = stream.write_all(body.as_bytes());
    let mut answer = Vec::new();
    let read = stream.take(BODY_BYTES_MAX).read_to_end(&mut answer);
    if answer.is_empty() {
        sent?;
        read?;
        bail!("closed without an answer");
    }
    parse(&answer)
}

fn parse(answer: &[u8]) -> anyhow::Result<Answer> {
    let text = String::from_utf8_lossy(answer);
    let (head, body) = text
        .split_once("\r\n\r\n")
        .context("an answer without an end of head")?;
    let status = head
        .split_whitespace()
        .nth(1)
        .and_then(|code| code.parse().ok())
        .with_context(|| format!("not a status line: {head}"))?;
    Ok(Answer {
        status,
        body: body.to_owned(),
    })
}

/// A free port on loopback. Nobody holds it: the part that it is for must take it soon. The same
/// port is never given twice to one program.
pub fn free_address() -> anyhow::Result<SocketAddr> {
    static GIVEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());
    for _ in 0..100 {
        let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let mut given = GIVEN.lock().unwrap_or_else(PoisonError::into_inner);
        if given.insert(address.port()) {
            return Ok(address);
        }
    }
    bail!("no free port on loopback")
}

/// Percent-encodes a value for a query string.
pub fn encode(value: &str) -> String {
    value
        .bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                char::from(byte).to_string()
            }
            _ => format!("%{byte:02X}"),
        })
        .collect()
}
