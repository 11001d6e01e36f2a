//! Errors in the kernel's own log: records of `/dev/kmsg` from now on.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read as _, Seek as _, SeekFrom},
    os::unix::fs::OpenOptionsExt as _,
};

use rustix::fs::OFlags;

use super::State;

/// Records read in one go: more of them wait for the next sample.
const RECORDS_MAX: usize = 1_024;
/// Longest record that the kernel writes.
const RECORD_BYTES: usize = 8_192;
/// Errors and worse.
const ERROR: u64 = 3;
/// What the kernel writes as an error and other readings tell better.
const TOLD_ELSEWHERE: [&str; 2] = ["ut of memory: Killed process", "oom_reaper"];

/// The place in the log.
#[derive(Debug, Default)]
pub(super) struct Log {
    file: Option<File>,
    errors: u64,
}

impl Log {
    /// How many errors came since the first call.
    pub(super) fn read(&mut self) -> Result<u64, State> {
        if self.file.is_none() {
            self.file = Some(open()?);
        }
        let Some(file) = &mut self.file else {
            return Ok(self.errors);
        };
        let mut record = [0; RECORD_BYTES];
        for _ in 0..RECORDS_MAX {
            match file.read(&mut record) {
                Ok(0) => break,
                Ok(len) => self.errors += u64::from(is_error(&record[..len])),
                // Written over before it was read, or longer than any record: on to the next.
                Err(error) if matches!(error.raw_os_error(), Some(libc::EPIPE | libc::EINVAL)) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => {
                    self.file = None;
                    return Err(State::Failed(format!("/dev/kmsg: {error}")));
                }
            }
        }
        Ok(self.errors)
    }
}

fn open() -> Result<File, State> {
    let flags = OFlags::NONBLOCK | OFlags::CLOEXEC;
    let opened = OpenOptions::new()
        .read(true)
        .custom_flags(flags.bits().cast_signed())
        .open("/dev/kmsg")
        .and_then(|mut file| file.seek(SeekFrom::End(0)).map(|_| file));
    opened.map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => State::NotHere("there is no /dev/kmsg".to_owned()),
        _ => State::Failed(format!("/dev/kmsg: {error}: it needs CAP_SYSLOG")),
    })
}

/// `priority,sequence,time,flags;text`; the priority is `facility * 8 + level`, and programs that write
/// here have another facility than the kernel's 0.
fn is_error(record: &[u8]) -> bool {
    let text = String::from_utf8_lossy(record);
    let priority = text
        .split_once(',')
        .and_then(|(number, _)| number.parse().ok());
    priority.is_some_and(|priority: u64| priority <= ERROR)
        && TOLD_ELSEWHERE.iter().all(|known| !text.contains(known))
}

#[cfg(test)]
mod tests {
    use super::{Log, State, is_error};

    #[test]
    fn errors_are_the_kernels_own_and_not_yet_told() {
        let is = |text: &str| is_error(text.as_bytes());
        assert!(is("3,1,5,-;INFO: task x blocked for more than 120 seconds"));
        assert!(is("0,1,5,-;watchdog: BUG: soft lockup"));
        assert!(!is("4,1,5,-;a warning"));
        assert!(!is("30,1,5,-;a daemon's line"));
        assert!(!is(
            "3,1,5,-;Memory cgroup out of memory: Killed process 7 (x)"
        ));
        assert!(!is("3,1,5,-;Out of memory: Killed process 7 (x)"));
        assert!(!is(""));
    }

    #[test]
    fn the_past_is_not_counted() {
        let mut log = Log::default();
        match log.read() {
            Ok(errors) => assert_eq!(errors, 0),
            Err(State::NotHere(_) | State::Failed(_)) => {}
            Err(other) => panic!("{other:?}"),
        }
    }
}
