//! The probes on real kernels: known workloads, known answers. Runs in the VM, one test at a time.
#![allow(clippy::unwrap_used, reason = "only tests call the helpers")]

#[path = "probes/workload.rs"]
mod workload;

use std::{
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use paramedic::{
    evidence::{
        KernelProbes, ProbeState, ProbeStatus, SyscallPlan,
        probes::{ProbeName, Probes, ProbesConfig},
    },
    incident::CgroupId,
};
use workload::{Cgroup, Job, wait_until};

/// Generous: the VM is emulated.
const PATIENCE: Duration = Duration::from_secs(20);

fn start() -> Probes {
    let probes = Probes::start(&ProbesConfig::default());
    for status in probes.statuses() {
        assert_ne!(status.state, ProbeState::Fallback, "{status:?}");
    }
    probes
}

fn status(probes: &Probes, name: &str) -> ProbeStatus {
    let statuses = probes.statuses();
    statuses.into_iter().find(|one| one.name == name).unwrap()
}

#[test]
fn all_attach_here_and_the_pair_waits() {
    let probes = start();
    for name in [
        "exec", "fork", "exit", "oom", "sched", "signal", "reclaim", "tcp", "block",
    ] {
        assert_eq!(status(&probes, name).state, ProbeState::Attached);
        assert!(probes.counting(name));
    }
    assert_eq!(status(&probes, "syscalls").state, ProbeState::Standby);
    assert!(!probes.counting("syscalls"));
}

#[test]
fn forks_and_exits_are_counted_exactly_for_their_cgroup() {
    let probes = start();
    let cgroup = Cgroup::new("forks");
    let other = Cgroup::new("bystander");
    let job = Job::start(&cgroup, || workload::fork_and_exit(137));
    let by = Job::start(&other, || workload::fork_and_exit(5));
    job.finish();
    by.finish();
    let counts = probes.counts();
    let mine = counts.processes[&CgroupId(cgroup.id())];
    // The job's own process ends inside the cgroup too; it was created outside.
    assert_eq!((mine.forks, mine.exits, mine.execs), (137, 138, 0));
    let others = counts.processes[&CgroupId(other.id())];
    assert_eq!((others.forks, others.exits, others.execs), (5, 6, 0));
    assert_eq!(counts.unattributed, 0);
    // The same by the ring, in words for people.
    let seen = || {
        let recent = probes.recent();
        let of = |kind| {
            let mine = |event: &&_| is_of(event, kind, cgroup.id());
            recent.iter().filter(mine).count()
        };
        (of(ProbeName::Fork), of(ProbeName::Exit))
    };
    wait_until("the ring is drained", PATIENCE, || seen() == (137, 138));
    let recent = probes.recent();
    let fork = recent
        .iter()
        .find(|event| is_of(event, ProbeName::Fork, cgroup.id()))
        .unwrap();
    assert_ne!(fork.pid, 0, "the child is known by the kernel's own layout");
    let exit = recent
        .iter()
        .find(|event| event.kind == ProbeName::Exit && event.pid == fork.pid)
        .unwrap();
    assert_eq!(exit.exit_code, Some(7 << 8));
}

fn is_of(event: &paramedic::evidence::probes::ProcessEvent, kind: ProbeName, cgroup: u64) -> bool {
    event.kind == kind && event.cgroup == CgroupId(cgroup)
}

#[test]
fn programs_executed_are_counted_exactly_and_named() {
    let probes = start();
    let cgroup = Cgroup::new("execs");
    Job::start(&cgroup, || workload::fork_and_exec(41)).finish();
    let mine = probes.counts().processes[&CgroupId(cgroup.id())];
    assert_eq!((mine.forks, mine.execs, mine.exits), (41, 41, 42));
    wait_until("the ring is drained", PATIENCE, || {
        let recent = probes.recent();
        let named = recent
            .iter()
            .filter(|event| is_of(event, ProbeName::Exec, cgroup.id()) && event.comm == "true");
        named.count() == 41
    });
}

#[test]
fn threads_are_no_processes() {
    let probes = start();
    let cgroup = Cgroup::new("threads");
    Job::start(&cgroup, || workload::threads(30)).finish();
    let mine = probes.counts().processes[&CgroupId(cgroup.id())];
    assert_eq!((mine.forks, mine.exits, mine.execs), (0, 1, 0));
}

#[test]
fn calls_are_counted_exactly_with_their_durations_and_errors() {
    let probes = start();
    let cgroup = Cgroup::new("calls");
    let plan = SyscallPlan::only([CgroupId(cgroup.id())]);
    assert!(probes.watch(&plan));
    assert!(probes.counting("syscalls"));
    Job::start(&cgroup, || {
        workload::sleep_ms(5, 20);
        workload::failing_calls(333);
        workload::good_calls(200);
    })
    .finish();
    let counts = probes.counts();
    let of = |nr: libc::c_long| {
        let nr = u32::try_from(nr).unwrap();
        counts.syscalls[&(CgroupId(cgroup.id()), nr)]
    };
    let sleeps = of(libc::SYS_clock_nanosleep);
    // 5 ms lie in bucket 22, from 4.19 to 8.39 ms. A busy host makes some longer, never shorter.
    assert_eq!(sleeps.buckets.iter().sum::<u64>(), 20);
    assert_eq!(sleeps.buckets[..22].iter().sum::<u64>(), 0, "{sleeps:?}");
    assert!(sleeps.buckets[22] > 0, "{sleeps:?}");
    assert!(sleeps.total_ns >= 20 * 5_000_000, "{sleeps:?}");
    assert_eq!(sleeps.errors, 0);
    let failing = of(libc::SYS_fchdir);
    assert_eq!(failing.buckets.iter().sum::<u64>(), 333);
    assert_eq!(failing.errors, 333);
    let good = of(libc::SYS_getpgid);
    assert_eq!(good.buckets.iter().sum::<u64>(), 200);
    assert_eq!(good.errors, 0);
    assert!(status(&probes, "syscalls").events >= 553);

    assert!(!probes.watch_syscalls(false));
    assert!(probes.counts().syscalls.is_empty());
    assert_eq!(status(&probes, "syscalls").state, ProbeState::Standby);
    // Detached is detached: nothing is counted now, and attached again it starts from nothing.
    Job::start(&cgroup, || workload::failing_calls(50)).finish();
    assert!(probes.watch(&plan));
    Job::start(&cgroup, || workload::failing_calls(7)).finish();
    let again = probes.counts().syscalls[&(CgroupId(cgroup.id()), nr(libc::SYS_fchdir))];
    assert_eq!((again.buckets.iter().sum::<u64>(), again.errors), (7, 7));
}

fn nr(nr: libc::c_long) -> u32 {
    u32::try_from(nr).unwrap()
}

#[test]
fn a_call_begun_before_the_pair_was_attached_again_is_left_out() {
    let probes = start();
    let cgroup = Cgroup::new("stale");
    let plan = SyscallPlan::only([CgroupId(cgroup.id())]);
    assert!(probes.watch(&plan));
    // In flight while the pair is detached and attached again: its start is noted, its end comes
    // in another epoch.
    let job = Job::start(&cgroup, || workload::sleep_ms(1_500, 1));
    job.wait_for_syscall(libc::SYS_clock_nanosleep);
    probes.watch_syscalls(false);
    assert!(probes.watch(&plan), "{:?}", probes.statuses());
    job.finish();
    let counts = probes.counts();
    let sleeps = counts
        .syscalls
        .get(&(CgroupId(cgroup.id()), nr(libc::SYS_clock_nanosleep)));
    assert_eq!(sleeps, None, "a call of the epoch before was counted");
}

#[test]
fn the_victim_is_charged_and_not_who_ran_out_of_memory() {
    let log = Log::install();
    let probes = start();
    let parent = Cgroup::new("oom");
    parent.delegate("memory");
    parent.write("memory.max", &(64 << 20).to_string());
    parent.write("memory.swap.max", "0");
    let (big, small) = (parent.child("big"), parent.child("small"));
    // The big one sleeps on its memory; the small one asks for the last bytes.
    let hog = Job::start(&big, || {
        workload::be_the_victim(true);
        workload::touch_mib(44);
        workload::sleep_ms(60_000, 1);
    });
    wait_until("the hog has its memory", PATIENCE, || {
        big.read("memory.current").trim().parse::<u64>().unwrap() > 44 << 20
    });
    let trigger = Job::start(&small, || {
        workload::be_the_victim(false);
        workload::touch_mib(30);
    });
    assert_eq!(hog.wait_status(), Some(libc::SIGKILL), "the hog is killed");
    trigger.finish();
    let counts = probes.counts();
    let mine = counts.processes[&CgroupId(big.id())];
    assert_eq!(mine.oom_kills, 1);
    assert!(big.read("memory.events").contains("oom_kill 1"));
    let innocent = counts.processes.get(&CgroupId(small.id()));
    assert_eq!(innocent.map_or(0, |counts| counts.oom_kills), 0);
    let statuses = status(&probes, "oom");
    assert_eq!((statuses.events, statuses.drops), (1, 0));
    wait_until("the event is read", PATIENCE, || {
        let recent = probes.recent();
        recent
            .iter()
            .any(|event| is_of(event, ProbeName::Oom, big.id()) && event.pid == hog.pid())
    });
    // The probe's own log line, through aya-log into tracing.
    let line = format!(
        "process {} of cgroup {} is an out-of-memory victim",
        hog.pid(),
        big.id()
    );
    wait_until("the probe's log line arrives", PATIENCE, || log.has(&line));
}

/// What `tracing` was told in this process.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    fn install() -> Self {
        let log = Self::default();
        let sink = log.clone();
        tracing_subscriber::fmt()
            .with_ansi(false)
            .with_writer(move || sink.clone())
            .init();
        log
    }

    fn has(&self, line: &str) -> bool {
        String::from_utf8_lossy(&self.0.lock().unwrap()).contains(line)
    }
}

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn an_overfilled_ring_is_counted_and_stalls_nobody() {
    // A page holds 73 events; the clock empties it once a second and nothing wakes it before.
    let probes = Probes::start(&ProbesConfig {
        ring_bytes: 4_096,
        wake_bytes: 64 << 10,
        drain_ms: 1_000,
        // Of these not every occurrence is told.
        off: vec![ProbeName::Signal, ProbeName::Tcp],
        ..ProbesConfig::default()
    });
    let cgroup = Cgroup::new("overfilled");
    Job::start(&cgroup, || workload::fork_and_exit(600)).finish();
    let mine = probes.counts().processes[&CgroupId(cgroup.id())];
    assert_eq!((mine.forks, mine.exits), (600, 601), "counters are exact");
    let totals = || {
        let statuses = ["exec", "fork", "exit", "oom"].map(|name| status(&probes, name));
        let events: u64 = statuses.iter().map(|one| one.events).sum();
        let drops: u64 = statuses.iter().map(|one| one.drops).sum();
        (events, drops)
    };
    assert!(totals().1 > 0, "nothing was lost: {:?}", totals());
    wait_until(
        "each event is either read or counted as lost",
        PATIENCE,
        || {
            let (events, drops) = totals();
            probes.events_read() + drops == events
        },
    );
}

#[test]
fn a_full_map_is_counted_as_not_attributed() {
    let probes = Probes::start(&ProbesConfig {
        cgroups_max: 64,
        ..ProbesConfig::default()
    });
    let cgroups: Vec<Cgroup> = (0..80)
        .map(|index| Cgroup::new(&format!("many-{index}")))
        .collect();
    for cgroup in &cgroups {
        Job::start(cgroup, || workload::fork_and_exit(1)).finish();
    }
    let counts = probes.counts();
    assert!(counts.processes.len() <= 64, "{}", counts.processes.len());
    // A fork and two exits each.
    let charged: u64 = cgroups
        .iter()
        .filter_map(|cgroup| counts.processes.get(&CgroupId(cgroup.id())))
        .map(|counts| counts.forks + counts.exits)
        .sum();
    assert!(charged < 240, "all had room");
    assert!(counts.unattributed >= 240 - charged, "{counts:?}");
}

#[test]
fn one_broken_program_leaves_the_others_alone() {
    let mut object = Probes::object().to_vec();
    workload::break_section(&mut object, "raw_tp/sched_process_exec");
    let btf = Path::new("/sys/kernel/btf/vmlinux");
    let probes = Probes::start_from(&ProbesConfig::default(), &object, btf);
    let exec = status(&probes, "exec");
    assert_eq!(exec.state, ProbeState::Fallback);
    let why = exec.why.unwrap();
    assert!(why.contains("the verifier refused it"), "{why}");
    assert!(why.contains("unknown opcode"), "{why}");
    for name in ["fork", "exit", "oom"] {
        assert_eq!(status(&probes, name).state, ProbeState::Attached);
    }
    let cgroup = Cgroup::new("broken");
    Job::start(&cgroup, || workload::fork_and_exec(3)).finish();
    let mine = probes.counts().processes[&CgroupId(cgroup.id())];
    assert_eq!((mine.forks, mine.execs, mine.exits), (3, 0, 4));
}

#[test]
fn without_the_kernels_types_only_what_reads_tasks_falls_back() {
    let probes = Probes::start_from(
        &ProbesConfig::default(),
        Probes::object(),
        Path::new("/nonexistent/vmlinux"),
    );
    let oom = status(&probes, "oom");
    assert_eq!(oom.state, ProbeState::Fallback);
    assert!(oom.why.unwrap().contains("CONFIG_DEBUG_INFO_BTF"));
    assert!(oom.fallback.contains("memory.events"));
    let cgroup = Cgroup::new("no-btf");
    Job::start(&cgroup, || workload::fork_and_exec(3)).finish();
    let mine = probes.counts().processes[&CgroupId(cgroup.id())];
    assert_eq!((mine.forks, mine.execs, mine.exits), (3, 3, 4));
}

#[test]
fn a_dropped_capability_is_named() {
    let _whole = start();
    let whys = std::thread::spawn(|| {
        workload::drop_capabilities();
        let probes = Probes::start(&ProbesConfig::default());
        assert!(!probes.watch_syscalls(true));
        assert!(probes.counts().processes.is_empty());
        let statuses = probes.statuses();
        statuses
            .into_iter()
            .map(|one| (one.state, one.why.unwrap_or_default()))
            .collect::<Vec<_>>()
    })
    .join()
    .unwrap();
    assert_eq!(whys.len(), 10);
    for (state, why) in whys {
        assert_eq!(state, ProbeState::Fallback);
        assert_eq!(
            why,
            "missing CAP_BPF and CAP_PERFMON: run as root, or grant them (or CAP_SYS_ADMIN)"
        );
    }
}

#[test]
fn nothing_stays_attached_after_the_end() {
    // The kernel frees programs a while after the last test let go of them.
    let mut before = usize::MAX;
    wait_until("the tests before this one are gone", PATIENCE, || {
        let now = workload::loaded_programs();
        std::thread::sleep(Duration::from_millis(500));
        let settled = now == before;
        before = now;
        settled
    });
    let probes = start();
    assert!(probes.watch_syscalls(true));
    assert_eq!(workload::loaded_programs(), before + 20);
    drop(probes);
    wait_until("the kernel has let go of the programs", PATIENCE, || {
        workload::loaded_programs() == before
    });
}
