//! The syscall pair and the scheduler tier on real kernels: known workloads, known answers. Runs in the
//! VM, one test at a time.
#![allow(clippy::unwrap_used, reason = "only tests call the helpers")]

#[path = "probes/errnos.rs"]
mod errnos;
#[path = "probes/workload.rs"]
mod workload;

use std::{collections::BTreeMap, time::Duration};

use paramedic::{
    evidence::{
        BlockedIn, KernelProbes, OTHERS, ProbeState, SchedCounts, SyscallMode, SyscallPlan,
        probes::{Probes, ProbesConfig},
    },
    incident::CgroupId,
};
use workload::{Cgroup, Job};

fn start() -> Probes {
    let probes = Probes::start(&ProbesConfig::default());
    for status in probes.statuses() {
        assert_ne!(status.state, ProbeState::Fallback, "{status:?}");
    }
    probes
}

fn id(cgroup: &Cgroup) -> CgroupId {
    CgroupId(cgroup.id())
}

fn nr(nr: libc::c_long) -> u32 {
    u32::try_from(nr).unwrap()
}

/// Calls and errors of one syscall.
fn calls(probes: &Probes, cgroup: CgroupId, call: libc::c_long) -> (u64, u64) {
    let counts = probes.counts();
    counts
        .syscalls
        .get(&(cgroup, nr(call)))
        .map_or((0, 0), |one| (one.buckets.iter().sum(), one.errors))
}

#[test]
fn who_is_not_watched_is_not_counted() {
    let probes = start();
    let (watched, other) = (Cgroup::new("watched"), Cgroup::new("other"));
    assert!(probes.watch(&SyscallPlan::only([id(&watched)])));
    let mine = Job::start(&watched, || workload::failing_calls(250));
    let theirs = Job::start(&other, || workload::failing_calls(400));
    mine.finish();
    theirs.finish();
    assert_eq!(calls(&probes, id(&watched), libc::SYS_fchdir), (250, 250));
    let counts = probes.counts();
    assert!(
        counts.syscalls.keys().all(|(who, _)| *who == id(&watched)),
        "{:?}",
        counts.syscalls.keys()
    );
}

#[test]
fn modes_and_cgroups_are_switched_while_attached() {
    let probes = start();
    let (a, b) = (Cgroup::new("switch-a"), Cgroup::new("switch-b"));
    let work = |cgroup: &Cgroup, times| {
        Job::start(cgroup, move || workload::failing_calls(times)).finish();
    };
    assert!(probes.watch(&SyscallPlan::only([id(&a)])));
    work(&a, 10);
    work(&b, 20);
    assert_eq!(calls(&probes, id(&a), libc::SYS_fchdir), (10, 10));
    // The same rows, everybody too: what was counted stays.
    assert!(probes.watch(&SyscallPlan::all([id(&a)])));
    work(&a, 5);
    work(&b, 30);
    assert_eq!(calls(&probes, id(&a), libc::SYS_fchdir), (15, 15));
    assert_eq!(calls(&probes, OTHERS, libc::SYS_fchdir), (30, 30));
    // Other rows: from nothing.
    assert!(probes.watch(&SyscallPlan::all([id(&b), id(&a)])));
    assert_eq!(calls(&probes, id(&a), libc::SYS_fchdir), (0, 0));
    work(&b, 7);
    assert_eq!(calls(&probes, id(&b), libc::SYS_fchdir), (7, 7));
    assert_eq!(calls(&probes, OTHERS, libc::SYS_fchdir), (0, 0));
    // Nobody: attached, and nothing is counted.
    assert!(probes.watch(&SyscallPlan::only([])));
    work(&a, 9);
    assert!(probes.counts().syscalls.is_empty());
    assert!(!probes.watch(&SyscallPlan::default()));
    assert!(!probes.counting("syscalls"));
}

/// Errors that tell something of one cgroup, by syscall and errno.
fn told(probes: &Probes, cgroup: &Cgroup) -> BTreeMap<(libc::c_long, i32), u64> {
    let counts = probes.counts();
    let mine = counts
        .errnos
        .iter()
        .filter(|((who, ..), _)| *who == id(cgroup));
    mine.map(|((_, call, errno), count)| {
        ((i64::from(*call), i32::try_from(*errno).unwrap()), *count)
    })
    .collect()
}

#[test]
fn which_errors_is_told_exactly_by_cgroup_and_call() {
    let probes = start();
    let (leaky, full) = (Cgroup::new("leaky"), Cgroup::new("full"));
    let (healthy, other) = (Cgroup::new("healthy"), Cgroup::new("unwatched"));
    full.write("pids.max", "1");
    // One of them has no row of its own; its errors are told apart all the same.
    let plan = SyscallPlan::all([&leaky, &healthy].map(id));
    assert!(probes.watch(&plan));
    let jobs = [
        Job::start(&leaky, || {
            errnos::no_space(6);
            errnos::refused(2);
            errnos::leak(7, 3);
        }),
        Job::start(&full, || errnos::no_fork(4)),
        Job::start(&healthy, || errnos::everyday(50)),
    ];
    for job in jobs {
        job.finish();
    }
    assert_eq!(
        told(&probes, &leaky),
        BTreeMap::from([
            ((libc::SYS_openat, libc::EMFILE), 7),
            ((libc::SYS_dup, libc::EMFILE), 3),
            ((libc::SYS_write, libc::ENOSPC), 6),
            ((libc::SYS_connect, libc::ECONNREFUSED), 2),
        ])
    );
    let forks = BTreeMap::from([((libc::SYS_clone, libc::EAGAIN), 4)]);
    assert_eq!(told(&probes, &full), forks);
    assert_eq!(told(&probes, &healthy), BTreeMap::new());
    // Where only the chosen are watched, and after a switch that begins anew.
    assert!(probes.watch(&SyscallPlan::only([id(&healthy)])));
    Job::start(&other, || errnos::no_space(5)).finish();
    Job::start(&healthy, || errnos::no_space(1)).finish();
    let errnos = probes.counts().errnos;
    let one = ((id(&healthy), nr(libc::SYS_write), 28), 1);
    assert_eq!(errnos.into_iter().collect::<Vec<_>>(), [one]);
    assert!(!probes.watch(&SyscallPlan::default()));
    assert!(probes.counts().errnos.is_empty());
}

#[test]
fn sixty_four_cgroups_have_a_row_each() {
    let probes = start();
    let cgroups: Vec<Cgroup> = (0..64)
        .map(|index| Cgroup::new(&format!("row-{index}")))
        .collect();
    assert!(probes.watch(&SyscallPlan::only(cgroups.iter().map(id))));
    for (times, cgroup) in (1..).zip(&cgroups) {
        Job::start(cgroup, || workload::failing_calls(times)).finish();
    }
    for (times, cgroup) in (1..).zip(&cgroups) {
        assert_eq!(
            calls(&probes, id(cgroup), libc::SYS_fchdir),
            (times, times),
            "cgroup {times}"
        );
    }
}

#[test]
fn sampled_calls_are_counted_exactly_and_long_ones_lie_in_their_bucket() {
    let probes = start();
    let cgroup = Cgroup::new("sampled");
    assert!(probes.watch(&SyscallPlan {
        sampled: true,
        ..SyscallPlan::only([id(&cgroup)])
    }));
    Job::start(&cgroup, || {
        workload::failing_calls(3_000);
        workload::sleep_ms(100, 20);
    })
    .finish();
    assert_eq!(calls(&probes, id(&cgroup), libc::SYS_fchdir), (3000, 3000));
    let sleeps = probes.counts().syscalls[&(id(&cgroup), nr(libc::SYS_clock_nanosleep))];
    assert_eq!(sleeps.buckets.iter().sum::<u64>(), 20);
    // 100 ms lie in bucket 26 (67 to 134 ms); by ticks of 4 ms at most 8 ms less.
    assert_eq!(sleeps.buckets[..26].iter().sum::<u64>(), 0, "{sleeps:?}");
    assert!(sleeps.buckets[26] > 0, "{sleeps:?}");
}

#[test]
fn a_hundred_thousand_calls_of_four_threads_are_all_there() {
    let probes = start();
    let cgroup = Cgroup::new("threads");
    assert!(probes.watch(&SyscallPlan::only([id(&cgroup)])));
    Job::start(&cgroup, || {
        let threads: Vec<_> = (0..4)
            .map(|_| std::thread::spawn(|| workload::failing_calls(25_000)))
            .collect();
        for thread in threads {
            thread.join().unwrap();
        }
    })
    .finish();
    let (counted, errors) = calls(&probes, id(&cgroup), libc::SYS_fchdir);
    let lost: u64 = probes
        .statuses()
        .into_iter()
        .filter(|status| status.name == "syscalls")
        .map(|status| status.drops)
        .sum();
    assert_eq!(counted, errors);
    assert!(
        counted <= 100_000 && counted + lost >= 100_000,
        "{counted} {lost}"
    );
    assert!(counted >= 99_000, "{counted} {lost}");
}

fn waits(probes: &Probes, cgroup: &Cgroup) -> SchedCounts {
    probes.counts().sched[&id(cgroup)]
}

#[test]
fn a_starved_cgroup_waits_and_an_idle_one_does_not() {
    let probes = start();
    assert!(probes.counting("sched"));
    let (starved, idle) = (Cgroup::new("starved"), Cgroup::new("idle"));
    // More spinning threads than CPUs, for a second.
    let spin = || {
        let threads: Vec<_> = (0..8)
            .map(|_| std::thread::spawn(|| workload::spin_ms(1_000)))
            .collect();
        for thread in threads {
            thread.join().unwrap();
        }
    };
    let job = Job::start(&starved, spin);
    job.finish();
    let quiet = Job::start(&idle, || workload::sleep_ms(50, 10));
    quiet.finish();
    let (starved, idle) = (waits(&probes, &starved), waits(&probes, &idle));
    // 8 threads on 2 CPUs for about a second: about 6 of 8 wait at any time.
    assert!(starved.runq_ns > 2_000_000_000, "{starved:?}");
    assert!(idle.runq_ns * 20 < starved.runq_ns, "{idle:?} {starved:?}");
    let waits_of = |counts: &SchedCounts| counts.buckets.iter().sum::<u64>();
    assert!(waits_of(&starved) >= 8 && waits_of(&idle) >= 10);
    // Waits of at least a millisecond are the rule for the starved.
    assert!(
        starved.buckets[20..].iter().sum::<u64>() * 4 > waits_of(&starved),
        "{starved:?}"
    );
}

#[test]
fn a_sleepers_blocked_time_is_told_by_its_syscall() {
    let probes = start();
    let cgroup = Cgroup::new("sleeper");
    Job::start(&cgroup, || workload::sleep_ms(200, 5)).finish();
    let counts = probes.counts();
    let slept = counts.blocked[&(id(&cgroup), BlockedIn::Call(nr(libc::SYS_clock_nanosleep)))];
    // A second, and what the emulated host adds.
    assert!(
        (1_000_000_000..3_000_000_000).contains(&slept),
        "{slept} {:?}",
        counts.blocked
    );
    let mine = counts.sched[&id(&cgroup)];
    assert!(mine.uninterruptible_ns < 500_000_000, "{mine:?}");
}

#[test]
fn without_btf_the_tier_falls_back_and_says_so() {
    let probes = Probes::start_from(
        &ProbesConfig::default(),
        Probes::object(),
        std::path::Path::new("/nonexistent/vmlinux"),
    );
    let statuses = probes.statuses();
    let sched = statuses.iter().find(|one| one.name == "sched").unwrap();
    assert_eq!(sched.state, ProbeState::Fallback);
    assert!(
        sched
            .why
            .as_ref()
            .unwrap()
            .contains("CONFIG_DEBUG_INFO_BTF")
    );
    assert!(sched.fallback.contains("schedstat"));
    // The pair needs none.
    assert!(probes.watch(&SyscallPlan::all([])));
    assert_eq!(SyscallPlan::default().mode, SyscallMode::Off);
    probes.watch(&SyscallPlan::default());
}

#[test]
fn attaching_takes_milliseconds() {
    let probes = start();
    std::thread::sleep(Duration::from_millis(200));
    let begun = std::time::Instant::now();
    assert!(probes.watch(&SyscallPlan::all([])));
    // 5 ms where nothing is emulated: see `cargo xtask bench probes`.
    assert!(begun.elapsed() < Duration::from_millis(500));
}
