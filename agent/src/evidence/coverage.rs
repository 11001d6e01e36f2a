//! Which sources were there, and what stood in for those that were not.

use super::{account::Account, host, kernel::ProbeState, node::State, sample::Sample};
use crate::incident::Coverage;

/// What the recorder wants of the probes, and what stands in.
const WANTED: &[(&str, &str)] = &[
    ("exec", "starts of programs are not counted"),
    ("fork", "forks of cgroups are estimated from processes seen"),
    ("exit", "ends of processes are not counted"),
];

pub(super) fn of(account: &Account<'_>) -> Vec<Coverage> {
    let sample = account.latest;
    let mut all = vec![recorder(account)];
    all.push(line("psi", host::has_pressure().err().map(|error| {
        format!(
            "/proc/pressure can't be read ({error}; boot with psi=1): the run queue and memory counters stand in"
        )
    })));
    all.push(filesystems(sample));
    all.extend(sources(sample));
    all.extend(cgroups(account));
    all.extend(probes(account));
    all
}

fn line(source: &str, missing: Option<String>) -> Coverage {
    Coverage {
        source: source.to_owned(),
        complete: missing.is_none(),
        note: missing.unwrap_or_default(),
    }
}

fn recorder(account: &Account<'_>) -> Coverage {
    let missing = (!account.is_covered()).then(|| {
        format!(
            "only {:.1} of {:.1} s are recorded: rates are partial",
            account.span_s(),
            account.asked.as_secs_f64()
        )
    });
    line("recorder", missing)
}

/// Sources that do not tell all, or not of this moment.
fn sources(sample: &Sample) -> impl Iterator<Item = Coverage> {
    sample.node.sources.iter().filter_map(|source| {
        let age = sample.at.saturating_duration_since(source.at).as_secs();
        let (complete, note) = match &source.state {
            State::Failed(why) => (false, format!("{why}: its readings are missing")),
            State::Partly(why) => (false, format!("{why}: its readings are partial")),
            State::NotHere(why) => (true, format!("not on this node: {why}")),
            State::Found(what) => (true, what.clone()),
            State::Read if age > 0 => (true, format!("read {age} s before")),
            State::Read => return None,
        };
        Some(Coverage {
            source: format!("reader:{}", source.name),
            complete,
            note,
        })
    })
}

fn filesystems(sample: &Sample) -> Coverage {
    let missing = if sample.filesystems_left_out > 0 {
        let left_out = sample.filesystems_left_out;
        Some(format!(
            "{left_out} local filesystems beyond the limit were not asked"
        ))
    } else if sample.fullest.used.is_none() {
        Some(
            "there is no writable local filesystem to ask; network filesystems are left alone"
                .to_owned(),
        )
    } else {
        None
    };
    line("filesystems", missing)
}

fn cgroups(account: &Account<'_>) -> Vec<Coverage> {
    let sample = account.latest;
    if !sample.has_cgroups || sample.cgroups.is_empty() {
        let why = "cgroup v2 is not mounted or can't be read: only the node as a whole is seen, and no culprit can be named";
        return vec![line("cgroups", Some(why.to_owned()))];
    }
    let walk = sample.walk;
    if sample.cgroups.len() == 1 {
        let why = "cgroup v2 has nothing below its root (do services live in v1 here?): no culprit can be named";
        return vec![line("cgroups", Some(why.to_owned()))];
    }
    let cut_off = walk.cut_off.then(|| {
        let read = sample.cgroups.len();
        format!(
            "the first {read} cgroups were read, there are more (cgroups_max, cgroup_depth_max)"
        )
    });
    let stands_in = [
        (
            "cgroup:cpu",
            walk.cpu,
            "whether quotas throttle is not known; CPU time is",
        ),
        (
            "cgroup:memory",
            walk.memory,
            "their processes' resident memory stands in",
        ),
        (
            "cgroup:io",
            walk.io,
            "which cgroup reads and writes is not known",
        ),
        (
            "cgroup:pids",
            walk.pids,
            "a count of their processes stands in",
        ),
        (
            "cgroup:psi",
            walk.pressure,
            "which cgroups wait is not known",
        ),
    ];
    let mut all = vec![line("cgroups", cut_off)];
    all.extend(stands_in.into_iter().map(|(source, there, otherwise)| {
        let missing = format!("no cgroup has it: {otherwise}");
        line(source, (!there).then_some(missing))
    }));
    all
}

fn probes(account: &Account<'_>) -> Vec<Coverage> {
    let kernel = &account.latest.kernel;
    let lost = account.lost_too_much();
    let told = kernel.statuses.iter().map(|probe| {
        let missing = match probe.state {
            ProbeState::Attached if lost && probe.drops > 0 => Some(format!(
                "{} events lost: its readings are partial",
                probe.drops
            )),
            ProbeState::Attached | ProbeState::Standby => None,
            ProbeState::Off => Some(format!("switched off: {}", probe.fallback)),
            ProbeState::Fallback => {
                let why = probe.why.as_deref().unwrap_or("not attached");
                Some(format!("{why}: {}", probe.fallback))
            }
        };
        line(&format!("probe:{}", probe.name), missing)
    });
    let untold = WANTED
        .iter()
        .filter(|(name, _)| kernel.statuses.iter().all(|probe| probe.name != *name))
        .map(|(name, otherwise)| {
            line(
                &format!("probe:{name}"),
                Some(format!("there is none: {otherwise}")),
            )
        });
    told.chain(untold).collect()
}
