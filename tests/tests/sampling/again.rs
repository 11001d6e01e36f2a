//! What is asked again, once, or with which credentials.

use super::*;

#[test]
fn a_hiccup_is_repeated_and_a_recovered_prometheus_is_asked_everything_again() {
    let runtime = Runtime::new().unwrap();
    // How many requests still fail.
    let sick = Arc::new(AtomicUsize::new(1));
    let left = sick.clone();
    let address = serve(&runtime, move |_| {
        let fails = left
            .try_update(Ordering::SeqCst, Ordering::SeqCst, |left| {
                left.checked_sub(1)
            })
            .is_ok();
        async move {
            if fails {
                StatusCode::SERVICE_UNAVAILABLE.into_response()
            } else {
                matrix([now_s()])
            }
        }
    });
    let config = SamplingConfig {
        breaker_open_ms: 200,
        ..config(&format!("http://{address}"))
    };
    let stage = sampler(&config);
    let queries: Vec<_> = (0..6).map(|n| query(&format!("q{n}"), "up")).collect();
    let sampled = runtime.block_on(sample(&stage, &queries, "x"));
    assert_eq!(sampled.series.len(), 6, "{:?}", sampled.gaps);

    sick.store(usize::MAX, Ordering::SeqCst);
    let sampled = runtime.block_on(sample(&stage, &queries, "x"));
    assert_eq!(sampled.series.len(), 0);
    assert!(
        sampled.coverage.note.contains("503"),
        "{:?}",
        sampled.coverage
    );

    sick.store(0, Ordering::SeqCst);
    std::thread::sleep(Duration::from_millis(250));
    let sampled = runtime.block_on(sample(&stage, &queries, "x"));
    assert_eq!(
        sampled.series.len(),
        6,
        "one trial, then all: {:?}",
        sampled.gaps
    );
    assert!(sampled.coverage.complete);
}

#[test]
fn a_prometheus_that_has_died_is_remembered_for_a_while() {
    let runtime = Runtime::new().unwrap();
    let mut prometheus = Prometheus::builder()
        .alert_labelled("Always", "vector(1)", &[])
        .start()
        .unwrap();
    prometheus.wait_for("ALERTS", WITHIN).unwrap();
    let config = SamplingConfig {
        last_good_s: 3,
        ..config(&prometheus.url())
    };
    let stage = sampler(&config);
    let known = query("known", "ALERTS");
    let lively = runtime.block_on(sample(&stage, std::slice::from_ref(&known), "x"));
    assert_eq!(lively.series.len(), 1, "{:?}", lively.gaps);
    prometheus.process().kill().unwrap();
    std::thread::sleep(Duration::from_millis(1500));
    let queries = [known, query("new", "vector(1)")];
    let dead = runtime.block_on(sample(&stage, &queries, "x"));
    let [series] = dead.series.as_slice() else {
        panic!("{dead:?}");
    };
    assert_eq!(series.name, "known");
    // What it tells of is over: the present is a gap, so that readings of it are partial.
    assert_eq!(series.values.last(), Some(&None), "{series:?}");
    let note = &dead.coverage.note;
    let said = "0 of 2 queries answered; known: the last good answer, 1 s old, stands in: ";
    assert!(note.starts_with(said), "{note}");
    assert!(note.contains("cannot reach Prometheus"), "{note}");
    let why = &dead.gaps[1].why;
    assert!(why.contains("cannot reach Prometheus"), "{why}");
    assert!(!why.contains("stands in"), "{why}");
    std::thread::sleep(Duration::from_secs(2));
    let forgotten = runtime.block_on(sample(&stage, &queries, "x"));
    assert_eq!(forgotten.series.len(), 0);
}

#[test]
fn a_storm_asks_each_question_once() {
    let runtime = Runtime::new().unwrap();
    let asked = Arc::new(AtomicUsize::new(0));
    let counter = asked.clone();
    let address = serve(&runtime, move |_| {
        counter.fetch_add(1, Ordering::SeqCst);
        async {
            tokio::time::sleep(Duration::from_millis(50)).await;
            matrix([now_s()])
        }
    });
    let config = SamplingConfig {
        cache_ms: 10_000,
        ..config(&format!("http://{address}"))
    };
    let stage = Arc::new(sampler(&config));
    let queries: Vec<_> = (0..5)
        .map(|n| query(&format!("q{n}"), &format!("up{n}")))
        .collect();
    let sampled = runtime.block_on(async {
        let mut storm = tokio::task::JoinSet::new();
        for _ in 0..200 {
            let (stage, queries) = (stage.clone(), queries.clone());
            storm.spawn(async move { sample(&stage, &queries, "x").await });
        }
        storm.join_all().await
    });
    assert!(
        sampled.iter().all(|sampled| sampled.series.len() == 5),
        "{:?}",
        sampled[0].gaps
    );
    // Whose seconds begin with the storm's may need another grid.
    let asked = asked.load(Ordering::SeqCst);
    assert!(
        asked <= 10,
        "{asked} requests for 200 episodes of 5 questions"
    );
}

#[test]
fn who_we_are_is_shown_and_a_new_token_too() {
    let runtime = Runtime::new().unwrap();
    let seen: Arc<Mutex<Vec<String>>> = Arc::default();
    let log = seen.clone();
    let address = serve(&runtime, move |request: Request| {
        let shown = request.headers().get(header::AUTHORIZATION);
        let shown = shown
            .map_or("nothing", |value| value.to_str().unwrap())
            .to_owned();
        log.lock().unwrap().push(shown);
        async { matrix([now_s()]) }
    });
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("secret");
    std::fs::write(&file, "sample-token\n").unwrap();
    let plain = config(&format!("http://{address}"));
    let bearer = SamplingConfig {
        bearer_token_file: Some(file.clone()),
        ..plain.clone()
    };
    let basic = SamplingConfig {
        username: Some("me".to_owned()),
        password_file: Some(file.clone()),
        ..plain.clone()
    };
    let stages = [sampler(&plain), sampler(&bearer), sampler(&basic)];
    let ask = |stage: &Sampler| runtime.block_on(sample(stage, &[query("q", "up")], "x"));
    for stage in &stages {
        assert_eq!(ask(stage).series.len(), 1);
    }
    std::fs::write(&file, "rotated-token").unwrap();
    // Looked at once a second.
    std::thread::sleep(Duration::from_millis(1100));
    assert_eq!(ask(&stages[1]).series.len(), 1);
    assert_eq!(
        *seen.lock().unwrap(),
        [
            "nothing",
            "Bearer sample-token",
            "Basic bWU6c2FtcGxlLXRva2Vu",
            "Bearer rotated-token"
        ]
    );
}

#[test]
fn prometheus_is_asked_whether_an_alert_still_fires() {
    let runtime = Runtime::new().unwrap();
    let mut prometheus = Prometheus::builder()
        .alert_labelled("Always", "vector(1)", &[("severity", "none")])
        .start()
        .unwrap();
    prometheus.wait_for("ALERTS", WITHIN).unwrap();
    let stage = sampler(&config(&prometheus.url()));
    let asked = |labels: &[(&str, &str)]| {
        let mut alert = alert("x", Timestamp::now());
        let labels = labels
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
        alert.labels = labels.collect();
        runtime.block_on(stage.still_firing(&alert))
    };
    let (name, severity) = (("alertname", "Always"), ("severity", "none"));
    assert_eq!(asked(&[name, severity]), Some(true));
    let external = ("cluster", "added on the way");
    assert_eq!(asked(&[name, severity, external]), Some(true));
    assert_eq!(asked(&[name, ("severity", "page")]), Some(false));
    assert_eq!(asked(&[("alertname", "Never"), severity]), Some(false));
    assert_eq!(asked(&[severity]), None, "an alert without a name");
    prometheus.process().kill().unwrap();
    assert_eq!(asked(&[name, severity]), None, "nobody knows");
}
