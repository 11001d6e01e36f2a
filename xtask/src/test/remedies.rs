//! `cargo xtask test remedies`: action by action, what was tried on real kernels.
//!
//! A cell is filled by a test that ran and held (it prints `cell: ACTION WHAT`), or by the crash points
//! that were survived. A cell that cannot be filled says why; one that was not filled is a failure.
//!
//! `PARAMEDIC_CRASHES` changes the crash points on each kernel; 0 takes all of them (some thousands).

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsString,
    time::Duration,
};

use anyhow::{Context, ensure};

use super::{Count, programs, told};
use crate::{
    kernels::Series,
    sh,
    vm::{self, Vm},
};

/// Crash points on each kernel, of all actions together.
const CRASHES: u64 = 260;

/// Crashes at once: much of a life is waiting.
const JOBS: &str = "8";

/// What every action that can be undone must show.
const CHECKS: [&str; 4] = ["apply", "verify", "undo", "refused"];
const REVERSIBLE: [&str; 8] = [
    "throttle-cpu",
    "cap-memory",
    "cap-pids",
    "deprioritise-cpu",
    "throttle-io",
    "freeze-cgroup",
    "raise-memory",
    "raise-oom-score",
];
/// Those that cannot be undone, nor half done.
const FINAL: [&str; 2] = ["kill-process", "kill-cgroup"];

/// What one kernel has shown.
#[derive(Debug, Default)]
struct Shown {
    cells: BTreeSet<(String, String)>,
    /// Survived, and tried, by action.
    crashes: BTreeMap<String, (u64, u64)>,
    /// What else was measured.
    shows: Vec<String>,
    count: Count,
    fine: bool,
}

impl Shown {
    fn add_line(&mut self, line: &str) {
        self.count.add_line(line);
        if let Some((_, show)) = line.split_once("show: ") {
            self.shows.push(show.to_owned());
        }
        // libtest prints a test's name without a line end before what the test prints.
        if let Some((_, cell)) = line.split_once("cell: ")
            && let Some((action, what)) = cell.trim().split_once(' ')
        {
            self.cells.insert((action.to_owned(), what.to_owned()));
        }
        if let Some(rest) = line.strip_prefix("crash points of ") {
            let words: Vec<&str> = rest.split([' ', ':', ';']).collect();
            if let [action, "", survived, "survived", "of", tried, ..] = words[..]
                && let (Ok(survived), Ok(tried)) = (survived.parse(), tried.parse())
            {
                self.crashes.insert(action.to_owned(), (survived, tried));
            }
        }
    }

    fn cell(&self, action: &str, what: &str) -> &'static str {
        if FINAL.contains(&action) && what == "undo" {
            return "none: final";
        }
        let cell = (action.to_owned(), what.to_owned());
        if self.cells.contains(&cell) {
            "ok"
        } else {
            "MISSING"
        }
    }

    fn crash(&self, action: &str) -> String {
        if FINAL.contains(&action) {
            return "none: final".to_owned();
        }
        match self.crashes.get(action) {
            Some((survived, tried)) if survived == tried && *tried > 0 => format!("{survived}"),
            Some((survived, tried)) => format!("FAILED {} of {tried}", tried - survived),
            None => "MISSING".to_owned(),
        }
    }

    fn table(&self, series: Series) -> bool {
        println!("\nremedies on Linux {}:", series.name());
        println!(
            "  {:<18}{:<10}{:<10}{:<14}{:<10}crash points survived",
            "action", "apply", "verify", "undo", "refused"
        );
        let mut ok = self.fine && self.count.failed == 0;
        for action in REVERSIBLE.iter().chain(&FINAL) {
            let [apply, verify, undo, refused] = CHECKS.map(|what| self.cell(action, what));
            let crash = self.crash(action);
            println!("  {action:<18}{apply:<10}{verify:<10}{undo:<14}{refused:<10}{crash}");
            let cells = [apply, verify, undo, refused, &crash];
            ok &= !cells
                .iter()
                .any(|cell| cell.starts_with("MISSING") || cell.starts_with("FAILED"));
        }
        for show in &self.shows {
            println!("  {show}");
        }
        let (survived, tried) = self
            .crashes
            .values()
            .fold((0, 0), |(a, b), (survived, tried)| {
                (a + survived, b + tried)
            });
        println!(
            "  {survived} of {tried} crash points survived; tests: {} passed, {} failed, {} skipped",
            self.count.passed, self.count.failed, self.count.ignored
        );
        ok
    }
}

/// Runs both on every kernel; the result is the exit code.
pub(super) fn remedies() -> anyhow::Result<u8> {
    let points = match std::env::var("PARAMEDIC_CRASHES") {
        Ok(text) => text
            .parse()
            .with_context(|| format!("PARAMEDIC_CRASHES={text} is not a number"))?,
        Err(_) => CRASHES,
    };
    let tests = programs(|name| name == "vm_remedies")?;
    let [tests] = &tests[..] else {
        anyhow::bail!("tests/Cargo.toml does not list vm_remedies");
    };
    // Cargo builds a package's programs for its tests; asked for alone, with other features, they would
    // be built a second time.
    let crash = sh::built("debug", "remedy-crash");
    ensure!(crash.is_file(), "{} was not built", crash.display());
    let run_tests: [OsString; 3] = [
        sh::own_program()?.into_os_string(),
        "run-tests".into(),
        tests.path.clone(),
    ];
    let points = points.to_string();
    let neighbour: [OsString; 2] = [crash.clone().into_os_string(), "neighbour".into()];
    let sweep: [OsString; 6] = [
        crash.into_os_string(),
        "sweep".into(),
        "--points".into(),
        points.into(),
        "--jobs".into(),
        JOBS.into(),
    ];
    let mut shown = Vec::new();
    for series in Series::ALL {
        let mut of = Shown {
            fine: true,
            ..Shown::default()
        };
        for command in [&run_tests[..], &neighbour[..], &sweep[..]] {
            let begun = std::time::Instant::now();
            let vm = Vm {
                series,
                timeout: Duration::from_mins(90),
                memory_mib: 3072,
                env: vec![("RUST_TEST_NOCAPTURE".to_owned(), "1".to_owned())],
                ..Vm::default()
            };
            let mut lines = Vec::new();
            let ran = vm::retrying(|| {
                lines.clear();
                vm.run(command, |line| {
                    println!("{line}");
                    lines.push(line.to_owned());
                })
            });
            for line in &lines {
                of.add_line(line);
            }
            match ran {
                Ok(status) => of.fine &= status == 0,
                Err(error) => {
                    println!("Linux {}: {error:#}", series.name());
                    of.fine = false;
                }
            }
            told(&format!("remedies on {}", series.name()), begun);
        }
        shown.push((series, of));
    }
    let mut ok = true;
    for (series, of) in &shown {
        ok &= of.table(*series);
    }
    println!("{}", if ok { "ok" } else { "FAILED: see above" });
    Ok(u8::from(!ok))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_and_crashes_are_read_and_what_is_missing_is_told() {
        let mut shown = Shown::default();
        shown.add_line("test matrix::x ... cell: cap-pids apply");
        shown.add_line("crash points of cap-pids: 12 survived of 12; killed {\"Agent\": 12}");
        shown.add_line("crash points of throttle-io: 3 survived of 4; killed {}");
        shown.add_line("show: a neighbour is calm");
        assert_eq!(shown.shows, ["a neighbour is calm"]);
        shown.add_line("crash points: 16 of 16, 1 in between, left over or repeated, in 9 s");
        assert_eq!(shown.cell("cap-pids", "apply"), "ok");
        assert_eq!(shown.cell("cap-pids", "undo"), "MISSING");
        assert_eq!(shown.cell("kill-cgroup", "undo"), "none: final");
        assert_eq!(shown.crash("cap-pids"), "12");
        assert_eq!(shown.crash("throttle-io"), "FAILED 1 of 4");
        assert_eq!(shown.crash("raise-memory"), "MISSING");
    }
}
