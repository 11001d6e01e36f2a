use std::sync::atomic::AtomicU64;

use jiff::Timestamp;
use tokio::sync::mpsc::{Sender, channel};

use super::*;
use crate::{
    clock::{ManualClock, SystemClock},
    resilience::BreakerState,
    telemetry::otlp::{
        opened::{Attributes, Link},
        receiver::{self, Receiver},
    },
};

fn ended(id: u64) -> Ended {
    Ended {
        name: "look",
        id,
        link: Link {
            trace: 1,
            parent: None,
            remote: false,
        },
        start_ns: 1,
        end_ns: 2,
        attributes: Attributes::default(),
        error: None,
    }
}

/// An exporter, and the way into its queue.
fn exporter(config: &OtlpConfig) -> (Exporter, Sender<Ended>) {
    let (sender, queue) = channel(2 * BATCH_MAX);
    let dropped = Arc::<AtomicU64>::default();
    let finished = Finished { queue, dropped };
    let metrics = Arc::new(Metrics::new());
    let exporter = Exporter::new(config, finished, SystemClock::shared(), metrics).unwrap();
    (exporter, sender)
}

impl Exporter {
    fn counted(&self) -> [u64; 4] {
        ["sent", "failed", "refused", "dropped"].map(|result| self.metrics.exports(result))
    }
}

#[tokio::test(start_paused = true)]
async fn a_batch_goes_when_it_is_full_or_old() {
    crate::secret::choose_crypto();
    let (mut exporter, spans) = exporter(&receiver::config("http://127.0.0.1:1".to_owned()));
    for id in 0..=BATCH_MAX as u64 {
        spans.try_send(ended(id)).unwrap();
    }
    let begun = Instant::now();
    assert!(exporter.gather().await);
    assert_eq!(
        (exporter.batch.len(), begun.elapsed()),
        (BATCH_MAX, Duration::ZERO)
    );
    exporter.batch.clear();
    assert!(exporter.gather().await);
    assert_eq!(exporter.batch.len(), 1);
    assert!((BATCH_EVERY..BATCH_EVERY * 2).contains(&begun.elapsed()));
    drop(spans);
    exporter.batch.clear();
    assert!(!exporter.gather().await, "nobody is there any more");
}

#[tokio::test]
async fn what_can_be_repeated_is_and_what_is_refused_is_not() {
    let partial = r#"{"partialSuccess": {"rejectedSpans": "2", "errorMessage": "old"}}"#;
    let answers = [(503, ""), (200, "{}"), (400, ""), (200, partial)];
    let collector = Receiver::start(&answers).await;
    let (mut exporter, _spans) = exporter(&collector.config());
    exporter.batch = vec![ended(1), ended(2), ended(3)];
    exporter.deliver().await;
    assert_eq!(collector.requests().len(), 2, "once more after the 503");
    let bodies: Vec<_> = collector.requests().into_iter().map(|it| it.1).collect();
    assert_eq!(bodies[0], bodies[1]);
    assert_eq!(exporter.counted(), [3, 0, 0, 0]);
    exporter.deliver().await;
    assert_eq!(collector.requests().len(), 3, "400 is final");
    assert_eq!(exporter.counted(), [3, 0, 3, 0]);
    exporter.deliver().await;
    assert_eq!(exporter.counted(), [4, 0, 5, 0]);
    assert_eq!(exporter.breaker().state(), BreakerState::Closed);
}

#[tokio::test]
async fn headers_come_from_their_file() {
    let collector = Receiver::start(&[]).await;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("headers");
    std::fs::write(&file, "Authorization: Bearer x\n").unwrap();
    let config = OtlpConfig {
        headers_file: Some(file),
        ..collector.config()
    };
    let (mut exporter, _spans) = exporter(&config);
    exporter.batch = vec![ended(1)];
    exporter.deliver().await;
    let requests = collector.requests();
    assert_eq!(requests[0].0["authorization"], "Bearer x");
    assert_eq!(requests[0].0["content-type"], "application/json");
    let missing = OtlpConfig {
        headers_file: Some(dir.path().join("none")),
        ..collector.config()
    };
    let (_, queue) = channel(1);
    let finished = Finished {
        queue,
        dropped: Arc::default(),
    };
    let refused = Exporter::new(&missing, finished, SystemClock::shared(), Arc::default());
    assert!(
        refused
            .unwrap_err()
            .to_string()
            .contains("telemetry.otlp.headers_file")
    );
}

#[tokio::test]
async fn after_three_failures_the_collector_is_left_alone() {
    let collector = Receiver::start(&[(503, ""); 16]).await;
    let (mut exporter, _spans) = exporter(&collector.config());
    // On a clock that stands still it never closes again.
    let clock = Arc::new(ManualClock::at(Timestamp::UNIX_EPOCH));
    exporter.breaker = Arc::new(Breaker::new(BREAKER, clock));
    exporter.batch = vec![ended(1)];
    let breaker = exporter.breaker();
    let opens = async {
        while breaker.state() == BreakerState::Closed {
            sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::select! {
        () = exporter.deliver() => panic!("given up before the breaker opened"),
        () = opens => {}
    }
    assert_eq!(collector.requests().len(), 3);
    // Nor at the end, whatever time there is.
    exporter.start().end(Duration::from_mins(1)).await;
    assert_eq!(collector.requests().len(), 3);
}

#[tokio::test]
async fn the_end_sends_what_is_left() {
    let collector = Receiver::start(&[]).await;
    let (exporter, spans) = exporter(&collector.config());
    let metrics = exporter.metrics.clone();
    let exporting = exporter.start();
    for id in 0..BATCH_MAX as u64 + 9 {
        spans.try_send(ended(id)).unwrap();
    }
    exporting.end(Duration::from_mins(1)).await;
    let mut ids: Vec<_> = collector
        .spans()
        .iter()
        .map(|it| it["spanId"].to_string())
        .collect();
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), BATCH_MAX + 9);
    assert_eq!(metrics.exports("failed"), 0);
    assert!(
        spans.try_send(ended(0)).is_err(),
        "nobody takes it any more"
    );
}
