//! The short form of `cargo xtask test remedies`' crashes: some of them, on two actions, one on a cgroup's
//! files and one on processes. Runs in the VM.

use std::process::Command;

#[test]
fn whoever_is_killed_the_system_is_as_before_or_healed() {
    let output = Command::new(env!("CARGO_BIN_EXE_remedy-crash"))
        .args(["sweep", "--points", "12", "--jobs", "3"])
        .args(["--action", "throttle-cpu", "--action", "raise-oom-score"])
        .output()
        .expect("remedy-crash starts");
    let (said, trouble) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    println!("{said}{trouble}");
    assert!(output.status.success(), "{}", output.status);
    // Nearly all of them: threads take turns, and a life may make a call fewer than the one before.
    let survived = said
        .lines()
        .find_map(|line| line.strip_prefix("crash points: ")?.split(',').next())
        .and_then(|number| number.parse::<usize>().ok());
    assert!(
        survived.is_some_and(|survived| survived >= 8),
        "{survived:?}"
    );
}
