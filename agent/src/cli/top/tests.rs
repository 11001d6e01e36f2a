use std::path::PathBuf;

use ratatui::{Terminal, backend::TestBackend, crossterm::event::KeyModifiers};

use super::*;
use crate::{
    evidence::recording::Writer,
    incident::{CgroupFacts, CgroupId, Evidence, Reading, SyscallFacts},
};

fn cgroup(id: u64, path: &str, psi: f64, wait_s: f64) -> CgroupFacts {
    let readings = [
        ("cpu.cores", 0.5),
        ("cpu.psi", psi),
        ("mem.psi", 0.0),
        ("io.psi", 0.01),
        ("mem.bytes", 3.5e8),
        ("runq.p99_s", wait_s),
    ];
    CgroupFacts {
        id: CgroupId(id),
        path: path.to_owned(),
        leaf: true,
        readings: readings
            .map(|(name, value)| (name.to_owned(), Reading::good(value)))
            .into(),
    }
}

/// As [`cgroup`], out of descriptors.
fn leaking(id: u64, path: &str, psi: f64, wait_s: f64) -> CgroupFacts {
    let mut facts = cgroup(id, path, psi, wait_s);
    for (name, per_s) in [
        ("errno.emfile.per_s", 42.3),
        ("errno.emfile.accept4.per_s", 40.0),
        ("errno.emfile.openat.per_s", 2.3),
    ] {
        facts.readings.insert(name.to_owned(), Reading::good(per_s));
    }
    facts
}

/// A second of a host on which `/work/batch` starves everybody.
fn evidence(second: i64) -> Evidence {
    let host = [
        ("cpu.busy", 0.97),
        ("psi.cpu.some", 0.8),
        ("psi.memory.some", 0.0),
        ("psi.io.some", 0.02),
        ("mem.available", 0.4),
        ("disk.util", 0.1),
        ("disk.iops", 120.0),
        ("runq.p99_s", 0.05),
    ];
    let mut host: std::collections::BTreeMap<_, _> = host
        .map(|(name, value)| (name.to_owned(), Reading::good(value)))
        .into();
    host.insert("mem.available".to_owned(), Reading::partial(0.4));
    let long = "/kubepods.slice/kubepods-burstable.slice/kubepods-pod0123456789.slice/web";
    Evidence {
        window_s: 3.0,
        host,
        cgroups: vec![
            cgroup(1, "/quiet", 0.0, 0.000_05),
            cgroup(2, long, 0.3, 0.02),
            leaking(3, "/work/batch", 0.9, 0.2),
        ],
        syscalls: vec![SyscallFacts {
            cgroup: CgroupId(3),
            name: "fsync".to_owned(),
            calls: 10,
            errors: 0,
            p50_us: 900.0,
            p99_us: 5_000.0,
            total_s: 0.1,
        }],
        ..Evidence::nothing(jiff::Timestamp::from_second(1_700_000_000 + second).unwrap())
    }
}

fn view(seconds: i64) -> View {
    let moments: Vec<Moment> = (0..seconds).map(|s| Moment::of(&evidence(s))).collect();
    View {
        source: Source::Recording,
        name: "10.0.0.7:9911".to_owned(),
        upto: moments.len(),
        moments,
        events: vec![Event {
            age_s: 2.0,
            path: Some("/work/batch".to_owned()),
            pid: 42,
            comm: "evil\u{1b}[2J".to_owned(),
            text: "was ended by signal 9".to_owned(),
        }],
        window: EVERY,
        paused: false,
        notice: "q quit".to_owned(),
    }
}

/// What a terminal of that size shows.
fn screen(view: &View, columns: u16, rows: u16) -> Vec<String> {
    let mut terminal = Terminal::new(TestBackend::new(columns, rows)).unwrap();
    let drawn = terminal.draw(|frame| {
        let lines = view.shown().lines(columns.into(), rows.into());
        frame.render_widget(Text::from(lines), frame.area());
    });
    let buffer = drawn.unwrap().buffer.clone();
    let row = |y| (0..columns).map(|x| buffer[(x, y)].symbol()).collect();
    (0..rows).map(row).collect()
}

#[test]
fn eighty_columns_hold_pressure_waits_and_events() {
    let screen = screen(&view(30), 80, 24);
    let text = screen.join("\n");
    let at = |what: &str| {
        let found = screen.iter().position(|line| line.contains(what));
        found.unwrap_or_else(|| panic!("{what} is not in:\n{text}"))
    };
    assert!(
        screen[0].starts_with("paramedic top  10.0.0.7:9911  22:13:49 UTC  3 s"),
        "{text}"
    );
    assert!(
        screen[1].starts_with("cpu 97% psi cpu 80% mem 0% io 2% | mem free ~40%"),
        "{text}"
    );
    // The one under the most pressure first; figures to the right, the ends of paths to the left.
    let batch = &screen[3];
    assert!(batch.starts_with("/work/batch "), "{text}");
    let words: Vec<&str> = batch.split_whitespace().collect();
    assert_eq!(
        words,
        [
            "/work/batch",
            "0.50",
            "334M",
            "-",
            "90%",
            "0%",
            "1%",
            "200ms"
        ]
    );
    assert!(
        screen[4].starts_with("…") && screen[4].contains(".slice/web "),
        "{text}"
    );
    assert!(screen[5].starts_with("/quiet "), "{text}");
    // A mark a second, the newest at the right, by the length of the wait.
    let waits = at("waits for a CPU");
    assert!(screen[waits + 1].contains("the node"), "{text}");
    assert!(screen[waits + 1].ends_with(&"▓".repeat(30)), "{text}");
    assert!(screen[waits + 2].ends_with(&"█".repeat(30)), "{text}");
    assert!(screen[at("  /quiet")].ends_with(&"·".repeat(30)), "{text}");
    assert!(
        screen[at("fsync /work/batch")].ends_with(&"▒".repeat(30)),
        "{text}"
    );
    let failing = at("calls that fail");
    assert_eq!(
        screen[failing + 1].trim_end(),
        "     40  EMFILE of accept4 in /work/batch"
    );
    assert_eq!(
        screen[failing + 2].trim_end(),
        "    2.3  EMFILE of openat in /work/batch"
    );
    let event = &screen[at("events") + 1];
    assert!(
        event.contains("2s  evil?[2J 42 in /work/batch was ended by signal 9"),
        "{text}"
    );
    assert!(!text.contains('\u{1b}'), "names are no commands");
}

#[test]
fn a_larger_terminal_shows_more_of_the_same() {
    let mut many = view(200);
    let last = many.moments.last_mut().unwrap();
    let row = last.rows[2].clone();
    for number in 0..20 {
        let mut row = row.clone();
        row.path = format!("/pods/{number:02}");
        last.rows.push(row);
    }
    many.events = vec![many.events[0].clone(); 30];
    let screen = screen(&many, 100, 40);
    let text = screen.join("\n");
    let count = |what: &str| screen.iter().filter(|line| line.contains(what)).count();
    // Title, node, heading; waits and syscalls 6 + 1 + 1 + 1, errors 1 + 2, events 1 + 10.
    assert!(screen[2].starts_with("cgroup, by pressure"), "{text}");
    assert_eq!(screen[2].trim_end().len(), 100, "{text}");
    assert!(screen[5].starts_with("/quiet"), "{text}");
    assert_eq!(
        count("/pods/") - 2,
        11,
        "of 20, as many as fit, and two in the heat map\n{text}"
    );
    assert_eq!(count("was ended by signal 9"), 10, "{text}");
    assert!(
        screen[39].contains("was ended by signal 9"),
        "no line is left empty\n{text}"
    );
    // A mark a second, as many as there are columns; a cgroup that was not there yet has none.
    let node = screen
        .iter()
        .find(|line| line.contains("the node"))
        .unwrap();
    assert_eq!(node.matches('▓').count(), 100 - 26, "{text}");
    let late = screen
        .iter()
        .rfind(|line| line.contains("/pods/00"))
        .unwrap();
    assert_eq!(
        late.trim().chars().filter(|mark| *mark == '·').count(),
        1,
        "{text}"
    );
}

#[test]
fn a_snapshot_has_the_readings_and_who_fails() {
    let view = view(3);
    let json = serde_json::to_value(view.shown().snapshot()).unwrap();
    assert_eq!(json["source"], "10.0.0.7:9911");
    let moment = &json["moment"];
    assert_eq!(moment["rows"][0]["path"], "/work/batch");
    assert_eq!(moment["rows"][0]["pressure"][0]["value"], 0.9);
    assert_eq!(moment["node"]["available"]["quality"], "partial");
    assert_eq!(
        moment["rows"][0]["io"],
        serde_json::Value::Null,
        "not known is not zero"
    );
    let failing = &moment["errors"][0];
    assert_eq!(
        (&failing["errno"], &failing["call"]),
        (&"EMFILE".into(), &"accept4".into())
    );
    assert_eq!(json["events"][0]["pid"], 42);
}

#[test]
fn every_size_is_drawn_and_nothing_is_known_at_first() {
    for (columns, rows) in [(1, 1), (20, 5), (40, 10), (80, 24), (200, 60)] {
        for seconds in [0, 1, 300] {
            let lines = screen(&view(seconds), columns, rows);
            assert_eq!(lines.len(), usize::from(rows));
        }
    }
    let mut bare = view(1);
    bare.moments[0].rows.clear();
    bare.moments[0].node = moment::Node::default();
    bare.events.clear();
    let text = screen(&bare, 80, 24).join("\n");
    assert!(text.contains("cpu - psi cpu - mem - io -"), "{text}");
    assert!(text.contains("no cgroup is known here"), "{text}");
    assert!(text.contains("none worth telling"), "{text}");
}

#[test]
fn keys_step_through_a_recording_and_end_it() {
    let mut view = view(30);
    let press = |view: &mut View, code, modifiers| view.press(KeyEvent::new(code, modifiers));
    assert!(press(&mut view, KeyCode::Left, KeyModifiers::NONE));
    assert_eq!(view.upto, 29);
    assert!(press(&mut view, KeyCode::Up, KeyModifiers::NONE));
    assert_eq!(view.upto, 19);
    for _ in 0..5 {
        press(&mut view, KeyCode::Up, KeyModifiers::NONE);
    }
    assert_eq!(view.upto, 1);
    assert!(press(&mut view, KeyCode::Char('p'), KeyModifiers::NONE));
    assert!(view.paused);
    assert!(!press(&mut view, KeyCode::Char('c'), KeyModifiers::CONTROL));
    assert!(!press(&mut view, KeyCode::Char('q'), KeyModifiers::NONE));
}

fn args() -> Args {
    Args {
        url: None,
        config: None,
        token_file: None,
        ca_file: None,
        replay: None,
        window: 3,
        once: true,
        json: false,
        columns: 80,
        lines: 24,
    }
}

#[test]
fn a_recording_is_opened_at_its_end_for_a_frame_of_text() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("recording");
    let mut writer = Writer::create(&path, "6.12".to_owned()).unwrap();
    for second in 0..5 {
        writer.add(&evidence(second)).unwrap();
    }
    writer.finish().unwrap();
    let replay = Args {
        replay: Some(path),
        ..args()
    };
    let mut view = View::open(&replay).unwrap();
    view.advance().unwrap();
    let text = screen(&view, 80, 24).join("\n");
    assert!(text.contains("22:13:24 UTC"), "{text}");
    let missing = Args {
        replay: Some(PathBuf::from("/nonexistent")),
        ..args()
    };
    assert!(View::open(&missing).is_err());
}

#[test]
fn an_agent_that_is_not_there_is_named_and_a_foreign_address_refused() {
    // A port that was free a moment ago.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let away = Args {
        url: Some(format!("http://{address}")),
        ..args()
    };
    let error = View::open(&away).unwrap().advance().unwrap_err();
    assert!(
        format!("{error:#}").contains(&address.to_string()),
        "{error:#}"
    );
    for bad in ["ftp://a", "nonsense", "http://"] {
        let bad = Args {
            url: Some(bad.to_owned()),
            ..args()
        };
        assert!(View::open(&bad).is_err());
    }
}
