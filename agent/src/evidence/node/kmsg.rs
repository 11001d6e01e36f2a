//! The kernel's own log: errors in `/dev/kmsg` from now on, and filesystems that it has stopped before or
//! since.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read as _},
    os::unix::fs::OpenOptionsExt as _,
};

use rustix::fs::OFlags;

use super::{State, stopped::Stopped};

/// Records read in one go: more of them wait for the next sample.
const RECORDS_MAX: usize = 1_024;
/// The same of what was there before us: more than the largest buffer of any distribution holds.
const PAST_MAX: usize = 65_536;
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
    stopped: Stopped,
}

impl Log {
    /// How many errors came since the first call.
    pub(super) fn read(&mut self) -> Result<u64, State> {
        if self.file.is_none() {
            let begins_here = self.errors;
            self.file = Some(open()?);
            self.follow(PAST_MAX)?;
            // What was before us is no news.
            self.errors = begins_here;
        }
        self.follow(RECORDS_MAX)?;
        Ok(self.errors)
    }

    /// Filesystems that were stopped and have not come back: `major:minor` of their devices.
    pub(super) fn stopped(&self) -> impl Iterator<Item = &str> {
        self.stopped.devices()
    }

    /// Takes what came.
    fn follow(&mut self, records_max: usize) -> Result<(), State> {
        let Some(file) = &mut self.file else {
            return Ok(());
        };
        let mut record = [0; RECORD_BYTES];
        for _ in 0..records_max {
            match file.read(&mut record) {
                Ok(0) => break,
                Ok(len) => {
                    let text = String::from_utf8_lossy(&record[..len]);
                    let Some((priority, text)) = of_kernel(&text) else {
                        continue;
                    };
                    self.errors += u64::from(is_error(priority, text));
                    self.stopped.take(text);
                }
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
        Ok(())
    }
}

fn open() -> Result<File, State> {
    let flags = OFlags::NONBLOCK | OFlags::CLOEXEC;
    let opened = OpenOptions::new()
        .read(true)
        .custom_flags(flags.bits().cast_signed())
        .open("/dev/kmsg");
    opened.map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => State::NotHere("there is no /dev/kmsg".to_owned()),
        _ => State::Failed(format!("/dev/kmsg: {error}: it needs CAP_SYSLOG")),
    })
}

/// Level and text of a record of the kernel's own: `priority,sequence,time,flags;text`. The priority is
/// `facility * 8 + level`, and programs that write here have another facility than the kernel's 0.
fn of_kernel(record: &str) -> Option<(u64, &str)> {
    let (head, text) = record.split_once(';')?;
    let priority: u64 = head.split_once(',')?.0.parse().ok()?;
    (priority < 8).then_some((priority, text))
}

fn is_error(priority: u64, text: &str) -> bool {
    priority <= ERROR && TOLD_ELSEWHERE.iter().all(|known| !text.contains(known))
}

#[cfg(test)]
mod tests {
    use super::{Log, State, is_error, of_kernel};

    #[test]
    fn errors_are_the_kernels_own_and_not_yet_told() {
        let is = |record: &str| {
            of_kernel(record).is_some_and(|(priority, text)| is_error(priority, text))
        };
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
