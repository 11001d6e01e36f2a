use axum::{body::Body, http::Request};
use http_body_util::BodyExt;
use tower::ServiceExt;

use super::*;
use crate::{journal::JournalConfig, ledger::Ledger, report::QueueStanding};

fn state(dir: &std::path::Path) -> ReportState {
    let config = JournalConfig {
        dir: dir.to_owned(),
        writer_nice: 0,
        ..JournalConfig::default()
    };
    let (ledger, _) = Ledger::open(&config, 10).unwrap();
    ReportState {
        ledger: Arc::new(ledger),
        metrics: Arc::new(Metrics::new()),
        recorder: Arc::new(|window| Ok(format!("{{\"s\":{}}}", window.as_secs_f64()).into_bytes())),
        standing: Arc::new(|| Standing {
            queues: vec![QueueStanding {
                tenant: "default".to_owned(),
                depth: 3,
                high_water: 5,
                running: 1,
            }],
            ..Standing::default()
        }),
        streams: Arc::new(Semaphore::new(1)),
        stop: CancellationToken::new(),
    }
}

async fn get_text(state: &ReportState, path: &str, accept: &str) -> (StatusCode, String, String) {
    let request = Request::get(path)
        .header(header::ACCEPT, accept)
        .body(Body::empty())
        .unwrap();
    let response = routes(state.clone()).oneshot(request).await.unwrap();
    let status = response.status();
    let kind = response.headers()[header::CONTENT_TYPE]
        .to_str()
        .unwrap()
        .to_owned();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (status, kind, String::from_utf8(body.to_vec()).unwrap())
}

#[tokio::test]
async fn metrics_come_in_the_format_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let state = state(dir.path());
    state.metrics.accepted("opened", 2);
    let (status, kind, text) = get_text(&state, "/metrics", "*/*").await;
    assert_eq!((status, kind.as_str()), (StatusCode::OK, CLASSIC));
    for line in [
        "# TYPE paramedic_alerts_total counter",
        "paramedic_alerts_total{reason=\"opened\"} 2",
        "# TYPE paramedic_build_info gauge",
        "# TYPE paramedic_diagnosis_duration_seconds histogram",
        "paramedic_queue_depth{tenant=\"default\"} 3.0",
        "paramedic_journal_writable 1",
    ] {
        assert!(
            text.lines().any(|found| found == line),
            "{line} is not in:\n{text}"
        );
    }
    assert!(
        !text.contains("# EOF") && !text.contains("# UNIT"),
        "{text}"
    );
    let described = text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    for line in described {
        let kind = line.split(' ').nth(1).unwrap();
        assert!(["counter", "gauge", "histogram"].contains(&kind), "{line}");
    }
    let accept = "application/openmetrics-text;version=1.0.0,text/plain;q=0.5";
    let (_, kind, text) = get_text(&state, "/metrics", accept).await;
    assert_eq!(kind, OPEN_METRICS);
    assert!(text.ends_with("# EOF\n"), "{text}");
}

#[tokio::test]
async fn incidents_that_are_not_there_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let state = state(dir.path());
    let (status, _, text) = get_text(&state, "/api/v1/incidents", "*/*").await;
    assert_eq!(
        (status, text.as_str()),
        (StatusCode::OK, "{\"incidents\":[],\"next\":null}")
    );
    let (status, _, text) = get_text(&state, "/api/v1/incidents/1", "*/*").await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert!(text.contains("not ep- and 32 hexadecimal digits"), "{text}");
    let id = "ep-000000000000000000000000000000ff";
    let path = format!("/api/v1/incidents/{id}");
    let (status, _, text) = get_text(&state, &path, "*/*").await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    assert!(
        text.contains(&format!("paramedic incidents show {id}")),
        "{text}"
    );
}

#[tokio::test]
async fn the_recorder_is_asked_for_a_while_within_bounds() {
    let dir = tempfile::tempdir().unwrap();
    let state = state(dir.path());
    let ask = async |query: &str| {
        let path = format!("/api/v1/recorder{query}");
        get_text(&state, &path, "*/*").await
    };
    let json = "application/json".to_owned();
    let expected = (StatusCode::OK, json, "{\"s\":3}".to_owned());
    assert_eq!(ask("").await, expected);
    assert_eq!(ask("?window_s=60").await.2, "{\"s\":60}");
    for bad in ["0", "-1", "NaN", "1e9", "soon"] {
        let (status, ..) = ask(&format!("?window_s={bad}")).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{bad}");
    }
}

#[tokio::test]
async fn the_page_comes_whole_and_lets_nothing_in_from_elsewhere() {
    let dir = tempfile::tempdir().unwrap();
    let state = state(dir.path());
    let (status, kind, html) = get_text(&state, "/", "text/html").await;
    assert_eq!(
        (status, kind.as_str()),
        (StatusCode::OK, "text/html; charset=utf-8")
    );
    // Every file that it or its scripts name is there.
    let mut todo = vec![html];
    let mut bytes = 0;
    while let Some(text) = todo.pop() {
        bytes += text.len();
        assert!(!text.contains("http://") && !text.contains("https://"));
        for quote in ["href=\"", "src=\"", "from \"./"] {
            for part in text.split(quote).skip(1) {
                let name = part.split('"').next().unwrap();
                let is_file = [".css", ".js"].iter().any(|end| name.ends_with(end));
                if is_file {
                    let (status, _, file) = get_text(&state, &format!("/{name}"), "*/*").await;
                    assert_eq!(status, StatusCode::OK, "{name}");
                    todo.push(file);
                }
            }
        }
    }
    assert!((10_000..150 << 10).contains(&bytes), "{bytes} bytes");
}

#[tokio::test]
async fn a_follower_is_told_at_once_and_bounded_in_number() {
    let dir = tempfile::tempdir().unwrap();
    let state = state(dir.path());
    let ask = || {
        let request = Request::get("/api/v1/events").body(Body::empty()).unwrap();
        routes(state.clone()).oneshot(request)
    };
    let mut first = ask().await.unwrap();
    assert_eq!(first.headers()[header::CONTENT_TYPE], "text/event-stream");
    let frame = first.body_mut().frame().await.unwrap().unwrap();
    assert_eq!(frame.into_data().unwrap(), "id: 0\ndata: 0\n\n");
    assert_eq!(
        ask().await.unwrap().status(),
        StatusCode::SERVICE_UNAVAILABLE
    );
    state.stop.cancel();
    assert!(
        first.body_mut().frame().await.is_none(),
        "ends with the agent"
    );
}

#[test]
fn every_route_is_documented_and_nothing_else_is() {
    let document: serde_json::Value = serde_json::from_str(include_str!("openapi.json")).unwrap();
    let documented = document["paths"].as_object().unwrap().keys();
    let ours: Vec<&str> = documented
        .map(String::as_str)
        .filter(|path| !path.starts_with("/webhook") && !path.starts_with("/-/"))
        .collect();
    let answers = super::super::answers::table().map(|(path, _)| path);
    let mut routes: Vec<&str> = table().map(|(path, _)| path).into();
    routes.extend(answers);
    routes.sort_unstable();
    assert_eq!(ours, routes);
}

#[tokio::test]
async fn what_is_asked_wrongly_is_a_problem_that_says_how() {
    let dir = tempfile::tempdir().unwrap();
    let state = state(dir.path());
    let id = "ep-000000000000000000000000000000ff";
    for (path, status, words) in [
        ("/api/v1/incidents?limit=0", 400, "1 to 1000"),
        ("/api/v1/incidents?limt=5", 400, "limt"),
        ("/api/v1/incidents?state=cured", 400, "cured"),
        ("/api/v1/incidents?before=x", 400, "32 hexadecimal"),
        (&format!("/api/v1/incidents/{id}/evidence/x"), 400, "`x`"),
        (&format!("/api/v1/incidents/{id}/evidence/1"), 404, id),
        (
            &format!("/api/v1/incidents/{id}/report?format=pdf"),
            400,
            "pdf",
        ),
        (&format!("/api/v1/incidents/{id}/report"), 404, id),
    ] {
        let (found, kind, text) = get_text(&state, path, "*/*").await;
        assert_eq!(
            (found.as_u16(), kind.as_str()),
            (status, "application/problem+json"),
            "{path}"
        );
        let problem: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(problem["status"], status);
        assert!(
            problem["detail"].as_str().unwrap().contains(words),
            "{path}: {text}"
        );
    }
}
