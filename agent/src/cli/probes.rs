//! `paramedic probes`: what attaches on this kernel, what falls back and why.

use std::{fmt::Write as _, path::PathBuf, time::Instant};

use super::{EXIT_FINDINGS, EXIT_OK};
use crate::{
    config::Config,
    evidence::{KernelProbes, ProbeCost, ProbeState, ProbeStatus, errno_names, probes::Probes},
};

/// Columns of the text.
const WIDTH: usize = 100;
/// Where reasons start.
const INDENT: usize = 10;

/// Arguments of `paramedic probes`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Configuration file; the defaults if left out
    #[arg(long)]
    config: Option<PathBuf>,
    /// JSON instead of text
    #[arg(long)]
    json: bool,
}

/// Loads and attaches every probe, the syscall pair too, prints how it went, and detaches them.
/// Exit 1 if any falls back.
pub(super) fn probes(args: &Args) -> anyhow::Result<u8> {
    let config = Config::load_or_shipped(args.config.as_deref())?;
    let begun = Instant::now();
    let probes = Probes::start(&config.probes);
    let took_ms = begun.elapsed().as_millis();
    // Attached for a moment, so that a pair that would fail on the alert is known now.
    probes.watch_syscalls(true);
    probes.watch_syscalls(false);
    let costs = probes.costs();
    let statuses = probes.statuses();
    if args.json {
        let mut all = serde_json::to_value(&statuses)?;
        for status in all.as_array_mut().into_iter().flatten() {
            let cost = costs.iter().find(|cost| status["name"] == cost.name);
            status["cost"] = serde_json::to_value(cost)?;
        }
        println!("{}", serde_json::to_string_pretty(&all)?);
    } else {
        let release = rustix::system::uname();
        let release = release.release().to_string_lossy().into_owned();
        print!("{}{}", render(&statuses, &release, took_ms), table(&costs));
    }
    let fell_back = statuses
        .iter()
        .any(|status| status.state == ProbeState::Fallback);
    Ok(if fell_back { EXIT_FINDINGS } else { EXIT_OK })
}

fn render(statuses: &[ProbeStatus], release: &str, took_ms: u128) -> String {
    let count = |state| statuses.iter().filter(|one| one.state == state).count();
    let works = count(ProbeState::Attached) + count(ProbeState::Standby);
    let wanted = statuses.len() - count(ProbeState::Off);
    let mut text = format!("{works} of {wanted} probes work on Linux {release}");
    if works > 0 {
        line(&mut text, &format!(" (loaded in {took_ms} ms)"));
    } else {
        text.push('\n');
    }
    line(
        &mut text,
        &format!("\n{:<10}{:<10}{}", "PROBE", "STATE", "ATTACHES TO"),
    );
    for status in statuses {
        let state = match status.state {
            ProbeState::Attached => "attached",
            ProbeState::Standby => "standby",
            ProbeState::Fallback => "fallback",
            ProbeState::Off => "off",
        };
        line(
            &mut text,
            &format!("{:<10}{state:<10}{}", status.name, status.kind),
        );
        if status.state == ProbeState::Fallback {
            paragraph(&mut text, "instead: ", status.fallback);
        }
    }
    // One cause often stops them all: it is told once.
    let mut told: Vec<(&str, Vec<&str>)> = Vec::new();
    for status in statuses {
        let Some(why) = status.why.as_deref() else {
            continue;
        };
        match told.iter_mut().find(|(known, _)| *known == why) {
            Some((_, names)) => names.push(status.name),
            None => told.push((why, vec![status.name])),
        }
    }
    for (why, names) in told {
        line(&mut text, &format!("\nWhy {}:", names.join(", ")));
        paragraph(&mut text, "", why);
    }
    if count(ProbeState::Standby) > 0 {
        line(
            &mut text,
            "\nstandby: loaded and verified, attached only while an alert is looked at",
        );
    }
    let works = |state| matches!(state, ProbeState::Attached | ProbeState::Standby);
    let mut syscalls = statuses.iter().filter(|one| one.name == "syscalls");
    if syscalls.any(|one| works(one.state)) {
        let told = errno_names().collect::<Vec<_>>().join(", ");
        paragraph(
            &mut text,
            "",
            &format!("syscalls tells these errors apart, by cgroup and call: {told}"),
        );
    }
    text
}

/// What those cost that ran in the last moment.
fn table(costs: &[ProbeCost]) -> String {
    let mut text = String::new();
    if costs.is_empty() {
        return text;
    }
    line(
        &mut text,
        &format!("\n{:<10}{:>12}{:>14}", "PROBE", "ns a run", "% of a CPU"),
    );
    for cost in costs {
        let share = cost.cpu_share * 100.0;
        line(
            &mut text,
            &format!("{:<10}{:>12.0}{share:>14.3}", cost.name, cost.ns_per_run),
        );
    }
    text
}

fn line(text: &mut String, line: &str) {
    // Writing to a String cannot fail.
    writeln!(text, "{line}").unwrap_or_default();
}

/// Folds words between the indent and the right edge.
fn paragraph(text: &mut String, lead: &str, words: &str) {
    let indent = INDENT + lead.len();
    let mut current = format!("{:INDENT$}{lead}", "");
    let mut empty = true;
    for word in words.split_whitespace() {
        if !empty && current.chars().count() + 1 + word.chars().count() > WIDTH {
            line(text, &current);
            current = " ".repeat(indent);
            empty = true;
        }
        if !empty {
            current.push(' ');
        }
        current.push_str(word);
        empty = false;
    }
    line(text, &current);
}

#[cfg(test)]
mod tests {
    use super::{ProbeState, ProbeStatus, WIDTH, render};

    fn status(name: &'static str, state: ProbeState, why: Option<&str>) -> ProbeStatus {
        ProbeStatus {
            name,
            state,
            kind: format!("raw_tracepoint sched_process_{name}"),
            fallback: "/proc/stat",
            why: why.map(str::to_owned),
            events: 0,
            drops: 0,
        }
    }

    #[test]
    fn the_text_fits_and_a_common_cause_is_told_once() {
        let why = "missing CAP_BPF and CAP_PERFMON: run as root, or grant them ".repeat(4);
        let text = render(
            &[
                status("exec", ProbeState::Fallback, Some(&why)),
                status("fork", ProbeState::Fallback, Some(&why)),
                status("exit", ProbeState::Attached, None),
                status("syscalls", ProbeState::Standby, None),
            ],
            "6.12.111",
            80,
        );
        assert!(
            text.lines().all(|line| line.chars().count() <= WIDTH),
            "{text}"
        );
        assert!(text.starts_with("2 of 4 probes work on Linux 6.12.111 (loaded in 80 ms)\n"));
        assert_eq!(text.matches("Why exec, fork:").count(), 1, "{text}");
        assert!(text.contains("          instead: /proc/stat\n"), "{text}");
        assert!(text.contains("standby: loaded and verified"), "{text}");
        let words: Vec<&str> = text.split_whitespace().collect();
        assert!(
            words
                .join(" ")
                .contains("by cgroup and call: EAGAIN, ECONNREFUSED"),
            "{text}"
        );
    }
}
