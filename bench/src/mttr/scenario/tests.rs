use std::path::Path;

use super::*;

const GOOD: &str = "\
name: hog
title: a hog
family: cpu
faults:
  - {kind: cpu, intensity: 2}
duration_s: 20
alert: HostCpuSaturated
expect: {hypothesis: cpu-hog, culprit: batch-job, action: throttle-cpu}
";

fn parse(text: &str) -> anyhow::Result<Scenario> {
    Scenario::parse(text, Path::new("hog.yaml"))
}

#[test]
fn what_is_shipped_is_sound_and_there_is_enough_of_it() {
    let catalogue = Catalogue::load(&Catalogue::shipped()).unwrap();
    assert!(catalogue.scenarios.len() >= 10);
    let count = |wanted: fn(&Scenario) -> bool| {
        catalogue
            .scenarios
            .iter()
            .filter(|scenario| wanted(scenario))
            .count()
    };
    assert!(count(|scenario| !scenario.is_fault()) >= 2, "false alarms");
    assert!(count(|scenario| scenario.quick) >= 3, "for --quick");
    let rules: Vec<String> = ["cpu", "memory", "process", "disk"]
        .iter()
        .map(|family| {
            let file = Catalogue::shipped().join(format!("../../rules/{family}.yaml"));
            fs::read_to_string(file).unwrap()
        })
        .collect();
    for scenario in &catalogue.scenarios {
        if let Some(hypothesis) = &scenario.expect.hypothesis {
            let id = format!("- id: {}\n", hypothesis.value);
            let known = rules.iter().any(|rules| rules.contains(&id));
            assert!(
                known,
                "{}: no rule {}",
                scenario.name.value, hypothesis.value
            );
        }
    }
}

#[test]
fn defaults_are_filled_in() {
    let scenario = parse(GOOD).unwrap();
    assert_eq!(scenario.strategies, Strategy::ALL);
    assert_eq!(scenario.faults[0].cgroup.value, "batch-job");
    assert_eq!(scenario.inject_type(), "cpu");
}

#[test]
fn each_fault_of_a_file_is_told_with_its_place() {
    for (from, to, place, said) in [
        (
            "title: a hog",
            "title: a hog\ncolour: red",
            "hog.yaml:3:1:",
            "colour",
        ),
        ("kind: cpu, ", "kind: gpu, ", "hog.yaml:5:12:", "gpu"),
        (
            "intensity: 2",
            "intensity: 99",
            "hog.yaml:5:28:",
            "intensity: 99",
        ),
        (
            "duration_s: 20",
            "duration_s: 0",
            "hog.yaml:6:13:",
            "duration_s: 0",
        ),
        (
            "culprit: batch-job",
            "culprit: web-job",
            "hog.yaml:8:40:",
            "no fault runs",
        ),
        ("throttle-cpu", "reboot", "hog.yaml:8:59:", "no action of"),
        ("name: hog", "name: cow", "hog.yaml:1:7:", "another name"),
    ] {
        let text = GOOD.replace(from, to);
        assert_ne!(text, GOOD, "{from}");
        let error = parse(&text).unwrap_err().to_string();
        assert!(error.starts_with(place), "{to}: {error}");
        assert!(error.contains(said), "{to}: {error}");
    }
}

#[test]
fn a_false_alarm_expects_no_action() {
    let text = GOOD.replace("family: cpu", "family: false-alarm");
    let error = parse(&text).unwrap_err().to_string();
    assert!(error.contains("a false alarm expects no action"), "{error}");
}
