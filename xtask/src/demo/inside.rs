//! The run itself: stack, calm, fault, cure, record. The same on this machine and in the VM.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use paramedic_parts::{
    Agent, Alertmanager, Cgroup, NodeExporter, Prometheus, Scrape,
    cgroup::{ROOT, empty, move_to},
};
use serde_json::Value;

use crate::sh;

use super::{
    RESULT,
    follow::{Follow, unix},
    neighbour::Latencies,
    report::Report,
    scenario::{OBSERVED, Scenario},
    story::{Beat, Story},
};

/// Everything of the demo lies below this cgroup.
const SLICE: &str = "demo.slice";
/// Segments are written before they are used; a demo fills few of them.
const JOURNAL: &str = "journal: {fast_segment_bytes: 4194304, safe_segment_bytes: 16777216}\n";
/// For the monitoring to see a calm node.
const CALM_WITHIN: Duration = Duration::from_secs(90);
/// The fault and the neighbour end by themselves after this long, whatever happens to us.
const FAULT_AT_MOST: Duration = Duration::from_mins(6);

/// One run.
#[derive(Clone, Debug)]
pub struct Inside {
    /// The fault.
    pub scenario: Scenario,
    /// Where the record goes.
    pub folder: PathBuf,
}

/// The real parts, all up. The agent comes first: it ends first.
struct Stack {
    agent: Agent,
    prometheus: Prometheus,
    _alertmanager: Alertmanager,
    _exporter: NodeExporter,
}

impl Inside {
    /// Runs it; the result is the exit code.
    pub fn run(&self) -> anyhow::Result<u8> {
        let story = Story::new();
        fs::create_dir_all(&self.folder)
            .with_context(|| format!("cannot make {}", self.folder.display()))?;
        let cpus = thread::available_parallelism()?.get();
        let place = std::env::var_os("PARAMEDIC_VM").map_or("", |_| " in QEMU");
        story.blank();
        story.headline(&format!(
            "Paramedic: {} on Linux {}{place}, {cpus} CPUs",
            self.scenario.name(),
            crate::test::release()
        ));
        story.note(self.scenario.tale());
        story.blank();
        let slice = Slice::make()?;
        let code = self.on_slice(story, cpus, &slice);
        slice.remove()?;
        fs::remove_dir_all(scratch()?).context("cannot remove the demo's small files")?;
        code
    }

    fn on_slice(&self, story: Story, cpus: usize, slice: &Slice) -> anyhow::Result<u8> {
        let web = Slice::make_child("web")?;
        let mut batch = Slice::make_child("batch-job")?;
        let mut stack = slice.start(self.scenario, cpus, story)?;
        let latencies = start_neighbour(web)?;
        let busy = calm(&stack.prometheus, self.scenario, cpus)?;
        let batch_path = batch.path();
        let web_path = latencies.1.path();
        story.event(
            None,
            Beat::Ready,
            &format!(
                "a small web service runs in {web_path}; the CPUs are {:.0} % busy",
                busy * 100.0
            ),
        );
        let stressors = self.scenario.stressors(cpus)?.join(" ");
        let command = self.scenario.fault(cpus, &scratch()?)?;
        let fault = unix::now();
        batch.spawn(command, FAULT_AT_MOST)?;
        let mut follow = Follow {
            agent: &mut stack.agent,
            prometheus: &stack.prometheus,
            story,
            scenario: self.scenario,
            culprit: &batch_path,
            fault,
        };
        follow.tell_fault(&format!("stress-ng {stressors} starts in {batch_path}"));
        let followed = follow.run();
        let code = match followed {
            Ok((mut report, problems)) => {
                report.neighbour = neighbour(&latencies.0, fault, &report, &stack.agent);
                self.keep(&stack.agent, &report)?;
                for problem in &problems {
                    story.event(None, Beat::Failed, problem);
                }
                u8::from(!problems.is_empty())
            }
            Err(error) => {
                story.event(None, Beat::Failed, &format!("{error:#}"));
                1
            }
        };
        if code != 0 {
            println!("{}", stack.agent.process()?.tail());
        }
        self.keep_state(&mut stack.agent)?;
        Ok(code)
    }

    /// The result and the record as the agent's own commands tell it.
    fn keep(&self, agent: &Agent, report: &Report) -> anyhow::Result<()> {
        self.write(RESULT, &serde_json::to_string_pretty(report)?)?;
        self.write("incident.txt", &agent.show(&report.incident)?)?;
        let export = agent.command(&["incidents", "export", &report.incident])?;
        self.write("incident.json", &export)
    }

    /// The agent's folder after its orderly end, and its log.
    fn keep_state(&self, agent: &mut Agent) -> anyhow::Result<()> {
        let log = agent.process()?.log();
        self.write("agent.log", &log)?;
        let config = fs::read_to_string(agent.config()).context("the agent's configuration")?;
        self.write("paramedic.yaml", &config)?;
        if agent.process()?.ended().is_none() {
            agent.terminate()?;
        }
        let (from, to) = (agent.state_dir(), self.folder.join("state"));
        match fs::rename(&from, &to) {
            Err(error) if error.kind() == std::io::ErrorKind::CrossesDevices => copy(&from, &to),
            other => other.with_context(|| format!("cannot move {}", from.display())),
        }
    }

    fn write(&self, name: &str, text: &str) -> anyhow::Result<()> {
        let file = self.folder.join(name);
        fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))
    }
}

/// The demo's cgroups, and the way back to where we came from.
struct Slice {
    home: PathBuf,
}

impl Slice {
    /// Clears what an earlier run that was killed left behind.
    fn make() -> anyhow::Result<Self> {
        let own = fs::read_to_string("/proc/self/cgroup").context("cannot read our cgroup")?;
        let home = own
            .lines()
            .find_map(|line| line.strip_prefix("0::/"))
            .context("we are in no cgroup v2")?;
        let slice = Self {
            home: Path::new(ROOT).join(home),
        };
        if Path::new(ROOT).join(SLICE).is_dir() {
            slice.remove()?;
        }
        Ok(slice)
    }

    fn make_child(name: &str) -> anyhow::Result<Cgroup> {
        let cgroup = Cgroup::make(&format!("{SLICE}/{name}"))?;
        cgroup.set("pids.max", "max")?;
        Ok(cgroup)
    }

    /// Starts every part in the cgroup where it belongs: children are born where we are.
    fn start(&self, scenario: Scenario, cpus: usize, story: Story) -> anyhow::Result<Stack> {
        let begun = Instant::now();
        let config = |prometheus: &str| {
            format!(
                "state_dir: $STATE\nintake: {{listen: \"$LISTEN\"}}\n\
                 sampling: {{prometheus_url: \"{prometheus}\"}}\nremedy: {{level: act}}\n{JOURNAL}"
            )
        };
        let mut agent = Agent::prepare(&config("http://127.0.0.1:9090"))?;
        let inhabited = self.enter("monitoring")?;
        let exporter = NodeExporter::start_small()?;
        let alertmanager = Alertmanager::start(&agent.url("/webhook"))?;
        let prometheus = Prometheus::builder()
            .scrape(Scrape::new("node", exporter.address()).instance("node-1"))
            .alert_labelled(
                scenario.alert(),
                &scenario.expression(cpus),
                &[("severity", "critical")],
            )
            .alertmanager(alertmanager.address())
            .start()?;
        drop(inhabited);
        let inhabited = self.enter("paramedic")?;
        agent.configure(&config(&prometheus.url()))?;
        agent.restart()?;
        drop(inhabited);
        let said = format!(
            "Prometheus, Alertmanager, node exporter and paramedic are up after {:.0} s",
            begun.elapsed().as_secs_f64()
        );
        story.event(None, Beat::Ready, &said);
        Ok(Stack {
            agent,
            prometheus,
            _alertmanager: alertmanager,
            _exporter: exporter,
        })
    }

    /// Moves us into a child until the guard is dropped.
    fn enter(&self, name: &str) -> anyhow::Result<Inhabited<'_>> {
        let dir = Path::new(ROOT).join(SLICE).join(name);
        fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        move_to(&dir)?;
        Ok(Inhabited(self))
    }

    /// Removes every cgroup of the demo with all that is in them.
    fn remove(&self) -> anyhow::Result<()> {
        move_to(&self.home)?;
        let slice = Path::new(ROOT).join(SLICE);
        empty(&slice, Duration::from_secs(10))
    }
}

/// While we are in a cgroup of the demo.
struct Inhabited<'a>(&'a Slice);

impl Drop for Inhabited<'_> {
    fn drop(&mut self) {
        if let Err(error) = move_to(&self.0.home) {
            eprintln!("{error:#}");
        }
    }
}

/// Starts the innocent neighbour; the file with its latencies.
fn start_neighbour(mut web: Cgroup) -> anyhow::Result<(PathBuf, Cgroup)> {
    let file = scratch()?.join("web-latencies");
    let mut command = Command::new(sh::own_program()?);
    command.arg("demo-neighbour").arg(&file);
    web.spawn(command, FAULT_AT_MOST)?;
    Ok((file, web))
}

/// A writable folder for small files that nobody keeps.
fn scratch() -> anyhow::Result<PathBuf> {
    let dir = std::env::temp_dir().join("paramedic-demo");
    fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
    Ok(dir)
}

/// Waits until scrapes come in, the alert's condition does not hold and the CPUs have room.
/// The share of CPU time in use then.
fn calm(prometheus: &Prometheus, scenario: Scenario, cpus: usize) -> anyhow::Result<f64> {
    const LOOKS: u32 = 4;
    let busy = r#"1 - avg(rate(node_cpu_seconds_total{mode="idle"}[4s]))"#;
    let begun = Instant::now();
    let mut calm_looks = 0;
    let mut last = None;
    while calm_looks < LOOKS {
        if begun.elapsed() > CALM_WITHIN {
            bail!(
                "the node is not calm after {} s, so a fault would prove nothing: busy {}",
                CALM_WITHIN.as_secs(),
                last.map_or("unknown".into(), |busy: f64| format!("{busy:.2}"))
            );
        }
        thread::sleep(Duration::from_millis(800));
        let value = prometheus.query(busy)?;
        last = value.first().and_then(first_value);
        let ready = !prometheus.query(OBSERVED)?.is_empty()
            && prometheus.query(&scenario.expression(cpus))?.is_empty();
        let calm = ready && last.is_some_and(|busy| busy < 0.75);
        calm_looks = if calm { calm_looks + 1 } else { 0 };
    }
    Ok(last.unwrap_or_default())
}

fn first_value(sample: &Value) -> Option<f64> {
    sample["value"][1].as_str()?.parse().ok()
}

fn neighbour(file: &Path, fault: f64, report: &Report, agent: &Agent) -> Option<Latencies> {
    let verified = fault + report.mttr_s?;
    let incident = agent.incident(&report.incident).ok()?;
    let applied = incident["entries"]
        .as_array()?
        .iter()
        .find(|entry| entry["entry"] == "applied")?["at"]
        .as_str()
        .and_then(unix::seconds)?;
    // At least a moment of the calm that follows.
    let short = verified + 4.0 - unix::now();
    if short > 0.0 {
        thread::sleep(Duration::from_secs_f64(short.min(4.0)));
    }
    Latencies::read(file, fault, applied, verified)
}

/// A folder with everything in it, to another filesystem.
fn copy(from: &Path, to: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(to).with_context(|| format!("cannot make {}", to.display()))?;
    for entry in fs::read_dir(from).with_context(|| format!("cannot read {}", from.display()))? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        let kind = entry.file_type()?;
        if kind.is_dir() {
            copy(&entry.path(), &target)?;
        } else if kind.is_file() {
            fs::copy(entry.path(), &target)
                .with_context(|| format!("cannot copy {}", entry.path().display()))?;
        }
    }
    Ok(())
}
