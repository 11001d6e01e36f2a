//! The short form of `cargo xtask test remedies`' crashes: a few, always of the same plans, on one action.
//! Runs in the VM.

use std::process::Command;

#[test]
fn whoever_is_killed_the_system_is_as_before_or_healed() {
    let output = Command::new(env!("CARGO_BIN_EXE_remedy-crash"))
        .args(["sweep", "--points", "4", "--jobs", "4"])
        .args(["--action", "throttle-cpu"])
        .output()
        .expect("remedy-crash starts");
    let (said, trouble) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    println!("{said}{trouble}");
    assert!(output.status.success(), "{}", output.status);
    assert!(
        said.contains("crash points: 4 of 4, 0 in between"),
        "{said}"
    );
}
