use std::{
    net::{SocketAddr, TcpListener},
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{
    Router,
    body::Bytes,
    http::{HeaderMap, StatusCode},
    routing::post,
};
use paramedic_tests::{Agent, http, payload, wait_for};
use serde_json::{Value, json};
use tokio::runtime::Runtime;

const SOON: Duration = Duration::from_mins(1);

/// What a sink was sent: headers and body.
type Heard = Arc<Mutex<Vec<(HeaderMap, Value)>>>;

/// A sink that refuses its first request with a 500 and takes the others.
fn sink(runtime: &Runtime) -> (SocketAddr, Heard) {
    let heard = Heard::default();
    let kept = heard.clone();
    let taken = move |headers: HeaderMap, body: Bytes| {
        let kept = kept.clone();
        async move {
            let body: Value = serde_json::from_slice(&body).unwrap();
            let mut kept = kept.lock().unwrap();
            kept.push((headers, body));
            if kept.len() == 1 {
                StatusCode::INTERNAL_SERVER_ERROR
            } else {
                StatusCode::OK
            }
        }
    };
    let listener = runtime
        .block_on(tokio::net::TcpListener::bind("127.0.0.1:0"))
        .unwrap();
    let address = listener.local_addr().unwrap();
    let router = Router::new().route("/", post(taken));
    runtime.spawn(async move { axum::serve(listener, router).await.unwrap() });
    (address, heard)
}

fn fire(agent: &Agent, name: &str, instance: &str) {
    let labels = json!({"alertname": name, "instance": instance});
    let body = payload::firing(&labels, &json!({}), "2026-01-02T03:04:05Z");
    assert_eq!(
        agent.post("/webhook", &body.to_string()).unwrap().status,
        200
    );
}

fn resolve(agent: &Agent, name: &str, instance: &str) {
    let labels = json!({"alertname": name, "instance": instance});
    let body = payload::resolved(&labels, "2026-01-02T03:04:05Z", "2026-01-02T03:05:05Z");
    assert_eq!(
        agent.post("/webhook", &body.to_string()).unwrap().status,
        200
    );
}

fn metric(agent: &Agent, series: &str) -> f64 {
    let text = agent.get("/metrics").unwrap().ok().unwrap();
    let mut lines = text.lines();
    let line = lines.find_map(|line| line.strip_prefix(series));
    line.map_or(0.0, |value| value.trim().parse().unwrap())
}

#[test]
fn people_are_told_once_and_a_dead_sink_holds_nothing_up() {
    let runtime = Runtime::new().unwrap();
    let (hook, hook_heard) = sink(&runtime);
    let (chat, chat_heard) = sink(&runtime);
    let closed = http::free_address().unwrap();
    // Accepts connections (the kernel does) and never answers.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let silent = (silent.local_addr().unwrap(), silent);
    let agent = Agent::start(&format!(
        "state_dir: $STATE\nintake: {{listen: $LISTEN}}\nnotify:\n  page_url: https://page.example/\n  \
         node: node-7\n  sinks:\n  \
         - {{name: hook, kind: webhook, url: \"http://{hook}/\"}}\n  \
         - {{name: chat, kind: slack, url: \"http://{chat}/\"}}\n  \
         - {{name: closed, kind: webhook, url: \"http://{closed}/\", give_up_s: 1}}\n  \
         - {{name: silent, kind: slack, url: \"http://{}/\", give_up_s: 600}}\n",
        silent.0
    ))
    .unwrap();
    let hostile = "<!channel> & <b>\n{{link}}";
    fire(&agent, "HostCpuSaturated", hostile);
    let closed_incident = |name: &'static str, count: usize| {
        wait_for("closed incidents", SOON, || {
            let all = agent.incidents()?;
            let ended = all
                .iter()
                .filter(|one| one["alert"] == name && one["state"] == "reported");
            anyhow::ensure!(ended.count() == count, "{all:?}");
            Ok(())
        })
        .unwrap();
    };
    closed_incident("HostCpuSaturated", 1);
    let heard = |heard: &Heard, count: usize| {
        wait_for("notifications", SOON, || {
            let all = heard.lock().unwrap().clone();
            anyhow::ensure!(all.len() >= count, "{all:?}");
            Ok(all)
        })
        .unwrap()
    };
    // The first attempt was answered 500: the same is sent again.
    let told = heard(&hook_heard, 2);
    assert_eq!(told[0].1, told[1].1);
    let incident = &agent.incidents().unwrap()[0];
    let id = incident["id"].as_str().unwrap();
    let fields = &told[1].1["incident"];
    assert_eq!(fields["incident"], id);
    assert_eq!(fields["state"], "reported");
    assert_eq!(fields["node"], "node-7");
    assert_eq!(fields["link"], format!("https://page.example/#/{id}"));
    let trace = agent.incident(id).unwrap()["episode"]["trace"]["trace_id"].clone();
    let parent = told[1].0["traceparent"].to_str().unwrap();
    assert!(parent.contains(trace.as_str().unwrap()), "{parent}");
    let text = heard(&chat_heard, 2)[1].1["text"]
        .as_str()
        .unwrap()
        .to_owned();
    assert!(
        text.contains("node-7: HostCpuSaturated") && text.contains(id),
        "{text}"
    );
    assert!(!text.contains("<!channel>"), "{text}");

    // The same alert again within the time is the same news; another one is not.
    resolve(&agent, "HostCpuSaturated", hostile);
    let labels = json!({"alertname": "HostCpuSaturated", "instance": hostile});
    let again = payload::firing(&labels, &json!({}), "2026-01-02T03:06:05Z");
    assert_eq!(
        agent.post("/webhook", &again.to_string()).unwrap().status,
        200
    );
    closed_incident("HostCpuSaturated", 2);
    fire(&agent, "HostMemoryLow", "a");
    closed_incident("HostMemoryLow", 1);
    // The cause is part of what is the same: on a busy machine the second look may find another one.
    wait_for("news of the other alert", SOON, || {
        let all = hook_heard.lock().unwrap().clone();
        let other = |(_, body): &(_, Value)| body["incident"]["alert"] == "HostMemoryLow";
        anyhow::ensure!(all.iter().any(other), "{all:?}");
        Ok(())
    })
    .unwrap();
    let repeated = metric(
        &agent,
        "paramedic_notifications_total{sink=\"hook\",result=\"repeated\"}",
    );
    let sent = metric(
        &agent,
        "paramedic_notifications_total{sink=\"hook\",result=\"sent\"}",
    );
    assert!(repeated + sent >= 2.0, "{repeated} {sent}");

    wait_for("the dead sink is given up", SOON, || {
        let failed = metric(
            &agent,
            "paramedic_notifications_total{sink=\"closed\",result=\"failed\"}",
        );
        anyhow::ensure!(failed >= 1.0, "{failed}");
        Ok(())
    })
    .unwrap();
    let silent_sent = "paramedic_notifications_total{sink=\"silent\",result=\"sent\"}";
    assert!(metric(&agent, silent_sent) < 1.0);
    let mut agent = agent;
    // Nor does a sink that never answers hold up the end.
    assert!(agent.terminate().unwrap().success());
}
