use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use paramedic::{
    config::Config,
    diagnosis::RuleSet,
    incident::{Alert, Level, Source},
};
use paramedic_tests::{Agent, NodeExporter, http, tools};
use serde_json::{Value, json};

fn deploy(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../agent/deploy")
        .join(path)
}

fn yaml(path: &str) -> Value {
    let text = fs::read_to_string(deploy(path)).unwrap();
    serde_saphyr::from_str(&text).unwrap()
}

/// Runs a tool in the folder of Prometheus' rules; what it says is shown if it finds anything.
fn passes(package: &str, program: &str, args: &[&str]) {
    let output = Command::new(tools::beside(package, program).unwrap())
        .args(args)
        .current_dir(deploy("prometheus"))
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    assert!(output.status.success(), "{program} {args:?}: {said}");
}

/// Rules of both files, alerts and recordings.
fn rules() -> Vec<Value> {
    let mut rules = Vec::new();
    for file in ["prometheus/alerts.yaml", "prometheus/recording.yaml"] {
        for group in yaml(file)["groups"].as_array().unwrap() {
            rules.extend(group["rules"].as_array().unwrap().clone());
        }
    }
    rules
}

/// Every expression of our dashboards, with the variables filled in as Grafana does.
fn dashboards() -> Vec<String> {
    let mut found = Vec::new();
    for file in ["agent", "incidents", "mttr"] {
        let text = fs::read_to_string(deploy(&format!("grafana/{file}.json"))).unwrap();
        let dashboard: Value = serde_json::from_str(&text).unwrap();
        let panels = dashboard["panels"].as_array().unwrap();
        for panel in panels {
            for target in panel["targets"].as_array().into_iter().flatten() {
                let expression = target["expr"].as_str().unwrap();
                found.push(
                    expression
                        .replace("$__rate_interval", "5m")
                        .replace("$__range", "1h")
                        .replace("$__interval", "1m"),
                );
            }
        }
        assert!(panels.len() > 3, "{file}");
    }
    found
}

/// Names of metrics in an expression: words outside of strings that begin as ours or the exporter's.
fn metrics(expression: &str) -> BTreeSet<String> {
    let unquoted: String = expression
        .split('"')
        .step_by(2)
        .collect::<Vec<_>>()
        .join(" ");
    unquoted
        .split(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == ':'))
        .filter(|word| {
            let prefixes = ["paramedic_", "process_", "node_", "instance:", "job:"];
            prefixes.iter().any(|prefix| word.starts_with(prefix))
        })
        .map(str::to_owned)
        .collect()
}

/// Names of an exposition's families and samples.
fn exposed(text: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            names.insert(name.to_owned());
            if kind == "histogram" {
                names.extend(["_bucket", "_sum", "_count"].map(|end| format!("{name}{end}")));
            }
        }
    }
    names
}

#[test]
fn prometheus_and_alertmanager_take_what_we_ship() {
    passes(
        "prometheus",
        "promtool",
        &["check", "rules", "alerts.yaml", "recording.yaml"],
    );
    passes(
        "prometheus",
        "promtool",
        &["test", "rules", "alerts_test.yaml"],
    );
    passes(
        "prometheus-alertmanager",
        "amtool",
        &["check-config", "../alertmanager/alertmanager.yaml"],
    );
}

#[test]
fn every_alert_of_the_agent_has_a_way_to_people_and_none_to_the_agent() {
    let route = |labels: &[&str], receivers: &str| {
        let config = deploy("alertmanager/alertmanager.yaml")
            .display()
            .to_string();
        let mut args = vec!["config", "routes", "test", "--config.file", &config];
        args.extend(["--verify.receivers", receivers]);
        args.extend(labels);
        passes("prometheus-alertmanager", "amtool", &args);
    };
    route(
        &["alertname=HostCpuSaturated", "paramedic=true"],
        "paramedic,people",
    );
    route(
        &["alertname=ParamedicDown", "component=paramedic"],
        "people",
    );
    for rule in rules() {
        let Some(name) = rule["alert"].as_str() else {
            continue;
        };
        let to_agent = rule["labels"]["paramedic"] == "true";
        assert_eq!(to_agent, name.starts_with("Host"), "{name}");
    }
}

#[test]
fn prometheus_parses_every_expression_of_the_dashboards() {
    let folder = tools::temporary_folder().unwrap();
    let file = folder.path().join("dashboards.yaml");
    let expressions = dashboards();
    assert!(expressions.len() > 40);
    let rules: Vec<Value> = expressions
        .iter()
        .enumerate()
        .map(|(nth, expr)| json!({"record": format!("panel:{nth}"), "expr": expr.replace('$', "")}))
        .collect();
    let group = json!({"groups": [{"name": "dashboards", "rules": rules}]});
    fs::write(&file, group.to_string()).unwrap();
    passes(
        "prometheus",
        "promtool",
        &["check", "rules", file.to_str().unwrap()],
    );
}

#[test]
fn what_rules_and_dashboards_ask_for_is_there() {
    let agent = Agent::start(
        "state_dir: $STATE\nintake: {listen: $LISTEN}\n\
         sampling: {prometheus_url: \"http://127.0.0.1:9\"}\n\
         notify: {sinks: [{name: ops, kind: webhook, url: \"http://127.0.0.1:9/\"}]}\n",
    )
    .unwrap();
    let text = agent.get("/metrics").unwrap().ok().unwrap();
    let mut there = exposed(&text);
    let exporter = NodeExporter::start().unwrap();
    let of_node = http::get(exporter.address(), "/metrics")
        .unwrap()
        .ok()
        .unwrap();
    there.extend(exposed(&of_node));
    // Only where there are arrays, and only where units are asked for.
    there.extend(["node_md_disks", "node_systemd_unit_state"].map(str::to_owned));
    let mut expressions = dashboards();
    for rule in rules() {
        expressions.push(rule["expr"].as_str().unwrap().to_owned());
        there.extend(rule["record"].as_str().map(str::to_owned));
    }
    for expression in &expressions {
        for name in metrics(expression) {
            assert!(there.contains(&name), "{name} of {expression} is nowhere");
        }
    }
    // The first increase of a counter is only seen where it began at zero.
    for series in [
        "paramedic_alerts_total{reason=\"opened\"} 0",
        "paramedic_episodes_failed_total 0",
        "paramedic_shadow_answers_total{consensus=\"disagrees\"} 0",
        "paramedic_notifications_total{sink=\"ops\",result=\"failed\"} 0",
        "paramedic_breaker_open{breaker=\"prometheus\"} 0.0",
        "paramedic_breaker_open{breaker=\"notify-ops\"} 0.0",
        "paramedic_queue_depth{tenant=\"default\"} 0.0",
    ] {
        assert!(
            text.lines().any(|line| line == series),
            "no {series} in\n{text}"
        );
    }
    // Each probe is in exactly one state.
    let states = |state: &str| {
        text.lines()
            .filter(|l| l.starts_with("paramedic_probe_state{") && l.ends_with(state))
            .count()
    };
    assert!(
        states("} 1.0") > 5 && states("} 0.0") == 3 * states("} 1.0"),
        "{text}"
    );
    check_metrics(&text);
}

/// `promtool check metrics` reads the exposition and lints its names.
fn check_metrics(text: &str) {
    use std::io::Write;
    let mut tool = Command::new(tools::beside("prometheus", "promtool").unwrap())
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    tool.stdin
        .take()
        .unwrap()
        .write_all(text.as_bytes())
        .unwrap();
    let output = tool.wait_with_output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    assert!(output.status.success() && said.trim().is_empty(), "{said}");
}

#[test]
fn the_causes_that_alerts_name_are_rules_that_apply_to_them() {
    let shipped = RuleSet::shipped().unwrap();
    let mut named = BTreeSet::new();
    for rule in rules() {
        let Some(causes) = rule["annotations"]["causes"].as_str() else {
            continue;
        };
        let name = rule["alert"].as_str().unwrap();
        let alert: Alert = serde_json::from_value(json!({
            "status": "firing", "labels": {"alertname": name},
            "starts_at": "2026-01-02T03:04:05Z", "fingerprint": "1",
        }))
        .unwrap();
        let source = Source::Alertmanager {
            receiver: "paramedic".to_owned(),
        };
        for cause in causes.split(' ') {
            let rule = shipped
                .get(cause)
                .unwrap_or_else(|| panic!("{name}: no rule {cause}"));
            // Some rules want an alert by another name as well: those must be one of several causes.
            let applies = rule.applies.to(&alert, &source);
            assert!(
                applies || causes.contains(' '),
                "{cause} does not apply to {name}"
            );
            named.insert(cause.to_owned());
        }
    }
    assert!(named.len() > 25, "{named:?}");
}

#[test]
fn the_agent_takes_every_configuration_that_we_ship() {
    let of_maps = ["base", "privileged"].map(|folder| {
        let map = yaml(&format!("kubernetes/{folder}/config.yaml"));
        map["data"]["paramedic.yaml"].as_str().unwrap().to_owned()
    });
    let of_unit = fs::read_to_string(deploy("systemd/paramedic.yaml")).unwrap();
    let levels = of_maps.into_iter().chain([of_unit]).map(|text| {
        let config = Config::parse(&text, Path::new("paramedic.yaml")).unwrap();
        config.remedy.level
    });
    let levels: Vec<Level> = levels.collect();
    assert_eq!(levels, [Level::Advise, Level::Act, Level::Advise]);
}
