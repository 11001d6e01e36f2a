//! A run, inside the VM: monitoring once, then trial after trial, interleaved.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    thread,
    time::Instant,
};

use anyhow::{Context, ensure};
use jiff::Timestamp;
use paramedic_parts::chance::Rng;

use super::{
    exporter::Exporter,
    record::{About, Environment, Run},
    relay::Relay,
    scenario::{Catalogue, Scenario, Strategy},
    service,
    slice::Slice,
    stack::Stack,
    stats,
    trial::Bench,
};

/// The run's record in its folder.
pub const RECORD: &str = "run.json";

/// What to run.
#[derive(Clone, Debug, clap::Args)]
pub struct Inside {
    /// Where the record goes
    #[arg(long)]
    pub out: PathBuf,
    /// Scenarios; all that `--quick` has, or all, when left out
    #[arg(long)]
    pub scenario: Vec<String>,
    /// Strategies; those of each scenario when left out
    #[arg(long, value_enum)]
    pub strategy: Vec<Strategy>,
    /// Only scenarios that are marked as quick
    #[arg(long)]
    pub quick: bool,
    /// Which round this is; every round has every trial once
    #[arg(long, default_value_t = 0)]
    pub round: usize,
    /// Seed of the order of trials
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Scenario files
    #[arg(long, default_value_os_t = Catalogue::shipped())]
    pub scenarios: PathBuf,
}

impl Inside {
    /// Runs it; the record is written after every trial, so that a run that is cut off has one.
    pub fn run(&self) -> anyhow::Result<()> {
        ensure!(
            std::env::var_os("PARAMEDIC_VM").is_some(),
            "faults fill memory and kill processes: only in `cargo xtask bench mttr`"
        );
        let catalogue = Catalogue::load(&self.scenarios)?;
        let chosen = self.chosen(&catalogue)?;
        fs::create_dir_all(&self.out)
            .with_context(|| format!("cannot make {}", self.out.display()))?;
        let folder = paramedic_parts::tools::temporary_folder()?;
        let slice = Slice::make()?;
        let relay = Relay::start()?;
        let exporter = Arc::new(Exporter::new());
        let (measured, _serving) = exporter.serve()?;
        let begun = Instant::now();
        let spins_a_ms = service::calibrate(1.0);
        let stack = Stack::start(&slice, &relay, &catalogue.alerts, measured)?;
        println!(
            "monitoring is up after {:.0} s; {spins_a_ms} rounds are a ms",
            begun.elapsed().as_secs_f64()
        );
        let bench = Bench {
            slice: &slice,
            stack: &stack,
            relay: &relay,
            exporter: &exporter,
            spins_a_ms,
            folder: folder.path(),
            cpus: thread::available_parallelism()?.get(),
        };
        let mut run = Run {
            environment: environment(&bench, self.seed)?,
            scenarios: chosen.iter().map(|scenario| about(scenario)).collect(),
            trials: Vec::new(),
            scraped_trials: None,
        };
        let plan = self.plan(&chosen);
        for (nth, (scenario, strategy)) in plan.iter().enumerate() {
            let trial = bench.trial(scenario, *strategy, self.round);
            exporter.ended(&trial, &scenario.inject_type());
            println!("{:>3}/{} {}", nth + 1, plan.len(), super::told(&trial));
            run.trials.push(trial);
            self.keep(&run)?;
        }
        // One more scrape.
        thread::sleep(std::time::Duration::from_millis(2500));
        let seen = stack.prometheus.query("sum(recovery_attempts_total)")?;
        run.scraped_trials = seen
            .first()
            .and_then(|sample| sample["value"][1].as_str()?.parse().ok());
        self.keep(&run)?;
        drop(stack);
        slice.clear()
    }

    fn chosen<'a>(&self, catalogue: &'a Catalogue) -> anyhow::Result<Vec<&'a Scenario>> {
        for name in &self.scenario {
            let known = catalogue.scenarios.iter().any(|s| s.name.value == *name);
            let names: Vec<&str> = catalogue
                .scenarios
                .iter()
                .map(|scenario| scenario.name.value.as_str())
                .collect();
            ensure!(known, "no scenario {name}; there are {}", names.join(", "));
        }
        let wanted = |scenario: &&Scenario| {
            if self.scenario.is_empty() {
                scenario.quick || !self.quick
            } else {
                self.scenario.contains(&scenario.name.value)
            }
        };
        Ok(catalogue.scenarios.iter().filter(wanted).collect())
    }

    /// Every pair once, in an order that differs from round to round: a slow minute of the machine
    /// does not hit one strategy alone.
    fn plan<'a>(&self, chosen: &[&'a Scenario]) -> Vec<(&'a Scenario, Strategy)> {
        let mut plan: Vec<(&Scenario, Strategy)> = chosen
            .iter()
            .flat_map(|scenario| {
                let wanted = scenario.strategies.iter().filter(|strategy| {
                    self.strategy.is_empty() || self.strategy.contains(strategy)
                });
                wanted.map(|strategy| (*scenario, *strategy))
            })
            .collect();
        let mut rng = Rng(self.seed.wrapping_mul(1000).wrapping_add(self.round as u64));
        stats::shuffle(&mut plan, &mut rng);
        plan
    }

    fn keep(&self, run: &Run) -> anyhow::Result<()> {
        let file = self.out.join(RECORD);
        fs::write(&file, serde_json::to_string(run)?)
            .with_context(|| format!("cannot write {}", file.display()))
    }
}

fn environment(bench: &Bench<'_>, seed: u64) -> anyhow::Result<Environment> {
    let memory = fs::read_to_string("/proc/meminfo").context("cannot read /proc/meminfo")?;
    let kib: u64 = memory
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))
        .and_then(|rest| rest.split_whitespace().next()?.parse().ok())
        .context("/proc/meminfo has no MemTotal")?;
    let binary = paramedic_parts::tools::agent_binary()?;
    let profile = binary
        .parent()
        .and_then(Path::file_name)
        .map_or_else(String::new, |name| name.to_string_lossy().into_owned());
    let release = rustix::system::uname()
        .release()
        .to_string_lossy()
        .into_owned();
    Ok(Environment {
        kernel: release,
        machine: machine(),
        cpus: bench.cpus,
        memory_mib: kib / 1024,
        agent: format!("{} ({profile})", env!("CARGO_PKG_VERSION")),
        driver: "built-in".to_owned(),
        spins_a_ms: bench.spins_a_ms,
        seed,
        begun: Timestamp::now().to_string(),
    })
}

/// What the CPU calls itself: an emulated one says so.
fn machine() -> String {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = text
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split(':').nth(1))
        .map_or("unknown", str::trim);
    format!("VM, CPU: {model}")
}

fn about(scenario: &Scenario) -> About {
    let expect = &scenario.expect;
    let text = |value: &Option<serde_saphyr::Spanned<String>>| {
        value.as_ref().map(|value| value.value.clone())
    };
    About {
        name: scenario.name.value.clone(),
        title: scenario.title.clone(),
        family: scenario.family,
        inject_type: scenario.inject_type(),
        fault: scenario.is_fault(),
        heals: expect.heals,
        duration_s: scenario.duration_s.value,
        slo: scenario.workload.slo,
        hypothesis: text(&expect.hypothesis),
        culprit: text(&expect.culprit).map(|name| Slice::path(&name)),
        action: text(&expect.action),
    }
}
