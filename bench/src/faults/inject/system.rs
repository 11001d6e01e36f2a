//! What injections ask the system for, from outside the agent.

use std::{fs, path::Path, process::Command};

use anyhow::{Context, ensure};

use super::{Leaf, Undo};

/// Runs a program to its end; its output, or an error with what it said.
pub fn run(program: &str, arguments: &[&str]) -> anyhow::Result<String> {
    let mut command = Command::new(program);
    command.args(arguments).stdin(std::process::Stdio::null());
    let told = format!("{program} {}", arguments.join(" "));
    let output = command
        .output()
        .with_context(|| format!("cannot start {told}"))?;
    ensure!(
        output.status.success(),
        "{told} ended with {}: {}",
        output.status,
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// Reads a small file.
pub fn read(path: impl AsRef<Path>) -> anyhow::Result<String> {
    let path = path.as_ref();
    fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}

/// Writes a file of the kernel's in one go.
pub fn write(path: impl AsRef<Path>, value: &str) -> anyhow::Result<()> {
    let path = path.as_ref();
    fs::write(path, value).with_context(|| format!("cannot write {value:?} to {}", path.display()))
}

/// Sets a file of the kernel's, and how to set it back.
pub fn sysctl(path: &'static str, value: &str) -> anyhow::Result<Undo> {
    let before = read(path)?;
    write(path, value)?;
    Ok(Undo::new(move || write(path, before.trim())))
}

/// A number after a word at the begin of a line.
pub fn field(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| {
        let rest = line.strip_prefix(name)?;
        let rest = rest.strip_prefix(|c: char| c == ' ' || c == ':' || c == '\t')?;
        rest.split_whitespace().next()?.parse().ok()
    })
}

/// A field of a file of a leaf's cgroup.
pub fn of_cgroup(leaf: &Leaf, file: &str, name: &str) -> anyhow::Result<u64> {
    field(&leaf.cgroup.get(file)?, name)
        .with_context(|| format!("{file} of {} has no {name}", leaf.cgroup.path()))
}

/// `/proc/meminfo`, in MiB.
pub fn memory_mib(name: &str) -> anyhow::Result<f64> {
    let kib = field(&read("/proc/meminfo")?, name)
        .with_context(|| format!("/proc/meminfo has no {name}"))?;
    Ok(kib as f64 / 1024.0)
}

/// `/proc/vmstat`; all that begin so.
pub fn pages(prefix: &str) -> anyhow::Result<u64> {
    let text = read("/proc/vmstat")?;
    let found = text.lines().filter(|line| line.starts_with(prefix));
    Ok(found
        .filter_map(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok())
        .sum())
}

/// A field of `/proc/net/{snmp,netstat}`.
pub fn net(file: &str, protocol: &str, name: &str) -> anyhow::Result<u64> {
    let text = read(Path::new("/proc/net").join(file))?;
    let mut lines = text
        .lines()
        .filter_map(|line| line.strip_prefix(protocol)?.strip_prefix(':'));
    let (names, values) = (
        lines.next().unwrap_or_default(),
        lines.next().unwrap_or_default(),
    );
    let place = names.split_whitespace().position(|known| known == name);
    place
        .and_then(|place| values.split_whitespace().nth(place)?.parse().ok())
        .with_context(|| format!("{file} has no {protocol} {name}"))
}

/// Busy share of all CPUs and softirq share, over `RATE_OVER`.
pub fn cpu_shares() -> anyhow::Result<(f64, f64)> {
    let ticks = || -> anyhow::Result<Vec<f64>> {
        let text = read("/proc/stat")?;
        let line = text.lines().next().unwrap_or_default();
        Ok(line
            .split_whitespace()
            .skip(1)
            .filter_map(|word| word.parse().ok())
            .collect())
    };
    let before = ticks()?;
    std::thread::sleep(super::RATE_OVER);
    let after = ticks()?;
    let spent: Vec<f64> = after.iter().zip(&before).map(|(a, b)| a - b).collect();
    let all: f64 = spent.iter().take(8).sum();
    ensure!(spent.len() >= 8 && all > 0.0, "/proc/stat did not move");
    let idle = spent[3] + spent[4];
    Ok((1.0 - idle / all, spent[6] / all))
}

#[cfg(test)]
mod tests {
    use super::field;

    #[test]
    fn fields_are_whole_words() {
        let text = "oom 1\noom_kill 7\nMemAvailable:   12 kB\n";
        assert_eq!(field(text, "oom_kill"), Some(7));
        assert_eq!(field(text, "oom"), Some(1));
        assert_eq!(field(text, "MemAvailable"), Some(12));
        assert_eq!(field(text, "Mem"), None);
    }
}
