//! From trials to figures. Pure.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{
    record::{About, Environment, Phase, Run, Trial},
    scenario::Strategy,
    slo, stats,
};

/// Seed of the intervals: the same records give the same report.
const SEED: u64 = 9;

/// Everything that a report shows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// Where it was measured; of the first round.
    pub environment: Environment,
    /// Rounds.
    pub rounds: usize,
    /// The answer in one look.
    pub headline: Headline,
    /// By scenario.
    pub scenarios: Vec<Of>,
}

/// The answer in one look.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Headline {
    /// Of the agent's trials (alert and local) in which the promise was broken and could be kept again
    /// by a remedy that it has: the share that healed. Wanted: 0.95.
    pub healed_share: Option<f64>,
    /// Trials of the agent with a result; where there are none, 0 of anything means nothing.
    pub agent_trials: usize,
    /// Of these, false alarms.
    pub false_alarm_trials: usize,
    /// Trials of the agent with damage to others, or worse by its own verdict. Wanted: 0.
    pub made_worse: usize,
    /// The same of the script.
    pub made_worse_script: usize,
    /// False alarms upon which the agent acted. Wanted: 0.
    pub false_alarms_acted: usize,
    /// Median over scenarios: MTTR of `paramedic-alert` over the time until the alert is delivered.
    /// Wanted: at most 1.25.
    pub alert_over_floor: Option<f64>,
    /// The same of `paramedic-local`. Wanted: at most 0.5.
    pub local_over_floor: Option<f64>,
    /// Median over scenarios: MTTR of `paramedic-alert` over that of `script`. Below 1 = faster.
    pub over_script: Option<f64>,
    /// Trials.
    pub trials: usize,
    /// Of these, without a result.
    pub void: usize,
}

/// One scenario.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Of {
    /// What it is.
    pub about: About,
    /// Median seconds until the alert is delivered while nobody does anything; the detection floor.
    pub floor_s: Option<f64>,
    /// MTTR over the floor: `paramedic-alert`, where its promise was ever broken.
    pub alert_over_floor: Option<f64>,
    /// The same: `paramedic-local`.
    pub local_over_floor: Option<f64>,
    /// `paramedic-alert` over `script`.
    pub over_script: Option<f64>,
    /// By strategy, in the order of [`Strategy::ALL`].
    pub rows: Vec<Row>,
}

/// One strategy in one scenario.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// Which.
    pub strategy: Strategy,
    /// Trials with a result.
    pub trials: usize,
    /// Trials without.
    pub void: usize,
    /// Trials in which the promise was broken.
    pub broken: usize,
    /// Of these, healed while the fault was there.
    pub healed: usize,
    /// Trials with damage to others.
    pub harmed: usize,
    /// Trials in which something was done.
    pub acted: usize,
    /// Processes killed on purpose.
    pub killed: usize,
    /// Trials in which the expected hypothesis was on top with the expected culprit.
    pub named: usize,
    /// Trials in which the service was not seen to recover at all: their times are lower bounds.
    pub unrecovered: usize,
    /// Times to recovery, s; of what did not heal, until the fault was ended and the service well; of
    /// what did not come back even then, to the end of the observation.
    pub times_s: Vec<f64>,
    /// Median.
    pub p50_s: Option<f64>,
    /// 95th percentile.
    pub p95_s: Option<f64>,
    /// Bootstrap interval of the median, 95 %.
    pub interval_s: Option<(f64, f64)>,
    /// Where the time went: the median end of each span over trials that have it.
    pub phases: Vec<Phase>,
    /// What was said and done, once each: for the reader who asks why.
    pub notes: Vec<String>,
}

/// Summarises the rounds' records.
pub fn summarise(runs: &[Run]) -> Option<Summary> {
    let environment = runs.first()?.environment.clone();
    let trials: Vec<&Trial> = runs.iter().flat_map(|run| &run.trials).collect();
    let mut abouts: BTreeMap<&str, &About> = BTreeMap::new();
    for about in runs.iter().flat_map(|run| &run.scenarios) {
        abouts.insert(&about.name, about);
    }
    let mut scenarios: Vec<Of> = abouts.values().map(|about| of(about, &trials)).collect();
    scenarios.sort_by_key(|of| (of.about.family, of.about.name.clone()));
    Some(Summary {
        headline: headline(&scenarios, &trials),
        environment,
        rounds: runs.len(),
        scenarios,
    })
}

fn of(about: &About, trials: &[&Trial]) -> Of {
    let own: Vec<&Trial> = trials
        .iter()
        .filter(|trial| trial.scenario == about.name)
        .copied()
        .collect();
    let rows: Vec<Row> = Strategy::ALL
        .iter()
        .filter_map(|strategy| {
            let own: Vec<&Trial> = own
                .iter()
                .filter(|trial| trial.strategy == *strategy)
                .copied()
                .collect();
            (!own.is_empty()).then(|| row(about, *strategy, &own))
        })
        .collect();
    let delivered: Vec<f64> = own
        .iter()
        .filter(|trial| trial.strategy == Strategy::None && trial.void.is_none())
        .filter_map(|trial| trial.delivered_s)
        .collect();
    let floor_s = some(&delivered);
    let p50 = |wanted: Strategy| {
        let row = rows.iter().find(|row| row.strategy == wanted)?;
        // A lower bound in it would make a ratio look better than it is.
        row.p50_s
            .filter(|_| about.fault && about.heals && row.unrecovered == 0)
    };
    let over = |of: Option<f64>, base: Option<f64>| Some(of? / base.filter(|base| *base > 0.0)?);
    let alert = p50(Strategy::ParamedicAlert);
    Of {
        alert_over_floor: over(alert, floor_s),
        local_over_floor: over(p50(Strategy::ParamedicLocal), floor_s),
        over_script: over(alert, p50(Strategy::Script)),
        about: about.clone(),
        floor_s,
        rows,
    }
}

fn some(values: &[f64]) -> Option<f64> {
    (!values.is_empty()).then(|| stats::median(values))
}

/// Broken, and not seen to recover.
fn lost(trial: &Trial) -> bool {
    trial.course.broken_s.is_some() && trial.mttr_s.is_none()
}

/// The time to recovery, or what is known of it at least. Leaving the worst trials out would flatter
/// whoever has them.
fn time(trial: &Trial) -> Option<f64> {
    let watched = || {
        trial
            .windows
            .last()
            .map(|window| window.at_s + slo::WINDOW_S)
    };
    trial.mttr_s.or_else(|| watched().filter(|_| lost(trial)))
}

fn row(about: &About, strategy: Strategy, trials: &[&Trial]) -> Row {
    let sound: Vec<&Trial> = trials
        .iter()
        .filter(|trial| trial.void.is_none())
        .copied()
        .collect();
    let count = |wanted: fn(&Trial) -> bool| sound.iter().filter(|trial| wanted(trial)).count();
    let times_s: Vec<f64> = sound.iter().filter_map(|trial| time(trial)).collect();
    let named = |trial: &&&Trial| {
        let Some(agent) = &trial.agent else {
            return false;
        };
        about.hypothesis.is_some()
            && agent.hypothesis == about.hypothesis
            && (about.culprit.is_none() || agent.culprit == about.culprit)
    };
    Row {
        strategy,
        trials: sound.len(),
        void: trials.len() - sound.len(),
        broken: count(|trial| trial.course.broken_s.is_some()),
        healed: count(|trial| trial.healed),
        harmed: count(|trial| !trial.harm.is_empty()),
        acted: count(Trial::acted),
        killed: sound.iter().map(|trial| trial.killed).sum(),
        named: sound.iter().filter(named).count(),
        unrecovered: count(lost),
        p50_s: some(&times_s),
        p95_s: (!times_s.is_empty()).then(|| stats::quantile(&times_s, 0.95)),
        interval_s: stats::interval(&times_s, SEED, stats::median),
        times_s,
        phases: phases(&sound),
        notes: notes(trials),
    }
}

/// The median end of each span, one after the other.
fn phases(trials: &[&Trial]) -> Vec<Phase> {
    let longest = trials.iter().max_by_key(|trial| trial.phases.len());
    let mut from_s = 0.0;
    let mut found = Vec::new();
    for phase in longest.iter().flat_map(|trial| &trial.phases) {
        let ends: Vec<f64> = trials
            .iter()
            .flat_map(|trial| &trial.phases)
            .filter(|other| other.name == phase.name)
            .map(|other| other.until_s)
            .collect();
        let until_s = stats::median(&ends).max(from_s);
        found.push(Phase {
            name: phase.name.clone(),
            from_s,
            until_s,
        });
        from_s = until_s;
    }
    found
}

fn notes(trials: &[&Trial]) -> Vec<String> {
    let mut notes = Vec::new();
    for trial in trials {
        if let Some(why) = &trial.void {
            notes.push(format!("void: {why}"));
        }
        notes.extend(trial.harm.iter().map(|harm| format!("harm: {harm}")));
        let Some(agent) = &trial.agent else { continue };
        if let Some(top) = &agent.hypothesis {
            let culprit = agent.culprit.as_deref().unwrap_or("nobody");
            notes.push(format!("said {top}, {culprit}"));
        }
        let actions = agent.actions.iter();
        notes.extend(actions.map(|(kind, path)| format!("did {kind} on {path}")));
        notes.extend(
            agent
                .verdicts
                .iter()
                .map(|verdict| format!("verdict {verdict}")),
        );
        notes.extend(agent.refusals.iter().map(|why| format!("refused, {why}")));
        notes.extend(agent.failures.iter().map(|why| format!("failed, {why}")));
    }
    notes.sort();
    notes.dedup();
    notes
}

fn headline(scenarios: &[Of], trials: &[&Trial]) -> Headline {
    let agents = [Strategy::ParamedicAlert, Strategy::ParamedicLocal];
    let rows = |of: &'_ Of| -> Vec<Row> {
        let agents = |row: &&Row| agents.contains(&row.strategy);
        of.rows.iter().filter(agents).cloned().collect()
    };
    let curable: Vec<Row> = scenarios
        .iter()
        .filter(|of| of.about.fault && of.about.heals)
        .flat_map(rows)
        .collect();
    let broken: usize = curable.iter().map(|row| row.broken).sum();
    let healed: usize = curable.iter().map(|row| row.healed).sum();
    let all = |wanted: fn(Strategy) -> bool, of: fn(&Row) -> usize, only_false: bool| -> usize {
        scenarios
            .iter()
            .filter(|scenario| !only_false || !scenario.about.fault)
            .flat_map(|scenario| &scenario.rows)
            .filter(|row| wanted(row.strategy))
            .map(of)
            .sum()
    };
    let median =
        |of: fn(&Of) -> Option<f64>| some(&scenarios.iter().filter_map(of).collect::<Vec<_>>());
    Headline {
        healed_share: (broken > 0).then(|| healed as f64 / broken as f64),
        agent_trials: all(Strategy::is_agent, |row| row.trials, false),
        false_alarm_trials: all(Strategy::is_agent, |row| row.trials, true),
        made_worse: all(Strategy::is_agent, |row| row.harmed, false),
        made_worse_script: all(|s| s == Strategy::Script, |row| row.harmed, false),
        false_alarms_acted: all(Strategy::is_agent, |row| row.acted, true),
        alert_over_floor: median(|of| of.alert_over_floor),
        local_over_floor: median(|of| of.local_over_floor),
        over_script: median(|of| of.over_script),
        trials: trials.len(),
        void: trials.iter().filter(|trial| trial.void.is_some()).count(),
    }
}
