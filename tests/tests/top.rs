//! `paramedic top`, the program itself, beside a running agent: as text, as JSON, and in a terminal,
//! which it gives back however it ends.
#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests, which clippy does not take for tests"
)]

use std::{
    fs::File,
    io::{Read as _, Write as _},
    os::fd::{AsRawFd as _, FromRawFd as _},
    process::{Child, Command, ExitStatus, Output, Stdio},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use paramedic_tests::{Agent, http, tools};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// Generous: other tests run beside it.
const SOON: Duration = Duration::from_mins(1);
/// The other screen, and back.
const TAKES: &str = "\x1b[?1049h";
const GIVES_BACK: &str = "\x1b[?1049l";

fn top(args: &[&str]) -> Command {
    let mut command = Command::new(tools::agent_binary().unwrap());
    command.arg("top").args(args).stdin(Stdio::null());
    command
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < SOON, "in vain: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A way for it to end.
type End = fn(&mut Terminal);

/// A terminal of 80 by 24 with the view in it.
struct Terminal {
    keys: File,
    /// Ours too, so that its settings can be looked at after the end.
    screen: File,
    child: Child,
    shown: Arc<Mutex<Vec<u8>>>,
}

impl Terminal {
    fn open(url: &str) -> Self {
        let (mut keys, mut screen) = (0, 0);
        let mut size = libc::winsize {
            ws_row: 24,
            ws_col: 80,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        // SAFETY: two ints are filled, a valid size is read, names and settings are left out.
        let opened = unsafe {
            libc::openpty(
                &raw mut keys,
                &raw mut screen,
                std::ptr::null_mut(),
                std::ptr::null_mut(),
                &raw mut size,
            )
        };
        assert_eq!(opened, 0);
        // SAFETY: both were just opened and belong to nobody else.
        let (keys, screen) = unsafe { (File::from_raw_fd(keys), File::from_raw_fd(screen)) };
        let child = top(&["--url", url])
            .stdin(screen.try_clone().unwrap())
            .stdout(screen.try_clone().unwrap())
            .stderr(screen.try_clone().unwrap())
            .spawn()
            .unwrap();
        let shown: Arc<Mutex<Vec<u8>>> = Arc::default();
        let (mut from, to) = (keys.try_clone().unwrap(), shown.clone());
        std::thread::spawn(move || {
            let mut part = [0; 4_096];
            while let Ok(read @ 1..) = from.read(&mut part) {
                to.lock().unwrap().extend_from_slice(&part[..read]);
            }
        });
        Self {
            keys,
            screen,
            child,
            shown,
        }
    }

    fn shown(&self) -> String {
        String::from_utf8_lossy(&self.shown.lock().unwrap()).into_owned()
    }

    /// Whether it makes lines of keys and shows them, as shells expect.
    fn is_as_shells_expect(&self) -> bool {
        // SAFETY: all bytes zero are a value of this plain struct.
        let mut settings: libc::termios = unsafe { std::mem::zeroed() };
        // SAFETY: fills the struct.
        let got = unsafe { libc::tcgetattr(self.screen.as_raw_fd(), &raw mut settings) };
        assert_eq!(got, 0);
        settings.c_lflag & (libc::ICANON | libc::ECHO) == libc::ICANON | libc::ECHO
    }

    fn ended(&mut self) -> ExitStatus {
        let mut status = None;
        wait_until("the view ends", || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        status.unwrap()
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // It has ended already where the test went well.
        self.child.kill().unwrap_or_default();
        self.child.wait().map(drop).unwrap_or_default();
    }
}

#[test]
fn a_running_agent_is_shown_and_the_terminal_is_given_back() {
    let agent =
        Agent::start("state_dir: $STATE\nintake: {listen: $LISTEN}\nremedy: {level: observe}\n")
            .unwrap();
    let (url, address) = (agent.url(""), agent.address().to_string());

    let frame = top(&["--once", "--url", &url]).output().unwrap();
    let told = text(&frame);
    assert!(frame.status.success(), "{told}");
    let lines: Vec<&str> = told.lines().collect();
    assert!(
        lines[0].starts_with(&format!("paramedic top  {address}  ")),
        "{told}"
    );
    assert!(lines[1].starts_with("cpu "), "{told}");
    assert!(lines[2].starts_with("cgroup, by pressure"), "{told}");
    assert!(
        lines.iter().any(|line| line.starts_with("waits for a CPU")),
        "{told}"
    );
    assert!(lines.len() <= 24 && !told.contains('\x1b'), "{told}");
    assert!(
        lines.iter().all(|line| line.chars().count() <= 80),
        "{told}"
    );

    // By the agent's own configuration, as somebody on the node does.
    let config = agent.config().display().to_string();
    let mut object = Value::Null;
    wait_until("the recorder has a window", || {
        let output = top(&["--json", "--config", &config]).output().unwrap();
        assert!(output.status.success(), "{}", text(&output));
        object = serde_json::from_slice(&output.stdout).unwrap();
        object["moment"]["node"]["busy"]["value"].is_f64()
    });
    assert_eq!(object["source"], address.as_str());
    assert!(
        object["moment"]["window_s"].as_f64().unwrap() > 0.0,
        "{object}"
    );
    assert!(
        object["moment"]["rows"].is_array() && object["events"].is_array(),
        "{object}"
    );

    let piped = top(&["--url", &url]).output().unwrap();
    assert_eq!(piped.status.code(), Some(2));
    assert!(text(&piped).contains("--once"), "{}", text(&piped));

    let ends: [(&str, End); 4] = [
        ("q", |terminal| terminal.keys.write_all(b"q").unwrap()),
        ("Ctrl-C", |terminal| {
            terminal.keys.write_all(b"\x03").unwrap();
        }),
        ("SIGTERM", |terminal| signal(terminal, Signal::TERM)),
        ("SIGHUP", |terminal| signal(terminal, Signal::HUP)),
    ];
    for (end, how) in ends {
        let mut terminal = Terminal::open(&url);
        assert!(terminal.is_as_shells_expect());
        wait_until("a frame is drawn", || {
            let shown = terminal.shown();
            shown.contains(TAKES) && shown.contains("by pressure") && shown.contains("events")
        });
        assert!(!terminal.is_as_shells_expect(), "keys come one by one");
        how(&mut terminal);
        let status = terminal.ended();
        assert_eq!(status.code(), Some(0), "{end}: {}", terminal.shown());
        assert!(terminal.is_as_shells_expect(), "{end}");
        // What was written before the end may still be on its way.
        wait_until("the screen is given back", || {
            let shown = terminal.shown();
            shown.rfind(GIVES_BACK) > shown.rfind(TAKES)
        });
    }
}

fn signal(terminal: &mut Terminal, signal: Signal) {
    let pid = Pid::from_child(&terminal.child);
    kill_process(pid, signal).unwrap();
}

#[test]
fn where_no_agent_is_the_message_says_so_and_the_terminal_is_left_alone() {
    let address = http::free_address().unwrap().to_string();
    let url = format!("http://{address}");
    for how in [&["--once", "--url", &url][..], &["--json", "--url", &url]] {
        let output = top(how).output().unwrap();
        assert_eq!(output.status.code(), Some(2));
        let told = text(&output);
        assert!(
            told.contains(&format!("no agent answers at {address}")),
            "{told}"
        );
        assert!(told.contains("paramedic run"), "{told}");
    }
    let mut terminal = Terminal::open(&url);
    assert_eq!(terminal.ended().code(), Some(2));
    wait_until("the message is there", || {
        terminal.shown().contains("no agent answers")
    });
    assert!(!terminal.shown().contains(TAKES));
}

#[test]
fn the_keys_stand_in_the_help() {
    let told = text(&top(&["--help"]).output().unwrap());
    for word in [
        "Ctrl-C",
        "pauses",
        "up and down",
        "--once",
        "--json",
        "--replay",
    ] {
        assert!(told.contains(word), "no {word} in\n{told}");
    }
}
