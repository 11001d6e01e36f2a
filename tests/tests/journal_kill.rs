//! The short form of `cargo xtask test journal`: some `kill -9` rounds on this machine's disk.

use std::process::Command;

#[test]
fn kill_9_loses_nothing() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("temporary directory");
    let output = Command::new(env!("CARGO_BIN_EXE_journal-crash"))
        .arg("kill")
        .arg(dir.path().join("state"))
        .args(["--rounds", "30"])
        .output()
        .expect("starts");
    let said = String::from_utf8_lossy(&output.stdout);
    println!("{said}{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{}", output.status);
    assert!(said.contains("30 kill rounds") && said.contains("0 lost"));
}
