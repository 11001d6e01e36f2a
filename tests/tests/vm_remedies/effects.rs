//! Each action: applied, its effect measured, undone exactly.

use std::{thread, time::Duration};

use paramedic::{
    incident::ActionKind,
    remedy::{ApplyError, CgroupError},
};

use crate::rig::{Scratch, Swap, acting, cell, forks, meminfo, plan, remedies, suggest, until};

const STRESS: &str = "/usr/bin/stress-ng";

#[test]
fn throttle_cpu_slows_the_hog_and_gives_back_what_was_there() {
    let mut hog = Scratch::new("/hog");
    hog.hog(STRESS, &["--cpu", "2", "--cpu-method", "loop"]);
    hog.until_cpus(0.7);

    let remedies = remedies(&acting());
    let intent = plan(
        &remedies,
        &hog,
        suggest(ActionKind::ThrottleCpu, Some(0.2)),
        &[],
    )
    .unwrap();
    assert_eq!(intent.changes.len(), 1);
    assert_eq!(intent.changes[0].prior, "max 100000");
    assert_eq!(hog.read("cpu.max"), "max 100000", "planning writes nothing");

    let applied = remedies.apply(&intent).unwrap();
    println!("show: throttle-cpu applied in {} us", applied.took_us);
    assert_eq!(hog.read("cpu.max"), "20000 100000");
    let throttled = hog.cpus();
    assert!(throttled < 0.3, "{throttled} CPUs under a quota of 0.2");
    assert!(hog.field("cpu.stat", "nr_throttled") > 0);
    cell(ActionKind::ThrottleCpu, "verify");

    let report = remedies.undo(&intent);
    assert_eq!(
        (report.restored, report.left_alone),
        (vec!["cpu.max".to_owned()], vec![])
    );
    assert_eq!(hog.read("cpu.max"), "max 100000");
    hog.until_cpus(0.7);
    // Once more changes nothing and complains of nothing.
    assert_eq!(
        remedies.undo(&intent),
        paramedic::remedy::UndoReport::default()
    );
}

#[test]
fn throttle_cpu_by_default_leaves_the_others_room() {
    let mut hog = Scratch::new("/hog");
    hog.hog(STRESS, &["--cpu", "4", "--cpu-method", "loop"]);
    let cpus = thread::available_parallelism().unwrap().get() as f64;
    hog.until_cpus(0.7 * cpus);
    let remedies = remedies(&acting());
    let readings = [("cpu.cores", cpus)];
    let intent = plan(
        &remedies,
        &hog,
        suggest(ActionKind::ThrottleCpu, None),
        &readings,
    )
    .unwrap();
    remedies.apply(&intent).unwrap();
    let used = hog.cpus();
    assert!(used < 0.6 * cpus, "{used} of {cpus} CPUs");
    assert!(
        used > 0.1 * cpus,
        "slowed down, not stopped: {used} of {cpus} CPUs"
    );
    remedies.undo(&intent);
}

#[test]
fn an_own_limit_is_restored_to_the_byte_with_its_burst() {
    let hog = Scratch::new("/hog");
    hog.write("cpu.max", "150000 50000");
    hog.write("cpu.max.burst", "20000");
    let remedies = remedies(&acting());
    let intent = plan(
        &remedies,
        &hog,
        suggest(ActionKind::ThrottleCpu, Some(0.1)),
        &[],
    )
    .unwrap();
    remedies.apply(&intent).unwrap();
    assert_eq!(hog.read("cpu.max"), "5000 50000");
    assert_eq!(hog.read("cpu.max.burst"), "0");
    assert_eq!(
        remedies.undo(&intent).restored,
        ["cpu.max", "cpu.max.burst"]
    );
    assert_eq!(hog.read("cpu.max"), "150000 50000");
    assert_eq!(hog.read("cpu.max.burst"), "20000");
}

#[test]
fn a_tighter_limit_of_its_own_is_kept() {
    let hog = Scratch::new("/hog");
    hog.write("cpu.max", "10000 100000");
    hog.write("pids.max", "3");
    hog.write("memory.high", "1048576");
    hog.write("memory.max", "1048576");
    let remedies = remedies(&acting());
    let cases = [
        (ActionKind::ThrottleCpu, 0.5),
        (ActionKind::CapPids, 10.0),
        (ActionKind::CapMemory, 0.5),
    ];
    for (action, amount) in cases {
        let refusal = plan(&remedies, &hog, suggest(action, Some(amount)), &[]).unwrap_err();
        assert_eq!(refusal.reason, "already-limited", "{refusal:?}");
    }
}

#[test]
fn cap_pids_stops_the_storm_at_the_population_before_it() {
    let mut hog = Scratch::new("/storm");
    for _ in 0..3 {
        hog.hog("/bin/sleep", &["1000"]);
    }
    // Old is what was there ten seconds before the alert.
    thread::sleep(Duration::from_millis(10_500));
    hog.hog(STRESS, &["--fork", "2"]);
    let rate = || {
        let before = forks();
        thread::sleep(Duration::from_secs(1));
        forks() - before
    };
    let mut storm = 0;
    until("a storm", || {
        storm = rate();
        storm > 50
    });

    let remedies = remedies(&acting());
    let intent = plan(&remedies, &hog, suggest(ActionKind::CapPids, None), &[]).unwrap();
    assert_eq!(
        intent.changes[0].value, "3",
        "three old members, the storm not counted"
    );
    remedies.apply(&intent).unwrap();
    thread::sleep(Duration::from_millis(300));
    let capped = rate();
    assert!(
        capped * 20 < storm,
        "{capped} forks a second, {storm} before"
    );
    assert!(hog.field("pids.events", "max") > 0, "forks fail");
    assert!(hog.field("cgroup.stat", "nr_descendants") == 0);
    cell(ActionKind::CapPids, "verify");

    remedies.undo(&intent);
    assert_eq!(hog.read("pids.max"), "max");
    until("the storm goes on when it may", || rate() > 20);
}

#[test]
fn cap_memory_gives_the_node_its_memory_back() {
    let total = meminfo("MemTotal");
    let take = meminfo("MemAvailable") - 0.12 * total;
    let mut hog = Scratch::new("/hog");
    let bytes = format!("{take:.0}");
    hog.hog(
        STRESS,
        &[
            "--vm",
            "2",
            "--vm-bytes",
            &bytes,
            "--vm-keep",
            "--vm-method",
            "write64",
        ],
    );
    let deadline = std::time::Instant::now() + Duration::from_secs(60);
    while meminfo("MemAvailable") / total > 0.16 {
        assert!(std::time::Instant::now() < deadline, "the hog doesn't grow");
        thread::sleep(Duration::from_millis(200));
    }

    let remedies = remedies(&acting());
    let intent = plan(&remedies, &hog, suggest(ActionKind::CapMemory, None), &[]).unwrap();
    let applied = remedies.apply(&intent).unwrap();
    println!(
        "cap-memory applied in {} us: {:?}",
        applied.took_us, intent.changes
    );
    until("the node recovers", || {
        meminfo("MemAvailable") / total >= 0.2
    });
    // It starts again inside, and stays inside.
    let max: u64 = hog.read("memory.max").parse().unwrap();
    for _ in 0..10 {
        thread::sleep(Duration::from_millis(300));
        let current: u64 = hog.read("memory.current").parse().unwrap();
        assert!(current <= max, "{current} of {max}");
        assert!(meminfo("MemAvailable") / total >= 0.2);
    }
    assert!(hog.field("memory.events", "oom_kill") > 0);
    cell(ActionKind::CapMemory, "verify");

    let report = remedies.undo(&intent);
    assert_eq!(report.left_alone, Vec::<String>::new());
    assert_eq!(hog.read("memory.max"), "max");
    assert_eq!(hog.read("memory.high"), "max");
}

#[test]
fn cap_memory_bounds_growth_where_nothing_is_short_and_kills_nobody() {
    let mut hog = Scratch::new("/leak");
    hog.hog(STRESS, &["--vm", "1", "--vm-bytes", "64M", "--vm-keep"]);
    hog.until_bytes(60 << 20);
    let remedies = remedies(&acting());
    let intent = plan(&remedies, &hog, suggest(ActionKind::CapMemory, None), &[]).unwrap();
    remedies.apply(&intent).unwrap();
    thread::sleep(Duration::from_secs(1));
    assert_eq!(hog.field("memory.events", "oom_kill"), 0);
    assert!(hog.read("memory.high").parse::<u64>().unwrap() < 100 << 20);
    remedies.undo(&intent);
    assert_eq!(hog.read("memory.high"), "max");
}

#[test]
fn cap_memory_swaps_out_rather_than_kills_where_there_is_swap() {
    let swap = Swap::on(256 << 20);
    let mut hog = Scratch::new("/hog");
    // Fills its memory once, then sleeps.
    let fill = [
        "--vm",
        "1",
        "--vm-bytes",
        "160M",
        "--vm-keep",
        "--vm-hang",
        "0",
    ];
    hog.hog(STRESS, &fill);
    hog.until_bytes(100 << 20);
    let remedies = remedies(&acting());
    let share = f64::from(64 << 20) / meminfo("MemTotal");
    let suggestion = suggest(ActionKind::CapMemory, Some(share));
    let intent = plan(&remedies, &hog, suggestion, &[]).unwrap();
    assert_eq!(
        intent.changes.len(),
        1,
        "memory.high alone: {:?}",
        intent.changes
    );
    remedies.apply(&intent).unwrap();
    let current: u64 = hog.read("memory.current").parse().unwrap();
    assert!(
        current < 80 << 20,
        "{current} bytes above a soft limit of 64 MiB"
    );
    assert!(hog.read("memory.swap.current").parse::<u64>().unwrap() > 16 << 20);
    assert_eq!(hog.field("memory.events", "oom_kill"), 0);
    assert_eq!(remedies.undo(&intent).restored, ["memory.high"]);
    assert_eq!(hog.read("memory.high"), "max");
    drop((hog, swap));
}

#[test]
fn kill_cgroup_ends_everything_when_it_is_allowed_by_name() {
    let mut hog = Scratch::new("/hog");
    hog.hog(STRESS, &["--fork", "2"]);
    until("several are inside", || {
        hog.read("cgroup.procs").lines().count() > 2
    });
    let mut config = acting();
    let kill = || suggest(ActionKind::KillCgroup, None);
    let refusal = plan(&remedies(&config), &hog, kill(), &[]).unwrap_err();
    assert_eq!(refusal.reason, "policy");
    assert!(
        refusal.detail.contains("add kill-cgroup to remedy.allow"),
        "{}",
        refusal.detail
    );
    cell(ActionKind::KillCgroup, "refused");

    config.allow.push(ActionKind::KillCgroup);
    let remedies = remedies(&config);
    let intent = plan(&remedies, &hog, kill(), &[]).unwrap();
    remedies.apply(&intent).unwrap();
    assert!(hog.read("cgroup.events").contains("populated 0"));
    cell(ActionKind::KillCgroup, "apply");
    cell(ActionKind::KillCgroup, "verify");
    let report = remedies.undo(&intent);
    assert_eq!(
        report.left_alone,
        ["cgroup.kill: what was killed stays dead"]
    );
}

#[test]
fn somebody_elses_change_is_left_alone_and_told() {
    let hog = Scratch::new("/hog");
    hog.write("cpu.max", "150000 50000");
    hog.write("cpu.max.burst", "20000");
    let remedies = remedies(&acting());
    let intent = plan(
        &remedies,
        &hog,
        suggest(ActionKind::ThrottleCpu, Some(0.1)),
        &[],
    )
    .unwrap();
    remedies.apply(&intent).unwrap();
    hog.write("cpu.max", "70000 100000");
    let report = remedies.undo(&intent);
    assert_eq!(report.restored, ["cpu.max.burst"]);
    assert_eq!(report.left_alone.len(), 1);
    assert!(
        report.left_alone[0].contains("somebody else changed it"),
        "{report:?}"
    );
    assert_eq!(hog.read("cpu.max"), "70000 100000");
}

#[test]
fn a_change_between_plan_and_write_stops_it_before_anything_is_written() {
    let hog = Scratch::new("/hog");
    hog.write("cpu.max", "150000 50000");
    hog.write("cpu.max.burst", "20000");
    let remedies = remedies(&acting());
    let intent = plan(
        &remedies,
        &hog,
        suggest(ActionKind::ThrottleCpu, Some(0.1)),
        &[],
    )
    .unwrap();
    hog.write("cpu.max", "140000 50000");
    let error = remedies.apply(&intent).unwrap_err();
    assert!(matches!(error, ApplyError::Changed { .. }), "{error}");
    assert_eq!(hog.read("cpu.max.burst"), "20000");
    remedies.undo(&intent);
    assert_eq!(hog.read("cpu.max"), "140000 50000");
}

#[test]
fn a_half_applied_intent_is_taken_back() {
    let hog = Scratch::new("/hog");
    hog.write("cpu.max", "150000 50000");
    hog.write("cpu.max.burst", "20000");
    let remedies = remedies(&acting());
    let intent = plan(
        &remedies,
        &hog,
        suggest(ActionKind::ThrottleCpu, Some(0.1)),
        &[],
    )
    .unwrap();
    // As if the agent had died after the first of two writes.
    hog.write(&intent.changes[0].file, &intent.changes[0].value);
    let report = remedies.undo(&intent);
    assert_eq!(
        (report.restored, report.left_alone),
        (vec!["cpu.max.burst".to_owned()], vec![])
    );
    assert_eq!(hog.read("cpu.max.burst"), "20000");
}

#[test]
fn a_removed_cgroup_is_told_not_retried() {
    let mut hog = Scratch::new("/hog");
    let remedies = remedies(&acting());
    let intent = plan(
        &remedies,
        &hog,
        suggest(ActionKind::ThrottleCpu, Some(0.1)),
        &[],
    )
    .unwrap();
    hog.remove();
    let error = remedies.apply(&intent).unwrap_err();
    assert!(
        matches!(error, ApplyError::Cgroup(CgroupError::Gone { .. })),
        "{error}"
    );
    assert_eq!(
        remedies.undo(&intent).left_alone,
        ["cgroup \"/hog\" is gone"]
    );
}

#[test]
fn another_cgroup_under_the_same_path_is_never_touched() {
    let mut hog = Scratch::new("/hog");
    let remedies = remedies(&acting());
    let intent = plan(
        &remedies,
        &hog,
        suggest(ActionKind::ThrottleCpu, Some(0.1)),
        &[],
    )
    .unwrap();
    remedies.apply(&intent).unwrap();
    hog.replace();
    // Even one that happens to hold our value.
    hog.write("cpu.max", &intent.changes[0].value);
    let report = remedies.undo(&intent);
    assert!(
        report.left_alone[0].contains("has been replaced"),
        "{report:?}"
    );
    assert_eq!(hog.read("cpu.max"), intent.changes[0].value);
    hog.write("cpu.max", "max 100000");
    let error = remedies.apply(&intent).unwrap_err();
    assert!(
        matches!(error, ApplyError::Cgroup(CgroupError::Reused { .. })),
        "{error}"
    );
    assert_eq!(hog.read("cpu.max"), "max 100000");
}
