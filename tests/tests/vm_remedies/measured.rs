//! What the kernel makes of each newer action: the effect itself, not only the value in the file.

use std::{fs, thread, time::Duration};

use paramedic::{
    incident::{ActionKind, Holder, Intent},
    remedy::{ApplyError, Remedies},
};

use crate::rig::{Scratch, acting, cell, plan, remedies, suggest, until};

const STRESS: &str = "/usr/bin/stress-ng";

fn allowing(kind: ActionKind) -> Remedies {
    let mut config = acting();
    config.allow.push(kind);
    remedies(&config)
}

fn alive(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"));
    stat.is_ok_and(|stat| !stat.contains(") Z "))
}

#[test]
fn deprioritise_cpu_gives_an_equal_neighbour_the_most() {
    let workers = thread::available_parallelism().unwrap().get().to_string();
    let words = ["--cpu", &workers, "--cpu-method", "loop"];
    let (mut hog, mut neighbour) = (Scratch::new("/hog"), Scratch::new("/neighbour"));
    hog.hog(STRESS, &words);
    neighbour.hog(STRESS, &words);
    neighbour.until_cpus(0.3);
    hog.until_cpus(0.3);
    let remedies = remedies(&acting());
    let intent = plan(
        &remedies,
        &hog,
        suggest(ActionKind::DeprioritiseCpu, None),
        &[],
    )
    .unwrap();
    remedies.apply(&intent).unwrap();
    assert_eq!(hog.read("cpu.weight"), "10");
    // Ten to one by the kernel's own book; three to one is enough to tell it from equals.
    until("the neighbour has the most", || {
        let before = [&hog, &neighbour].map(|one| one.field("cpu.stat", "usage_usec"));
        thread::sleep(Duration::from_secs(1));
        let after = [&hog, &neighbour].map(|one| one.field("cpu.stat", "usage_usec"));
        after[1] - before[1] > 3 * (after[0] - before[0])
    });
    cell(ActionKind::DeprioritiseCpu, "verify");
    remedies.undo(&intent);
    assert_eq!(hog.read("cpu.weight"), "100");
}

#[test]
fn throttle_io_holds_a_writer_to_its_rate() {
    const RATE: f64 = 2.0 * 1024.0 * 1024.0;
    let mut hog = Scratch::new("/writer");
    // Direct: what is written is on its way to the disk at once.
    let script = "while :; do dd if=/dev/zero of=/run/disk/hog bs=256k count=64 oflag=direct \
                  conv=notrunc 2>/dev/null; done";
    hog.hog("/bin/sh", &["-c", script]);
    let written = |hog: &Scratch| -> f64 {
        let stat = hog.read("io.stat");
        let fields = stat.split_whitespace();
        fields
            .filter_map(|field| field.strip_prefix("wbytes=")?.parse::<f64>().ok())
            .sum()
    };
    until("it writes", || written(&hog) > 4.0 * RATE);
    let remedies = remedies(&acting());
    let suggestion = suggest(ActionKind::ThrottleIo, Some(RATE));
    let intent = plan(&remedies, &hog, suggestion, &[]).unwrap();
    assert_eq!(hog.read("io.max"), "");
    remedies.apply(&intent).unwrap();
    // What was under way may still arrive; then no interval of some seconds holds more than its rate.
    thread::sleep(Duration::from_secs(1));
    let before = written(&hog);
    thread::sleep(Duration::from_secs(4));
    let rate = (written(&hog) - before) / 4.0;
    assert!(rate < 1.5 * RATE, "{rate} bytes a second, {RATE} allowed");
    cell(ActionKind::ThrottleIo, "verify");
    remedies.undo(&intent);
    assert_eq!(hog.read("io.max"), "");
    let before = written(&hog);
    until("it writes on", || written(&hog) > before + 8.0 * RATE);
}

#[test]
fn throttle_io_needs_a_disk_that_was_used() {
    let hog = Scratch::new("/idle");
    let remedies = remedies(&acting());
    let refusal = plan(&remedies, &hog, suggest(ActionKind::ThrottleIo, None), &[]).unwrap_err();
    assert_eq!(refusal.reason, "unsupported");
    assert!(refusal.detail.contains("has used no disk"), "{refusal:?}");
}

#[test]
fn freeze_cgroup_stops_everybody_and_lets_them_go_on() {
    let mut hog = Scratch::new("/hog");
    hog.hog(STRESS, &["--cpu", "2", "--cpu-method", "loop"]);
    hog.until_cpus(0.5);
    let remedies = allowing(ActionKind::FreezeCgroup);
    let intent = plan(
        &remedies,
        &hog,
        suggest(ActionKind::FreezeCgroup, None),
        &[],
    )
    .unwrap();
    let lease = intent.lease_until.duration_since(jiff::Timestamp::now());
    assert!(lease.as_secs() <= 30, "a short lease, not {lease}");
    remedies.apply(&intent).unwrap();
    until("frozen", || hog.read("cgroup.events").contains("frozen 1"));
    let before = hog.field("cpu.stat", "usage_usec");
    thread::sleep(Duration::from_secs(1));
    let used = hog.field("cpu.stat", "usage_usec") - before;
    assert!(used < 10_000, "{used} us of CPU while frozen");
    cell(ActionKind::FreezeCgroup, "verify");
    remedies.undo(&intent);
    hog.until_cpus(0.5);
}

#[test]
fn raise_memory_lets_a_limited_one_have_more_and_no_more() {
    let mut service = Scratch::new("/service");
    service.write("memory.max", &(32 << 20).to_string());
    let remedies = remedies(&acting());
    let suggestion = suggest(ActionKind::RaiseMemory, Some(2.0));
    let intent = plan(&remedies, &service, suggestion, &[]).unwrap();
    remedies.apply(&intent).unwrap();
    assert_eq!(service.read("memory.max"), (64 << 20).to_string());
    let fill = [
        "--vm",
        "1",
        "--vm-bytes",
        "44M",
        "--vm-keep",
        "--vm-hang",
        "0",
    ];
    service.hog(STRESS, &fill);
    service.until_bytes(40 << 20);
    assert_eq!(service.field("memory.events", "oom_kill"), 0);
    cell(ActionKind::RaiseMemory, "verify");
    service.write("cgroup.kill", "1");
    until("empty", || {
        service.read("cgroup.events").contains("populated 0")
    });
    assert_eq!(remedies.undo(&intent).restored, ["memory.max"]);
    assert_eq!(service.read("memory.max"), (32 << 20).to_string());

    let unlimited = Scratch::new("/unlimited");
    let asked = suggest(ActionKind::RaiseMemory, None);
    let refusal = plan(&remedies, &unlimited, asked, &[]).unwrap_err();
    assert!(refusal.detail.contains("no memory.max"), "{refusal:?}");
}

#[test]
fn raise_oom_score_makes_the_culprit_the_kernels_first_choice() {
    let mut hog = Scratch::new("/hog");
    for _ in 0..3 {
        hog.hog("/bin/sleep", &["1000"]);
    }
    until("all three are inside", || {
        hog.read("cgroup.procs").lines().count() == 3
    });
    let remedies = remedies(&acting());
    let asked = suggest(ActionKind::RaiseOomScore, None);
    let intent = plan(&remedies, &hog, asked, &[]).unwrap();
    let pids: Vec<u32> = intent.changes.iter().filter_map(process).collect();
    assert_eq!(pids.len(), 3);
    let score = |pid: u32| -> i64 {
        let text = fs::read_to_string(format!("/proc/{pid}/oom_score")).unwrap();
        text.trim().parse().unwrap()
    };
    let before: Vec<i64> = pids.iter().copied().map(score).collect();
    remedies.apply(&intent).unwrap();
    for (pid, before) in pids.iter().zip(&before) {
        // The kernel's own figure, of which the one with the highest is killed.
        assert!(score(*pid) > before + 300, "{} of {before}", score(*pid));
    }
    cell(ActionKind::RaiseOomScore, "verify");
    // One that has ended is nobody's to restore.
    let gone = rustix::process::Pid::from_raw(pids[0].cast_signed()).unwrap();
    rustix::process::kill_process(gone, rustix::process::Signal::KILL).unwrap();
    until("it has ended", || !alive(pids[0]));
    let report = remedies.undo(&intent);
    assert_eq!(report.left_alone, Vec::<String>::new());
    for (pid, before) in pids.iter().zip(&before).skip(1) {
        assert_eq!(score(*pid), *before);
    }
}

fn process(change: &paramedic::incident::KnobChange) -> Option<u32> {
    match change.of {
        Holder::Process { pid, .. } => Some(pid),
        Holder::Cgroup => None,
    }
}

#[test]
fn kill_process_ends_the_largest_and_nobody_else() {
    let mut hog = Scratch::new("/hog");
    hog.hog("/bin/sleep", &["1000"]);
    let small: u32 = hog.read("cgroup.procs").parse().unwrap();
    // Deaf to SIGTERM, and with more memory than a `sleep` has.
    let deaf = "trap '' TERM; b=$(head -c 8388608 /dev/zero | tr '\\0' x); \
                while :; do sleep 1; done";
    hog.hog("/bin/sh", &["-c", deaf]);
    hog.until_bytes(8 << 20);
    let refusal = plan(
        &remedies(&acting()),
        &hog,
        suggest(ActionKind::KillProcess, None),
        &[],
    )
    .unwrap_err();
    assert_eq!(refusal.reason, "policy");
    assert!(refusal.detail.contains("add kill-process"), "{refusal:?}");

    let remedies = allowing(ActionKind::KillProcess);
    let asked = || suggest(ActionKind::KillProcess, None);
    let intent = plan(&remedies, &hog, asked(), &[]).unwrap();
    let victim = process(&intent.changes[0]).unwrap();
    assert_ne!(victim, small);
    assert_eq!(intent.changes[0].prior, "sh");

    // Its number with another start is another process.
    let reused = with_start(&intent, 1);
    let error = remedies.apply(&reused).unwrap_err();
    assert!(matches!(error, ApplyError::NotThere(_)), "{error}");
    assert!(alive(victim));
    cell(ActionKind::KillProcess, "refused");

    remedies.apply(&intent).unwrap();
    assert!(!alive(victim), "counted as done only when it is dead");
    assert!(alive(small));
    cell(ActionKind::KillProcess, "apply");
    cell(ActionKind::KillProcess, "verify");
    let error = remedies.apply(&intent).unwrap_err();
    assert!(matches!(error, ApplyError::NotThere(_)), "{error}");
    let report = remedies.undo(&intent);
    assert!(report.left_alone[0].contains("stays dead"), "{report:?}");
}

fn with_start(intent: &Intent, start_ticks: u64) -> Intent {
    let mut intent = intent.clone();
    for change in &mut intent.changes {
        if let Holder::Process { pid, .. } = change.of {
            change.of = Holder::Process { pid, start_ticks };
        }
    }
    intent
}

#[test]
fn a_process_that_has_left_the_target_is_not_killed() {
    let mut hog = Scratch::new("/hog");
    let elsewhere = Scratch::new("/elsewhere");
    hog.hog("/bin/sleep", &["1000"]);
    let remedies = allowing(ActionKind::KillProcess);
    let asked = suggest(ActionKind::KillProcess, None);
    let intent = plan(&remedies, &hog, asked, &[]).unwrap();
    let victim = process(&intent.changes[0]).unwrap();
    elsewhere.write("cgroup.procs", &victim.to_string());
    let error = remedies.apply(&intent).unwrap_err();
    assert!(matches!(error, ApplyError::NotThere(_)), "{error}");
    assert!(alive(victim));
}
