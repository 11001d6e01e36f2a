use std::path::Path;

use super::{alert, webhook};
use crate::{
    diagnosis::{Finding, RuleSet},
    incident::Source,
};

const GOOD: &str = "\
family: test
hypotheses:
  - id: one
    title: something
    description: more of it
    prior: 0.1
    applies:
      alerts: [\"Queue.*\"]
      triggers: [io]
    culprit: {by: cpu.cores, min_share: 0.5}
    features:
      - {id: busy, reading: host.cpu.busy, at_least: 0.8, given_cause: 0.9, otherwise: 0.1, decisive: true, says: busy}
      - {id: deep, reading: series.depth, at_least: 10, given_cause: 0.9, otherwise: 0.1, says: deep}
    series:
      - {name: depth, promql: \"max(depth{instance={{instance}}})\"}
    recovery:
      - {reading: host.cpu.busy, below: 0.5}
    remedies:
      - {action: throttle-cpu, level: act}
";

fn findings(text: &str) -> Vec<Finding> {
    RuleSet::parse([(Path::new("r.yaml"), text)])
        .err()
        .unwrap_or_default()
}

/// Replaces one part of the good file; expects one finding on the given line, below the first
/// character of `at`.
#[track_caller]
fn refused(part: &str, by: &str, at: &str, says: &str) {
    assert!(GOOD.contains(part), "{part}");
    let text = GOOD.replacen(part, by, 1);
    let found = findings(&text);
    assert_eq!(found.len(), 1, "{found:#?}");
    let finding = &found[0];
    assert!(finding.message.contains(says), "{finding}");
    let line = usize::try_from(finding.line).unwrap();
    let column = usize::try_from(finding.column).unwrap();
    let pointed = &text.lines().nth(line - 1).unwrap()[column - 1..];
    assert!(pointed.starts_with(at), "{finding} points at {pointed:?}");
}

#[test]
fn every_finding_points_at_its_place() {
    assert_eq!(findings(GOOD), []);
    refused("title:", "titel:", "titel", "unknown field `titel`");
    refused("prior: 0.1", "prior: 1.0", "1.0", "between 0 and 1");
    refused("given_cause: 0.9", "given_cause: 1", "1", "between 0 and 1");
    refused("otherwise: 0.1", "otherwise: 0.9", "0.9", "says nothing");
    refused(
        "otherwise: 0.1",
        "otherwise: .nan",
        ".nan",
        "between 0 and 1",
    );
    refused(
        "host.cpu.busy",
        "host.cpu.bussy",
        "host.cpu.bussy",
        "did you mean \"host.cpu.busy\"",
    );
    refused(
        "at_least: 0.8, ",
        "",
        "host.cpu.busy",
        "needs `at_least` or `below`",
    );
    refused(
        "at_least: 0.8",
        "at_least: 0.8, below: 0.8",
        "host.cpu.busy",
        "cannot both hold",
    );
    refused(
        "decisive: true",
        "decisive: false",
        "- {id: busy",
        "no feature is `decisive: true`",
    );
    refused(
        "series.depth",
        "series.width",
        "series.width",
        "no series \"width\"",
    );
    refused("Queue.*", "Queue(", "\"Queue(", "not a regular expression");
    refused("{{instance}}", "{{instance", "\"max", "not closed");
    refused(
        "{{instance}}",
        "{{a b}}",
        "\"max",
        "not the name of a label",
    );
    refused(
        "{{instance}}",
        "'{{instance}}'",
        "\"max",
        "without quotes: LABEL={{instance}}",
    );
    refused(
        "by: cpu.cores",
        "by: cpu.busy",
        "cpu.busy",
        "not a reading of cgroups",
    );
    refused("min_share: 0.5", "min_share: 50", "50", "at most 1");
    refused("id: one", "id: One!", "One!", "a-z, 0-9 and '-'");
    refused("id: deep", "id: busy", "busy", "second feature");
    refused("title: something", "title: ''", "''", "must not be empty");
    refused(
        "title: something",
        "title: \"a\\eb\"",
        "\"a",
        "control characters",
    );
    refused(
        "level: act}",
        "level: act, amount: -1}",
        "{action",
        "above 0",
    );
    refused(
        "      - {reading: host.cpu.busy, below: 0.5}",
        "      []",
        "{action",
        "recovery",
    );
    refused(
        "action: throttle-cpu",
        "action: reboot",
        "reboot",
        "unknown variant",
    );
    refused(
        "    culprit: {by: cpu.cores, min_share: 0.5}\n",
        "",
        "{action",
        "needs a `culprit`",
    );
}

#[test]
fn all_findings_of_all_files_are_reported_at_once() {
    let bad = GOOD
        .replace("prior: 0.1", "prior: 7")
        .replace("below: 0.5", "below: .inf");
    let files = [
        (Path::new("a.yaml"), bad.as_str()),
        (Path::new("b.yaml"), GOOD),
        (Path::new("c.yaml"), "family: [\n"),
        (Path::new("d.yaml"), ""),
    ];
    let found = RuleSet::parse(files).unwrap_err();
    let lines: Vec<String> = found.iter().map(ToString::to_string).collect();
    assert_eq!(lines.len(), 5, "{lines:#?}");
    assert!(
        lines[0].starts_with("a.yaml:6:12: prior is 7"),
        "{lines:#?}"
    );
    assert!(
        lines[1].starts_with("a.yaml:17:19: a bound must be"),
        "{lines:#?}"
    );
    assert!(lines[2].contains("b.yaml:3:9: the id \"one\" is used already at a.yaml:3"));
    assert!(lines[3].starts_with("c.yaml:"), "{lines:#?}");
    assert!(lines[4].starts_with("d.yaml"), "{lines:#?}");
}

#[test]
fn limits_are_enforced() {
    let feature = "      - {id: deep, reading: series.depth, at_least: 10, given_cause: 0.9, \
                   otherwise: 0.1, says: deep}\n";
    let many: String = (0..40)
        .map(|n| feature.replacen("deep", &format!("deep{n}"), 1))
        .collect();
    let found = findings(&GOOD.replace(feature, &many));
    assert!(
        found[0].message.contains("41 features; 32 at most"),
        "{found:?}"
    );
    let long = GOOD.replace("more of it", &"x".repeat(2001));
    assert!(
        findings(&long)[0]
            .message
            .contains("2001 bytes; 2000 at most")
    );
}

#[test]
fn rules_apply_to_whole_alert_names_and_their_triggers() {
    let set = RuleSet::parse([(Path::new("r.yaml"), GOOD)]).unwrap();
    let rule = &set.rules()[0];
    let pressure = |resource: &str| Source::Pressure {
        resource: resource.to_owned(),
    };
    assert!(rule.applies.to(&alert("QueueStuck"), &webhook()));
    assert!(!rule.applies.to(&alert("MyQueueStuck"), &webhook()));
    assert!(rule.applies.to(&alert("x"), &pressure("io")));
    assert!(!rule.applies.to(&alert("x"), &pressure("cpu")));
    assert!(rule.applies.to(&alert("x"), &Source::Manual));
    assert_eq!(set.queries_for(&alert("QueueStuck"))[0].name, "depth");
    assert_eq!(set.queries_for(&alert("Other")), []);
}
