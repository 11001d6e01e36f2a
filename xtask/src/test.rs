//! `cargo xtask test`: everything, counted honestly.

mod remedies;

use std::{
    collections::BTreeMap,
    ffi::OsString,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::Context;
use serde::Deserialize;

use crate::{
    build, evidence, intake, journal,
    kernels::{Kernel, Series},
    lint, sh,
    vm::{self, Vm},
};

/// A part of the tests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Part {
    /// Format, clippy, documentation.
    Lint,
    /// On this machine: unit, documentation and integration tests.
    Host,
    /// In the VM, on every kernel.
    Kernel,
    /// The journal's long run: crashes, kills, power cuts. Not part of a plain `test`, whose tests
    /// have its short form.
    Journal,
    /// The remedies' long run: each action's tests, and crashes at every call that changes something, as a
    /// table. A plain `test` has the tests, and a few of the crashes.
    Remedies,
    /// A table of the probes by kernel, each cell filled by a test that ran.
    Evidence,
    /// Intake's long run: a storm with kills, and a flood beside it. A plain `test` has its short
    /// form.
    Intake,
}

/// Totals of libtest's closing lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    passed: u64,
    failed: u64,
    ignored: u64,
}

impl Count {
    /// Adds a line if it is a closing line: `test result: ok. 3 passed; 0 failed; 1 ignored; …`.
    pub fn add_line(&mut self, line: &str) {
        let Some(rest) = line.trim().strip_prefix("test result: ") else {
            return;
        };
        for part in rest.split([';', '.']) {
            let mut words = part.split_whitespace();
            if let (Some(Ok(number)), Some(word)) =
                (words.next().map(str::parse::<u64>), words.next())
            {
                match word {
                    "passed" => self.passed += number,
                    "failed" => self.failed += number,
                    "ignored" => self.ignored += number,
                    _ => {}
                }
            }
        }
    }

    fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.ignored += other.ignored;
    }
}

/// Runs the parts and prints the totals; the result is the exit code.
pub fn test(part: Option<Part>) -> anyhow::Result<u8> {
    if part == Some(Part::Journal) {
        return journal::journal();
    }
    if part == Some(Part::Evidence) {
        build::build()?;
        return evidence::evidence();
    }
    if part == Some(Part::Intake) {
        build::build()?;
        return intake::intake();
    }
    if part == Some(Part::Remedies) {
        build::build()?;
        return remedies::remedies();
    }
    let wants = |this| part.is_none_or(|part| part == this);
    let begun = Instant::now();
    // The probes, the agent that embeds them, and the binaries that tests start.
    build::build()?;
    told("built", begun);
    if wants(Part::Lint) {
        let begun = Instant::now();
        lint::lint()?;
        told("lint: clean", begun);
    }
    let mut total = Count::default();
    let mut ok = true;
    if wants(Part::Host) {
        let begun = Instant::now();
        let (count, fine) = host()?;
        told("host tests", begun);
        total.add(count);
        ok &= fine;
    }
    if wants(Part::Kernel) {
        let programs = programs(|_| true)?;
        let mut lines = Vec::new();
        for series in Series::ALL {
            let begun = Instant::now();
            let (count, fine) = on_kernel(series, &programs, &mut |_| ())?;
            told(&format!("kernel tests on {}", series.name()), begun);
            lines.push(summary(series, count, fine));
            total.add(count);
            ok &= fine;
        }
        println!("kernel tests in the VM: {}", lines.join("; "));
    }
    let verdict = if ok && total.failed == 0 {
        "ok"
    } else {
        "FAILED"
    };
    println!(
        "{verdict}: {} passed, {} failed, {} skipped, in {} s",
        total.passed,
        total.failed,
        total.ignored,
        begun.elapsed().as_secs()
    );
    Ok(u8::from(verdict != "ok"))
}

fn told(what: &str, begun: Instant) {
    println!("xtask: {what} ({} s)", begun.elapsed().as_secs());
}

/// `12 on 6.12.117+deb12-cloud-amd64 (0 failed, 1 skipped)`.
fn summary(series: Series, count: Count, fine: bool) -> String {
    let release = Kernel::unpacked(&sh::cache(), series)
        .map_or_else(|| series.name().to_owned(), |kernel| kernel.release);
    let broken = if fine || count.failed > 0 {
        ""
    } else {
        ", broken off"
    };
    format!(
        "{} on {release} ({} failed, {} skipped{broken})",
        count.passed + count.failed,
        count.failed,
        count.ignored
    )
}

/// Everything that runs on this machine's own kernel.
fn host() -> anyhow::Result<(Count, bool)> {
    let mut command = sh::cargo();
    command.args([
        "test",
        "--workspace",
        "--exclude",
        "agent-ebpf",
        "--no-fail-fast",
    ]);
    counted(&mut command, &mut |_| ())
}

/// Runs a command, shows its output, counts its closing lines.
pub fn counted(command: &mut Command, told: &mut dyn FnMut(&str)) -> anyhow::Result<(Count, bool)> {
    use std::io::{BufRead, BufReader};
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start {}", command.get_program().to_string_lossy()))?;
    let stdout = child.stdout.take().context("stdout is a pipe")?;
    let mut count = Count::default();
    for line in BufReader::new(stdout).lines() {
        let line = line?;
        println!("{line}");
        count.add_line(&line);
        told(&line);
    }
    let status = child.wait()?;
    Ok((count, status.success()))
}

#[derive(Deserialize)]
struct Message {
    reason: String,
    target: Option<Target>,
    executable: Option<String>,
}

#[derive(Deserialize)]
struct Target {
    name: String,
}

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    metadata: Option<BTreeMap<String, Settings>>,
}

#[derive(Deserialize)]
struct Settings {
    #[serde(rename = "vm-tests", default)]
    vm_tests: Vec<String>,
    #[serde(rename = "vm-systemd-tests", default)]
    vm_systemd_tests: Vec<String>,
    #[serde(rename = "vm-once", default)]
    once: Vec<String>,
}

/// A test program for the VM.
pub struct Program {
    path: OsString,
    /// It wants systemd as process 1.
    systemd: bool,
    /// On the first kernel only: what it tests is the agent's, not the kernel's.
    once: bool,
}

/// Builds those of the test programs that `tests/Cargo.toml` lists for the VM that are chosen.
pub fn programs(chosen: impl Fn(&str) -> bool) -> anyhow::Result<Vec<Program>> {
    let metadata = sh::cargo()
        .args(["metadata", "--format-version", "1", "--no-deps"])
        .output()
        .context("cannot start cargo metadata")?;
    let metadata: Metadata = serde_json::from_slice(&metadata.stdout).context("cargo metadata")?;
    let settings = metadata
        .packages
        .into_iter()
        .filter(|package| package.name == "paramedic-tests")
        .find_map(|package| package.metadata?.remove("paramedic"))
        .context("tests/Cargo.toml lists no tests for the VM")?;
    let booted = settings.vm_systemd_tests;
    let mut wanted = [settings.vm_tests, booted.clone()].concat();
    wanted.retain(|name| chosen(name));
    if wanted.is_empty() {
        return Ok(Vec::new());
    }
    let mut command = sh::cargo();
    // Of the whole workspace, like everything else: with `--package` alone features are chosen anew
    // and every dependency is built a second time.
    command.args([
        "test",
        "--workspace",
        "--exclude",
        "agent-ebpf",
        "--no-run",
        "--message-format",
        "json",
    ]);
    for name in &wanted {
        command.args(["--test", name]);
    }
    let built = command
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()?;
    anyhow::ensure!(built.status.success(), "the kernel tests do not compile");
    let mut programs = Vec::new();
    for line in String::from_utf8_lossy(&built.stdout).lines() {
        let Ok(message) = serde_json::from_str::<Message>(line) else {
            continue;
        };
        if message.reason == "compiler-artifact"
            && let Some(Target { name }) = message.target
            && wanted.contains(&name)
            && let Some(path) = message.executable
        {
            programs.push(Program {
                path: path.into(),
                systemd: booted.contains(&name),
                once: settings.once.contains(&name),
            });
        }
    }
    anyhow::ensure!(
        programs.len() == wanted.len(),
        "of {wanted:?} only {} were built",
        programs.len()
    );
    Ok(programs)
}

/// Runs the programs on a kernel, each in a boot of its own: what one leaves behind does not meet the
/// next, and only one is repeated where the emulator fails.
pub fn on_kernel(
    series: Series,
    programs: &[Program],
    told: &mut dyn FnMut(&str),
) -> anyhow::Result<(Count, bool)> {
    let (mut total, mut fine) = (Count::default(), true);
    let vm = Vm {
        series,
        timeout: Duration::from_mins(10),
        memory_mib: 3072,
        ..Vm::default()
    };
    for program in programs {
        if program.once && series != Series::ALL[0] {
            let name = program.path.to_string_lossy();
            println!("{name} runs on Linux {} only", Series::ALL[0].name());
            continue;
        }
        let command = [
            sh::own_program()?.into_os_string(),
            "run-tests".into(),
            program.path.clone(),
        ];
        let vm = Vm {
            systemd: program.systemd,
            ..vm.clone()
        };
        let mut count = Count::default();
        let ran = vm::retrying(|| {
            count = Count::default();
            vm.run(&command, |line| {
                println!("{line}");
                count.add_line(line);
                told(line);
            })
        });
        total.add(count);
        fine &= match ran {
            Ok(status) => status == 0,
            // What had run until then still counts, and so do the other results.
            Err(error) => {
                println!("Linux {}: {error:#}", series.name());
                false
            }
        };
    }
    Ok((total, fine))
}

/// Inside the VM: each program in turn, one test at a time, because they share one kernel. A
/// program without a single test that ran is a failure: nothing would notice that it checks nothing.
pub fn run_inside(programs: &[OsString]) -> anyhow::Result<u8> {
    let mut failed = Vec::new();
    for program in programs {
        let name = program.to_string_lossy();
        println!("running {name} on Linux {}", release());
        let (count, fine) = counted(Command::new(program).arg("--test-threads=1"), &mut |_| ())
            .with_context(|| name.clone().into_owned())?;
        if count.passed + count.failed == 0 {
            println!("{name}: not one test ran");
            failed.push(name);
        } else if !fine {
            failed.push(name);
        }
    }
    if !failed.is_empty() {
        println!("failed on Linux {}: {}", release(), failed.join(", "));
    }
    Ok(u8::from(!failed.is_empty()))
}

/// The running kernel's release.
pub fn release() -> String {
    rustix::system::uname()
        .release()
        .to_string_lossy()
        .into_owned()
}

#[cfg(test)]
mod tests {
    use super::Count;

    #[test]
    fn closing_lines_are_added_up_and_nothing_else_is() {
        let mut count = Count::default();
        count.add_line("test result: ok. 12 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.01s");
        count.add_line(
            "test result: FAILED. 2 passed; 3 failed; 0 ignored; 0 measured; 0 filtered out",
        );
        count.add_line("test a::b ... ok");
        assert_eq!(
            count,
            Count {
                passed: 14,
                failed: 3,
                ignored: 1
            }
        );
    }
}
