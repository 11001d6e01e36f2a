//! `paramedic journal stat|check|dump|repair`: what lies on disk, beside a running agent too; only
//! `repair --yes` writes, and only while no agent has the journal.

use std::{
    fmt::Write as _,
    io::{self, Write as _},
    path::Path,
};

use anyhow::Context;
use clap::Subcommand;
use jiff::Timestamp;

use super::{EXIT_FINDINGS, EXIT_OK, place::Place};
use crate::{
    incident::EpisodeId,
    journal::{self, Inspection, LaneId, LaneReport, Reader, Repaired, SegmentUse},
};

/// Arguments of `paramedic journal`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    place: Place,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Lanes, segments, bytes, numbers, torn tails, damage
    Stat,
    /// Verify every byte; exits 1 on damage that no crash explains, naming segment, offset and reason
    Check,
    /// Every record as one line of JSON, in order, the fast lane first
    Dump,
    /// Make a corrupt journal writable again; puts aside what is damaged, deletes nothing
    Repair {
        /// Do it: without this it is only told
        #[arg(long)]
        yes: bool,
    },
}

/// Runs the subcommand.
pub fn journal(args: &Args) -> anyhow::Result<u8> {
    let dir = args.place.journal_dir()?;
    let text = match args.command {
        Command::Stat => {
            let found = inspect(&dir)?;
            let text = if args.place.json {
                serde_json::to_string_pretty(&found)? + "\n"
            } else {
                stat_text(&dir, &found)
            };
            (text, EXIT_OK)
        }
        Command::Check => {
            let found = inspect(&dir)?;
            let corrupt = found.corruption().next().is_some();
            let text = if args.place.json {
                let damage: Vec<_> = found.corruption().collect();
                let cuts: Vec<_> = found.lanes.iter().flat_map(|lane| &lane.cuts).collect();
                let bytes: u64 = found.lanes.iter().map(|lane| lane.bytes_verified).sum();
                let report = serde_json::json!({
                    "corruption": damage, "cuts": cuts, "bytes_verified": bytes,
                });
                serde_json::to_string_pretty(&report)? + "\n"
            } else {
                check_text(&found)
            };
            (text, if corrupt { EXIT_FINDINGS } else { EXIT_OK })
        }
        Command::Dump => return dump(&dir),
        Command::Repair { yes } => {
            let done = journal::repair(&dir, !yes)
                .with_context(|| format!("cannot repair the journal at {}", dir.display()))?;
            let text = if args.place.json {
                serde_json::to_string_pretty(&done)? + "\n"
            } else {
                repair_text(&done, yes)
            };
            let open = !done.is_empty() && !yes;
            (text, if open { EXIT_FINDINGS } else { EXIT_OK })
        }
    };
    print(&text.0)?;
    Ok(text.1)
}

fn inspect(dir: &Path) -> anyhow::Result<Inspection> {
    journal::inspect(dir).with_context(|| format!("cannot read the journal at {}", dir.display()))
}

/// To stdout; a reader that has had enough (`| head`) is no error.
fn print(text: &str) -> anyhow::Result<()> {
    match io::stdout().lock().write_all(text.as_bytes()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other.context("cannot write to stdout"),
    }
}

fn time(unix_ns: u64) -> String {
    Timestamp::from_nanosecond(i128::from(unix_ns))
        .map_or_else(|_| "-".to_owned(), |at| format!("{at:.3}"))
}

fn stat_text(dir: &Path, found: &Inspection) -> String {
    let mut out = String::new();
    let holder = match found.held_by {
        Some(0) => "open in another process".to_owned(),
        Some(pid) => format!("open in process {pid}"),
        None => "not open".to_owned(),
    };
    writeln!(out, "journal  {} ({holder})", dir.display()).unwrap_or_default();
    for lane in &found.lanes {
        lane_text(&mut out, lane);
    }
    if !found.aside.is_empty() {
        writeln!(out, "\nput aside by repairs: {}", found.aside.join(", ")).unwrap_or_default();
    }
    writeln!(out).unwrap_or_default();
    out + &check_text(found)
}

fn lane_text(out: &mut String, lane: &LaneReport) {
    let first = lane.first_lsn.map_or(lane.next_lsn, |first| first);
    writeln!(
        out,
        "\n{} lane  {} records (LSN {} to {}), {} payload in {} of {} segments, epoch {}",
        lane.lane,
        lane.records,
        first.0,
        lane.next_lsn.0.saturating_sub(1),
        mib(lane.payload_bytes),
        mib(lane.bytes),
        lane.segments.len(),
        lane.epoch,
    )
    .unwrap_or_default();
    writeln!(
        out,
        "  {:<26}  {:<11}  {:>10}  {:>10}  {:>6}  begun",
        "segment", "use", "size", "first LSN", "epoch"
    )
    .unwrap_or_default();
    for segment in &lane.segments {
        let number =
            |value: Option<u64>| value.map_or_else(|| "-".to_owned(), |value| value.to_string());
        writeln!(
            out,
            "  {:<26}  {:<11}  {:>10}  {:>10}  {:>6}  {}",
            segment.file,
            usage(segment.usage),
            mib(segment.bytes),
            number(segment.first_lsn.map(|lsn| lsn.0)),
            number(segment.epoch),
            segment.begun_unix_ns.map_or_else(|| "-".to_owned(), time),
        )
        .unwrap_or_default();
    }
}

fn usage(usage: SegmentUse) -> &'static str {
    match usage {
        SegmentUse::Begun => "begun",
        SegmentUse::Prepared => "prepared",
        SegmentUse::TornHeader => "torn header",
        SegmentUse::GivenUp => "given up",
        SegmentUse::Unread => "unread",
    }
}

fn mib(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}

fn check_text(found: &Inspection) -> String {
    let mut out = String::new();
    for lane in &found.lanes {
        for cut in &lane.cuts {
            writeln!(
                out,
                "{} lane: torn tail at segment {}, offset {}: {} bytes, never acknowledged ({})",
                cut.lane, cut.segment, cut.offset, cut.bytes_lost, cut.reason
            )
            .unwrap_or_default();
        }
    }
    let bytes: u64 = found.lanes.iter().map(|lane| lane.bytes_verified).sum();
    let mut damaged = false;
    for corruption in found.corruption() {
        damaged = true;
        writeln!(out, "{corruption}").unwrap_or_default();
    }
    if damaged {
        out += "`paramedic journal repair` tells what can be saved while no agent is running\n";
    } else {
        writeln!(out, "ok: {bytes} bytes verified").unwrap_or_default();
    }
    out
}

fn repair_text(done: &[Repaired], yes: bool) -> String {
    if done.is_empty() {
        return "nothing is corrupt: nothing to repair\n".to_owned();
    }
    let mut out = String::new();
    for lane in done {
        let again = match (lane.appended_again, yes) {
            (true, true) => "appended again",
            (true, false) => "to be appended again",
            (false, _) => "readable only in the files put aside",
        };
        writeln!(
            out,
            "{}\n  {} records before it stay\n  {} intact records beyond it: {again}\n  \
             {} records between them are lost; what was at the very end can't be counted",
            lane.corruption, lane.records_kept, lane.records_beyond, lane.records_lost
        )
        .unwrap_or_default();
        for (from, to) in &lane.aside {
            writeln!(out, "  {from} -> {to}").unwrap_or_default();
        }
    }
    out += if yes {
        "repaired; nothing was deleted\n"
    } else {
        "nothing was changed: add --yes to do this\n"
    };
    out
}

/// Payloads are shown as JSON where they are JSON, as hexadecimal digits otherwise.
fn dump(dir: &Path) -> anyhow::Result<u8> {
    let reader = Reader::open(dir)
        .with_context(|| format!("cannot read the journal at {}", dir.display()))?;
    let recovered = reader.recovered();
    let mut out = String::new();
    for (lsn, unix_ns, record) in &recovered.records {
        let line = serde_json::json!({
            "lane": LaneId::Fast, "lsn": lsn, "at": time(*unix_ns), "kind": record.kind,
            "episode": EpisodeId(record.episode).to_string(), "payload": payload(&record.payload),
        });
        writeln!(out, "{line}").unwrap_or_default();
    }
    for (reference, meta) in &recovered.snapshots {
        let line = serde_json::json!({
            "lane": LaneId::Safe, "lsn": reference.lsn, "at": time(reference.unix_ns),
            "kind": meta.kind, "episode": EpisodeId(meta.episode).to_string(),
            "segment": reference.segment, "offset": reference.offset, "bytes": reference.len,
        });
        writeln!(out, "{line}").unwrap_or_default();
    }
    print(&out)?;
    for corruption in &recovered.corruption {
        eprintln!("paramedic: {corruption}");
    }
    Ok(if recovered.corruption.is_empty() {
        EXIT_OK
    } else {
        EXIT_FINDINGS
    })
}

fn payload(bytes: &[u8]) -> serde_json::Value {
    serde_json::from_slice(bytes).unwrap_or_else(|_| {
        let mut hex = String::with_capacity(bytes.len() * 2);
        for byte in bytes {
            write!(hex, "{byte:02x}").unwrap_or_default();
        }
        serde_json::json!({ "hex": hex })
    })
}
