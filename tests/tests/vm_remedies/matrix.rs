//! What holds for every action that can be undone: what is written is what was planned, undoing restores
//! it to the byte, and whatever is odd about the target is refused before anything is written.

use std::{fs, path::Path, thread};

use jiff::Timestamp;
use paramedic::{
    incident::{ActionKind, Holder, Intent, KnobChange, Refusal},
    remedy::{Remedies, UndoReport},
};

use crate::rig::{
    MOUNT, Scratch, acting, blame, cell, episode, evidence, plan, remedies, suggest, until,
};

/// With the rule's amount.
const REVERSIBLE: [(ActionKind, Option<f64>); 8] = [
    (ActionKind::ThrottleCpu, Some(0.1)),
    (ActionKind::CapMemory, None),
    (ActionKind::CapPids, Some(9.0)),
    (ActionKind::DeprioritiseCpu, None),
    (ActionKind::ThrottleIo, Some(4e6)),
    (ActionKind::FreezeCgroup, None),
    (ActionKind::RaiseMemory, None),
    (ActionKind::RaiseOomScore, None),
];

fn all_allowed() -> Remedies {
    let mut config = acting();
    config.allow.push(ActionKind::FreezeCgroup);
    config.limits.held_max = 64;
    remedies(&config)
}

/// With limits of its own, a process, and traffic with a disk.
fn target(path: &str, kind: ActionKind) -> Scratch {
    let mut target = Scratch::new(path);
    target.write("cpu.max", "150000 50000");
    target.write("cpu.max.burst", "20000");
    if kind == ActionKind::RaiseMemory {
        target.write("memory.max", "67108864");
        target.write("memory.high", "50331648");
    }
    target.hog("/bin/sleep", &["1000"]);
    if kind == ActionKind::ThrottleIo {
        let of = "of=/run/disk/matrix";
        let words = ["if=/dev/zero", of, "bs=64k", "count=1", "oflag=direct"];
        target.hog("/bin/dd", &words);
        until("traffic with a disk", || {
            target.read("io.stat").contains("wbytes=65536")
        });
    }
    target
}

/// What a change's file holds.
fn held(target: &Scratch, change: &KnobChange) -> String {
    match change.of {
        Holder::Cgroup => target.read(&change.file),
        Holder::Process { pid, .. } => {
            let path = format!("/proc/{pid}/{}", change.file);
            fs::read_to_string(path).unwrap().trim().to_owned()
        }
    }
}

/// The text of the files that an intent changes, as the kernel shows them.
fn values(target: &Scratch, intent: &Intent) -> Vec<String> {
    let changes = intent.changes.iter();
    changes.map(|change| held(target, change)).collect()
}

fn ask(
    remedies: &Remedies,
    target: &Scratch,
    kind: ActionKind,
    amount: Option<f64>,
) -> Result<Intent, Refusal> {
    plan(remedies, target, suggest(kind, amount), &[])
}

#[test]
fn every_reversible_action_is_applied_and_undone_to_the_byte() {
    let remedies = all_allowed();
    for (kind, amount) in REVERSIBLE {
        let target = target("/matrix", kind);
        let intent = ask(&remedies, &target, kind, amount).unwrap();
        let before = values(&target, &intent);
        remedies.apply(&intent).unwrap();
        for change in &intent.changes {
            assert_eq!(held(&target, change), change.value, "{kind}");
        }
        cell(kind, "apply");
        let report = remedies.undo(&intent);
        assert_eq!(report.left_alone, Vec::<String>::new(), "{kind}");
        assert_eq!(report.restored.len(), intent.changes.len(), "{kind}");
        assert_eq!(values(&target, &intent), before, "{kind}");
        assert_eq!(remedies.undo(&intent), UndoReport::default(), "{kind}");
        cell(kind, "undo");
    }
}

#[test]
fn a_dry_run_says_what_is_then_really_written() {
    let wet = all_allowed();
    for (kind, amount) in REVERSIBLE {
        let target = target("/matrix", kind);
        let mut config = acting();
        config.allow.push(ActionKind::FreezeCgroup);
        config.dry_run = true;
        let said = ask(&remedies(&config), &target, kind, amount).unwrap_err();
        assert_eq!(said.reason, "dry-run");
        let intent = ask(&wet, &target, kind, amount).unwrap();
        let before = values(&target, &intent);
        wet.apply(&intent).unwrap();
        // From the files themselves, not from the plan.
        let written: Vec<String> = intent
            .changes
            .iter()
            .zip(&before)
            .map(|(change, before)| {
                // A disk without a limit has no line.
                let before = match (change.file.as_str(), before.as_str()) {
                    ("io.max", "") => &change.prior,
                    _ => before,
                };
                let change = KnobChange {
                    prior: before.clone(),
                    value: held(&target, change),
                    ..change.clone()
                };
                change.to_string()
            })
            .collect();
        let written = written.join(", ");
        assert!(
            said.detail.contains(&written),
            "{kind}\nsaid:    {}\nwritten: {written}",
            said.detail
        );
        assert!(said.detail.contains("\"/matrix\""), "{}", said.detail);
        wet.undo(&intent);
        assert_eq!(values(&target, &intent), before);
    }
}

/// Something that makes a target unfit between the plan and the write.
type Spoil = (&'static str, fn(&mut Scratch, &Intent));

#[test]
fn every_reversible_action_refuses_a_hostile_target_and_writes_nothing() {
    let spoils: [Spoil; 3] = [
        ("another cgroup under the same path", |target, _| {
            target.replace();
        }),
        ("a removed cgroup", |target, _| target.remove()),
        ("the agent inside", |target, _| {
            target.write("cgroup.procs", &std::process::id().to_string());
        }),
    ];
    let remedies = all_allowed();
    for (kind, amount) in REVERSIBLE {
        for (what, spoil) in spoils {
            let mut target = target("/matrix", kind);
            let intent = ask(&remedies, &target, kind, amount).unwrap();
            spoil(&mut target, &intent);
            let applied = remedies.apply(&intent);
            fs::write(
                Path::new(MOUNT).join("cgroup.procs"),
                std::process::id().to_string(),
            )
            .unwrap();
            assert!(applied.is_err(), "{kind} with {what}");
            if what == "the agent inside" {
                for (change, now) in intent.changes.iter().zip(values(&target, &intent)) {
                    assert_ne!(now, change.value, "{kind} with {what}");
                }
            }
            remedies.undo(&intent);
        }
        if kind == ActionKind::FreezeCgroup {
            // It has two values: somebody else's can't be told from ours.
            cell(kind, "refused");
            continue;
        }
        // Another writer, and names that are to be taken as they are.
        let target = target("/matrix .. \"x\"\t", kind);
        let intent = ask(&remedies, &target, kind, amount).unwrap();
        let change = &intent.changes[0];
        match change.of {
            Holder::Cgroup => target.write(&change.file, others(&change.file)),
            Holder::Process { pid, .. } => {
                fs::write(format!("/proc/{pid}/{}", change.file), "7").unwrap();
            }
        }
        let theirs = held(&target, change);
        assert!(remedies.apply(&intent).is_err(), "{kind}: {change}");
        remedies.undo(&intent);
        assert_eq!(held(&target, change), theirs, "{kind}");
        cell(kind, "refused");
    }
    // A path that leads elsewhere is none.
    let target = Scratch::new("/matrix");
    for path in ["/matrix/../matrix", "/matrix/", "matrix", "/../matrix"] {
        let asked = vec![suggest(ActionKind::FreezeCgroup, None)];
        let refusal = remedies.plan(
            &blame(path, target.id(), asked),
            &evidence(path, target.id(), &[]),
            &episode(9),
            Timestamp::now(),
        );
        assert!(refusal.is_err(), "{path}");
    }
}

/// A value of somebody else's, neither the prior one nor ours.
fn others(file: &str) -> &'static str {
    match file {
        "cpu.max" => "70000 50000",
        "cpu.max.burst" => "10000",
        "cpu.weight" => "33",
        "io.max" => disk_limit(),
        "pids.max" => "77",
        _ => "70254592",
    }
}

/// A limit on the disk at /run/disk.
fn disk_limit() -> &'static str {
    static LINE: std::sync::OnceLock<String> = std::sync::OnceLock::new();
    LINE.get_or_init(|| {
        use std::os::unix::fs::MetadataExt;
        let device = fs::metadata("/run/disk").unwrap().dev();
        let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
        format!("{major}:{minor} wbps=7000000")
    })
}

#[test]
fn many_at_once_are_planned_against_one_budget() {
    let mut config = acting();
    config.limits.held_max = 2;
    let remedies = remedies(&config);
    let targets: Vec<Scratch> = (0..4).map(|n| Scratch::new(&format!("/many{n}"))).collect();
    let taken: usize = thread::scope(|scope| {
        let asked: Vec<_> = targets
            .iter()
            .enumerate()
            .map(|(n, target)| {
                let (path, id) = (target.path.clone(), target.id());
                let remedies = &remedies;
                scope.spawn(move || {
                    let asked = vec![suggest(ActionKind::DeprioritiseCpu, None)];
                    let episode = episode(u8::try_from(n).unwrap() + 20);
                    let planned = remedies.plan(
                        &blame(&path, id, asked),
                        &evidence(&path, id, &[]),
                        &episode,
                        Timestamp::now(),
                    );
                    usize::from(planned.is_ok())
                })
            })
            .collect();
        asked.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    assert_eq!(taken, 2);
}
