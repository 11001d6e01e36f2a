//! `cargo xtask test evidence`: each probe on each kernel, by a test that ran there.

use std::{collections::HashMap, fmt::Write as _, process::Command};

use crate::{
    kernels::{Kernel, Series},
    sh, test,
};

/// Test programs of the probes: in the VM, and on this machine.
const IN_VM: [&str; 3] = ["vm_probes", "vm_pairs", "vm_events"];
const HERE: &str = "probes_here";

/// What a probe is tried by.
struct Row {
    probe: &'static str,
    /// In the VM: a workload with a known answer.
    in_vm: &'static str,
    /// On this machine, whose cgroups and neighbours are what they are.
    here: &'static str,
}

const COUNTS_HERE: &str = "every_probe_attaches_and_counts_on_this_kernel";

const ROWS: [Row; 10] = [
    Row {
        probe: "exec",
        in_vm: "programs_executed_are_counted_exactly_and_named",
        here: COUNTS_HERE,
    },
    Row {
        probe: "fork",
        in_vm: "forks_and_exits_are_counted_exactly_for_their_cgroup",
        here: COUNTS_HERE,
    },
    Row {
        probe: "exit",
        in_vm: "forks_and_exits_are_counted_exactly_for_their_cgroup",
        here: COUNTS_HERE,
    },
    Row {
        probe: "oom",
        in_vm: "the_victim_is_charged_and_not_who_ran_out_of_memory",
        here: ATTACHES_HERE,
    },
    Row {
        probe: "syscalls",
        in_vm: "calls_are_counted_exactly_with_their_durations_and_errors",
        here: "the_syscall_pair_attaches_counts_and_detaches_on_this_kernel",
    },
    Row {
        probe: "sched",
        in_vm: "a_starved_cgroup_waits_and_an_idle_one_does_not",
        here: "waits_signals_and_connections_are_counted_on_this_kernel",
    },
    Row {
        probe: "signal",
        in_vm: "a_signal_is_charged_to_whom_it_is_sent_and_its_sender_is_named",
        here: "waits_signals_and_connections_are_counted_on_this_kernel",
    },
    Row {
        probe: "reclaim",
        in_vm: "reclaim_stalls_whoever_is_at_its_limit",
        here: ATTACHES_HERE,
    },
    Row {
        probe: "tcp",
        in_vm: "connections_are_counted_for_both_ends_and_by_peer",
        here: "waits_signals_and_connections_are_counted_on_this_kernel",
    },
    Row {
        probe: "block",
        in_vm: "block_io_is_charged_to_the_cgroup_that_asks_for_it",
        here: ATTACHES_HERE,
    },
];

/// Without a limit of memory or a disk of its own, a test cannot make these count for sure.
const ATTACHES_HERE: &str = "every_probe_attaches_on_this_kernel";

/// Results of tests by name.
type Results = HashMap<String, bool>;

/// Runs them and prints the table; the result is the exit code: 1 if a cell is not filled by a test
/// that passed.
pub fn evidence() -> anyhow::Result<u8> {
    let programs = test::programs(|name| IN_VM.contains(&name))?;
    let mut columns: Vec<(String, Results)> = Vec::new();
    for series in Series::ALL {
        let mut results = Results::new();
        test::on_kernel(series, &programs, &mut |line| note(&mut results, line))?;
        let release = Kernel::unpacked(&sh::cache(), series);
        let release = release.map_or_else(|| series.name().to_owned(), |kernel| kernel.release);
        columns.push((release, results));
    }
    let mut results = Results::new();
    let mut here: Command = sh::cargo();
    // Of the whole workspace, as everywhere: nothing is built a second time with other features.
    here.args(["test", "--workspace", "--exclude", "agent-ebpf"]);
    here.args(["--test", HERE]);
    test::counted(&mut here, &mut |line| note(&mut results, line))?;
    columns.push((test::release(), results));
    let (table, complete) = table(&columns);
    println!("{table}");
    Ok(u8::from(!complete))
}

/// Keeps `test NAME ... ok` and `… FAILED`.
fn note(results: &mut Results, line: &str) {
    let Some((name, outcome)) = line
        .trim()
        .strip_prefix("test ")
        .and_then(|rest| rest.split_once(" ... "))
    else {
        return;
    };
    if outcome == "ok" || outcome.starts_with("FAILED") {
        // One that is repeated after the emulator failed counts as it went then.
        results.insert(name.to_owned(), outcome == "ok");
    }
}

/// The last column is this machine's.
fn table(columns: &[(String, Results)]) -> (String, bool) {
    let mut text = format!("\n{:<10}", "PROBE");
    let mut complete = true;
    // Writing to a String cannot fail.
    for (release, _) in columns {
        write!(text, "  {release:<28}").unwrap_or_default();
    }
    for row in &ROWS {
        write!(text, "\n{:<10}", row.probe).unwrap_or_default();
        for (index, (_, results)) in columns.iter().enumerate() {
            let is_here = index + 1 == columns.len();
            let name = if is_here { row.here } else { row.in_vm };
            let cell = match results.get(name) {
                Some(true) if name == ATTACHES_HERE => "attaches",
                Some(true) => "counts",
                Some(false) => "FAILED",
                None => "NOT RUN",
            };
            complete &= results.get(name) == Some(&true);
            write!(text, "  {cell:<28}").unwrap_or_default();
        }
    }
    let names = "\n\ncounts: a known workload gave the known answer; attaches: loaded, verified and \
                 attached, nothing on this machine makes it count for sure";
    (text + names, complete)
}

#[cfg(test)]
mod tests {
    use super::{ROWS, Results, note, table};

    #[test]
    fn a_cell_that_no_test_filled_is_seen() {
        let mut vm = Results::new();
        let mut here = Results::new();
        for row in &ROWS {
            note(&mut vm, &format!("test {} ... ok", row.in_vm));
            note(&mut here, &format!("test {} ... ok", row.here));
        }
        let columns = |vm: &Results| {
            [
                ("6.1".to_owned(), vm.clone()),
                ("own".to_owned(), here.clone()),
            ]
        };
        assert!(table(&columns(&vm)).1);
        let missing = vm.remove(ROWS[9].in_vm);
        assert_eq!(missing, Some(true));
        let (text, complete) = table(&columns(&vm));
        assert!(!complete && text.contains("NOT RUN"), "{text}");
        note(&mut vm, &format!("test {} ... FAILED", ROWS[9].in_vm));
        let (text, complete) = table(&columns(&vm));
        assert!(!complete && text.contains("FAILED"), "{text}");
    }
}
