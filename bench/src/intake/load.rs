//! Requests as Alertmanager sends them, over connections that stay open.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use hdrhistogram::Histogram;
use serde::Serialize;
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
};

/// One slice of one server.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(super) struct Slice {
    pub(super) acknowledged: u64,
    pub(super) refused: u64,
    #[serde(skip)]
    pub(super) warm_up: u64,
    pub(super) requests_per_s: f64,
    pub(super) alerts_per_s: f64,
    pub(super) p50_us: f64,
    pub(super) p99_us: f64,
    pub(super) rss_mib: f64,
    /// CPU time of the server a request, warm-up included.
    pub(super) cpu_us: f64,
}

/// What to send.
pub(super) struct Load {
    pub(super) address: SocketAddr,
    pub(super) connections: usize,
    pub(super) alerts: usize,
    pub(super) slice_ms: u64,
}

/// Time in which connections and caches settle, not counted.
const WARM_UP: Duration = Duration::from_millis(300);

/// Fingerprints never recur, whatever the slice.
static NEXT: AtomicU64 = AtomicU64::new(1);

impl Load {
    pub(super) async fn run(&self) -> anyhow::Result<Slice> {
        let template = Arc::new(Template::new(self.alerts));
        let from = Instant::now() + WARM_UP;
        let until = from + Duration::from_millis(self.slice_ms);
        let mut senders = JoinSet::new();
        for _ in 0..self.connections {
            senders.spawn(sender(self.address, template.clone(), from, until));
        }
        let mut latencies = histogram()?;
        let mut slice = Slice::default();
        while let Some(ended) = senders.join_next().await {
            let (own, refused, warm_up) = ended??;
            latencies.add(own)?;
            slice.refused += refused;
            slice.warm_up += warm_up;
        }
        let seconds = self.slice_ms as f64 / 1e3;
        slice.acknowledged = latencies.len();
        slice.requests_per_s = slice.acknowledged as f64 / seconds;
        slice.alerts_per_s = slice.requests_per_s * self.alerts as f64;
        slice.p50_us = latencies.value_at_quantile(0.5) as f64 / 1e3;
        slice.p99_us = latencies.value_at_quantile(0.99) as f64 / 1e3;
        Ok(slice)
    }
}

fn histogram() -> anyhow::Result<Histogram<u64>> {
    Ok(Histogram::new_with_max(60_000_000_000, 3)?)
}

/// Sends one request after another; latencies of those answered 200 within the slice.
async fn sender(
    address: SocketAddr,
    template: Arc<Template>,
    from: Instant,
    until: Instant,
) -> anyhow::Result<(Histogram<u64>, u64, u64)> {
    let mut stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let mut request = template.bytes.clone();
    let mut answer = Vec::with_capacity(4096);
    let (mut latencies, mut refused, mut warm_up) = (histogram()?, 0, 0);
    while Instant::now() < until {
        template.number(&mut request);
        let begun = Instant::now();
        stream.write_all(&request).await?;
        let status = read_answer(&mut stream, &mut answer).await?;
        let ended = Instant::now();
        if ended < from || ended > until {
            warm_up += 1;
            continue;
        }
        if status == 200 {
            latencies.saturating_record(u64::try_from((ended - begun).as_nanos())?);
        } else {
            refused += 1;
        }
    }
    Ok((latencies, refused, warm_up))
}

/// Reads one answer with a Content-Length to its end; its status.
async fn read_answer(stream: &mut TcpStream, answer: &mut Vec<u8>) -> anyhow::Result<u16> {
    answer.clear();
    loop {
        if stream.read_buf(answer).await? == 0 {
            bail!("the server hung up");
        }
        let Some(head) = answer.windows(4).position(|end| end == b"\r\n\r\n") else {
            continue;
        };
        let text = std::str::from_utf8(&answer[..head])?;
        let length: usize = text
            .lines()
            .find_map(|line| {
                let (name, value) = line.split_once(':')?;
                name.eq_ignore_ascii_case("content-length")
                    .then(|| value.trim().parse().ok())?
            })
            .context("an answer without its length")?;
        if answer.len() >= head + 4 + length {
            return text
                .get(9..12)
                .and_then(|status| status.parse().ok())
                .context("an answer without a status");
        }
    }
}

/// A request with places for fingerprints.
struct Template {
    bytes: Vec<u8>,
    places: Vec<usize>,
}

const PLACE: &str = "ffffffffffffffff";

impl Template {
    /// What Alertmanager 0.25 sent for one CPU alert, that alert so many times.
    fn new(alerts: usize) -> Self {
        let labels = json!({ "alertname": "HighCpu", "instance": "127.0.0.1:19100",
            "severity": "critical", "tenant": "a" });
        let summary = json!({ "summary": "cpu 1.5500000000000025" });
        let alert = json!({
            "status": "firing", "labels": labels, "annotations": summary,
            "startsAt": "2026-11-23T09:39:30.119Z", "endsAt": "0001-01-01T00:00:00Z",
            "generatorURL": "http://vm:19090/graph?g0.expr=sum+by+%28instance%29+%28rate%28node_cpu_seconds_total%7Bmode%21%3D%22idle%22%7D%5B5s%5D%29%29+%3E+1.5&g0.tab=1",
            "fingerprint": PLACE,
        });
        let body = json!({
            "receiver": "w", "status": "firing", "alerts": vec![alert; alerts],
            "groupLabels": { "alertname": "HighCpu" }, "commonLabels": labels,
            "commonAnnotations": summary, "externalURL": "http://vm:19093", "version": "4",
            "groupKey": "{}:{alertname=\"HighCpu\"}", "truncatedAlerts": 0,
        })
        .to_string();
        let request = format!(
            "POST /webhook HTTP/1.1\r\nHost: paramedic\r\nUser-Agent: Alertmanager/0.25.0\r\n\
             Content-Length: {}\r\nContent-Type: application/json\r\n\r\n{body}",
            body.len()
        );
        let places = request.match_indices(PLACE).map(|(at, _)| at).collect();
        Self {
            bytes: request.into_bytes(),
            places,
        }
    }

    /// Other alerts than ever before.
    fn number(&self, request: &mut [u8]) {
        let many = self.places.len() as u64;
        let first = NEXT.fetch_add(many, Ordering::Relaxed);
        for (n, at) in (first..).zip(&self.places) {
            // An odd factor is a bijection: hashes spread as real fingerprints do.
            let text = format!("{:016x}", n.wrapping_mul(0x9e37_79b9_7f4a_7c15));
            request[*at..at + PLACE.len()].copy_from_slice(text.as_bytes());
        }
    }
}
