//! The whole way of an alert, with every part real: exporter -> Prometheus -> Alertmanager ->
//! webhook -> agent -> incident, and back to resolved.

#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests, which clippy does not take for tests"
)]

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use axum::{Router, routing::get};
use jiff::Timestamp;
use paramedic_tests::{Agent, Alertmanager, NodeExporter, Prometheus, Scrape, http, payload};
use serde_json::{Value, json};
use tokio::runtime::Runtime;

/// From a fault to an incident: a scrape, an evaluation, a flush, a journal's sync, and a busy
/// machine.
const WITHIN: Duration = Duration::from_secs(30);
/// With a diagnosis: a window of evidence has to be there first.
const DIAGNOSED_WITHIN: Duration = Duration::from_secs(45);

/// A configuration that asks this Prometheus, or none.
fn config(prometheus_url: Option<&str>) -> String {
    let sampling = prometheus_url.map_or_else(String::new, |url| {
        format!("sampling: {{prometheus_url: \"{url}\"}}\n")
    });
    format!("state_dir: $STATE\nintake: {{listen: $LISTEN, body_bytes_max: 65536}}\n{sampling}")
}

/// Names of an incident's entries, in their order.
fn entries(incident: &Value) -> Vec<&str> {
    let lines = incident["entries"].as_array().unwrap();
    lines
        .iter()
        .map(|line| line["entry"].as_str().unwrap())
        .collect()
}

fn has(incident: &Value, entry: &str) -> bool {
    entries(incident).contains(&entry)
}

/// Evidence as `paramedic incidents export` tells it.
fn evidence(agent: &Agent, incident: &Value) -> Value {
    let id = incident["id"].as_str().unwrap();
    let export = agent.command(&["incidents", "export", id]).unwrap();
    let export: Value = serde_json::from_str(&export).unwrap();
    export["evidence"][0].clone()
}

fn prometheus_coverage(evidence: &Value) -> Value {
    let coverage = evidence["coverage"].as_array().unwrap();
    let mut of_prometheus = coverage.iter().filter(|c| c["source"] == "prometheus");
    let found = of_prometheus.next().unwrap().clone();
    assert_eq!(of_prometheus.next(), None, "said once");
    found
}

fn webhook(alertname: &str, status: &str, starts_at: Timestamp) -> Value {
    let labels = json!({"alertname": alertname, "instance": "node"});
    if status == "resolved" {
        payload::resolved(&labels, starts_at, Timestamp::now())
    } else {
        payload::firing(&labels, &json!({}), starts_at)
    }
}

/// An exporter with one metric, `fault`: 1 while the switch is on.
fn fault(runtime: &Runtime, switch: Arc<AtomicBool>) -> SocketAddr {
    let listener = runtime
        .block_on(tokio::net::TcpListener::bind("127.0.0.1:0"))
        .unwrap();
    let address = listener.local_addr().unwrap();
    let page = move || {
        let on = u8::from(switch.load(Ordering::SeqCst));
        async move { format!("fault {on}\n") }
    };
    let router = Router::new().route("/metrics", get(page));
    runtime.spawn(async move { axum::serve(listener, router).await.unwrap() });
    address
}

#[test]
fn an_alert_becomes_an_incident_with_prometheus_evidence_and_resolves() {
    let runtime = Runtime::new().unwrap();
    let switch = Arc::new(AtomicBool::new(false));
    let exporter = NodeExporter::start().unwrap();
    let mut agent = Agent::prepare(&config(None)).unwrap();
    let alertmanager = Alertmanager::start(&agent.url("/webhook")).unwrap();
    let mut prometheus = Prometheus::builder()
        .scrape(Scrape::new("node", exporter.address()).instance("node"))
        .scrape(Scrape::new("fault", fault(&runtime, switch.clone())).instance("node"))
        .alert_labelled("HostHighCpu", "fault > 0", &[("severity", "critical")])
        .alertmanager(alertmanager.address())
        .start()
        .unwrap();
    agent.configure(&config(Some(&prometheus.url()))).unwrap();
    agent.restart().unwrap();
    prometheus
        .wait_for("node_load1 and on() (fault == 0)", WITHIN)
        .unwrap();
    assert_eq!(agent.incidents().unwrap(), Vec::<Value>::new());

    switch.store(true, Ordering::SeqCst);
    let incident = agent
        .wait_for_incident("diagnosed incident", DIAGNOSED_WITHIN, |i| {
            has(i, "diagnosed")
        })
        .unwrap();
    let alert = &incident["episode"]["alert"];
    assert_eq!(alert["labels"]["alertname"], "HostHighCpu");
    assert_eq!(alert["labels"]["instance"], "node");
    assert_eq!(alert["status"], "firing");
    assert_eq!(incident["episode"]["source"]["kind"], "alertmanager");
    assert_eq!(entries(&incident)[..2], ["opened", "diagnosed"]);

    let evidence = evidence(&agent, &incident);
    let coverage = prometheus_coverage(&evidence);
    assert_eq!(coverage["complete"], true, "{coverage}");
    let series = evidence["series"].as_array().unwrap();
    for name in ["node_load1_per_cpu", "node_memory_available"] {
        let found: Vec<_> = series
            .iter()
            .filter(|series| series["name"] == name)
            .collect();
        assert_eq!(found.len(), 1, "{name}: {}", evidence["series_gaps"]);
        let last = found[0]["values"]
            .as_array()
            .unwrap()
            .last()
            .unwrap()
            .as_f64();
        assert!(last.is_some_and(|value| value >= 0.0), "{name}: {last:?}");
    }

    switch.store(false, Ordering::SeqCst);
    let resolved = agent
        .wait_for_incident("resolved incident", WITHIN, |i| has(i, "resolved"))
        .unwrap();
    assert_eq!(resolved["id"], incident["id"]);
    let summaries = agent.incidents().unwrap();
    assert_eq!(summaries.len(), 1, "{summaries:?}");
    assert_eq!(summaries[0]["resolved"], true);

    // The record says the same with the agent gone.
    let id = incident["id"].as_str().unwrap();
    agent.terminate().unwrap();
    let shown = agent.show(id).unwrap();
    assert!(
        shown.contains(id) && shown.contains("HostHighCpu"),
        "{shown}"
    );
    assert!(shown.contains("the alert resolved"), "{shown}");
}

#[test]
fn without_prometheus_it_still_diagnoses_and_says_what_was_missing() {
    let nobody = http::free_address().unwrap();
    for (url, why) in [
        (Some(format!("http://{nobody}")), "refused"),
        (None, "prometheus not configured"),
    ] {
        let agent = Agent::start(&config(url.as_deref())).unwrap();
        let body = webhook("HostHighCpu", "firing", Timestamp::now()).to_string();
        assert_eq!(agent.post("/webhook", &body).unwrap().status, 200);
        let incident = agent
            .wait_for_incident("diagnosed incident", DIAGNOSED_WITHIN, |i| {
                has(i, "diagnosed")
            })
            .unwrap();
        let evidence = evidence(&agent, &incident);
        let coverage = prometheus_coverage(&evidence);
        assert_eq!(coverage["complete"], false, "{coverage}");
        assert!(
            coverage["note"].as_str().unwrap().contains(why),
            "{coverage}"
        );
        let gaps = evidence["series_gaps"].as_array().unwrap();
        assert!(
            gaps.iter().any(|gap| gap["name"] == "node_load1_per_cpu"),
            "{gaps:?}"
        );
        assert!(
            !evidence["host"].as_object().unwrap().is_empty(),
            "the host was still looked at"
        );
    }
}

#[test]
fn accepted_survives_a_kill_and_is_never_opened_twice() {
    let mut agent = Agent::start(&config(None)).unwrap();
    let starts_at = Timestamp::now();
    let body = webhook("HostHighCpu", "firing", starts_at).to_string();
    for _ in 0..3 {
        let answer = agent.post("/webhook", &body).unwrap();
        assert_eq!(answer.status, 200, "{}", answer.body);
    }
    agent.kill().unwrap();
    agent.restart().unwrap();
    let incidents = agent.incidents().unwrap();
    assert_eq!(incidents.len(), 1, "{incidents:?}");
    let id = incidents[0]["id"].as_str().unwrap().to_owned();

    assert_eq!(agent.post("/webhook", &body).unwrap().status, 200);
    let resolved = webhook("HostHighCpu", "resolved", starts_at).to_string();
    for _ in 0..2 {
        assert_eq!(agent.post("/webhook", &resolved).unwrap().status, 200);
    }
    let incident = agent
        .wait_for_incident("resolved incident", WITHIN, |i| has(i, "resolved"))
        .unwrap();
    assert_eq!(incident["id"], id.as_str());
    let names = entries(&incident);
    assert_eq!(
        names.iter().filter(|name| **name == "opened").count(),
        1,
        "{names:?}"
    );
    assert_eq!(
        names.iter().filter(|name| **name == "resolved").count(),
        1,
        "{names:?}"
    );

    // The same trouble once more is a new incident.
    let again = webhook("HostHighCpu", "firing", Timestamp::now()).to_string();
    assert_eq!(agent.post("/webhook", &again).unwrap().status, 200);
    assert_eq!(agent.incidents().unwrap().len(), 2);
}

/// Method, path, headers, body, and the status that they deserve.
type Case<'a> = (&'a str, &'a str, &'a [(&'a str, &'a str)], String, u16);

#[test]
fn bad_requests_are_refused_for_good_with_a_reason_and_leave_nothing() {
    let mut agent = Agent::start(&config(None)).unwrap();
    let address = agent.address();
    let good = webhook("X", "firing", Timestamp::now());
    let text = good.to_string();
    let changed = |pointer: &str, value: Value| {
        let mut body = good.clone();
        *body.pointer_mut(pointer).unwrap() = value;
        body.to_string()
    };
    let json_type = [("Content-Type", "application/json")];
    let form_type = [("Content-Type", "application/x-www-form-urlencoded")];
    let cases: [Case; 9] = [
        ("POST", "/webhook", &form_type, text.clone(), 415),
        ("POST", "/webhook", &[], text.clone(), 415),
        ("POST", "/webhook", &json_type, "{".to_owned(), 400),
        (
            "POST",
            "/webhook",
            &json_type,
            changed("/version", json!("3")),
            400,
        ),
        (
            "POST",
            "/webhook",
            &json_type,
            changed("/alerts", json!("none")),
            400,
        ),
        (
            "POST",
            "/webhook",
            &json_type,
            changed("/alerts/0/startsAt", json!("now")),
            400,
        ),
        (
            "POST",
            "/webhook",
            &json_type,
            format!("{text}{}", " ".repeat(1 << 17)),
            413,
        ),
        ("POST", "/webhook/nobody", &json_type, text.clone(), 404),
        ("GET", "/webhook", &[], String::new(), 405),
    ];
    for (method, path, headers, body, status) in cases {
        let answer = http::request(address, method, path, headers, &body).unwrap();
        let told = format!("{method} {path} {headers:?}: {}", answer.body);
        assert_eq!(answer.status, status, "{told}");
        let error: Value = serde_json::from_str(&answer.body).unwrap();
        assert!(
            error["detail"]
                .as_str()
                .is_some_and(|error| error.len() > 10),
            "{told}"
        );
    }
    assert_eq!(agent.incidents().unwrap(), Vec::<Value>::new());
    assert_eq!(agent.get("/api/v1/incidents/ep-1").unwrap().status, 400);
    let unknown = format!("/api/v1/incidents/ep-{:032x}", 7);
    assert_eq!(agent.get(&unknown).unwrap().status, 404);
    // And a good one is still taken.
    assert_eq!(agent.post("/webhook", &text).unwrap().status, 200);
    assert_eq!(agent.incidents().unwrap().len(), 1);
    assert!(agent.terminate().unwrap().success());
}

/// Two Alertmanagers that know each other are told of the same alert, and tell us more than once.
#[test]
fn an_ha_pair_makes_one_incident_and_ends_it_once() {
    let agent = Agent::start(&config(None)).unwrap();
    let pair = Alertmanager::start_pair(&agent.url("/webhook")).unwrap();
    let begun = Timestamp::now();
    let tell = |ends_at: Option<Timestamp>| {
        let mut alert = json!({
            "labels": {"alertname": "HostHighCpu", "instance": "node-1", "severity": "critical"},
            "startsAt": begun.to_string(),
        });
        if let Some(ends_at) = ends_at {
            alert["endsAt"] = json!(ends_at.to_string());
        }
        for one in &pair {
            one.post_alerts(&json!([alert])).unwrap();
        }
    };
    tell(None);
    let opened = agent
        .wait_for_incident("incident", WITHIN, |incident| has(incident, "opened"))
        .unwrap();
    // Long enough for the second of the pair to have told too, and for resends.
    let told = || {
        let metrics = agent.get("/metrics").unwrap().body;
        let of = |word: &str| {
            let name = format!("paramedic_alerts_total{{reason=\"{word}\"}} ");
            let line = metrics.lines().find_map(|line| line.strip_prefix(&name));
            line.map_or(0, |count| count.trim().parse::<u64>().unwrap())
        };
        (of("opened"), of("seen"), of("resolved"), of("ignored"))
    };
    for _ in 0..4 {
        std::thread::sleep(Duration::from_millis(500));
        tell(None);
    }
    tell(Some(Timestamp::now()));
    let incident = agent
        .wait_for_incident("resolved incident", WITHIN, |i| has(i, "resolved"))
        .unwrap();
    assert_eq!(incident["id"], opened["id"]);
    std::thread::sleep(Duration::from_secs(2));
    let counts = told();
    assert_eq!((counts.0, counts.2), (1, 1), "{counts:?}");
    assert_eq!(agent.incidents().unwrap().len(), 1);
    let incident = agent.incident(opened["id"].as_str().unwrap()).unwrap();
    for once in ["opened", "resolved"] {
        let times = entries(&incident)
            .iter()
            .filter(|name| **name == once)
            .count();
        assert_eq!(times, 1, "{once}");
    }
}

/// With nothing but the agent: the kernel's own pressure opens an incident, and a later alert of the
/// same trouble joins it.
#[test]
fn the_default_needs_no_alertmanager_and_its_alert_joins_later() {
    let text = config(None)
        + "pressure: {hold_s: 1, clear_s: 2, cpu: {stalled_ms: 100}, memory: null, io: null, thresholds: []}\n";
    let agent = Agent::start(&text).unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let burners: Vec<_> = (0..3 * std::thread::available_parallelism().unwrap().get())
        .map(|_| {
            let stop = stop.clone();
            std::thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    std::hint::black_box((0..10_000).sum::<u64>());
                }
            })
        })
        .collect();
    let opened = agent
        .wait_for_incident("incident of the kernel's", WITHIN, |i| has(i, "opened"))
        .unwrap();
    assert_eq!(opened["episode"]["source"]["kind"], "pressure", "{opened}");
    assert_eq!(
        opened["episode"]["alert"]["labels"]["alertname"],
        "LocalCpuPressure"
    );
    let starts_at = Timestamp::now();
    let firing = webhook("HostHighCpu", "firing", starts_at).to_string();
    assert_eq!(agent.post("/webhook", &firing).unwrap().status, 200);
    stop.store(true, Ordering::Relaxed);
    for burner in burners {
        burner.join().unwrap();
    }
    let incidents = agent.incidents().unwrap();
    assert_eq!(incidents.len(), 1, "{incidents:?}");
    let resolved = webhook("HostHighCpu", "resolved", starts_at).to_string();
    assert_eq!(agent.post("/webhook", &resolved).unwrap().status, 200);
    let incident = agent.incident(opened["id"].as_str().unwrap()).unwrap();
    assert!(
        has(&incident, "seen") && has(&incident, "resolved"),
        "{incident}"
    );
}
