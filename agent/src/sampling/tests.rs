//! Bounds and words of the stage, without a network. With one: `tests/tests/sampling.rs`.

use std::collections::BTreeMap;

use super::*;
use crate::{
    clock::ManualClock,
    incident::{AlertStatus, Fingerprint},
};

fn alert(labels: &[(&str, &str)]) -> Alert {
    let labels: BTreeMap<_, _> = labels
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect();
    Alert {
        status: AlertStatus::Firing,
        fingerprint: Fingerprint::of(&labels),
        labels,
        annotations: BTreeMap::new(),
        starts_at: Timestamp::UNIX_EPOCH,
        ends_at: None,
    }
}

fn trace() -> TraceContext {
    TraceContext::parse("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01").unwrap()
}

fn query(name: &str, promql: &str) -> SeriesQuery {
    SeriesQuery {
        name: name.to_owned(),
        promql_template: promql.to_owned(),
    }
}

fn matrix(series: usize) -> Matrix {
    let one = r#"{"metric": {"a": "b"}, "values": [[0, "1"], [1, "2"]]}"#;
    let all = vec![one; series].join(",");
    let json = format!(r#"{{"resultType": "matrix", "result": [{all}]}}"#);
    serde_json::from_str(&json).unwrap()
}

fn answered(series: usize) -> Answered {
    Answered {
        matrix: Arc::new(matrix(series)),
        instead: None,
    }
}

const GRID: Grid = Grid {
    start_s: 0,
    step_s: 1,
    points: 10,
};

#[tokio::test]
async fn without_prometheus_everything_is_a_gap() {
    let clock = Arc::new(ManualClock::at(Timestamp::UNIX_EPOCH));
    let sampler = Sampler::new(&SamplingConfig::default(), clock).unwrap();
    let queries = [query("a", "a"), query("b", "b{c={{c}}}")];
    let given = sampler
        .sample(&queries, &alert(&[]), Timestamp::UNIX_EPOCH, &trace())
        .await;
    assert!(given.series.is_empty());
    assert_eq!(given.gaps.len(), 2);
    assert_eq!(given.coverage.source, "prometheus");
    assert_eq!(given.coverage.note, "prometheus not configured");
    assert!(!given.coverage.complete);
}

#[test]
fn a_configuration_out_of_bounds_is_refused_with_all_its_problems() {
    let config = SamplingConfig {
        prometheus_url: Some("ftp://p".to_owned()),
        step_s: 0,
        ..SamplingConfig::default()
    };
    let clock = Arc::new(ManualClock::at(Timestamp::UNIX_EPOCH));
    let said = Sampler::new(&config, clock).unwrap_err().to_string();
    assert!(said.contains("ftp") && said.contains("step_s"), "{said}");
}

#[test]
fn series_and_samples_are_cut_and_said() {
    let config = SamplingConfig {
        series_max: 3,
        samples_max: 49,
        ..SamplingConfig::default()
    };
    let mut collected = Collected::new(&config, 0);
    collected.answer("first", Ok(answered(5)), &GRID);
    collected.answer("second", Ok(answered(2)), &GRID);
    collected.answer("third", Ok(answered(0)), &GRID);
    let sampled = collected.finish("");
    let names: Vec<_> = sampled
        .series
        .iter()
        .map(|series| series.name.as_str())
        .collect();
    assert_eq!(names, ["first", "first", "first", "second"]);
    let whys: Vec<_> = sampled.gaps.iter().map(|gap| gap.why.as_str()).collect();
    assert!(whys[0].starts_with("3 of 5 series kept"), "{whys:?}");
    assert!(whys[1].starts_with("1 of 2 series kept"), "{whys:?}");
    assert!(whys[2].contains("no such series"), "{whys:?}");
    assert!(!sampled.coverage.complete);
    assert!(
        sampled
            .coverage
            .note
            .starts_with("3 of 3 queries answered; first: 3 of 5")
    );
}

#[test]
fn labels_go_before_series_do() {
    let config = SamplingConfig::default();
    let mut collected = Collected::new(&config, 0);
    collected.labels_bytes = LABELS_BYTES_MAX - 3;
    collected.answer("x", Ok(answered(2)), &GRID);
    let sampled = collected.finish("");
    assert_eq!(sampled.series[0].labels.len(), 1);
    assert_eq!(sampled.series[1].labels.len(), 0);
    assert!(
        sampled.gaps[0].why.contains("lost labels"),
        "{:?}",
        sampled.gaps
    );
}

#[test]
fn an_empty_answer_leaves_the_source_complete() {
    let config = SamplingConfig::default();
    let mut collected = Collected::new(&config, 0);
    collected.answer("x", Ok(answered(0)), &GRID);
    let sampled = collected.finish("");
    assert_eq!(sampled.gaps.len(), 1);
    assert!(sampled.coverage.complete && sampled.coverage.note.is_empty());
}

/// Whatever answers, what is kept lies on the grid and is finite.
#[test]
fn mutants_of_answers_are_series_on_the_grid_or_nothing() {
    let corpus: Vec<Vec<u8>> = [
        r#"{"status":"success","data":{"resultType":"matrix","result":[{"metric":{"__name__":"up","job":"a"},"values":[[0,"1"],[1.5,"NaN"],[3,"-2e3"],[9,"+Inf"]]},{"metric":{},"values":[[4,"0.5"]]}]}}"#,
        r#"{"status":"success","warnings":["results truncated due to limit"],"data":{"resultType":"matrix","result":[{"metric":{"a":"b"},"histograms":[[1,{"count":"3","sum":"4"}]]}]}}"#,
        r#"{"status":"error","errorType":"bad_data","error":"parse error: unexpected end of input"}"#,
        r#"{"status":"success","data":{"resultType":"vector","result":[{"metric":{},"value":[1,"2"]}]}}"#,
    ]
    .map(|text| text.as_bytes().to_vec())
    .into();
    let config = SamplingConfig {
        series_max: 3,
        ..SamplingConfig::default()
    };
    let (mut answers, mut refused) = (0, 0);
    crate::mutate::each(&corpus, 30_000, |bytes| {
        let mut collected = Collected::new(&config, 5);
        let answer = client::parse(bytes).map(|matrix| Answered {
            matrix: Arc::new(matrix),
            instead: None,
        });
        answers += usize::from(answer.is_ok());
        refused += usize::from(answer.is_err());
        collected.answer("x", answer, &GRID);
        let sampled = collected.finish("");
        assert!(sampled.series.len() <= 3);
        for series in &sampled.series {
            assert_eq!(series.values.len(), GRID.points);
            assert!(
                series
                    .values
                    .iter()
                    .flatten()
                    .all(|value| value.is_finite())
            );
        }
        assert!(sampled.gaps.iter().all(|gap| gap.why.len() < 2048));
    });
    assert!(
        answers > 200 && refused > 1000,
        "{answers} answers, {refused} refused"
    );
}

/// However a template is written, it is refused or its value stays in one literal.
#[test]
fn mutants_of_templates_never_let_a_value_out() {
    let corpus: Vec<Vec<u8>> = [
        "node_load1{instance={{instance}}}",
        r#"rate(a{x="}{",instance!={{ instance }}}[5m]) / b{instance=~{{instance}}}"#,
        "# don't\nup{instance = {{instance}} , a='\\'' }",
        "sum by (job) (up{job!~{{instance}},c=`x`})",
    ]
    .map(|text| text.as_bytes().to_vec())
    .into();
    let marked = alert(&[("instance", "\"}HOSTILE{\\\n")]).labels;
    let plain = alert(&[("instance", "")]).labels;
    let (mut filled, mut refused) = (0, 0);
    crate::mutate::each(&corpus, 30_000, |bytes| {
        let template = String::from_utf8_lossy(bytes);
        let (Ok(hostile), Ok(empty)) = (fill(&template, &marked), fill(&template, &plain)) else {
            refused += 1;
            return;
        };
        filled += 1;
        // Taken out as literals, the values leave the same query behind.
        let literals = [r#""\"}HOSTILE{\\\n""#, r#""\"\\}HOSTILE\\{\\\\\n""#];
        let mut left = hostile;
        for literal in literals {
            left = left.replace(literal, "\"\"");
        }
        assert_eq!(left, empty, "{template}");
    });
    assert!(
        filled > 1000 && refused > 1000,
        "{filled} filled, {refused} refused"
    );
}
