//! The MTTR platform: a real service with a promise, a real fault, and who brings it back how fast.
//!
//! A *trial* is one scenario under one strategy, once ([`trial`]); a *run* is all of them, interleaved,
//! inside the VM ([`inside`]). Recovery is judged by the service's own clients ([`slo`]), never by what
//! the agent says. What a run leaves is one JSON file ([`record`]) from which reports are made.

pub mod attribution;
pub mod compare;
pub mod driver;
pub mod exporter;
pub mod fault;
pub mod inside;
pub mod loopback;
pub mod record;
pub mod relay;
pub mod report;
pub mod scenario;
pub mod service;
pub mod slice;
pub mod slo;
pub mod stack;
pub mod stats;
pub mod strategy;
pub mod summary;
pub mod trial;
pub mod unix;

use std::fmt::Write as _;

use clap::{Parser, Subcommand};

use record::Trial;

/// What to do.
#[derive(Clone, Debug, Parser)]
#[command(name = "bench-mttr", max_term_width = 100)]
pub struct Options {
    #[command(subcommand)]
    command: Command,
}

#[derive(Clone, Debug, Subcommand)]
enum Command {
    /// A run, inside the VM
    Inside(inside::Inside),
    /// A report of records, on this machine
    Report(report::Report),
    /// The innocent service
    Serve(service::Costs),
    /// A fault: takes memory until it is ended
    Leak {
        /// MiB a second
        #[arg(long)]
        mib_per_s: f64,
    },
}

/// Does it.
///
/// # Errors
/// What could not be started, measured or written.
pub fn run(options: Options) -> anyhow::Result<()> {
    match options.command {
        Command::Inside(inside) => inside.run(),
        Command::Report(report) => report.write(),
        Command::Serve(costs) => service::serve(costs),
        Command::Leak { mib_per_s } => {
            fault::leak(mib_per_s);
            Ok(())
        }
    }
}

/// A trial in one line.
pub fn told(trial: &Trial) -> String {
    let name = format!("{:<18} {:<18}", trial.scenario, trial.strategy.name());
    if let Some(why) = &trial.void {
        return format!("{name} void: {why}");
    }
    // Writing to a String does not fail.
    let seconds = |value: Option<f64>| value.map_or("-".to_owned(), |s| format!("{s:.2} s"));
    let mut told = format!(
        "{name} alert {:>8}  broken {:>8}  recovered {:>8}  {}",
        seconds(trial.delivered_s),
        seconds(trial.course.broken_s),
        seconds(trial.mttr_s),
        if trial.healed { "healed" } else { "not healed" },
    );
    // Writing to a String cannot fail.
    if let Some(agent) = &trial.agent {
        let top = agent.hypothesis.as_deref().unwrap_or("no diagnosis");
        let actions: Vec<String> = agent
            .actions
            .iter()
            .map(|(kind, path)| format!("{kind} {path}"))
            .collect();
        write!(
            told,
            "  {top} [{}] {:?}",
            actions.join(", "),
            agent.verdicts
        )
        .unwrap_or_default();
        if actions.is_empty() {
            write!(told, " {:?}", agent.refusals).unwrap_or_default();
        }
    }
    if trial.killed > 0 {
        write!(told, "  killed {}", trial.killed).unwrap_or_default();
    }
    if !trial.harm.is_empty() {
        write!(told, "  HARM {:?}", trial.harm).unwrap_or_default();
    }
    told
}
