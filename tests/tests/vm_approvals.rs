//! An action that a person has to approve, with the agent as people run it and a real fault: proposed,
//! not done; approved by the command line and done once; given up when its alert resolves. Runs in the VM.

use std::{process::Command, thread, time::Duration};

use jiff::Timestamp;
use paramedic_tests::{Agent, Cgroup, http, payload};
use serde_json::{Value, json};

/// For a diagnosis and an action on an emulated CPU under load.
const SOON: Duration = Duration::from_mins(1);
/// Evidence of a calm node before the fault, then of the fault.
const WINDOW: Duration = Duration::from_secs(5);
/// What `cpu.max` holds where nobody has set it.
const UNLIMITED: &str = "max 100000";

fn labels(name: &str) -> Value {
    json!({"alertname": "HostCpuSaturated", "instance": name, "severity": "critical"})
}

fn entries<'a>(incident: &'a Value, name: &str) -> Vec<&'a Value> {
    let lines = incident["entries"].as_array().expect("entries");
    lines.iter().filter(|line| line["entry"] == name).collect()
}

/// Ids and alerts' instances of all incidents once `wanted` of them are proposed.
fn of_instance(agent: &Agent, instance: &str, what: &str, entry: &str) -> Value {
    let wanted = |incident: &Value| {
        incident["episode"]["alert"]["labels"]["instance"] == instance
            && !entries(incident, entry).is_empty()
    };
    let begun = std::time::Instant::now();
    loop {
        for summary in agent.incidents().expect("the list of incidents") {
            let id = summary["id"].as_str().expect("an id");
            let incident = agent.incident(id).expect("an incident");
            if wanted(&incident) {
                return incident;
            }
        }
        assert!(
            begun.elapsed() < SOON,
            "no {what} of {instance}: {:?}",
            agent.incidents()
        );
        thread::sleep(Duration::from_millis(200));
    }
}

fn post(agent: &Agent, path: &str) -> (u16, String) {
    let answer = agent
        .post(path, "{\"by\": \"the test\"}")
        .expect("an answer");
    (answer.status, answer.body)
}

#[test]
fn nothing_is_done_until_a_person_approves_and_then_once() {
    let config = "state_dir: $STATE\nintake: {listen: $LISTEN}\n\
                  remedy: {level: approve, lease_s: 120, promotion: {enabled: true}}\n";
    let agent = Agent::start(config).expect("the agent starts");
    thread::sleep(WINDOW);
    let mut hog = Cgroup::make("tests/approve-hog").expect("a cgroup");
    let mut workers = Command::new("stress-ng");
    workers.args(["--temp-path", "/tmp", "--cpu", "4"]);
    hog.spawn(workers, Duration::from_mins(4))
        .expect("stress-ng starts");
    let limit = || hog.get("cpu.max").expect("cpu.max");
    thread::sleep(WINDOW);
    let begun = Timestamp::now();
    for instance in ["a", "b"] {
        let body = payload::firing(&labels(instance), &json!({}), begun).to_string();
        assert_eq!(
            agent.post("/webhook", &body).expect("an answer").status,
            200
        );
    }
    let first = of_instance(&agent, "a", "proposal", "proposed");
    let second = of_instance(&agent, "b", "proposal", "proposed");
    let proposed = &entries(&first, "proposed")[0]["intent"];
    assert_eq!(proposed["action"]["kind"], "throttle-cpu");
    assert_eq!(proposed["action"]["cgroup"], hog.id().expect("an id"));
    assert_eq!(limit(), UNLIMITED);
    let (first, second) = (
        first["id"].as_str().expect("id"),
        second["id"].as_str().expect("id"),
    );

    // One is resolved by its sender before anybody decides.
    let body = payload::resolved(&labels("b"), begun, Timestamp::now()).to_string();
    assert_eq!(
        agent.post("/webhook", &body).expect("an answer").status,
        200
    );
    let lapsed = of_instance(&agent, "b", "end", "closed");
    assert_eq!(entries(&lapsed, "lapsed").len(), 1, "{lapsed:#}");
    let (status, said) = post(&agent, &format!("/api/v1/incidents/{second}/approve"));
    assert_eq!(status, 409, "{said}");
    assert_eq!(limit(), UNLIMITED);

    // The other is approved, as people do it.
    let told = agent.command(&["incidents", "approve", first, "--by", "ana"]);
    assert!(told.expect("the command line").contains("approve taken"));
    let (status, said) = post(&agent, &format!("/api/v1/incidents/{first}/approve"));
    assert_eq!(status, 409, "{said}");
    let (status, _) = post(&agent, &format!("/api/v1/incidents/{first}/reject"));
    assert_eq!(status, 409);
    let done = of_instance(&agent, "a", "verdict", "verified");
    assert_eq!(entries(&done, "approved")[0]["by"], "ana");
    assert_eq!(entries(&done, "intended").len(), 1, "{done:#}");
    assert_eq!(
        entries(&done, "diagnosed").len(),
        2,
        "looked at twice: {done:#}"
    );
    assert_eq!(
        entries(&done, "verified")[0]["outcome"]["kind"],
        "healed",
        "{done:#}"
    );
    assert_ne!(limit(), UNLIMITED);

    // What it has earned is there for people and machines.
    let levels = http::get(agent.address(), "/api/v1/levels").expect("an answer");
    let levels: Value = serde_json::from_str(&levels.body).expect("JSON");
    let one = &levels["levels"][0];
    assert_eq!(
        (&one["rule"], &one["level"]),
        (&json!("cpu-hog"), &json!("approve"))
    );
    assert_eq!((&one["healed"], &one["judged"]), (&json!(1), &json!(1)));
    let shown = agent.command(&["incidents", "levels"]);
    let shown = shown.expect("the command line");
    assert!(
        shown.contains("cpu-hog") && shown.contains("1/1"),
        "{shown}"
    );
    let shown = agent.show(first).expect("the command line");
    assert!(shown.contains("approved by ana"), "{shown}");
}
