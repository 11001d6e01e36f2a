//! The gate: significant regressions against an earlier report, and nothing else. Pure.

use super::{scenario::Strategy, stats, summary::Summary};

/// Chance of a false alarm of each test.
const ALPHA: f64 = 0.05;
/// A slowdown that is smaller than this is not worth a red build, however certain.
const SLOWER_MIN: f64 = 1.1;
/// Seed of the shuffles: the same reports give the same answer.
const SEED: u64 = 11;

/// What is worse now, one sentence each.
pub fn regressions(base: &Summary, new: &Summary) -> Vec<String> {
    let mut found = Vec::new();
    for strategy in Strategy::ALL.into_iter().filter(|s| s.is_agent()) {
        let pairs = pairs(base, new, strategy);
        let times: Vec<(Vec<f64>, Vec<f64>)> =
            pairs.iter().map(|pair| pair.times.clone()).collect();
        let slower = slower(&times);
        let chance = stats::worse_by_chance(&times, SEED);
        if chance < ALPHA && slower > SLOWER_MIN {
            found.push(format!(
                "{strategy}: recovery takes {slower:.2} times as long over {} scenarios (p = {chance:.3})",
                times.len()
            ));
        }
        let healed: Vec<(Vec<f64>, Vec<f64>)> = pairs.into_iter().map(|pair| pair.healed).collect();
        let chance = stats::worse_by_chance(&healed, SEED);
        if chance < ALPHA {
            found.push(format!(
                "{strategy}: fewer faults are healed (p = {chance:.3})"
            ));
        }
    }
    let (was, is) = (&base.headline, &new.headline);
    // No test: these must not happen at all.
    if is.made_worse > 0 && was.made_worse == 0 {
        found.push(format!("made worse: {} trials, none before", is.made_worse));
    }
    if is.false_alarms_acted > 0 && was.false_alarms_acted == 0 {
        let count = is.false_alarms_acted;
        found.push(format!("false alarms acted upon: {count}, none before"));
    }
    found
}

struct Pair {
    times: (Vec<f64>, Vec<f64>),
    /// 1 for healed, 2 for not: larger is worse, as with times.
    healed: (Vec<f64>, Vec<f64>),
}

fn pairs(base: &Summary, new: &Summary, strategy: Strategy) -> Vec<Pair> {
    let row = |summary: &Summary, name: &str| {
        let of = summary.scenarios.iter().find(|of| of.about.name == name)?;
        of.rows.iter().find(|row| row.strategy == strategy).cloned()
    };
    let pair = |name: &String| {
        let (was, is) = (row(base, name)?, row(new, name)?);
        let healed = |healed: usize, broken: usize| {
            [vec![1.0; healed], vec![2.0; broken.saturating_sub(healed)]].concat()
        };
        Some(Pair {
            healed: (healed(was.healed, was.broken), healed(is.healed, is.broken)),
            times: (was.times_s, is.times_s),
        })
    };
    let faults = base.scenarios.iter().filter(|of| of.about.fault);
    let names: Vec<String> = faults.map(|of| of.about.name.clone()).collect();
    names.iter().filter_map(pair).collect()
}

/// Ratio of the geometric means, scenarios weighing alike.
fn slower(strata: &[(Vec<f64>, Vec<f64>)]) -> f64 {
    let log = |values: &[f64]| {
        values.iter().map(|value| value.max(1e-3).ln()).sum::<f64>() / values.len() as f64
    };
    let both = strata
        .iter()
        .filter(|(base, new)| !base.is_empty() && !new.is_empty());
    let ratios: Vec<f64> = both.map(|(base, new)| log(new) - log(base)).collect();
    if ratios.is_empty() {
        return 1.0;
    }
    (ratios.iter().sum::<f64>() / ratios.len() as f64).exp()
}
