use super::{
    config::{NotifyConfig, SinkConfig},
    template,
};

fn parse(text: &str) -> Result<SinkConfig, String> {
    let sink: SinkConfig = serde_saphyr::from_str(text).map_err(|error| error.to_string())?;
    let config = NotifyConfig {
        sinks: vec![sink.clone()],
        ..NotifyConfig::default()
    };
    let problems = config.problems();
    if problems.is_empty() {
        Ok(sink)
    } else {
        Err(problems.join("; "))
    }
}

#[test]
fn a_sink_that_cannot_work_is_refused_with_its_field() {
    let sink = parse("{name: ops, kind: slack, url: \"https://chat.example/x\"}").unwrap();
    assert_eq!((sink.per_minute, sink.states.len()), (20, 5));
    for (text, words) in [
        ("{name: ops, kind: slack}", "either url or url_file"),
        (
            "{name: ops, kind: slack, url: \"ftp://x\"}",
            "http or https",
        ),
        (
            "{name: \"o p\", kind: slack, url: \"http://x\"}",
            "characters of a-z",
        ),
        (
            "{name: ops, kind: slack, url: \"http://x\", template: \"{{nobody}}\"}",
            "no field \"nobody\"; there are action",
        ),
        (
            "{name: ops, kind: slack, url: \"http://x\", template: \"{{alert\"}",
            "{{ without }}",
        ),
        (
            "{name: ops, kind: slack, url: \"http://x\", per_minute: 0}",
            "per_minute: 0",
        ),
        ("{name: ops, kind: pager, url: \"http://x\"}", "pager"),
        (
            "{name: ops, kind: slack, url: \"http://x\", states: [cured]}",
            "cured",
        ),
    ] {
        let why = parse(text).unwrap_err();
        assert!(why.contains(words), "{text}: {why}");
    }
    let twice = NotifyConfig {
        sinks: vec![sink.clone(), sink],
        page_url: Some("nowhere".to_owned()),
        ..NotifyConfig::default()
    };
    let problems = twice.problems().join("; ");
    assert!(problems.contains("given twice") && problems.contains("notify.page_url"));
}

#[test]
fn what_an_alert_says_is_text_and_is_filled_in_once() {
    template::check(template::SHIPPED).unwrap();
    let fields = [
        ("alert", "<!here> {{node}} & co".to_owned()),
        ("node", "n".to_owned()),
    ]
    .into();
    let plain = template::fill("{{ alert }} on {{node}}", &fields, template::plain);
    assert_eq!(plain, "<!here> {{node}} & co on n");
    let slack = template::fill("{{alert}}", &fields, template::slack);
    assert_eq!(slack, "&lt;!here&gt; {{node}} &amp; co");
}
