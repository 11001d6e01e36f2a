//! What goes wrong: real programs in the guilty cgroup.

use std::{fs, hint::black_box, path::Path, process::Command, thread, time::Duration};

use anyhow::Context;

use super::scenario::{Fault, FaultKind};

/// How often the leak takes its next piece.
const LEAK_EVERY: Duration = Duration::from_millis(100);

/// The program for a fault; none where there is none to start.
pub fn command(fault: &Fault, cpus: usize, folder: &Path) -> anyhow::Result<Option<Command>> {
    let intensity = fault.intensity.value;
    // At least one, whatever the intensity.
    let a_cpu = || (intensity * cpus as f64).round().max(1.0);
    let arguments = match fault.kind {
        FaultKind::AlertOnly => return Ok(None),
        FaultKind::Leak => {
            let mut command = Command::new(std::env::current_exe()?);
            command.args(["leak", "--mib-per-s", &intensity.to_string()]);
            return Ok(Some(command));
        }
        FaultKind::Cpu => format!("--cpu {}", a_cpu()),
        // vfork, as posix_spawn(3) and shells use it.
        FaultKind::Forks => format!("--vfork {}", a_cpu()),
        // --oomable: one that the kernel kills stays dead.
        FaultKind::Memory => {
            let mib = intensity * available_mib()?;
            format!(
                "--vm 4 --vm-bytes {mib:.0}M --vm-keep --vm-populate --vm-madvise hugepage \
                 --vm-method write64 --oomable"
            )
        }
        FaultKind::Io => format!("--hdd {intensity:.0} --hdd-bytes 16M --hdd-opts dsync"),
    };
    let mut command = Command::new("stress-ng");
    command.arg("--temp-path").arg(folder);
    command
        .args(arguments.split_whitespace())
        .current_dir(folder);
    Ok(Some(command))
}

fn available_mib() -> anyhow::Result<f64> {
    let text = fs::read_to_string("/proc/meminfo").context("cannot read /proc/meminfo")?;
    let kib: f64 = text
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))
        .and_then(|rest| rest.split_whitespace().next()?.parse().ok())
        .context("/proc/meminfo has no MemAvailable")?;
    Ok(kib / 1024.0)
}

/// Takes memory until somebody ends it.
pub fn leak(mib_per_s: f64) {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a scenario has at most 1000 MiB a second"
    )]
    let piece = (mib_per_s.max(0.0) * f64::from(1 << 20) * LEAK_EVERY.as_secs_f64()) as usize;
    let mut kept = Vec::new();
    loop {
        let mut memory = vec![0_u8; piece.max(4096)];
        for page in memory.chunks_mut(4096) {
            page[0] = black_box(1);
        }
        kept.push(memory);
        thread::sleep(LEAK_EVERY);
    }
}
