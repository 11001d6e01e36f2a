//! What is refused, and that a refusal writes nothing.

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::Path,
};

use jiff::Timestamp;
use paramedic::{
    clock::SystemClock,
    incident::{ActionKind, CgroupId, Level, Refusal},
    remedy::Remedies,
};

use crate::rig::{MOUNT, Scratch, acting, blame, episode, evidence, plan, remedies, run, suggest};

fn refusal_for(path: &str, id: CgroupId) -> Refusal {
    let remedies = remedies(&acting());
    let diagnosis = blame(path, id, vec![suggest(ActionKind::ThrottleCpu, Some(0.1))]);
    remedies
        .plan(
            &diagnosis,
            &evidence(path, id, &[]),
            &episode(1),
            Timestamp::now(),
        )
        .unwrap_err()
}

#[test]
fn the_root_is_protected() {
    let id = CgroupId(fs::metadata(MOUNT).unwrap().ino());
    assert_eq!(refusal_for("/", id).reason, "protected");
}

#[test]
fn this_agents_own_cgroup_and_those_above_it_are_protected() {
    let above = Scratch::new("/above");
    let own = Scratch::new("/above/own");
    own.write("cgroup.procs", &std::process::id().to_string());
    let refusals = [&own, &above].map(|cgroup| refusal_for(&cgroup.path, cgroup.id()));
    fs::write(
        Path::new(MOUNT).join("cgroup.procs"),
        std::process::id().to_string(),
    )
    .unwrap();
    for refusal in refusals {
        assert_eq!(refusal.reason, "protected");
        assert!(
            refusal.detail.contains("this agent or its guardian"),
            "{}",
            refusal.detail
        );
    }
}

#[test]
fn a_cgroup_with_a_process_the_node_needs_is_protected_from_above_too() {
    let program = "/tmp/kubelet";
    fs::copy("/bin/sleep", program).unwrap();
    fs::set_permissions(program, fs::Permissions::from_mode(0o755)).unwrap();
    let above = Scratch::new("/above");
    above.write("cgroup.subtree_control", "+cpu");
    let mut node = Scratch::new("/above/node");
    node.hog(program, &["1000"]);
    crate::rig::until("it has become kubelet", || {
        let pid = node.read("cgroup.procs");
        fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm == "kubelet\n")
    });
    for cgroup in [&node, &above] {
        let refusal = refusal_for(&cgroup.path, cgroup.id());
        assert_eq!(refusal.reason, "protected");
        assert!(refusal.detail.contains("kubelet"), "{}", refusal.detail);
    }
}

#[test]
fn what_became_protected_after_the_plan_is_not_touched() {
    let mut hog = Scratch::new("/hog");
    let remedies = remedies(&acting());
    let intent = plan(
        &remedies,
        &hog,
        suggest(ActionKind::ThrottleCpu, Some(0.1)),
        &[],
    )
    .unwrap();
    let program = "/tmp/sshd";
    fs::copy("/bin/sleep", program).unwrap();
    fs::set_permissions(program, fs::Permissions::from_mode(0o755)).unwrap();
    hog.hog(program, &["1000"]);
    crate::rig::until("it has become sshd", || {
        let pid = hog.read("cgroup.procs");
        fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm == "sshd\n")
    });
    let error = remedies.apply(&intent).unwrap_err();
    assert!(error.to_string().contains("protected"), "{error}");
    assert_eq!(hog.read("cpu.max"), "max 100000");
}

#[test]
fn paths_that_lead_elsewhere_are_refused() {
    let hog = Scratch::new("/hog");
    for path in ["/hog/../hog", "hog", "/./hog", "/../../../tmp", "/hog\n"] {
        let refusal = refusal_for(path, hog.id());
        assert!(
            matches!(refusal.reason.as_str(), "unsupported" | "gone"),
            "{path:?} {refusal:?}"
        );
    }
    assert_eq!(refusal_for("/gone", CgroupId(1)).reason, "gone");
    assert_eq!(refusal_for("/hog", CgroupId(1)).reason, "gone");
    assert_eq!(hog.read("cpu.max"), "max 100000");
}

#[test]
fn odd_names_are_only_names() {
    // The kernel itself refuses a newline in a cgroup's name.
    assert!(fs::create_dir(Path::new(MOUNT).join("a\nb")).is_err());
    for name in ["/a b", "/$(reboot)", "/..x", "/';\"", "/ümläut", "/-rf"] {
        let hog = Scratch::new(name);
        let remedies = remedies(&acting());
        let intent = plan(
            &remedies,
            &hog,
            suggest(ActionKind::ThrottleCpu, Some(0.1)),
            &[],
        );
        let intent = intent.unwrap();
        remedies.apply(&intent).unwrap();
        assert_eq!(hog.read("cpu.max"), "10000 100000", "{name}");
        assert_eq!(remedies.undo(&intent).left_alone, Vec::<String>::new());
        assert_eq!(hog.read("cpu.max"), "max 100000");
    }
}

#[test]
fn a_link_is_not_followed() {
    // Links can't be made in cgroupfs; a mount of another filesystem inside it can.
    let hog = Scratch::new("/hog");
    let dir = format!("{MOUNT}/hog");
    run("mount", &["-t", "tmpfs", "none", &dir]);
    let id = CgroupId(fs::metadata(&dir).unwrap().ino());
    fs::write(format!("{dir}/cpu.max"), "max 100000").unwrap();
    let refusal = refusal_for(&hog.path, id);
    let untouched = fs::read_to_string(format!("{dir}/cpu.max")).unwrap();
    run("umount", &[&dir]);
    assert_eq!(refusal.reason, "unsupported", "{refusal:?}");
    assert_eq!(untouched, "max 100000");
}

#[test]
fn a_missing_controller_is_refused_with_the_way_out() {
    let _above = Scratch::new("/above");
    let below = Scratch::new("/above/below");
    for (action, word) in [
        (ActionKind::ThrottleCpu, "+cpu"),
        (ActionKind::CapMemory, "+memory"),
        (ActionKind::CapPids, "+pids"),
    ] {
        let refusal = plan(&remedies(&acting()), &below, suggest(action, None), &[]).unwrap_err();
        assert_eq!(refusal.reason, "unsupported", "{refusal:?}");
        assert!(refusal.detail.contains(word), "{}", refusal.detail);
    }
}

#[test]
fn a_read_only_hierarchy_is_refused_as_such() {
    let hog = Scratch::new("/hog");
    let view = "/tmp/read-only";
    fs::create_dir_all(view).unwrap();
    run("mount", &["--bind", MOUNT, view]);
    run("mount", &["-o", "remount,bind,ro", view]);
    let remedies = Remedies::at(&acting(), SystemClock::shared(), Path::new(view));
    let refusal = plan(
        &remedies,
        &hog,
        suggest(ActionKind::ThrottleCpu, Some(0.1)),
        &[],
    );
    drop(remedies);
    run("umount", &[view]);
    let refusal = refusal.unwrap_err();
    assert_eq!(refusal.reason, "read-only", "{refusal:?}");
    assert!(
        refusal.detail.contains("mounted writable"),
        "{}",
        refusal.detail
    );
}

#[test]
fn advising_says_what_would_be_written_and_writes_nothing() {
    let hog = Scratch::new("/hog");
    let mut config = acting();
    config.level = Level::Advise;
    let suggestion = suggest(ActionKind::ThrottleCpu, Some(0.5));
    let refusal = plan(&remedies(&config), &hog, suggestion, &[]).unwrap_err();
    assert_eq!(refusal.reason, "policy");
    let would = "would write in \"/hog\" for 300 s: cpu.max: \"max 100000\" -> \"50000 100000\"";
    assert!(refusal.detail.contains(would), "{}", refusal.detail);
    assert_eq!(hog.read("cpu.max"), "max 100000");
}

#[test]
fn two_episodes_do_not_both_get_one_target() {
    let hog = Scratch::new("/hog");
    let remedies = remedies(&acting());
    let throttle = || suggest(ActionKind::ThrottleCpu, Some(0.1));
    let first = plan(&remedies, &hog, throttle(), &[]).unwrap();
    let second = plan(&remedies, &hog, throttle(), &[]).unwrap_err();
    assert_eq!(second.reason, "budget", "{second:?}");
    remedies.apply(&first).unwrap();
    remedies.undo(&first);
    let third = plan(&remedies, &hog, throttle(), &[]).unwrap();
    remedies.undo(&third);
    assert_eq!(hog.read("cpu.max"), "max 100000");
}

#[test]
fn the_next_suggestion_is_taken_when_the_first_is_impossible() {
    let hog = Scratch::new("/hog");
    hog.write("cpu.max", "1000 100000");
    let diagnosis = blame(
        &hog.path,
        hog.id(),
        vec![
            suggest(ActionKind::Notify, None),
            suggest(ActionKind::ThrottleCpu, Some(0.5)),
            suggest(ActionKind::CapPids, Some(5.0)),
        ],
    );
    let remedies = remedies(&acting());
    let facts = evidence(&hog.path, hog.id(), &[]);
    let intent = remedies
        .plan(&diagnosis, &facts, &episode(1), Timestamp::now())
        .unwrap();
    assert_eq!(intent.action.kind, ActionKind::CapPids);
}
