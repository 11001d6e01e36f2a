//! Small cases by hand; made-up systems by the hundred are in the benchmarks' tests.

use super::{Case, CaseAlert, Kind, Table, kind_of, rank};

fn case(series: &str, topology: &[(&str, &str)], metric: &str) -> Case {
    Case {
        name: "by-hand".into(),
        series: Table::parse(series).unwrap(),
        baseline: None,
        topology: topology
            .iter()
            .map(|(a, b)| ((*a).to_owned(), (*b).to_owned()))
            .collect(),
        alert: CaseAlert {
            entity: "web".into(),
            metric: metric.into(),
            starts_at: 400.0,
        },
        truth: None,
    }
}

fn first(case: &Case) -> String {
    rank(case).entities[0].entity.clone()
}

const CHAIN: &str = "time,web|latency|mean,shop|latency|mean,db|latency|mean,web|requests|sum,shop|requests|sum,db|requests|sum
0,0.100,0.050,0.010,100,100,200
100,0.101,0.051,0.011,100,100,200
200,0.099,0.049,0.010,100,100,200
300,0.100,0.050,0.010,100,100,200
400,0.300,0.250,0.110,100,100,200
500,0.301,0.251,0.111,100,100,200
";

#[test]
fn the_deepest_that_explains_the_rest_is_the_cause() {
    let calls = [("web", "shop"), ("shop", "db")];
    let ranking = rank(&case(CHAIN, &calls, "latency"));
    assert_eq!(ranking.entities[0].entity, "db");
    assert_eq!(ranking.entities[0].cause, Some(Kind::Latency));
    assert!(ranking.entities[0].posterior > 0.8, "{ranking:?}");
}

#[test]
fn one_whose_callees_are_well_is_the_cause_itself() {
    let well = CHAIN
        .replace(",0.110,", ",0.010,")
        .replace(",0.111,", ",0.010,");
    assert_eq!(
        first(&case(&well, &[("web", "shop"), ("shop", "db")], "latency")),
        "shop"
    );
}

#[test]
fn extra_seconds_count_not_deviation_alone() {
    // `cron` is called once and ten times slower; `db` twice as slow, two hundred times.
    let series = "time,web|latency|mean,cron|latency|mean,db|latency|mean,web|requests|sum,cron|requests|sum,db|requests|sum
0,0.100,0.0500,0.020,100,1,200
100,0.101,0.0501,0.019,100,1,200
200,0.099,0.0500,0.021,100,1,200
300,0.100,0.0500,0.020,100,1,200
400,0.140,0.5000,0.040,100,1,200
500,0.141,0.5000,0.041,100,1,200
";
    assert_eq!(
        first(&case(series, &[("web", "cron"), ("web", "db")], "latency")),
        "db"
    );
}

#[test]
fn a_circle_of_calls_does_not_explain_itself_away() {
    let calls = [("web", "shop"), ("shop", "db"), ("db", "shop")];
    assert_eq!(first(&case(CHAIN, &calls, "latency")), "db");
}

#[test]
fn without_calls_the_one_that_grew_most_is_the_cause() {
    assert_eq!(first(&case(CHAIN, &[], "latency")), "db");
}

#[test]
fn a_resource_names_the_cause_where_the_symptom_is_seen_at_the_entry_only() {
    let series = "time,web|latency|mean,shop|cpu|mean,db|cpu|mean,db|memory|mean
0,0.100,0.50,0.30,1e9
100,0.101,0.51,0.31,1e9
200,0.099,0.49,0.30,1e9
300,0.100,0.50,0.30,1e9
400,0.300,0.55,0.99,1e9
500,0.301,0.54,0.99,1e9
";
    let ranking = rank(&case(series, &[("web", "shop"), ("shop", "db")], "latency"));
    assert_eq!(ranking.entities[0].entity, "db", "{ranking:?}");
    assert_eq!(ranking.entities[0].cause, Some(Kind::Cpu));
}

#[test]
fn empty_and_odd_cases_have_an_answer_too() {
    for series in [
        "time",
        "time,web|latency|mean",
        "time,x|y|z\n500,1\n",
        "time,web|latency|mean\n0,\n400,\n",
    ] {
        let ranking = rank(&case(series, &[], "latency"));
        assert!(ranking.none > 0.9, "{series:?}: {ranking:?}");
        assert!(ranking.entities.iter().any(|ranked| ranked.entity == "web"));
    }
    let mut unheard = case(CHAIN, &[("a", "b")], "moon phase");
    unheard.alert.entity = "nobody".into();
    assert_eq!(rank(&unheard).entities.len(), 6);
}

#[test]
fn metrics_are_known_by_their_names() {
    for (name, kind) in [
        ("latency", Kind::Latency),
        ("http_request_duration_seconds_sum", Kind::Latency),
        ("responseTimeMs", Kind::Latency),
        ("latency-90", Kind::Latency),
        ("availability", Kind::Errors),
        ("http_5xx_total", Kind::Errors),
        ("error_rate", Kind::Errors),
        ("requests", Kind::Traffic),
        ("workload", Kind::Traffic),
        ("rps", Kind::Traffic),
        ("container_cpu_usage_seconds_total", Kind::Cpu),
        ("memory_working_set_bytes", Kind::Memory),
        ("disk_write_bytes", Kind::Disk),
        ("diskio", Kind::Disk),
        ("socket", Kind::Network),
        ("container_network_receive_bytes_total", Kind::Network),
        ("moon_phase", Kind::Other),
    ] {
        assert_eq!(kind_of(name), kind, "{name}");
    }
}

#[test]
fn a_table_says_where_it_is_wrong() {
    let error = |text: &str| Table::parse(text).unwrap_err().to_string();
    assert_eq!(error(""), "empty: a header line is needed");
    assert!(error("t,a|b|c\nx,1\n").starts_with("line 2: \"x\" is not a time"));
    assert!(error("t,a|b|c\n1,one\n").starts_with("line 2, column \"a|b|c\": \"one\""));
    assert_eq!(error("t,a|b|c\n1,2,3\n"), "line 2: 3 cells, 2 columns");
    assert_eq!(error("t,\"a|b|c\n"), "line 1: a quote is not closed");
    let table = Table::parse("t,\"a,b|x|c\",d|e\n2,,NaN\n1,3,inf\n").unwrap();
    assert_eq!(table.times, [1.0, 2.0]);
    assert_eq!(table.columns[0].entity, "a,b");
    assert_eq!(table.columns[0].values, [Some(3.0), None]);
    assert_eq!(
        (
            table.columns[1].metric.as_str(),
            table.columns[1].statistic.as_str()
        ),
        ("e", "")
    );
    assert_eq!(table.columns[1].values, [None, None]);
}
