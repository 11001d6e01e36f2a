//! Of tests: what a collector gets of an episode, over real HTTP.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::Mutex,
};

use axum::{Router, extract::State, http::HeaderMap, routing::any};
use serde_json::Value;
use tokio::{
    io::AsyncReadExt,
    net::TcpListener,
    sync::watch::{Sender, channel},
};
use tracing::{Dispatch, dispatcher};
use tracing_subscriber::{Registry, layer::SubscriberExt};

use super::*;
use crate::{
    clock::SystemClock,
    evidence::{EvidenceConfig, NoKernel},
    incident::{
        ActionKind, Alert, AlertStatus, CgroupId, Fingerprint, Source, TraceContext, Verdict,
    },
    journal::JournalConfig,
    ledger::Ledger,
    remedy::RemedyConfig,
    sampling::SamplingConfig,
    telemetry::{
        Exporter, Finished, OtlpConfig, Spans,
        otlp::receiver::{self, Receiver},
    },
};

/// Longer than anything takes that does not wait for a collector, shorter than a collector is waited for.
const SOON: Duration = Duration::from_secs(25);
const SENDER: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

fn stages(dir: &Path, prometheus: Option<String>) -> Arc<Stages> {
    crate::secret::choose_crypto();
    let clock = SystemClock::shared();
    let journal = JournalConfig {
        dir: dir.join("journal"),
        writer_realtime: false,
        writer_nice: 0,
        ..JournalConfig::default()
    };
    let (ledger, _) = Ledger::open(&journal, 16).unwrap();
    let recorder = Recorder::start(&EvidenceConfig::default(), Arc::new(NoKernel)).unwrap();
    // A plain folder is no hierarchy: an action is refused there.
    let remedies = Remedies::at(&RemedyConfig::default(), clock.clone(), dir);
    let sampling = SamplingConfig {
        prometheus_url: prometheus,
        cache_ms: 0,
        ..SamplingConfig::default()
    };
    let sampler = Sampler::new(&sampling, clock.clone()).unwrap();
    let bare = Stages::bare(ledger, clock, Arc::new(recorder), remedies, dir);
    let stages = Stages { sampler, ..bare };
    stages.replace_rules(RuleSet::shipped().unwrap());
    Arc::new(stages)
}

/// An episode that the record has.
async fn opened(stages: &Stages, nth: u8, trace: TraceContext) -> Episode {
    let labels = BTreeMap::from([("alertname".to_owned(), "HostCpuSaturated".to_owned())]);
    let episode = Episode {
        id: EpisodeId([nth; 16]),
        tenant: "default".parse().unwrap(),
        alert: Arc::new(Alert {
            status: AlertStatus::Firing,
            fingerprint: Fingerprint::of(&labels),
            labels,
            annotations: BTreeMap::new(),
            starts_at: Timestamp::now(),
            ends_at: None,
        }),
        source: Source::Manual,
        opened_at: Timestamp::now(),
        trace,
    };
    let entry = Entry::Opened {
        episode: episode.clone(),
    };
    stages.ledger.append(episode.id, entry).await.unwrap();
    episode
}

fn sent() -> TraceContext {
    TraceContext::parse(SENDER).unwrap()
}

fn begun_here() -> TraceContext {
    TraceContext {
        begun_here: true,
        ..sent()
    }
}

fn firing() -> (Sender<bool>, Firing) {
    channel(false)
}

type Firing = tokio::sync::watch::Receiver<bool>;

/// This thread's spans go to the exporter from here on.
fn traced(config: &OtlpConfig) -> (dispatcher::DefaultGuard, Finished) {
    let (spans, finished) = Spans::new(config);
    let dispatch = Dispatch::new(Registry::default().with(spans.filtered()));
    (dispatcher::set_default(&dispatch), finished)
}

fn exporter(config: &OtlpConfig, finished: Finished, stages: &Stages) -> Exporter {
    let metrics = stages.metrics.clone();
    Exporter::new(config, finished, SystemClock::shared(), metrics).unwrap()
}

fn named<'a>(spans: &'a [Value], name: &str) -> Vec<&'a Value> {
    spans.iter().filter(|span| span["name"] == name).collect()
}

fn ids(spans: &[&Value]) -> BTreeSet<String> {
    let ids = spans.iter().map(|span| span["spanId"].as_str().unwrap());
    ids.map(str::to_owned).collect()
}

/// The only one of that name.
fn one<'a>(spans: &'a [Value], name: &str) -> &'a Value {
    let [one] = named(spans, name)[..] else {
        panic!("not one {name} in {spans:#?}");
    };
    one
}

fn attribute(span: &Value, key: &str) -> Option<String> {
    let all = span["attributes"].as_array().unwrap();
    let found = all.iter().find(|it| it["key"] == key)?;
    Some(found["value"]["stringValue"].as_str().unwrap().to_owned())
}

fn time(span: &Value, key: &str) -> u128 {
    span[key].as_str().unwrap().parse().unwrap()
}

type Asked = Arc<Mutex<Vec<String>>>;

/// Something that answers like Prometheus and remembers on whose behalf it was asked.
async fn prometheus() -> (String, Asked) {
    async fn answer(State(asked): State<Asked>, headers: HeaderMap) -> &'static str {
        let parent = headers["traceparent"].to_str().unwrap().to_owned();
        asked.lock().unwrap().push(parent);
        r#"{"status": "success", "data": {"resultType": "matrix", "result": []}}"#
    }
    let asked = Asked::default();
    let routes = Router::new()
        .route("/api/v1/query_range", any(answer))
        .with_state(asked.clone());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, routes).await.unwrap() });
    (url, asked)
}

#[tokio::test]
async fn an_episode_arrives_as_one_trace_below_the_webhook() {
    let collector = Receiver::start(&[]).await;
    let (prometheus, asked) = prometheus().await;
    let dir = tempfile::tempdir().unwrap();
    let stages = stages(dir.path(), Some(prometheus));
    let (_traced, finished) = traced(&collector.config());
    let exporting = exporter(&collector.config(), finished, &stages).start();

    let (_sender, resolved) = firing();
    let episode = opened(&stages, 1, sent()).await;
    handle(&stages, episode.clone(), resolved).await.unwrap();
    // One that its sender did not sample.
    let (_sender, resolved) = firing();
    let unsampled = TraceContext {
        sampled: false,
        ..sent()
    };
    let other = opened(&stages, 2, unsampled).await;
    handle(&stages, other, resolved).await.unwrap();
    exporting.end(SOON).await;

    let spans = collector.spans();
    let root = one(&spans, "handle");
    assert_eq!(root["parentSpanId"], "b7ad6b7169203331");
    assert_eq!(root.get("status"), None);
    for stage in ["look", "think", "remember", "decide"] {
        let found = named(&spans, stage);
        assert!(!found.is_empty(), "{stage}: {spans:#?}");
        for span in found {
            assert_eq!(span["parentSpanId"], root["spanId"], "{stage}");
            assert!(time(span, "startTimeUnixNano") >= time(root, "startTimeUnixNano"));
        }
    }
    let looks = ids(&named(&spans, "look"));
    for part in ["sample", "observe"] {
        let found = named(&spans, part);
        assert_eq!(found.len(), looks.len());
        let parents = found.iter().map(|it| it["parentSpanId"].as_str().unwrap());
        assert!(
            parents.map(str::to_owned).all(|it| looks.contains(&it)),
            "{part}"
        );
    }
    assert!(attribute(one(&spans, "decide"), "paramedic.decision").is_some());
    for span in &spans {
        assert_eq!(span["traceId"], "0af7651916cd43dd8448eb211c80319c");
        let id = attribute(span, "paramedic.episode");
        assert_eq!(id, Some(episode.id.to_string()), "{span:#?}");
        assert_eq!(
            attribute(span, "paramedic.tenant").as_deref(),
            Some("default")
        );
        assert!(time(span, "endTimeUnixNano") >= time(span, "startTimeUnixNano"));
    }
    // Prometheus is asked from inside, and told nothing of a span that is not recorded.
    let asked = asked.lock().unwrap();
    let samples = ids(&named(&spans, "sample"));
    let (own, outer): (Vec<_>, Vec<_>) = asked.iter().partition(|it| it.ends_with("-01"));
    assert!(!own.is_empty() && !outer.is_empty(), "{asked:?}");
    for parent in own {
        let parent = TraceContext::parse(parent).unwrap();
        assert_eq!(parent.trace_id, "0af7651916cd43dd8448eb211c80319c");
        assert!(samples.contains(&parent.span_id), "{parent:?}");
    }
    for parent in outer {
        assert_eq!(parent.as_str(), SENDER.replace("-01", "-00"));
    }
}

#[tokio::test]
async fn a_failure_says_why_and_what_is_undone_later_finds_its_trace() {
    let collector = Receiver::start(&[]).await;
    let dir = tempfile::tempdir().unwrap();
    let stages = stages(dir.path(), None);
    let (_traced, finished) = traced(&collector.config());
    let exporting = exporter(&collector.config(), finished, &stages).start();
    let episode = opened(&stages, 3, begun_here()).await;

    // Cut off in the middle, as by the deadline.
    let (_sender, resolved) = firing();
    tokio::select! {
        biased;
        _ = handle(&stages, episode.clone(), resolved) => panic!("it looks at files at least"),
        () = std::future::ready(()) => {}
    }
    let intent = Intent {
        episode: episode.id,
        action: Action {
            kind: ActionKind::ThrottleCpu,
            cgroup: CgroupId(42),
            path: "/app".to_owned(),
            amount: None,
        },
        changes: Vec::new(),
        lease_until: Timestamp::now(),
    };
    let diagnosis = Diagnosis {
        top: Vec::new(),
        unknown: 1.0,
        excluded: Vec::new(),
        verdict: Verdict::Conclusive,
        took_us: 1,
    };
    let before = stages.recorder.evidence(Duration::from_secs(1));
    let (_sender, mut resolved) = firing();
    let treated = async {
        trace::join(|| Some(episode.trace.clone()));
        treat(&stages, &diagnosis, intent.clone(), &before, &mut resolved).await
    };
    let failed = treated.instrument(debug_span!("approved")).await;
    let why = failed.unwrap_err().to_string();
    // Without anything around it, as at the end of a lease.
    undo(&stages, &intent, "lease_ended").await;
    exporting.end(SOON).await;

    let spans = collector.spans();
    let root = one(&spans, "handle");
    assert_eq!(
        root["spanId"], "b7ad6b7169203331",
        "the id that others know"
    );
    assert_eq!(root.get("parentSpanId"), None);
    assert_eq!(root["status"]["code"], 2, "it was broken off");
    let approved = one(&spans, "approved");
    assert_eq!(approved["parentSpanId"], root["spanId"]);
    let act = one(&spans, "act");
    assert_eq!(act["parentSpanId"], approved["spanId"]);
    assert_eq!(act["status"]["code"], 2);
    assert_eq!(act["status"]["message"], why.as_str());
    assert_eq!(act["events"][0]["name"], "exception");
    assert_eq!(attribute(act, "paramedic.target").as_deref(), Some("/app"));
    let undone = named(&spans, "undo");
    let parents: BTreeSet<_> = undone
        .iter()
        .map(|it| it["parentSpanId"].as_str())
        .collect();
    assert_eq!(undone.len(), 2);
    assert_eq!(
        parents,
        [act["spanId"].as_str(), root["spanId"].as_str()].into()
    );
}

#[tokio::test]
async fn a_dead_collector_delays_nothing() {
    // It takes the connection and never answers.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let config = receiver::config(format!("http://{}", listener.local_addr().unwrap()));
    let dir = tempfile::tempdir().unwrap();
    let stages = stages(dir.path(), None);
    let (_traced, finished) = traced(&config);
    let exporting = exporter(&config, finished, &stages).start();
    let make = |spans: u64| {
        for _ in 0..spans {
            debug_span!("made").in_scope(|| trace::join(|| Some(sent())));
        }
    };
    make(1);
    let (mut held, _) = listener.accept().await.unwrap();
    held.read_u8().await.unwrap();

    // The exporter waits for an answer from here on, and the queue overflows.
    make(5000);
    let (_sender, resolved) = firing();
    let episode = opened(&stages, 4, sent()).await;
    let handled = tokio::time::timeout(SOON, handle(&stages, episode, resolved)).await;
    handled.expect("it waited for the collector").unwrap();
    let ended = exporting.end(Duration::from_millis(100));
    tokio::time::timeout(SOON, ended)
        .await
        .expect("so did the end");
    let [sent, failed, dropped] =
        ["sent", "failed", "dropped"].map(|result| stages.metrics.exports(result));
    assert_eq!(sent, 0);
    assert!(failed > 0 && dropped > 2900, "{failed} {dropped}");
    assert!(
        failed + dropped > 5001,
        "nothing is missing from the account"
    );
}
