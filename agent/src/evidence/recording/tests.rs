use std::{collections::BTreeMap, fs};

use super::*;
use crate::incident::Reading;

fn evidence(began: Timestamp, second: i64) -> Evidence {
    Evidence {
        window_s: 3.0,
        host: BTreeMap::from([("cpu.busy".to_owned(), Reading::good(second as f64 / 10.0))]),
        ..Evidence::nothing(began + jiff::SignedDuration::from_secs(second))
    }
}

/// A recording of five seconds, from the second on.
fn recorded(path: &Path) {
    let mut writer = Writer::create(path, "6.12".to_owned()).unwrap();
    let began = Timestamp::now();
    for second in 1..=5 {
        writer.add(&evidence(began, second)).unwrap();
    }
    assert_eq!(writer.finish().unwrap(), 5);
}

/// A file of these lines, packed.
fn packed(path: &Path, lines: &[&str]) {
    let mut out = GzEncoder::new(File::create(path).unwrap(), Compression::fast());
    for line in lines {
        out.write_all(line.as_bytes()).unwrap();
        out.write_all(b"\n").unwrap();
    }
    out.finish().unwrap();
}

#[test]
fn each_second_comes_back_as_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a");
    recorded(&path);
    let last = Recording::read(&path, None).unwrap();
    assert_eq!((last.records, last.header.version), (5, VERSION));
    assert_eq!(last.evidence.host["cpu.busy"], Reading::good(0.5));
    let third = Recording::read(&path, Some(3.9)).unwrap();
    assert_eq!(third.evidence.host["cpu.busy"], Reading::good(0.3));
    assert!((third.at_s - 3.0).abs() < 0.5, "{}", third.at_s);
    let early = Recording::read(&path, Some(0.5)).unwrap_err();
    assert!(matches!(early, RecordingError::TooEarly { .. }), "{early}");
}

#[test]
fn an_existing_file_is_not_written_over() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a");
    fs::write(&path, "precious").unwrap();
    let error = Writer::create(&path, String::new()).unwrap_err();
    assert!(matches!(error, RecordingError::Make { .. }), "{error}");
    assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
}

#[test]
fn wherever_it_is_cut_off_it_is_refused_and_never_read_in_part() {
    let dir = tempfile::tempdir().unwrap();
    let (whole, part) = (dir.path().join("whole"), dir.path().join("part"));
    recorded(&whole);
    let bytes = fs::read(&whole).unwrap();
    let mut cut_off = 0;
    for len in 0..bytes.len() {
        fs::write(&part, &bytes[..len]).unwrap();
        match Recording::read(&part, None).unwrap_err() {
            RecordingError::Truncated { .. } => cut_off += 1,
            RecordingError::Foreign { .. } => {}
            other => panic!("after {len} bytes: {other}"),
        }
    }
    assert!(cut_off > 0);
    // Stopped before its end, and packed whole.
    let mut writer = Writer::create(&dir.path().join("stopped"), String::new()).unwrap();
    writer.add(&evidence(Timestamp::now(), 1)).unwrap();
    drop(writer);
    let error = Recording::read(&dir.path().join("stopped"), None).unwrap_err();
    assert!(
        matches!(error, RecordingError::Truncated { records: 1, .. }),
        "{error}"
    );
}

#[test]
fn a_foreign_file_is_told_from_a_damaged_one() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a");
    for foreign in [&b"MZ"[..], b"", b"{\"format\":\"x\"}"] {
        fs::write(&path, foreign).unwrap();
        let error = Recording::read(&path, None).unwrap_err();
        assert!(matches!(error, RecordingError::Foreign { .. }), "{error}");
        assert!(error.to_string().contains("paramedic record"), "{error}");
    }
    packed(&path, &["not JSON"]);
    let error = Recording::read(&path, None).unwrap_err();
    assert!(matches!(error, RecordingError::Foreign { .. }), "{error}");
    let header = header(VERSION);
    packed(&path, &[&header, r#"{"evidence":{"window_s":"long"}}"#]);
    let error = Recording::read(&path, None).unwrap_err();
    assert!(
        matches!(error, RecordingError::Damaged { record: 1, .. }),
        "{error}"
    );
}

fn header(version: u32) -> String {
    format!(
        r#"{{"format":"{FORMAT}","version":{version},"began":"2026-01-01T00:00:00Z","kernel":"9.9","agent":"9.9","mood":"good"}}"#
    )
}

#[test]
fn what_a_later_version_adds_is_passed_over_and_a_later_format_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a");
    let record = r#"{"evidence":{"taken_at":"2026-01-01T00:00:01Z","window_s":1.0,"host":{},"cgroups":[],"coverage":[],"weather":"fine"}}"#;
    let lines = [
        &header(VERSION),
        r#"{"events":[1,2]}"#,
        record,
        r#"{"end":1}"#,
    ];
    packed(&path, &lines);
    assert_eq!(Recording::read(&path, None).unwrap().records, 1);
    packed(&path, &[&header(VERSION + 1), record, r#"{"end":1}"#]);
    let error = Recording::read(&path, None).unwrap_err();
    assert!(
        matches!(error, RecordingError::Newer { found: 2, .. }),
        "{error}"
    );
}
