//! The report as Markdown.

use std::fmt::Write as _;

use super::{ratio, seconds, targets};
use crate::mttr::summary::Summary;

/// The whole page.
pub fn page(summary: &Summary) -> String {
    let mut out = String::new();
    // Writing to a String does not fail.
    write(summary, &mut out).unwrap_or_default();
    out
}

fn write(summary: &Summary, out: &mut String) -> std::fmt::Result {
    let environment = &summary.environment;
    writeln!(out, "# Time to recovery\n")?;
    writeln!(
        out,
        "Linux {}, {}, {} CPUs, {} MiB; agent {}; load: {}; {} rounds, {} trials, {} void; {}.\n",
        environment.kernel,
        environment.machine,
        environment.cpus,
        environment.memory_mib,
        environment.agent,
        environment.driver,
        summary.rounds,
        summary.headline.trials,
        summary.headline.void,
        environment.begun,
    )?;
    writeln!(out, "| | measured | wanted | |\n|---|---|---|---|")?;
    for (name, value, wanted, met) in targets(summary) {
        let met = match met {
            Some(true) => "met",
            Some(false) => "**missed**",
            None => "not measured",
        };
        writeln!(out, "| {name} | {value} | {wanted} | {met} |")?;
    }
    writeln!(
        out,
        "\nSeconds from the fault until the service kept its promise again, by its own clients; where \
         nothing helped, until the fault was ended from outside; where it never came back, a lower bound.\n"
    )?;
    writeln!(
        out,
        "| scenario | strategy | alert | MTTR p50 | p95 | interval | over floor | healed | never back | acted | harm |\n\
         |---|---|---|---|---|---|---|---|---|---|---|"
    )?;
    for of in &summary.scenarios {
        for row in &of.rows {
            let interval = row.interval_s.map_or_else(
                || "–".to_owned(),
                |(low, high)| format!("{low:.1}–{high:.1}"),
            );
            // Of a lower bound.
            let bound = if row.unrecovered > 0 { "≥ " } else { "" };
            let over = of.floor_s.and_then(|floor| Some(row.p50_s? / floor));
            writeln!(
                out,
                "| {} | {} | {} | {bound}{} | {bound}{} | {interval} | {bound}{} | {}/{} | {} | {}/{} | {} |",
                of.about.name,
                row.strategy,
                seconds(of.floor_s),
                seconds(row.p50_s),
                seconds(row.p95_s),
                ratio(over),
                row.healed,
                row.broken,
                row.unrecovered,
                row.acted,
                row.trials,
                row.harmed,
            )?;
        }
    }
    writeln!(out, "\n## What was said and done\n")?;
    for of in &summary.scenarios {
        for row in of.rows.iter().filter(|row| !row.notes.is_empty()) {
            writeln!(
                out,
                "- **{}, {}**: {}",
                of.about.name,
                row.strategy,
                row.notes.join("; ")
            )?;
        }
    }
    Ok(())
}
