//! How full the kernel's tables are: open files, tasks, tracked connections; and its entropy.

use std::{io, path::Path};

use super::{Sheet, State, number, share};

const CONNTRACK: &str = "/proc/sys/net/netfilter/nf_conntrack_count";

pub(super) fn read(sheet: &mut Sheet<'_>) {
    if let Some(text) = sheet.text("files", "/proc/sys/fs/file-nr") {
        sheet.level("files.used", files(&text));
    }
    tasks(sheet);
    let tracked = ratio(CONNTRACK, "/proc/sys/net/netfilter/nf_conntrack_max");
    let mut used = None;
    sheet.take("conntrack", tracked, |share| used = Some(*share));
    sheet.level("conntrack.used", used);
}

/// What moves slowly.
pub(super) fn read_entropy(sheet: &mut Sheet<'_>) {
    if let Some(text) = sheet.text("entropy", "/proc/sys/kernel/random/entropy_avail") {
        sheet.level("entropy.bits", text.trim().parse().ok());
    }
}

/// `allocated free most`: what is allocated and free is in use by nobody.
fn files(text: &str) -> Option<f64> {
    let mut words = text.split_whitespace().map_while(|word| word.parse().ok());
    let (allocated, free, most): (f64, f64, f64) = (words.next()?, words.next()?, words.next()?);
    share(allocated - free, most)
}

/// Of the two limits, the one that is nearer.
fn tasks(sheet: &mut Sheet<'_>) {
    let Some(load) = sheet.text("tasks", "/proc/loadavg") else {
        return;
    };
    let limits = ["/proc/sys/kernel/threads-max", "/proc/sys/kernel/pid_max"];
    let limits = limits.map(|path| sheet.files.read(path).ok()?.trim().parse().ok());
    let least = limits.into_iter().flatten().reduce(f64::min);
    let used = total_tasks(&load)
        .zip(least)
        .and_then(|(tasks, most)| share(tasks, most));
    sheet.level("tasks.used", used);
}

/// The fourth field is `running/all`.
fn total_tasks(loadavg: &str) -> Option<f64> {
    let field = loadavg.split_whitespace().nth(3)?;
    field.split_once('/')?.1.parse().ok()
}

fn ratio(part: &str, whole: &str) -> Result<f64, State> {
    let read = |path: &str| {
        number(Path::new(path)).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => State::NotHere(format!("there is no {path}")),
            _ => State::Failed(format!("{path}: {error}")),
        })
    };
    let (part, most) = (read(part)?, read(whole)?);
    share(part, most).ok_or_else(|| State::Failed(format!("{whole} is {most}")))
}

#[cfg(test)]
mod tests {
    use super::{files, ratio, total_tasks};
    use crate::evidence::node::State;

    #[test]
    fn tables_are_shares_of_their_limits() {
        assert_eq!(files("2000\t500\t10000\n"), Some(0.15));
        assert_eq!(files("2000 0 0\n"), None);
        assert_eq!(files("2000\n"), None);
        assert_eq!(total_tasks("0.50 0.40 0.30 3/321 4567\n"), Some(321.0));
        assert_eq!(total_tasks("0.50 0.40 0.30\n"), None);
    }

    #[test]
    fn a_table_that_is_not_there_is_no_failure() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name).display().to_string();
        let (part, whole) = (path("part"), path("whole"));
        assert!(matches!(ratio(&part, &whole), Err(State::NotHere(_))));
        std::fs::write(&part, "30\n").unwrap();
        std::fs::write(&whole, "120\n").unwrap();
        assert_eq!(ratio(&part, &whole), Ok(0.25));
        std::fs::write(&part, "many\n").unwrap();
        assert!(matches!(ratio(&part, &whole), Err(State::Failed(_))));
        std::fs::write(&part, "30\n").unwrap();
        std::fs::write(&whole, "0\n").unwrap();
        assert!(matches!(ratio(&part, &whole), Err(State::Failed(_))));
    }
}
