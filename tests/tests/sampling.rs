//! Sampling against the real Prometheus; servers of the test's own only for the faults that
//! Prometheus does not give.

#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests, which clippy does not take for tests"
)]

#[path = "sampling/again.rs"]
mod again;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use axum::{
    Router,
    extract::Request,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use jiff::Timestamp;
use paramedic::{
    clock::SystemClock,
    incident::{Alert, AlertStatus, Fingerprint, SeriesQuery, TraceContext},
    sampling::{Sampled, Sampler, SamplingConfig},
};
use paramedic_tests::{Prometheus, Scrape};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    runtime::Runtime,
};

const TRACEPARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
const WITHIN: Duration = Duration::from_secs(30);

fn config(url: &str) -> SamplingConfig {
    SamplingConfig {
        prometheus_url: Some(url.to_owned()),
        baseline_s: 10,
        // Each question is asked and only its own answer counts, unless a test is about that.
        cache_ms: 0,
        last_good_s: 0,
        ..SamplingConfig::default()
    }
}

fn sampler(config: &SamplingConfig) -> Sampler {
    Sampler::new(config, SystemClock::shared()).unwrap()
}

fn query(name: &str, promql: &str) -> SeriesQuery {
    SeriesQuery {
        name: name.to_owned(),
        promql_template: promql.to_owned(),
    }
}

/// An alert on this instance.
fn alert(instance: &str, starts_at: Timestamp) -> Alert {
    let labels = BTreeMap::from([("instance".to_owned(), instance.to_owned())]);
    Alert {
        status: AlertStatus::Firing,
        fingerprint: Fingerprint::of(&labels),
        labels,
        annotations: BTreeMap::new(),
        starts_at,
        ends_at: None,
    }
}

async fn sample(sampler: &Sampler, queries: &[SeriesQuery], instance: &str) -> Sampled {
    let trace = TraceContext::parse(TRACEPARENT).unwrap();
    // A whole second, so that the grid's length does not depend on the moment of the test.
    let now = Timestamp::from_second(now_s() + 1).unwrap();
    sampler
        .sample(queries, &alert(instance, now), now, &trace)
        .await
}

/// Serves every path by one function, for as long as the runtime lives.
fn serve<F, Fut, R>(runtime: &Runtime, handler: F) -> SocketAddr
where
    F: Fn(Request) -> Fut + Clone + Send + Sync + 'static,
    Fut: Future<Output = R> + Send,
    R: IntoResponse + 'static,
{
    let listener = runtime
        .block_on(tokio::net::TcpListener::bind("127.0.0.1:0"))
        .unwrap();
    let address = listener.local_addr().unwrap();
    let router = Router::new().fallback(handler);
    runtime.spawn(async move { axum::serve(listener, router).await.unwrap() });
    address
}

/// An answer as Prometheus gives it: one series with a value at each of these moments.
fn matrix(moments: impl IntoIterator<Item = i64>) -> Response {
    let values: Vec<_> = moments
        .into_iter()
        .map(|at| format!(r#"[{at},"7"]"#))
        .collect();
    let values = values.join(",");
    let body = format!(
        r#"{{"status":"success","data":{{"resultType":"matrix","result":[{{"metric":{{}},"values":[{values}]}}]}}}}"#
    );
    ([(header::CONTENT_TYPE, "application/json")], body).into_response()
}

fn now_s() -> i64 {
    Timestamp::now().as_second()
}

/// Values that try everything, and then some more by chance (the same chance each time).
fn hostile_values() -> Vec<String> {
    let mut values: BTreeSet<String> = [
        r#"x"} or hostile{instance!=""#,
        "x\"}\n or hostile #",
        r"back\slash\",
        r#"\" or hostile{a="\"#,
        "line\nfeed\rand\ttab",
        ".*",
        "web[0-9]+|.+",
        "(?i)WEB",
        "^$",
        "{{instance}}",
        "}}",
        "`tick`",
        "'single'",
        "# no comment",
        "\u{fffd}",
        "\u{1}\u{7f}\u{85}",
        "日本語 \u{202e} 🚑",
        "web:9100",
    ]
    .map(str::to_owned)
    .into();
    let alphabet: Vec<char> = "\"\\\n'`{}()[]|.*+?^$=~!#, aZ0é\u{fffd}".chars().collect();
    let mut state: u64 = 0x9e37_79b9_7f4a_7c15;
    while values.len() < 150 {
        let mut value = String::new();
        for _ in 0..=(state % 12) {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            let at = usize::try_from(state >> 33).unwrap() % alphabet.len();
            value.push(alphabet[at]);
        }
        values.insert(value);
    }
    values.into_iter().collect()
}

/// The text format's own escapes.
fn exposed(value: &str) -> String {
    value
        .replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}

#[test]
fn every_label_value_selects_its_own_series_and_no_other() {
    let runtime = Runtime::new().unwrap();
    let values = hostile_values();
    let mut page = String::new();
    for (n, value) in values.iter().enumerate() {
        writeln!(page, "hostile{{instance=\"{}\"}} {n}", exposed(value)).unwrap();
    }
    let exporter = serve(&runtime, move |_| {
        let page = page.clone();
        async move { page }
    });
    let mut prometheus = Prometheus::builder()
        .scrape(Scrape::new("hostile", exporter))
        .start()
        .unwrap();
    let all = format!("count(hostile) == {}", values.len());
    prometheus.wait_for(&all, WITHIN).unwrap();

    let stage = sampler(&config(&prometheus.url()));
    let queries = [
        query("equal", "hostile{instance={{instance}}}"),
        query("matches", "hostile{instance=~{{instance}},job=\"hostile\"}"),
        query("others", "count(hostile{instance!={{instance}}})"),
        query("rest", "count(hostile{instance!~{{instance}}})"),
    ];
    runtime.block_on(async {
        for (n, value) in values.iter().enumerate() {
            let sampled = sample(&stage, &queries, value).await;
            let last: Vec<_> = sampled
                .series
                .iter()
                .map(|series| (series.name.as_str(), *series.values.last().unwrap()))
                .collect();
            let (own, others) = (Some(n as f64), Some((values.len() - 1) as f64));
            let wanted = [
                ("equal", own),
                ("matches", own),
                ("others", others),
                ("rest", others),
            ];
            assert_eq!(last, wanted, "{value:?}: {:?}", sampled.gaps);
            assert_eq!(&sampled.series[0].labels["instance"], value);
            assert!(sampled.coverage.complete, "{:?}", sampled.coverage);
        }
        // What nobody exposes selects nothing, whatever it says.
        for absent in [
            r#"y"} or hostile{instance!=""#,
            "y|.*",
            "y\"} or vector(1) #",
        ] {
            let sampled = sample(&stage, &queries[..2], absent).await;
            assert_eq!(sampled.series, [], "{absent:?}");
            assert_eq!(sampled.gaps.len(), 2);
            assert!(
                sampled.gaps[0].why.contains("no such series"),
                "{:?}",
                sampled.gaps
            );
        }
    });
}

#[test]
fn what_is_not_there_is_a_gap_on_the_common_grid() {
    let runtime = Runtime::new().unwrap();
    let gone = Arc::new(AtomicBool::new(false));
    let seen = gone.clone();
    let exporter = serve(&runtime, move |_| {
        let more = if seen.load(Ordering::SeqCst) {
            ""
        } else {
            "vanishing 3\n"
        };
        let page = format!("steady 1\nodd NaN\nendless +Inf\n{more}");
        async move { page }
    });
    let mut prometheus = Prometheus::builder()
        .scrape(Scrape::new("own", exporter))
        .start()
        .unwrap();
    prometheus
        .wait_for("count_over_time(vanishing[1m]) >= 3", WITHIN)
        .unwrap();
    gone.store(true, Ordering::SeqCst);
    prometheus.wait_for("absent(vanishing)", WITHIN).unwrap();
    // Whole seconds are asked for: let one of them begin after the disappearance.
    std::thread::sleep(Duration::from_millis(1100));

    let config = SamplingConfig {
        baseline_s: 59,
        ..config(&prometheus.url())
    };
    let stage = sampler(&config);
    let queries = [
        query("steady", "steady"),
        query("vanishing", "vanishing"),
        query("odd", "odd"),
        query("endless", "endless"),
        query("typo", "sum(steady"),
        query("unlabelled", "steady{zone={{zone}}}"),
        query("number", "42"),
    ];
    let sampled = runtime.block_on(sample(&stage, &queries, "x"));
    let by_name = |name: &str| {
        sampled
            .series
            .iter()
            .find(|series| series.name == name)
            .unwrap()
    };
    let (steady, vanishing) = (by_name("steady"), by_name("vanishing"));
    assert_eq!((steady.step_s, steady.values.len()), (1, 60));
    assert_eq!(steady.values[0], None, "before Prometheus was there");
    assert_eq!(*steady.values.last().unwrap(), Some(1.0));
    assert_eq!(steady.start_s, vanishing.start_s);
    assert_eq!(
        *vanishing.values.last().unwrap(),
        None,
        "stale at once, not after minutes"
    );
    assert!(vanishing.values.contains(&Some(3.0)));
    assert!(
        by_name("number")
            .values
            .iter()
            .all(|value| *value == Some(42.0))
    );
    let why = |name: &str| {
        let gap = sampled.gaps.iter().find(|gap| gap.name == name);
        gap.unwrap_or_else(|| panic!("no gap {name}")).why.clone()
    };
    assert!(why("odd").contains("NaN"));
    assert!(why("endless").contains("infinite"));
    assert!(
        why("typo").contains("400") && why("typo").contains("parse error"),
        "{}",
        why("typo")
    );
    assert!(why("unlabelled").contains("no label \"zone\""));
    assert_eq!(sampled.series.len(), 3);
    assert!(!sampled.coverage.complete, "one query was refused");
    assert!(
        sampled.coverage.note.starts_with("5 of 6 queries answered"),
        "{:?}",
        sampled.coverage
    );
}

#[test]
fn a_dead_prometheus_costs_little_and_after_three_failures_nothing() {
    let runtime = Runtime::new().unwrap();
    let mut prometheus = Prometheus::builder().start().unwrap();
    let config = SamplingConfig {
        breaker_open_ms: 60_000,
        ..config(&prometheus.url())
    };
    let stage = sampler(&config);
    let queries = [query("a", "vector(1)"), query("b", "vector(2)")];
    let sampled = runtime.block_on(sample(&stage, &queries, "x"));
    assert_eq!(sampled.series.len(), 2, "{:?}", sampled.gaps);

    prometheus.process().kill().unwrap();
    let begun = Instant::now();
    let sampled = runtime.block_on(sample(&stage, &queries, "x"));
    assert!(
        begun.elapsed() < Duration::from_secs(3),
        "{:?}",
        begun.elapsed()
    );
    assert_eq!((sampled.series.len(), sampled.gaps.len()), (0, 2));
    assert!(
        sampled.coverage.note.contains("0 of 2"),
        "{:?}",
        sampled.coverage
    );

    let begun = Instant::now();
    let sampled = runtime.block_on(sample(&stage, &queries, "x"));
    assert!(
        begun.elapsed() < Duration::from_millis(250),
        "{:?}",
        begun.elapsed()
    );
    let why = &sampled.gaps[0].why;
    assert!(
        why.contains("not asked") && why.contains("refused"),
        "{why}"
    );
}

#[test]
fn a_prometheus_that_hangs_costs_the_budget_and_no_more() {
    let runtime = Runtime::new().unwrap();
    let asked = Arc::new(AtomicUsize::new(0));
    let counter = asked.clone();
    let address = serve(&runtime, move |_| {
        counter.fetch_add(1, Ordering::SeqCst);
        async { std::future::pending::<StatusCode>().await }
    });
    let config = SamplingConfig {
        timeout_ms: 300,
        budget_ms: 500,
        concurrency_max: 2,
        breaker_failures_max: 100,
        ..config(&format!("http://{address}"))
    };
    let stage = sampler(&config);
    let queries: Vec<_> = (0..8).map(|n| query(&format!("q{n}"), "up")).collect();
    let begun = Instant::now();
    let sampled = runtime.block_on(sample(&stage, &queries, "x"));
    let took = begun.elapsed();
    assert!((450..3000).contains(&took.as_millis()), "{took:?}");
    assert_eq!(sampled.gaps.len(), 8);
    assert!(
        sampled.gaps[0]
            .why
            .contains("no answer from Prometheus within 300 ms")
    );
    assert!(
        sampled.gaps[7].why.contains("time for all queries"),
        "{}",
        sampled.gaps[7].why
    );
    let asked = asked.load(Ordering::SeqCst);
    assert!(
        (2..=4).contains(&asked),
        "{asked}: two at a time, no repetition"
    );
}

/// Answers one request without end; a gigabyte if nobody hangs up.
async fn endless(mut peer: tokio::net::TcpStream, sent: Arc<AtomicUsize>) {
    // An answer to a question not yet read would be no answer to it.
    let mut head = Vec::new();
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        if peer.read_buf(&mut head).await.unwrap_or(0) == 0 {
            return;
        }
    }
    let piece = vec![b' '; 64 << 10];
    if peer.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.is_err() {
        return;
    }
    for _ in 0..16 << 10 {
        if peer.write_all(&piece).await.is_err() {
            return;
        }
        sent.fetch_add(64 << 10, Ordering::SeqCst);
    }
}

#[test]
fn an_endless_answer_is_given_up() {
    let runtime = Runtime::new().unwrap();
    let listener = runtime
        .block_on(tokio::net::TcpListener::bind("127.0.0.1:0"))
        .unwrap();
    let address = listener.local_addr().unwrap();
    let sent = Arc::new(AtomicUsize::new(0));
    let counter = sent.clone();
    runtime.spawn(async move {
        // Every connection: a client may repeat its question.
        loop {
            let (peer, _) = listener.accept().await.unwrap();
            tokio::spawn(endless(peer, counter.clone()));
        }
    });
    let config = SamplingConfig {
        response_bytes_max: 1 << 20,
        ..config(&format!("http://{address}"))
    };
    let stage = sampler(&config);
    let begun = Instant::now();
    let sampled = runtime.block_on(sample(&stage, &[query("q", "up")], "x"));
    assert!(
        begun.elapsed() < Duration::from_secs(2),
        "{:?}",
        begun.elapsed()
    );
    assert!(
        sampled.gaps[0].why.contains("longer than 1048576 bytes"),
        "{:?}",
        sampled.gaps
    );
    assert!(!sampled.coverage.complete);
    // What was on the way in the sockets' buffers may be more than what was read.
    let sent = sent.load(Ordering::SeqCst);
    assert!(sent < 64 << 20, "{sent} bytes were taken");
}

#[test]
fn lies_are_seen_through() {
    let runtime = Runtime::new().unwrap();
    let elsewhere = Arc::new(AtomicUsize::new(0));
    let counter = elsewhere.clone();
    let other = serve(&runtime, move |_| {
        counter.fetch_add(1, Ordering::SeqCst);
        async { matrix([now_s()]) }
    });
    let address = serve(&runtime, move |request: Request| async move {
        let query = request.uri().query().unwrap_or_default().to_owned();
        let lie = |name: &str| query.contains(name);
        if lie("moved") {
            (
                StatusCode::FOUND,
                [(header::LOCATION, format!("http://{other}/"))],
            )
                .into_response()
        } else if lie("html") {
            "<html>welcome to the proxy</html>".into_response()
        } else if lie("error") {
            r#"{"status":"error","errorType":"internal","error":"\u001b[31mred"}"#.into_response()
        } else if lie("past") {
            matrix(0..1000)
        } else {
            matrix(now_s() - 100_000..now_s() + 100_000)
        }
    });
    let config = SamplingConfig {
        breaker_failures_max: 100,
        ..config(&format!("http://{address}"))
    };
    let stage = sampler(&config);
    let names = ["moved", "html", "error", "past", "too_much"];
    let queries = names.map(|name| query(name, name));
    let sampled = runtime.block_on(sample(&stage, &queries, "x"));
    let whys: Vec<_> = sampled.gaps.iter().map(|gap| gap.why.as_str()).collect();
    assert!(whys[0].contains("302"), "{whys:?}");
    assert_eq!(
        elsewhere.load(Ordering::SeqCst),
        0,
        "labels went to somebody else"
    );
    assert!(whys[1].contains("not an answer of Prometheus"), "{whys:?}");
    assert!(
        whys[2].contains("[31mred") && !whys[2].contains('\u{1b}'),
        "{whys:?}"
    );
    assert!(whys[3].contains("another time"), "{whys:?}");
    assert_eq!(whys.len(), 4, "{whys:?}");
    assert_eq!(sampled.series.len(), 1);
    assert_eq!(
        sampled.series[0].values.len(),
        11,
        "only what was asked for"
    );
}

#[test]
fn the_trace_goes_on_and_long_queries_go_into_the_body() {
    type Seen = (String, Option<String>, String, String);
    let runtime = Runtime::new().unwrap();
    let seen: Arc<Mutex<Vec<Seen>>> = Arc::default();
    let log = seen.clone();
    let address = serve(&runtime, move |request: Request| {
        let log = log.clone();
        async move {
            let (head, body) = request.into_parts();
            let body = axum::body::to_bytes(body, 1 << 20).await.unwrap();
            let text = |name: &str| {
                head.headers
                    .get(name)
                    .map(|v| v.to_str().unwrap().to_owned())
            };
            log.lock().unwrap().push((
                head.method.to_string(),
                text("traceparent"),
                head.uri.to_string(),
                String::from_utf8(body.to_vec()).unwrap(),
            ));
            matrix([now_s()])
        }
    });
    let stage = sampler(&config(&format!("http://{address}/prefix/")));
    let lengthy = format!("up{{a=\"{}\"}}", "b".repeat(4000));
    for promql in ["up{a={{instance}}}", lengthy.as_str()] {
        let sampled = runtime.block_on(sample(&stage, &[query("q", promql)], "c&d=e"));
        assert_eq!(sampled.series.len(), 1, "{:?}", sampled.gaps);
    }
    let seen = seen.lock().unwrap();
    let [(get, trace, uri, empty), (post, also, path, form)] = seen.as_slice() else {
        panic!("{} requests", seen.len());
    };
    assert_eq!((get.as_str(), post.as_str()), ("GET", "POST"));
    assert_eq!(trace.as_deref(), Some(TRACEPARENT));
    assert_eq!(also.as_deref(), Some(TRACEPARENT));
    assert!(
        uri.starts_with("/prefix/api/v1/query_range?query=up%7B"),
        "{uri}"
    );
    assert!(
        uri.contains("c%26d%3De") && uri.contains("&step=1&timeout=3000ms"),
        "{uri}"
    );
    assert_eq!(path, "/prefix/api/v1/query_range");
    assert!(
        empty.is_empty() && form.contains("bbbb") && form.contains("&step=1"),
        "{form}"
    );
}
