//! `cargo xtask …`: one enum of commands, a module each.

mod bench;
mod build;
mod chaos;
mod demo;
mod deploy;
mod evidence;
mod intake;
mod journal;
mod kernels;
mod lint;
mod setup;
mod sh;
mod test;
mod vm;

use std::{ffi::OsString, path::PathBuf, process::ExitCode, time::Duration};

use clap::{Parser, Subcommand};

use kernels::Series;

/// Builds, tests and shows Paramedic.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Install what building, testing and the demo need; does nothing the second time
    Setup,
    /// Build the probes, then the agent
    Build,
    /// Format, clippy (host and BPF), documentation, licences, tidiness
    Lint,
    /// Every test, those on real kernels in a VM included
    Test {
        /// Only this part
        #[arg(value_enum)]
        part: Option<test::Part>,
    },
    /// A real fault, a real alert, a real cure, told as it happens
    Demo(demo::Demo),
    /// Measure against the machine's limits and the peers
    Bench {
        /// What to measure
        #[arg(value_enum)]
        what: bench::What,
        /// Passed on: `--json`, `--quick`, `--only NAME`, `--dir DIR`
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<OsString>,
    },
    /// Shake the agent until it breaks: seeded storms, each replayed by its seed
    Chaos(chaos::Chaos),
    /// What gets the agent onto nodes: manifests, chart, units, image, bill of materials
    Deploy {
        #[command(subcommand)]
        what: deploy::Deploy,
    },
    /// Run a command as root on another kernel, on this machine's files, read-only
    Vm {
        /// Which kernel
        #[arg(long, value_enum, default_value = "6.12")]
        kernel: Series,
        /// Seconds for the whole run
        #[arg(long, default_value_t = 300)]
        timeout: u64,
        /// Memory in MiB
        #[arg(long, default_value_t = 2048)]
        memory: u32,
        /// Virtual CPUs
        #[arg(long, default_value_t = 2)]
        cpus: u32,
        /// Size in MiB of an ext4 disk at /run/disk; 0 for none
        #[arg(long, default_value_t = 512)]
        disk: u32,
        /// Boot systemd as process 1 and run the command as one of its services
        #[arg(long)]
        systemd: bool,
        /// The command and its arguments
        #[arg(required = true, last = true)]
        command: Vec<OsString>,
    },
    /// Inside the VM: run test programs one after another
    #[command(hide = true)]
    RunTests { programs: Vec<OsString> },
    /// Where the demo happens: on this machine, or in the VM
    #[command(hide = true)]
    DemoInside {
        #[arg(value_enum)]
        scenario: demo::Scenario,
        folder: PathBuf,
    },
    /// The demo's innocent neighbour
    #[command(hide = true)]
    DemoNeighbour { file: PathBuf },
}

fn main() -> ExitCode {
    match run(Cli::parse().command) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn run(command: Command) -> anyhow::Result<u8> {
    match command {
        Command::Setup => setup::setup(&setup::Part::ALL).map(|()| 0),
        Command::Build => {
            setup::setup(&[setup::Part::Bpf])?;
            build::build().map(|()| 0)
        }
        Command::Lint => {
            setup::setup(&[setup::Part::Bpf])?;
            lint::lint().map(|()| 0)
        }
        Command::Test { part } => {
            setup::setup(&setup::Part::ALL)?;
            test::test(part)
        }
        Command::Bench { what, args } => {
            setup::setup(&[setup::Part::Bench])?;
            bench::bench(what, &args)
        }
        Command::Chaos(args) => {
            setup::setup(&[setup::Part::Bpf])?;
            args.run()
        }
        Command::Vm {
            kernel,
            timeout,
            memory,
            cpus,
            disk,
            systemd,
            command,
        } => {
            setup::setup(&[setup::Part::Vm])?;
            let vm = vm::Vm {
                series: kernel,
                timeout: Duration::from_secs(timeout),
                memory_mib: memory,
                cpus,
                disk_mib: disk,
                systemd,
                ..vm::Vm::default()
            };
            let status = vm::retrying(|| vm.run(&command, |line| println!("{line}")))?;
            Ok(u8::try_from(status).unwrap_or(1))
        }
        Command::Deploy { what } => deploy::deploy(&what).map(|()| 0),
        Command::Demo(args) => {
            setup::setup(&setup::Part::ALL)?;
            demo::demo(&args)
        }
        Command::RunTests { programs } => test::run_inside(&programs),
        Command::DemoInside { scenario, folder } => demo::Inside { scenario, folder }.run(),
        Command::DemoNeighbour { file } => demo::serve(&file).map(|()| 0),
    }
}
