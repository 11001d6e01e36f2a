//! The built-in load: open loop, constant rate.
//!
//! A request is due at a fixed time whether or not earlier ones have been answered, and its latency
//! counts from then: a client that is held up by a slow answer does not leave out the requests that
//! it would have sent meanwhile (coordinated omission).

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    sync::{
        Arc, Condvar, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::Context;

use super::slo::Request;

/// Requests under way at once: all that come within a timeout at the usual 20 a second.
const CLIENTS: usize = 48;
/// A slower answer is an error.
pub const TIMEOUT: Duration = Duration::from_secs(2);
/// Requests remembered; a run is shorter.
const REQUESTS_MAX: usize = 1_000_000;

/// A running load.
pub struct Driver {
    shared: Arc<Shared>,
    clients: Vec<JoinHandle<()>>,
}

struct Shared {
    address: SocketAddr,
    begun: Instant,
    every: Duration,
    next: AtomicUsize,
    stop: Mutex<bool>,
    stopped: Condvar,
    trace: String,
    /// By number; `None` = under way.
    results: Mutex<Vec<Option<Request>>>,
}

impl Driver {
    /// Begins at once, at `rate_per_s`. Every request carries `trace` as its `traceparent`.
    pub fn start(address: SocketAddr, rate_per_s: f64, trace: &str) -> Self {
        let shared = Arc::new(Shared {
            address,
            begun: Instant::now(),
            every: Duration::from_secs_f64(1.0 / rate_per_s),
            next: AtomicUsize::new(0),
            stop: Mutex::new(false),
            stopped: Condvar::new(),
            trace: trace.to_owned(),
            results: Mutex::new(Vec::new()),
        });
        let clients = (0..CLIENTS)
            .map(|_| {
                let shared = shared.clone();
                thread::spawn(move || shared.client())
            })
            .collect();
        Self { shared, clients }
    }

    /// When it began; [`Request::at_s`] counts from here.
    pub fn begun(&self) -> Instant {
        self.shared.begun
    }

    /// What has been answered so far without a gap, in the order in which it was due.
    pub fn answered(&self) -> Vec<Request> {
        let results = self.shared.results();
        results.iter().map_while(|request| *request).collect()
    }

    /// Ends the load and waits for what is under way.
    pub fn stop(mut self) -> Vec<Request> {
        self.shared.end();
        for client in self.clients.drain(..) {
            if client.join().is_err() {
                eprintln!("a client of the load panicked");
            }
        }
        self.answered()
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.shared.end();
    }
}

impl Shared {
    fn results(&self) -> std::sync::MutexGuard<'_, Vec<Option<Request>>> {
        self.results.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn end(&self) {
        *self.stop.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.stopped.notify_all();
    }

    /// Waits until then; whether it was told to stop meanwhile.
    fn stopped_before(&self, due: Instant) -> bool {
        let mut stop = self.stop.lock().unwrap_or_else(PoisonError::into_inner);
        while !*stop {
            let left = due.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            (stop, _) = self
                .stopped
                .wait_timeout(stop, left)
                .unwrap_or_else(PoisonError::into_inner);
        }
        true
    }

    fn client(&self) {
        let mut connection = None;
        loop {
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            if number >= REQUESTS_MAX {
                return;
            }
            let at = self
                .every
                .saturating_mul(u32::try_from(number).unwrap_or(u32::MAX));
            let due = self.begun + at;
            if self.stopped_before(due) {
                return;
            }
            let status = self.ask(&mut connection, due);
            let request = Request {
                at_s: at.as_secs_f64(),
                took_ms: due.elapsed().as_secs_f64() * 1e3,
                ok: matches!(status, Ok(200)),
            };
            if status.is_err() {
                connection = None;
            }
            let mut results = self.results();
            if results.len() <= number {
                results.resize(number + 1, None);
            }
            results[number] = Some(request);
        }
    }

    /// One request on a kept connection, until [`TIMEOUT`] after it was due.
    fn ask(&self, kept: &mut Option<BufReader<TcpStream>>, due: Instant) -> anyhow::Result<u16> {
        let left = TIMEOUT
            .checked_sub(due.elapsed())
            .filter(|left| !left.is_zero())
            .context("too late to be sent")?;
        let connection = if let Some(connection) = kept {
            connection
        } else {
            let stream = TcpStream::connect_timeout(&self.address, left)?;
            stream.set_nodelay(true)?;
            kept.insert(BufReader::new(stream))
        };
        connection.get_ref().set_read_timeout(Some(left))?;
        connection.get_ref().set_write_timeout(Some(left))?;
        let head = format!(
            "GET / HTTP/1.1\r\nHost: {}\r\ntraceparent: {}\r\n\r\n",
            self.address, self.trace
        );
        connection.get_mut().write_all(head.as_bytes())?;
        answer(connection)
    }
}

/// Reads one answer whole; its status.
fn answer(connection: &mut impl BufRead) -> anyhow::Result<u16> {
    let mut line = String::new();
    connection.read_line(&mut line)?;
    let status = line
        .split_whitespace()
        .nth(1)
        .and_then(|code| code.parse().ok())
        .context("not a status line")?;
    let mut length = 0;
    loop {
        line.clear();
        anyhow::ensure!(connection.read_line(&mut line)? > 0, "cut off in its head");
        let text = line.trim_end();
        if text.is_empty() {
            break;
        }
        if let Some((name, value)) = text.split_once(':')
            && name.eq_ignore_ascii_case("content-length")
        {
            length = value.trim().parse().context("not a length")?;
        }
    }
    std::io::copy(&mut connection.take(length), &mut std::io::sink())?;
    Ok(status)
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn a_stall_of_the_server_counts_for_every_request_that_was_due_meanwhile() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        // Answers nobody for 400 ms, then everybody at once.
        let opens = Instant::now() + Duration::from_millis(400);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                thread::spawn(move || {
                    thread::sleep(opens.saturating_duration_since(Instant::now()));
                    let mut reader = BufReader::new(stream);
                    let mut line = String::new();
                    while reader.read_line(&mut line).is_ok_and(|n| n > 0) {
                        if line == "\r\n" {
                            let ok = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
                            if reader.get_mut().write_all(ok).is_err() {
                                return;
                            }
                        }
                        line.clear();
                    }
                });
            }
        });
        let driver = Driver::start(address, 100.0, "00-0-0-00");
        thread::sleep(Duration::from_millis(1500));
        let requests = driver.stop();
        // A closed loop would have one slow request; here some 40 were due while it stood still.
        let slow = |bound: f64| requests.iter().filter(|r| r.took_ms >= bound).count();
        assert!(slow(100.0) >= 20, "{}", slow(100.0));
        assert!(requests[0].took_ms >= 200.0, "{:?}", requests[0]);
        assert!(requests.iter().all(|request| request.ok));
        let spaced = requests[10].at_s - requests[9].at_s;
        assert!((spaced - 0.01).abs() < 1e-9);
    }

    #[test]
    fn an_answer_is_read_to_its_end() {
        let mut two =
            "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabcHTTP/1.1 503 No\r\n\r\n".as_bytes();
        assert_eq!(answer(&mut two).unwrap(), 200);
        assert_eq!(answer(&mut two).unwrap(), 503);
        assert!(answer(&mut two).is_err());
    }
}
