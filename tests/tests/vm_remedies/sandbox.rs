//! Hostile commands in the sandbox: each ends inside its limits and deadline, and nothing is left.

use std::{
    fs,
    io::ErrorKind,
    os::unix::{fs::MetadataExt, process::CommandExt},
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use jiff::Timestamp;
use paramedic::{
    confine::files::{self, Confined},
    incident::ActionKind,
    remedy::{
        CollectError, Collected, Hierarchy, SandboxConfig,
        sandbox::{Program, Sandbox},
    },
};

use crate::rig::{MOUNT, Scratch, acting, blame, meminfo, remedies, suggest};

const TRACE: &str = "00-11111111111111111111111111111111-2222222222222222-01";

fn config() -> SandboxConfig {
    SandboxConfig {
        deadline_s: 3,
        ..SandboxConfig::default()
    }
}

fn leftovers() -> Vec<String> {
    fs::read_dir(MOUNT)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.starts_with("paramedic-sandbox"))
        .collect()
}

fn try_run(path: &str, args: &[&str]) -> (Result<Collected, CollectError>, Duration) {
    assert!(std::env::var_os("PARAMEDIC_VM").is_some(), "runs in the VM");
    let program = Program {
        path: PathBuf::from(path),
        args: args.iter().map(|arg| (*arg).to_owned()).collect(),
    };
    let begun = Instant::now();
    let sandbox = Sandbox::new(&config());
    let result = sandbox.run(&Hierarchy::find().unwrap(), &program, TRACE);
    let took = begun.elapsed();
    assert_eq!(leftovers(), Vec::<String>::new());
    (result, took)
}

fn run(path: &str, args: &[&str]) -> (Collected, Duration) {
    let (result, took) = try_run(path, args);
    (result.unwrap(), took)
}

#[test]
fn a_command_is_born_inside_as_nobody_with_a_clean_environment() {
    let (cgroup, _) = run("/bin/cat", &["/proc/self/cgroup"]);
    assert_eq!(cgroup.status, "exit 0");
    assert!(
        cgroup.output.starts_with("0::/paramedic-sandbox-"),
        "{}",
        cgroup.output
    );
    let (status, _) = run("/bin/cat", &["/proc/self/status"]);
    let line = |key: &str| {
        let found = status
            .output
            .lines()
            .find_map(|line| line.strip_prefix(key));
        found
            .unwrap_or_else(|| panic!("no {key} in {}", status.output))
            .trim()
            .to_owned()
    };
    assert_eq!(line("NoNewPrivs:"), "1");
    assert_eq!(line("Uid:"), "65534\t65534\t65534\t65534");
    assert_eq!(line("Groups:"), "");
    assert_eq!(line("CapEff:"), "0000000000000000");
    assert_eq!(line("SigBlk:"), "0000000000000000");
    let (environment, _) = run("/usr/bin/env", &[]);
    let mut names: Vec<&str> = environment
        .output
        .lines()
        .filter_map(|line| line.split('=').next())
        .collect();
    names.sort_unstable();
    assert_eq!(names, ["HOME", "LANG", "PATH", "TRACEPARENT"]);
    assert!(environment.output.contains(TRACE));
    let (files, _) = run("/bin/ls", &["/proc/self/fd"]);
    // 3 is the folder that it lists.
    assert_eq!(files.output, "0\n1\n2\n3\n");
}

#[test]
fn words_reach_the_program_as_they_are() {
    let odd = ["a b", "$(reboot)", ";", "\n", "*"];
    let mut args = vec!["%s|"];
    args.extend(odd);
    let (printed, _) = run("/usr/bin/printf", &args);
    assert_eq!(printed.output, "a b|$(reboot)|;|\n|*|");
}

/// Looks at the slice every few milliseconds while `work` runs.
fn looked_at<T: Send>(mut look: impl FnMut(&Path) + Send, work: impl FnOnce() -> T + Send) -> T {
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let watch = scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                for slice in leftovers() {
                    look(&Path::new(MOUNT).join(slice));
                }
                std::thread::sleep(Duration::from_millis(10));
            }
        });
        let result = work();
        done.store(true, Ordering::Relaxed);
        watch.join().unwrap();
        result
    })
}

#[test]
fn its_disks_are_limited() {
    let device = fs::metadata("/run/disk").unwrap().dev();
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    let wanted = format!("{major}:{minor} rbps=16777216 wbps=16777216 riops=max wiops=max");
    let mut limits = String::new();
    let look = |slice: &Path| {
        let now = fs::read_to_string(slice.join("io.max")).unwrap_or_default();
        if now.lines().count() > limits.lines().count() {
            limits = now;
        }
    };
    looked_at(look, || run("/bin/sleep", &["1"]));
    assert!(
        limits.lines().any(|line| line == wanted),
        "{wanted:?} is not in {limits:?}"
    );
}

/// Highest `pids.current` and last `cpu.stat` usage (in seconds) of the slice while `work` runs.
fn watched<T: Send>(work: impl FnOnce() -> T + Send) -> (T, u64, f64) {
    let (mut tasks, mut cpu_s) = (0, 0.0);
    let look = |slice: &Path| {
        let number = |text: String| text.trim().parse::<u64>().ok();
        let now = fs::read_to_string(slice.join("pids.current"))
            .ok()
            .and_then(number);
        tasks = now.unwrap_or(0).max(tasks);
        let stat = fs::read_to_string(slice.join("cpu.stat")).unwrap_or_default();
        let used = stat
            .lines()
            .find_map(|line| line.strip_prefix("usage_usec "));
        if let Some(us) = used.and_then(|us| us.parse::<f64>().ok()) {
            cpu_s = us / 1e6;
        }
    };
    let result = looked_at(look, work);
    (result, tasks, cpu_s)
}

#[test]
fn a_fork_bomb_stays_inside_and_ends() {
    // bash waits and tries again when a fork fails.
    let bomb = "bomb() { bomb | bomb & }; bomb; sleep 100";
    let ((bombed, took), tasks, _) = watched(|| run("/bin/bash", &["-c", bomb]));
    println!("fork bomb: {} after {took:?}, {tasks} tasks", bombed.status);
    assert!(took < Duration::from_secs(6), "{took:?}");
    assert!((8..=16).contains(&tasks), "{tasks} tasks");
}

#[test]
fn a_busy_loop_gets_its_share_of_cpu_and_no_more() {
    let spin = "while :; do :; done & while :; do :; done";
    let ((spun, took), _, cpu_s) = watched(|| run("/bin/sh", &["-c", spin]));
    assert_eq!(spun.status, "killed at its deadline of 3 s");
    let cpus = cpu_s / took.as_secs_f64();
    assert!((0.2..0.65).contains(&cpus), "{cpus} CPUs");
}

#[test]
fn a_memory_bomb_is_killed_inside() {
    let before = meminfo("MemAvailable");
    let (bombed, took) = run("/usr/bin/tail", &["/dev/zero"]);
    assert!(took < Duration::from_secs(6), "{took:?}");
    assert!(
        bombed.status == "signal 9" || bombed.status.contains("deadline"),
        "{bombed:?}"
    );
    assert!(before - meminfo("MemAvailable") < 128e6);
}

#[test]
fn an_endless_writer_is_cut() {
    let (written, took) = run("/usr/bin/yes", &[]);
    assert_eq!(written.status, "killed at 64 KiB of output");
    assert_eq!(written.output.len(), 64 * 1024);
    assert!(took < Duration::from_secs(3), "{took:?}");
}

#[test]
fn one_that_ignores_signals_ends_at_its_deadline() {
    let stubborn = "trap '' TERM INT HUP; echo here; while :; do sleep 100; done";
    let (killed, took) = run("/bin/sh", &["-c", stubborn]);
    assert_eq!(killed.status, "killed at its deadline of 3 s");
    assert_eq!(killed.output, "here\n");
    assert!(
        (Duration::from_secs(3)..Duration::from_secs(6)).contains(&took),
        "{took:?}"
    );
}

#[test]
fn one_that_closes_its_output_still_has_a_deadline() {
    let silent = "exec >&- 2>&-; sleep 100";
    let (killed, took) = run("/bin/sh", &["-c", silent]);
    assert_eq!(killed.status, "killed at its deadline of 3 s");
    assert!(took < Duration::from_secs(6), "{took:?}");
}

#[test]
fn what_it_leaves_behind_goes_with_it() {
    let (left, took) = run(
        "/bin/sh",
        &["-c", "setsid sleep 100 & echo started; exit 3"],
    );
    assert_eq!(
        (left.status.as_str(), left.output.as_str()),
        ("exit 3", "started\n")
    );
    assert!(took < Duration::from_secs(2), "{took:?}");
}

#[test]
fn a_program_that_cannot_start_says_why() {
    let (missing, _) = try_run("/usr/bin/no-such-program", &[]);
    assert!(
        matches!(missing, Err(CollectError::NotAvailable(_))),
        "{missing:?}"
    );
    let (data, _) = try_run("/etc/passwd", &[]);
    let error = data.unwrap_err();
    assert!(
        matches!(
            error,
            CollectError::Process {
                operation: "start",
                ..
            }
        ),
        "{error}"
    );
}

#[test]
fn it_writes_no_file_not_even_where_everybody_may() {
    let (kept, _) = run("/bin/touch", &["/tmp/from-the-sandbox"]);
    assert_eq!(kept.status, "exit 1", "{}", kept.output);
    assert!(kept.output.contains("Permission denied"), "{}", kept.output);
    assert!(!Path::new("/tmp/from-the-sandbox").exists());
    let (told, _) = run("/bin/sh", &["-c", "echo gone > /dev/null && echo told"]);
    assert_eq!(told.output, "told\n");
    let secret = Path::new("/var/tmp/everybody-may-read");
    fs::write(secret, "not a diagnostic").unwrap();
    let (read, _) = run("/bin/cat", &[secret.to_str().unwrap()]);
    fs::remove_file(secret).unwrap();
    assert_eq!(read.status, "exit 1");
    assert!(read.output.contains("Permission denied"), "{}", read.output);
}

#[test]
fn it_makes_no_namespaces_and_signals_nobody_outside() {
    let (made, _) = run("/usr/bin/unshare", &["--user", "/bin/true"]);
    assert_eq!(made.status, "exit 1", "{}", made.output);
    assert!(
        made.output.contains("Operation not permitted"),
        "{}",
        made.output
    );
    // Of another process of nobody's: that only Landlock forbids, from Linux 6.12 on.
    let mut other = Command::new("/bin/sleep")
        .arg("30")
        .uid(65_534)
        .spawn()
        .unwrap();
    let pid = other.id().to_string();
    let (killed, _) = run("/bin/sh", &["-c", "kill -9 \"$0\"", &pid]);
    let lives = other.try_wait().unwrap().is_none();
    other.kill().unwrap();
    other.wait().unwrap();
    if kernel() >= (6, 12) {
        assert!(lives, "{} {}", killed.status, killed.output);
        assert!(
            killed.output.contains("Operation not permitted"),
            "{}",
            killed.output
        );
    }
}

#[test]
fn what_is_confined_to_places_writes_there_and_nowhere_else() {
    let ours = tempfile::tempdir().unwrap();
    let others = tempfile::tempdir().unwrap();
    let (here, there) = (ours.path().to_owned(), others.path().join("file"));
    let confined = std::thread::spawn(move || {
        let places = [here.as_path(), Path::new("/nowhere")];
        let how = files::write_only_below(&places).unwrap();
        fs::write(here.join("file"), "written").unwrap();
        fs::rename(here.join("file"), here.join("renamed")).unwrap();
        fs::remove_file(here.join("renamed")).unwrap();
        fs::read_to_string("/etc/hostname").unwrap();
        let refused = fs::write(&there, "").unwrap_err();
        let run = Command::new("/bin/true").status().unwrap_err();
        (how, refused.kind(), run.kind())
    });
    let (how, refused, run) = confined.join().unwrap();
    let whole = if kernel() >= (6, 10) {
        Confined::Whole
    } else {
        Confined::Partly
    };
    assert_eq!(how, whole);
    assert_eq!(refused, ErrorKind::PermissionDenied);
    assert_eq!(run, ErrorKind::PermissionDenied);
}

/// Version and patch level of the running kernel.
fn kernel() -> (u32, u32) {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release.split('.').map(|number| number.parse().unwrap_or(0));
    (numbers.next().unwrap(), numbers.next().unwrap())
}

#[test]
fn what_a_dead_agent_left_is_removed() {
    // 4,194,304 is beyond every pid.
    let stale = Scratch::new("/paramedic-sandbox-4194304-0");
    let dir = Path::new(MOUNT).join(stale.path.trim_start_matches('/'));
    run("/bin/true", &[]);
    assert!(!dir.exists());
}

#[test]
fn a_parent_without_controllers_is_told_with_the_way_out() {
    let mut parent = Scratch::new("/busy");
    parent.hog("/bin/sleep", &["1000"]);
    let mut config = config();
    config.parent = "/busy".to_owned();
    let program = Program {
        path: "/bin/true".into(),
        args: Vec::new(),
    };
    let error = Sandbox::new(&config).run(&Hierarchy::find().unwrap(), &program, TRACE);
    let error = error.unwrap_err().to_string();
    assert!(error.contains("remedy.sandbox.parent"), "{error}");
}

#[test]
fn the_catalogues_commands_run_when_a_rule_asks() {
    let hog = Scratch::new("/hog");
    let remedies = remedies(&acting());
    let nothing_asked = blame(
        &hog.path,
        hog.id(),
        vec![suggest(ActionKind::ThrottleCpu, None)],
    );
    assert!(remedies.collections(&nothing_asked).is_empty());
    let asked = blame(
        &hog.path,
        hog.id(),
        vec![suggest(ActionKind::Collect, None)],
    );
    let commands = remedies.collections(&asked);
    assert_eq!(commands[0].name(), "processes");
    let listed = remedies.collect(&commands[0], TRACE).unwrap();
    assert_eq!(listed.status, "exit 0", "{}", listed.output);
    assert!(listed.output.contains("PID"), "{}", listed.output);
    // Collecting is no action: the plan says that there is none.
    let facts = crate::rig::evidence(&hog.path, hog.id(), &[]);
    let refusal = remedies
        .plan(&asked, &facts, &crate::rig::episode(1), Timestamp::now())
        .unwrap_err();
    assert_eq!(refusal.reason, "notify");
}
