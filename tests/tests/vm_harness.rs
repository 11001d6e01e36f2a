//! Runs in the VM: the VM itself, and the cgroup helper that other kernel tests rest on.

use std::{fs, path::Path, process::Command, time::Duration};

use paramedic::evidence::probes::Probes;
use paramedic_tests::{Cgroup, wait_for};

#[test]
fn a_cgroup_holds_its_command_from_the_start_and_leaves_nothing() {
    let mut cgroup = Cgroup::make("harness/hog").unwrap();
    assert_eq!(cgroup.path(), "/harness/hog");
    assert_eq!(cgroup.get("pids.max").unwrap(), "512");
    cgroup.set("cpu.max", "20000 100000").unwrap();
    assert_eq!(cgroup.get("cpu.max").unwrap(), "20000 100000");
    assert_ne!(cgroup.id().unwrap(), 0);

    let mut sleep = Command::new("sleep");
    sleep.arg("60");
    let pid = cgroup.spawn(sleep, Duration::from_secs(60)).unwrap();
    assert_eq!(cgroup.pids().unwrap(), [pid]);
    let own = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    assert!(own.contains("0::/harness/hog"), "{own}");

    // A frozen one goes too.
    cgroup.set("cgroup.freeze", "1").unwrap();
    let dir = cgroup.dir().to_owned();
    cgroup.remove().unwrap();
    assert!(!dir.exists());
    assert!(!Path::new(&format!("/proc/{pid}")).exists());
}

#[test]
fn a_command_that_is_forgotten_ends_by_itself() {
    let mut cgroup = Cgroup::make("harness/forgotten").unwrap();
    let mut sleep = Command::new("sleep");
    sleep.arg("600");
    cgroup.spawn(sleep, Duration::from_secs(1)).unwrap();
    wait_for("end of the command", Duration::from_secs(10), || {
        // It is not reaped before the cgroup is cleared, but a zombie is in no cgroup.procs.
        let events = cgroup.get("cgroup.events")?;
        anyhow::ensure!(events.contains("populated 0"), "{events}");
        Ok(())
    })
    .unwrap();
}

#[test]
fn a_path_that_leads_elsewhere_is_refused() {
    for wrong in ["", "/", "../x", "a/../../x"] {
        assert!(Cgroup::make(wrong).is_err(), "{wrong:?}");
    }
}

/// Otherwise the kernel would rewrite its code whenever a probe comes or goes, and the emulator may not
/// survive that: see `KEEP` in xtask/src/vm/guest.rs.
#[test]
fn two_listeners_are_kept_on_each_tracepoint_of_the_probes() {
    for instance in ["", "instances/keep/"] {
        let events = format!("/sys/kernel/tracing/{instance}events");
        let groups = fs::read_dir(&events).unwrap();
        let groups: Vec<_> = groups.map(|group| group.unwrap().path()).collect();
        for tracepoint in Probes::tracepoints() {
            let enabled = groups
                .iter()
                .find_map(|group| fs::read_to_string(group.join(tracepoint).join("enable")).ok())
                .unwrap_or_else(|| panic!("no {tracepoint} in {events}"));
            assert_eq!(enabled.trim(), "1", "{tracepoint} in {events}");
        }
    }
}
