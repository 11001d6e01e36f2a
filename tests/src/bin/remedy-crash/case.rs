//! One crash: a life that is killed at one call, whoever comes after it, and what is left.

use std::{
    fs::{self, File},
    io::{Read, Write},
    os::unix::net::{UnixListener, UnixStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};
use paramedic::incident::ActionKind;
use paramedic_tests::{seccomp, tools};

use crate::{
    check, life,
    target::{Target, Values},
    watch::{self, Arm, Place, Point, Watch, Who},
};

/// For a life to start and for each of its steps, several at once on an emulated CPU.
const PATIENCE: Duration = Duration::from_mins(2);
/// For the guardian to end a dead agent's effects: the grace time, or the lease, and some.
const GUARDIAN_WITHIN: Duration = Duration::from_secs(30);

/// Who is killed, and who comes after.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Plan {
    /// Nobody.
    Calm,
    /// The agent; it is started again at once.
    Agent,
    /// The agent; it is started again when the guardian has done its work.
    AgentThenGuardian,
    /// The guardian; the agent lives on.
    Guardian,
    /// Both.
    Both,
    /// Both, at `first`; then the agent once more, at a call of its recovery.
    Recovery,
    /// The agent, at `first`; then the guardian, at a call of its work.
    GuardianAtWork,
}

impl Plan {
    /// Those in which somebody is killed.
    pub const CRASHES: [Self; 6] = [
        Self::Agent,
        Self::AgentThenGuardian,
        Self::Guardian,
        Self::Both,
        Self::Recovery,
        Self::GuardianAtWork,
    ];
}

/// One crash.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    pub kind: ActionKind,
    /// Whether recovery is seen; otherwise the effect is undone.
    pub heals: bool,
    pub plan: Plan,
    /// At this call, from 1; counted in the first life, in the recovery or in the guardian's work.
    pub at: usize,
    /// Of a crash in two steps, the first.
    pub first: Place,
}

/// What came of it.
#[derive(Debug, Default)]
pub struct Report {
    /// The call at which somebody was killed, and where the incident stood then; `None`: fewer calls
    /// were made, and this was no crash.
    pub fired: Option<(String, &'static str)>,
    /// Of a crash in two steps, whether the first came about.
    pub first_fired: bool,
    /// What must not be.
    pub wrong: Vec<String>,
    /// Calls of the life (or the guardian's work) that was to be killed, in their order.
    pub points: Vec<Point>,
}

struct Rig {
    case: Case,
    folder: tempfile::TempDir,
    target: Target,
    before: Values,
    sweep: UnixListener,
    watches: Vec<Watch>,
    report: Report,
}

impl Case {
    /// Runs it.
    ///
    /// # Errors
    /// The test itself did not work; what is wrong with the product stands in the report.
    pub fn run(self, number: usize, disk: &Path) -> anyhow::Result<Report> {
        let folder = tools::temporary_folder()?;
        let target = Target::make(&number.to_string(), self.kind, disk)?;
        let mut rig = Rig {
            case: self,
            before: target.values()?,
            sweep: UnixListener::bind(folder.path().join("sweep.sock"))?,
            folder,
            target,
            watches: Vec::new(),
            report: Report::default(),
        };
        let ran = rig.crash().and_then(|()| rig.end());
        if let Some(pid) = watch::guardian(rig.dir()) {
            watch::kill(pid)?;
            watch::wait_gone(pid)?;
        }
        let log = fs::read_to_string(rig.dir().join("log")).unwrap_or_default();
        let trouble = rig.watches.iter().find_map(|w| w.seen().trouble.clone());
        ran.and_then(|()| trouble.map_or(Ok(()), |trouble| bail!(trouble)))
            .with_context(|| format!("{self:?}\n{log}"))?;
        if !rig.report.wrong.is_empty() {
            rig.report.wrong.push(format!("{self:?}\n{log}"));
        }
        Ok(rig.report)
    }

    /// Whom the armed life is killed with, and at whose calls.
    fn arm(self) -> Option<Arm> {
        let at = Place::Call(self.at);
        let (agent, guardian, at) = match self.plan {
            Plan::Calm => return None,
            Plan::Agent | Plan::AgentThenGuardian => (true, false, at),
            Plan::Guardian => (false, true, at),
            Plan::Both => (true, true, at),
            Plan::Recovery => (true, true, self.first),
            Plan::GuardianAtWork => (true, false, self.first),
        };
        Some(Arm {
            whose: Who::Agent,
            at,
            agent,
            guardian,
            then_guardian: (self.plan == Plan::GuardianAtWork).then_some(self.at),
        })
    }
}

impl Rig {
    fn dir(&self) -> &Path {
        self.folder.path()
    }

    fn crash(&mut self) -> anyhow::Result<()> {
        let case = self.case;
        let begun = self.live(case.arm())?;
        match case.plan {
            Plan::Calm | Plan::Guardian => self.note(begun)?,
            Plan::Agent | Plan::Both => {
                self.note(begun)?;
                self.live_on(begun)?;
            }
            Plan::AgentThenGuardian => {
                self.note(begun)?;
                if self.fired(begun) {
                    self.wait_for_guardian()?;
                }
                self.live_on(begun)?;
            }
            // The first may not come about: on a slow machine the guardian helps an agent that is late,
            // and the agent finds nothing left to do.
            Plan::Recovery | Plan::GuardianAtWork if !self.fired(begun) => {}
            Plan::Recovery => {
                self.report.first_fired = true;
                let arm = Arm {
                    whose: Who::Agent,
                    at: Place::Call(case.at),
                    agent: true,
                    guardian: false,
                    then_guardian: None,
                };
                let second = self.live(Some(arm))?;
                self.note(second)?;
                self.live_on(second)?;
            }
            Plan::GuardianAtWork => {
                self.report.first_fired = true;
                self.wait_for_guardian()?;
                let (fired, points) = {
                    let seen = self.watches[begun].seen();
                    let from = seen.from.context("the guardian's calls were not counted")?;
                    (seen.fired_then.clone(), seen.guardian[from..].to_vec())
                };
                self.told(fired)?;
                self.report.points = points;
                let again = self.live(None)?;
                ensure!(!self.fired(again), "nobody was to be killed");
            }
        }
        Ok(())
    }

    /// The next life, if the one before was killed.
    fn live_on(&mut self, killed: usize) -> anyhow::Result<()> {
        if self.fired(killed) {
            self.live(None)?;
        }
        Ok(())
    }

    fn fired(&self, life: usize) -> bool {
        self.watches[life].seen().fired.is_some()
    }

    /// Remembers where it was killed.
    fn note(&mut self, life: usize) -> anyhow::Result<()> {
        let (fired, points) = {
            let seen = self.watches[life].seen();
            (seen.fired.clone(), seen.agent.clone())
        };
        self.report.points = points;
        self.told(fired)
    }

    fn told(&mut self, fired: Option<String>) -> anyhow::Result<()> {
        if let Some(what) = fired {
            let incident = check::incident(self.dir())?;
            self.report.fired = Some((what, check::phase(incident.as_ref())));
        }
        Ok(())
    }

    /// One life to its end; its place in `watches`.
    fn live(&mut self, arm: Option<Arm>) -> anyhow::Result<usize> {
        let mut child = self.start()?;
        let mut stream = accept(&self.sweep)?;
        let listener = seccomp::take_over(&stream).context("a life")?;
        let watch = Watch::start(listener, child.0.id(), self.dir(), arm);
        self.watches.push(watch);
        let life = self.watches.len() - 1;
        let mut byte = [0];
        // Ended by its death, or by its end.
        while stream.read(&mut byte).context("a life that hangs")? == 1 {
            match byte[0] {
                life::BEGUN => self.watches[life].seen().counting = true,
                life::SETTLED => {
                    let incident = check::incident(self.dir())?;
                    let now = self.target.values()?;
                    let wrong = check::settled(incident.as_ref(), &self.before, &now);
                    self.report.wrong.extend(wrong);
                }
                other => bail!("a life says {other}"),
            }
            if stream.write_all(&[1]).is_err() {
                break;
            }
        }
        let status = child.0.wait()?;
        let agent_killed = self.fired(life) && arm.is_some_and(|arm| arm.agent);
        ensure!(
            agent_killed || status.success(),
            "a life ended with {status}"
        );
        Ok(life)
    }

    fn start(&self) -> anyhow::Result<Ended> {
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.dir().join("log"))?;
        let mut command = Command::new(std::env::current_exe()?);
        command
            .arg("life")
            .arg("--dir")
            .arg(self.dir())
            .args(["--path", &self.target.cgroup.path()])
            .args(["--action", &self.case.kind.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        if self.case.heals {
            command.arg("--heals");
        }
        Ok(Ended(command.spawn().context("cannot start a life")?))
    }

    /// Until it has ended every lease, or is dead.
    fn wait_for_guardian(&self) -> anyhow::Result<()> {
        let begun = Instant::now();
        while begun.elapsed() < GUARDIAN_WITHIN {
            let leases = files(&self.dir().join("leases"), "lease")?;
            if leases.is_empty() || watch::guardian(self.dir()).is_none() {
                return Ok(());
            }
            thread::sleep(Duration::from_millis(10));
        }
        bail!("the guardian does not end the leases of a dead agent")
    }

    /// When everybody has done what is to be done.
    fn end(&mut self) -> anyhow::Result<()> {
        // A file that somebody left half written, or a note that came too late to be read: the next start
        // takes it away.
        if !check::leftovers(self.dir())?.is_empty() {
            self.live(None)?;
        }
        let incident = check::incident(self.dir())?;
        let now = self.target.values()?;
        let wrong = &mut self.report.wrong;
        wrong.extend(check::ended(incident.as_ref(), &self.before, &now));
        let mut carried_out = Vec::new();
        for watch in &self.watches {
            let seen = watch.seen();
            carried_out.extend(seen.agent.iter().chain(&seen.guardian).cloned());
        }
        if let Some((intent, _)) = incident.as_ref().and_then(|incident| incident.intent()) {
            wrong.extend(check::repeated(intent, &carried_out));
        }
        wrong.extend(check::leftovers(self.folder.path())?);
        Ok(())
    }
}

fn files(dir: &Path, extension: &str) -> anyhow::Result<Vec<PathBuf>> {
    if !dir.is_dir() {
        return Ok(Vec::new());
    }
    let mut found = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.extension().is_some_and(|its| its == extension) {
            found.push(path);
        }
    }
    Ok(found)
}

/// Ended by us, whatever happens here.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        self.0.kill().unwrap_or_default();
        drop(self.0.wait());
    }
}

fn accept(listener: &UnixListener) -> anyhow::Result<UnixStream> {
    listener.set_nonblocking(true)?;
    let begun = Instant::now();
    loop {
        match listener.accept() {
            Ok((stream, _)) => {
                stream.set_nonblocking(false)?;
                stream.set_read_timeout(Some(PATIENCE))?;
                return Ok(stream);
            }
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                ensure!(begun.elapsed() < PATIENCE, "a life does not start");
                thread::sleep(Duration::from_millis(2));
            }
            Err(error) => return Err(error.into()),
        }
    }
}
