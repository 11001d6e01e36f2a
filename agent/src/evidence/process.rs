//! Processes and their cgroups, where a probe or a controller is missing.
//!
//! What is found this way is partial: a process that lived between two looks was never seen.

use std::{
    collections::{HashMap, HashSet},
    fs,
};

use procfs::{
    FromRead,
    process::{Stat, StatM},
};

/// New processes whose cgroup is looked up at most, each sample. Of more, every n-th is taken: the
/// shares stay right.
const NEW_MAX: usize = 256;

/// Processes that were not there at the last look, by path of their cgroup.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Newcomers {
    /// Looked up and found.
    pub by_path: HashMap<String, u64>,
}

/// What the members of one cgroup hold together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Members {
    /// Resident bytes; what members share is counted for each of them.
    pub resident: u64,
    /// Of these, bytes not backed by a file.
    pub anonymous: u64,
    /// Tasks.
    pub tasks: u64,
}

/// Remembers who was there.
#[derive(Debug, Default)]
pub(super) struct Processes {
    known: HashSet<u32>,
    first_look_done: bool,
    since_window: Newcomers,
}

impl Processes {
    /// Looks for processes that came since the last window was closed. The first look finds none.
    pub(super) fn newcomers(&mut self, processes_max: usize) -> Newcomers {
        for (path, count) in self.look(processes_max).by_path {
            *self.since_window.by_path.entry(path).or_default() += count;
        }
        self.since_window.clone()
    }

    /// The window was closed: count from here.
    pub(super) fn close_window(&mut self) {
        self.since_window = Newcomers::default();
    }

    /// Somebody else counts: who is new will not be known for a while.
    pub(super) fn forget(&mut self) {
        *self = Self::default();
    }

    fn look(&mut self, processes_max: usize) -> Newcomers {
        let now: HashSet<u32> = pids(processes_max).collect();
        let mut new: Vec<u32> = now.difference(&self.known).copied().collect();
        self.known = now;
        if !std::mem::replace(&mut self.first_look_done, true) {
            return Newcomers::default();
        }
        new.sort_unstable();
        let stride = new.len().div_ceil(NEW_MAX).max(1);
        let mut found = Newcomers::default();
        for pid in new.into_iter().step_by(stride) {
            if let Some(path) = cgroup_of(pid) {
                *found.by_path.entry(path).or_default() += 1;
            }
        }
        found
    }
}

/// Sums up all processes by path of their cgroup. Costs three files a process: not for every sample.
pub(super) fn members(processes_max: usize) -> HashMap<String, Members> {
    let page = procfs::page_size();
    let mut by_path: HashMap<String, Members> = HashMap::new();
    for pid in pids(processes_max) {
        let (Some(path), Ok(memory), Ok(stat)) = (
            cgroup_of(pid),
            StatM::from_file(format!("/proc/{pid}/statm")),
            Stat::from_file(format!("/proc/{pid}/stat")),
        ) else {
            continue;
        };
        let members = by_path.entry(path).or_default();
        members.resident += memory.resident * page;
        members.anonymous += memory.resident.saturating_sub(memory.shared) * page;
        members.tasks += u64::try_from(stat.num_threads).unwrap_or(0);
    }
    by_path
}

pub(super) fn pids(processes_max: usize) -> impl Iterator<Item = u32> {
    fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .take(processes_max)
}

/// The path in the v2 hierarchy, which has the number 0.
pub(super) fn cgroup_of(pid: u32) -> Option<String> {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    path_v2(&text).map(str::to_owned)
}

/// The same, of the file's text.
pub(super) fn path_v2(text: &str) -> Option<&str> {
    text.lines().find_map(|line| line.strip_prefix("0::"))
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::{Processes, cgroup_of, members};

    #[test]
    fn a_new_process_is_seen_once() {
        let mut processes = Processes::default();
        assert!(processes.newcomers(100_000).by_path.is_empty());
        let mut child = Command::new("sleep")
            .arg("30")
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let path = cgroup_of(child.id());
        let found = processes.newcomers(100_000);
        let known = processes.known.contains(&child.id());
        child.kill().unwrap();
        child.wait().unwrap();
        // A host with no v2 hierarchy at all has no path to count it under.
        if let Some(path) = path {
            assert!(found.by_path[&path] >= 1);
            let again = processes.newcomers(100_000);
            assert!(
                again.by_path[&path] >= 1,
                "it stays until the window is closed"
            );
        }
        assert!(known);
        processes.close_window();
        assert!(
            !processes
                .newcomers(100_000)
                .by_path
                .values()
                .any(|new| *new > 50)
        );
    }

    #[test]
    fn we_are_a_member_of_our_own_cgroup() {
        if let Some(path) = cgroup_of(std::process::id()) {
            let ours = members(100_000)[&path];
            assert!(ours.tasks >= 1 && ours.resident > 0 && ours.anonymous <= ours.resident);
        }
    }
}
