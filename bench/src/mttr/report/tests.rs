use super::{super::scenario::Strategy, *};

/// A run as the VM left it: real trials, kept small by leaving out most of the windows.
pub(crate) fn recorded() -> Run {
    serde_json::from_str(include_str!("recorded.json")).unwrap()
}

/// The recorded run as if every service had recovered after this share of its fault.
fn scaled(factor: f64) -> Run {
    let mut run = recorded();
    for trial in &mut run.trials {
        trial.mttr_s = Some(trial.ended_s * 0.2 * factor);
    }
    run
}

fn rounds(factor: f64) -> Summary {
    let rounds: Vec<Run> = (0..6)
        .map(|n| scaled(factor * (1.0 + 0.01 * f64::from(n))))
        .collect();
    summary::summarise(&rounds).unwrap()
}

#[test]
fn a_recorded_run_gives_the_same_report_as_ever() {
    let summary = summary::summarise(&[recorded()]).unwrap();
    let page = markdown::page(&summary);
    let golden = include_str!("recorded.md");
    assert_eq!(
        page, golden,
        "if this is meant, replace recorded.md by:\n{page}"
    );
}

#[test]
fn the_page_loads_nothing_and_closes_what_it_opens() {
    let page = html::page(&summary::summarise(&[recorded()]).unwrap());
    for outside in ["http://", "https://", "<script", "<link", "url("] {
        assert!(!page.contains(outside), "{outside}");
    }
    for element in ["section", "svg", "details", "main"] {
        let opened = page.matches(&format!("<{element}")).count();
        let closed = page.matches(&format!("</{element}>")).count();
        assert!(
            opened > 0 && opened == closed,
            "{element}: {opened} and {closed}"
        );
    }
}

#[test]
fn a_words_markup_is_only_words() {
    let mut run = recorded();
    run.trials[0].void = Some("<b>'no'</b>".to_owned());
    let page = html::page(&summary::summarise(&[run]).unwrap());
    assert!(page.contains("&lt;b&gt;&#39;no&#39;") && !page.contains("<b>'no'"));
}

#[test]
fn the_last_line_has_what_is_asked_for() {
    let line = last_line(&summary::summarise(&[recorded()]).unwrap(), &[]);
    for name in [
        "healed_share",
        "made_worse",
        "alert_over_floor",
        "local_over_floor",
        "over_script",
        "scenarios",
    ] {
        assert!(line.get(name).is_some(), "{name}");
    }
}

#[test]
fn the_gate_passes_noise_and_stops_what_is_slower_or_does_damage() {
    let base = rounds(1.0);
    assert_eq!(compare::regressions(&base, &rounds(1.03)), [""; 0]);
    // Faster is no regression either.
    assert_eq!(compare::regressions(&base, &rounds(0.4)), [""; 0]);
    let slower = compare::regressions(&base, &rounds(1.6));
    assert_eq!(slower.len(), 1, "{slower:?}");
    assert!(slower[0].contains("paramedic-alert"), "{slower:?}");
    let mut harmed = base.clone();
    harmed.headline.made_worse = 1;
    assert_eq!(compare::regressions(&base, &harmed).len(), 1);
}

#[test]
fn a_service_that_never_came_back_is_not_left_out_of_the_times() {
    let mut run = recorded();
    for trial in &mut run.trials {
        trial.mttr_s = None;
    }
    let summary = summary::summarise(&[run]).unwrap();
    for row in &summary.scenarios[0].rows {
        assert_eq!(
            (row.unrecovered, row.times_s.len()),
            (1, 1),
            "{}",
            row.strategy
        );
        assert!(row.times_s[0] > 25.0, "{}: {:?}", row.strategy, row.times_s);
    }
    // Bounds are no measured recovery: no ratio is made of them.
    assert_eq!(summary.scenarios[0].alert_over_floor, None);
}

#[test]
fn a_trial_without_a_result_is_counted_and_not_averaged() {
    let mut run = recorded();
    let alert =
        |trial: &&mut super::super::record::Trial| trial.strategy == Strategy::ParamedicAlert;
    let trial = run.trials.iter_mut().find(alert).unwrap();
    trial.void = Some("the node did not come to rest".to_owned());
    trial.mttr_s = Some(1e6);
    let summary = summary::summarise(&[run]).unwrap();
    let rows = &summary.scenarios[0].rows;
    let row = rows
        .iter()
        .find(|row| row.strategy == Strategy::ParamedicAlert)
        .unwrap();
    assert_eq!((row.trials, row.void, row.times_s.len()), (0, 1, 0));
    assert_eq!(summary.headline.void, 1);
}
