//! A Prometheus that is dead, slow or lying, whichever is asked of it. It answers `query_range` only, and
//! looks at every question: a label's value must stand in a string.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::Context;

use crate::schedule::MARKER;

/// How it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// It has nothing to say.
    Empty,
    /// One series with plausible values.
    Plausible,
    /// It hangs up at once.
    Dead,
    /// It takes longer than anybody waits.
    Slow,
    /// 500, with a page of HTML.
    Broken,
    /// 200, and not JSON.
    Garbage,
    /// Less than it announced.
    Cut,
    /// Values that are no numbers, times that go back, lengths that differ.
    Lying,
    /// Another kind of result.
    WrongType,
    /// An answer without an end.
    Endless,
    /// Elsewhere.
    Redirect,
}

impl Mode {
    pub const ALL: [Self; 11] = [
        Self::Empty,
        Self::Plausible,
        Self::Dead,
        Self::Slow,
        Self::Broken,
        Self::Garbage,
        Self::Cut,
        Self::Lying,
        Self::WrongType,
        Self::Endless,
        Self::Redirect,
    ];
}

/// Longest head and body of a question.
const QUESTION_BYTES_MAX: u64 = 64 << 10;
/// What it sends at most where it does not end.
const ENDLESS_BYTES: usize = 16 << 20;
/// Longer than the agent waits for an answer.
const SLOW: Duration = Duration::from_millis(1_500);

#[derive(Debug)]
struct State {
    mode: Mutex<Mode>,
    stop: AtomicBool,
    /// Questions in which a label's value was not data.
    escaped: Mutex<Vec<String>>,
}

/// Serves until it is dropped.
#[derive(Debug)]
pub struct Prometheus {
    address: SocketAddr,
    state: Arc<State>,
    serving: Option<JoinHandle<()>>,
}

impl Prometheus {
    pub fn start() -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").context("no port for a Prometheus")?;
        let address = listener.local_addr()?;
        let state = Arc::new(State {
            mode: Mutex::new(Mode::Empty),
            stop: AtomicBool::new(false),
            escaped: Mutex::default(),
        });
        let own = state.clone();
        let serving = thread::spawn(move || {
            for stream in listener.incoming() {
                if own.stop.load(Ordering::Relaxed) {
                    return;
                }
                let Ok(stream) = stream else { continue };
                let state = own.clone();
                // What becomes of one connection is no concern of ours.
                thread::spawn(move || answer(&state, stream).unwrap_or_default());
            }
        });
        Ok(Self {
            address,
            state,
            serving: Some(serving),
        })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn set(&self, mode: Mode) {
        let mut current = self.state.mode.lock();
        *current.as_deref_mut().unwrap_or(&mut Mode::Empty) = mode;
    }

    /// Questions in which a label's value was not data.
    pub fn escaped(&self) -> Vec<String> {
        let escaped = self.state.escaped.lock();
        escaped.unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        self.state.stop.store(true, Ordering::Relaxed);
        // Wakes it.
        drop(TcpStream::connect(self.address));
        if let Some(serving) = self.serving.take() {
            serving.join().unwrap_or_default();
        }
    }
}

fn answer(state: &State, mut stream: TcpStream) -> std::io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    stream.set_write_timeout(Some(Duration::from_secs(5)))?;
    let mode = *state.mode.lock().unwrap_or_else(PoisonError::into_inner);
    if mode == Mode::Dead {
        return Ok(());
    }
    let question = question(&mut stream)?;
    for query in queries(&question) {
        if !is_data(&query) {
            let mut escaped = state.escaped.lock().unwrap_or_else(PoisonError::into_inner);
            escaped.push(query);
        }
    }
    let json = |body: &str| head("200 OK", "Content-Type: application/json", body.len()) + body;
    let matrix = |values: &str| {
        json(&format!(
            "{{\"status\":\"success\",\"data\":{{\"resultType\":\"matrix\",\"result\":[{values}]}}}}"
        ))
    };
    let now = jiff::Timestamp::now().as_second();
    let text = match mode {
        Mode::Empty | Mode::Dead => matrix(""),
        Mode::Plausible => {
            let (before, last) = (now - 30, now);
            matrix(&format!(
                "{{\"metric\":{{}},\"values\":[[{before},\"0.5\"],[{last},\"3.5\"]]}}"
            ))
        }
        Mode::Slow => {
            thread::sleep(SLOW);
            matrix("")
        }
        Mode::Broken => {
            let body = "<html>500</html>";
            head(
                "500 Internal Server Error",
                "Content-Type: text/html",
                body.len(),
            ) + body
        }
        Mode::Garbage => json("}{ not json \u{1F525}"),
        Mode::Cut => head("200 OK", "Content-Type: application/json", 4096) + "{\"status\":\"succ",
        Mode::Lying => matrix(&format!(
            "{{\"metric\":{{\"__name__\":\"up\",\"x\":\"1\"}},\"values\":[[{now},\"NaN\"],[1,\"+Inf\"],\
             [{now},\"-1e308\"],[{},\"1e400\"]]}},{{\"metric\":{{}},\"values\":[]}}",
            now + 86_400
        )),
        Mode::WrongType => json(
            "{\"status\":\"success\",\"data\":{\"resultType\":\"vector\",\"result\":[{\"metric\":{},\
             \"value\":[1,\"1\"]}]}}",
        ),
        Mode::Endless => {
            let head = head("200 OK", "Content-Type: application/json", ENDLESS_BYTES);
            stream.write_all(head.as_bytes())?;
            let chunk = vec![b' '; 64 << 10];
            for _ in 0..ENDLESS_BYTES / chunk.len() {
                stream.write_all(&chunk)?;
            }
            return Ok(());
        }
        Mode::Redirect => head("302 Found", "Location: http://127.0.0.1:1/elsewhere", 0),
    };
    stream.write_all(text.as_bytes())
}

fn head(status: &str, header: &str, length: usize) -> String {
    format!(
        "HTTP/1.1 {status}\r\n{header}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
    )
}

/// Head and body.
fn question(stream: &mut TcpStream) -> std::io::Result<Vec<u8>> {
    let mut all = Vec::new();
    let mut part = [0; 4096];
    while (all.len() as u64) < QUESTION_BYTES_MAX {
        let text = String::from_utf8_lossy(&all).to_ascii_lowercase();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|line| {
                line.strip_prefix("content-length:")?
                    .trim()
                    .parse::<usize>()
                    .ok()
            });
            if body.len() >= length.unwrap_or(0) {
                break;
            }
        }
        match stream.read(&mut part)? {
            0 => break,
            n => all.extend_from_slice(&part[..n]),
        }
    }
    Ok(all)
}

/// The values of all parameters `query`, of the target and of the body.
fn queries(question: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(question);
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    let target = head.split_whitespace().nth(1).unwrap_or_default();
    let query = target.split_once('?').map_or("", |(_, query)| query);
    let parameters = query.split('&').chain(body.split('&'));
    parameters
        .filter_map(|parameter| parameter.strip_prefix("query="))
        .map(decode)
        .collect()
}

fn decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let hex = text
            .get(at + 1..at + 3)
            .and_then(|digits| u8::from_str_radix(digits, 16).ok());
        match (bytes[at], hex) {
            (b'%', Some(byte)) => {
                out.push(byte);
                at += 3;
                continue;
            }
            (b'+', _) => out.push(b' '),
            (byte, _) => out.push(byte),
        }
        at += 1;
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// Whether every marker of the query stands within a quoted string.
fn is_data(query: &str) -> bool {
    let mut quote: Option<char> = None;
    let mut escaped = false;
    for (at, letter) in query.char_indices() {
        if query[at..].starts_with(MARKER) && quote.is_none() {
            return false;
        }
        match quote {
            Some(_) if escaped => escaped = false,
            // A raw string knows no escapes.
            Some(open) if letter == '\\' && open != '`' => escaped = true,
            Some(open) if letter == open => quote = None,
            None if matches!(letter, '"' | '\'' | '`') => quote = Some(letter),
            _ => {}
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::{decode, is_data, queries};

    #[test]
    fn a_marker_outside_a_string_is_seen() {
        assert!(is_data(r#"up{instance="a\"chaosmark"}"#));
        assert!(is_data("up{instance=`chaosmark\\`}"));
        assert!(!is_data(r#"up{instance="a"} or chaosmark"#));
        assert!(!is_data(r#"up{instance="a\\"chaosmark"}"#));
    }

    #[test]
    fn questions_are_read_from_target_and_body() {
        let question = b"POST /api/v1/query_range?query=a%22b+c HTTP/1.1\r\n\r\nstart=1&query=up";
        assert_eq!(queries(question), ["a\"b c", "up"]);
        assert_eq!(decode("%zz%"), "%zz%");
    }
}
