//! The same object on this machine's own kernel, whatever it is. Needs root and the built probes;
//! where either is missing it fails and says so: a kernel on which nothing was tried is not tested.

#[path = "probes/errnos.rs"]
mod errnos;
#[path = "probes/events.rs"]
mod events;
#[path = "probes/workload.rs"]
mod workload;

use std::time::Duration;

use paramedic::evidence::{
    KernelCounts, KernelProbes, ProbeState,
    probes::{Probes, ProbesConfig},
};
use workload::{Job, wait_until};

fn require_root_and_probes() {
    assert!(
        rustix::process::geteuid().is_root(),
        "loading probes needs root: run the tests as root"
    );
    assert!(
        !Probes::object().is_empty(),
        "built without probes: run `cargo xtask build`, or `cargo xtask test`"
    );
}

fn forks(counts: &KernelCounts) -> u64 {
    counts.processes.values().map(|counts| counts.forks).sum()
}

#[test]
fn every_probe_attaches_on_this_kernel() {
    require_root_and_probes();
    let probes = Probes::start(&ProbesConfig::default());
    let statuses = probes.statuses();
    assert_eq!(statuses.len(), 10);
    for status in statuses {
        let wanted = if status.name == "syscalls" {
            ProbeState::Standby
        } else {
            ProbeState::Attached
        };
        assert_eq!(status.state, wanted, "{status:?}");
    }
}

#[test]
fn waits_signals_and_connections_are_counted_on_this_kernel() {
    require_root_and_probes();
    let probes = Probes::start(&ProbesConfig::default());
    let sums = || {
        let counts = probes.counts();
        let waited: u64 = counts.sched.values().map(|one| one.runq_ns).sum();
        let all = counts.processes.values();
        let [fatal, failed] = all.fold([0, 0], |[fatal, failed], one| {
            [fatal + one.fatal_signals, failed + one.tcp_failures]
        });
        (waited, fatal, failed)
    };
    let before = sums();
    // Others work here, too: so at least.
    let sleeper = Job::start_here(|| workload::sleep_ms(60_000, 1));
    sleeper.wait_for_syscall(libc::SYS_clock_nanosleep);
    events::kill(sleeper.pid(), libc::SIGTERM);
    assert_eq!(sleeper.wait_status(), Some(libc::SIGTERM));
    events::be_refused(events::free_port());
    wait_until("all three are counted", Duration::from_secs(10), || {
        let after = sums();
        after.0 > before.0 && after.1 > before.1 && after.2 > before.2
    });
}

#[test]
fn every_probe_attaches_and_counts_on_this_kernel() {
    require_root_and_probes();
    let probes = Probes::start(&ProbesConfig::default());
    for status in probes.statuses() {
        assert_ne!(status.state, ProbeState::Fallback, "{status:?}");
    }
    // Others work on this machine too, and its cgroups may be of the first version, where all
    // processes share one id: so at least, and over all.
    let before = forks(&probes.counts());
    Job::start_here(|| workload::fork_and_exec(25)).finish();
    let counts = probes.counts();
    assert!(forks(&counts) >= before + 26, "{counts:?}");
    assert!(counts.processes.values().map(|one| one.execs).sum::<u64>() >= 25);
    assert!(counts.processes.values().map(|one| one.exits).sum::<u64>() >= 26);
    wait_until("the ring is drained", Duration::from_secs(10), || {
        probes.recent().iter().any(|event| event.comm == "true")
    });
}

#[test]
fn the_syscall_pair_attaches_counts_and_detaches_on_this_kernel() {
    require_root_and_probes();
    let probes = Probes::start(&ProbesConfig::default());
    assert!(probes.watch_syscalls(true), "{:?}", probes.statuses());
    Job::start_here(|| workload::failing_calls(500)).finish();
    Job::start_here(|| errnos::no_space(30)).finish();
    let nr = u32::try_from(libc::SYS_fchdir).unwrap();
    let counts = probes.counts();
    let failed: u64 = counts
        .syscalls
        .iter()
        .filter(|((_, called), _)| *called == nr)
        .map(|(_, counts)| counts.errors)
        .sum();
    assert!(failed >= 500, "{failed}");
    let write = u32::try_from(libc::SYS_write).unwrap();
    let full: u64 = counts
        .errnos
        .iter()
        .filter(|((_, called, errno), _)| (*called, *errno) == (write, 28))
        .map(|(_, count)| count)
        .sum();
    assert!(full >= 30, "{full}");
    assert!(!probes.watch_syscalls(false));
    let counts = probes.counts();
    assert!(counts.syscalls.is_empty() && counts.errnos.is_empty());
}
