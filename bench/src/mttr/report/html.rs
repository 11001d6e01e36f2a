//! The report as one page without anything to load.

use std::fmt::Write as _;

use super::{ratio, seconds, svg, targets};
use crate::mttr::{
    record::Phase,
    summary::{Of, Summary},
};

const STYLE: &str = include_str!("style.css");
/// The spans in their order, for the legend.
const SPANS: [&str; 8] = [
    "detect", "deliver", "sample", "diagnose", "decide", "act", "verify", "resolve",
];

/// The whole page.
pub fn page(summary: &Summary) -> String {
    let mut out = String::new();
    // Writing to a String does not fail.
    write(summary, &mut out).unwrap_or_default();
    out
}

/// For text and attributes.
pub fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('\'', "&#39;")
        .replace('"', "&quot;")
}

fn write(summary: &Summary, out: &mut String) -> std::fmt::Result {
    let environment = &summary.environment;
    write!(
        out,
        "<!doctype html><html lang='en'><meta charset='utf-8'>\
         <meta name='viewport' content='width=device-width'>\
         <title>Paramedic: time to recovery</title><style>{STYLE}</style><main>\
         <h1>Time to recovery</h1><p class='quiet'>Linux {}, {}, {} CPUs, {} MiB. Agent {}. Load: {}. \
         {} rounds, {} trials, {} without a result. {}</p><section class='tiles'>",
        escaped(&environment.kernel),
        escaped(&environment.machine),
        environment.cpus,
        environment.memory_mib,
        escaped(&environment.agent),
        escaped(&environment.driver),
        summary.rounds,
        summary.headline.trials,
        summary.headline.void,
        escaped(&environment.begun),
    )?;
    for (name, value, wanted, met) in targets(summary) {
        let (class, said) = match met {
            Some(true) => ("met", "met"),
            Some(false) => ("missed", "missed"),
            None => ("quiet", "not measured"),
        };
        write!(
            out,
            "<div class='tile {class}'><b>{value}</b><span>{name}</span>\
             <small>wanted {wanted}: {said}</small></div>"
        )?;
    }
    write!(out, "</section><p class='legend'>")?;
    for span in SPANS {
        write!(out, "<i class='{span}'></i>{span} ")?;
    }
    write!(
        out,
        "</p><p class='quiet'>Recovery is the service's own: the second from which its clients are \
         answered in time again, and stay so. Bars are medians, lines 95 % bootstrap intervals, dots \
         single trials. Below them the agent's own record of where the time went; waiting in the queue \
         is part of <i>sample</i>.</p>"
    )?;
    for of in &summary.scenarios {
        scenario(of, out)?;
    }
    write!(out, "</main></html>")
}

fn scenario(of: &Of, out: &mut String) -> std::fmt::Result {
    write!(
        out,
        "<section><h2>{} <small>{}</small></h2>",
        escaped(&of.about.name),
        escaped(&of.about.title)
    )?;
    if !of.about.fault {
        write!(
            out,
            "<p>Nothing is wrong here: the right thing is to do nothing.</p>"
        )?;
    } else if of.about.heals {
        write!(
            out,
            "<p>Alert delivered after {} s; alert path {} of that, local path {}; alert path over the \
             script {}.</p>",
            seconds(of.floor_s),
            ratio(of.alert_over_floor),
            ratio(of.local_over_floor),
            ratio(of.over_script),
        )?;
    } else {
        write!(
            out,
            "<p>There is no remedy for this yet: it must be named and left alone.</p>"
        )?;
    }
    out.push_str(&svg::bars(of));
    let spans: Vec<(&str, &[Phase])> = of
        .rows
        .iter()
        .filter(|row| !row.phases.is_empty())
        .map(|row| (row.strategy.name(), row.phases.as_slice()))
        .collect();
    if !spans.is_empty() {
        write!(
            out,
            "<h3>Where the time went</h3>{}",
            svg::waterfall(&spans)
        )?;
    }
    write!(
        out,
        "<details><summary>What was said and done</summary><ul>"
    )?;
    for row in &of.rows {
        write!(
            out,
            "<li><b>{}</b>: {} of {} trials acted, {} named the cause, {} harmed, {} processes \
             killed{}{}</li>",
            row.strategy,
            row.acted,
            row.trials,
            row.named,
            row.harmed,
            row.killed,
            if row.notes.is_empty() { "" } else { ": " },
            escaped(&row.notes.join("; ")),
        )?;
    }
    write!(out, "</ul></details></section>")
}
