use std::time::Duration;

use paramedic_tests::{Agent, http, payload, schema};
use serde_json::{Value, json};

const SOON: Duration = Duration::from_mins(1);

/// The document that the agent serves.
fn document(agent: &Agent) -> Value {
    agent.get("/api/v1/openapi.json").unwrap().json().unwrap()
}

/// What the document says an answer of this status looks like, if it is JSON.
fn described(operation: &Value, status: u16) -> Option<&Value> {
    let response = &operation["responses"][status.to_string()];
    assert!(
        response.is_object(),
        "{status} is not documented: {operation}"
    );
    let content = response["content"].as_object()?;
    let json = content.iter().find(|(kind, _)| kind.contains("json"))?;
    Some(&json.1["schema"])
}

#[test]
fn every_documented_path_answers_as_documented() {
    let agent = Agent::start("state_dir: $STATE\nintake: {listen: $LISTEN}\n").unwrap();
    let document = document(&agent);
    for name in ["one", "two", "three"] {
        let labels = json!({"alertname": "HostCpuSaturated", "instance": name});
        let body = payload::firing(&labels, &json!({}), "2026-01-02T03:04:05Z");
        assert_eq!(
            agent.post("/webhook", &body.to_string()).unwrap().status,
            200
        );
    }
    let incident = agent.wait_for_closed(SOON).unwrap();
    let id = incident["id"].as_str().unwrap();
    let lines = incident["entries"].as_array().unwrap();
    let diagnosed = lines
        .iter()
        .find(|line| line["entry"] == "diagnosed")
        .unwrap();
    let lsn = diagnosed["lsn"].to_string();

    let mut walked = 0;
    for (path, methods) in document["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            let filled = path
                .replace("{id}", id)
                .replace("{lsn}", &lsn)
                .replace("{tenant}", "default");
            let body = if path.starts_with("/webhook") {
                payload::firing(
                    &json!({"alertname": "A"}),
                    &json!({}),
                    "2026-01-02T03:04:05Z",
                )
                .to_string()
            } else if method == "post" {
                "{}".to_owned()
            } else {
                String::new()
            };
            // A stream has no end of its own; what it says is tested with the page.
            if path == "/api/v1/events" {
                continue;
            }
            let headers = [("Content-Type", "application/json")];
            let method = method.to_uppercase();
            let answer = http::request(agent.address(), &method, &filled, &headers, &body).unwrap();
            let told = format!("{method} {filled}: {} {}", answer.status, answer.body);
            let expected = match path.as_str() {
                // Reloading over HTTP is off unless asked for.
                "/-/reload" => 403,
                // Nothing is proposed.
                _ if path.ends_with("/approve") || path.ends_with("/reject") => 409,
                _ => 200,
            };
            assert_eq!(answer.status, expected, "{told}");
            if let Some(described) = described(operation, answer.status) {
                let value: Value = serde_json::from_str(&answer.body).unwrap();
                schema::check(&document, described, &value)
                    .unwrap_or_else(|error| panic!("{error:#}: {told}"));
            }
            walked += 1;
        }
    }
    assert!(walked >= 15, "{walked}");
    pages(&agent);
    problems(&agent, &document, id);
}

/// Pages of one join to the list, in its order, and end.
fn pages(agent: &Agent) {
    let all: Vec<Value> = agent.incidents().unwrap();
    assert!(all.len() >= 3);
    let mut joined = Vec::new();
    let mut path = "/api/v1/incidents?limit=1".to_owned();
    for _ in 0..=all.len() {
        let page = agent.get(&path).unwrap().json().unwrap();
        joined.extend(page["incidents"].as_array().unwrap().clone());
        let Some(next) = page["next"].as_str() else {
            break;
        };
        path = format!("/api/v1/incidents?limit=1&before={next}");
    }
    let ids = |list: &[Value]| list.iter().map(|one| one["id"].clone()).collect::<Vec<_>>();
    assert_eq!(ids(&joined), ids(&all));
    let path = "/api/v1/incidents?state=healed";
    let healed = agent.get(path).unwrap().json().unwrap();
    assert_eq!(healed, json!({"incidents": [], "next": null}));
}

/// What goes wrong is a problem document everywhere, of a status that is documented.
fn problems(agent: &Agent, document: &Value, id: &str) {
    let problem = json!({"$ref": "#/components/schemas/Problem"});
    let other = "ep-000000000000000000000000000000ff";
    for (method, path, documented, status) in [
        (
            "GET",
            "/api/v1/incidents?limit=x".to_owned(),
            "/api/v1/incidents",
            400,
        ),
        (
            "GET",
            format!("/api/v1/incidents/{other}"),
            "/api/v1/incidents/{id}",
            404,
        ),
        (
            "GET",
            "/api/v1/incidents/x".to_owned(),
            "/api/v1/incidents/{id}",
            400,
        ),
        (
            "GET",
            format!("/api/v1/incidents/{id}/evidence/999999"),
            "/api/v1/incidents/{id}/evidence/{lsn}",
            404,
        ),
        (
            "GET",
            format!("/api/v1/incidents/{id}/report?format=x"),
            "/api/v1/incidents/{id}/report",
            400,
        ),
        ("POST", "/webhook".to_owned(), "/webhook", 415),
        (
            "POST",
            "/webhook/nobody".to_owned(),
            "/webhook/{tenant}",
            404,
        ),
        ("GET", "/nothing".to_owned(), "", 404),
        ("DELETE", "/api/v1/incidents".to_owned(), "", 405),
    ] {
        let answer = http::request(agent.address(), method, &path, &[], "").unwrap();
        let told = format!("{method} {path}: {} {}", answer.status, answer.body);
        assert_eq!(answer.status, status, "{told}");
        let value: Value = serde_json::from_str(&answer.body).unwrap();
        schema::check(document, &problem, &value)
            .unwrap_or_else(|error| panic!("{error:#}: {told}"));
        assert_eq!(value["status"], status, "{told}");
        if !documented.is_empty() {
            let operation = &document["paths"][documented][method.to_lowercase()];
            assert!(described(operation, status).is_some(), "{told}");
        }
    }
}
