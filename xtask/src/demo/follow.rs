//! Follows one incident through the agent's API, as anybody could, and tells each durable entry once.

mod tell;
pub mod unix;

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use paramedic_parts::{Agent, Prometheus};
use serde_json::Value;

use super::{
    report::{Ranked, Report},
    scenario::Scenario,
    story::{Beat, Story},
};

/// Between two looks.
const POLL: Duration = Duration::from_millis(150);

/// What the story waits for now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wait {
    Diagnosis,
    Decision,
    Effect,
    Verification,
    Resolution,
    Nothing,
}

impl Wait {
    /// By the entries that are there.
    fn next(entries: &[Value]) -> Self {
        let has = |name: &str| entries.iter().any(|entry| entry["entry"] == name);
        if has("failed") || has("refused") || (has("verified") && !healed(entries)) {
            Self::Nothing
        } else if !has("diagnosed") {
            Self::Diagnosis
        } else if !has("intended") {
            Self::Decision
        } else if !has("applied") {
            Self::Effect
        } else if !has("verified") {
            Self::Verification
        } else if has("resolved") {
            Self::Nothing
        } else {
            Self::Resolution
        }
    }

    fn what(self) -> &'static str {
        match self {
            Self::Diagnosis => "the diagnosis",
            Self::Decision => "the decision to act",
            Self::Effect => "the action",
            Self::Verification => "the verification",
            Self::Resolution => "the alert's end",
            Self::Nothing => "nothing",
        }
    }

    /// On an emulated CPU that a fault keeps busy.
    fn within(self) -> Duration {
        Duration::from_secs(match self {
            Self::Diagnosis | Self::Decision => 30,
            Self::Effect => 15,
            Self::Verification => 90,
            Self::Resolution => 60,
            Self::Nothing => 0,
        })
    }
}

fn healed(entries: &[Value]) -> bool {
    entries
        .iter()
        .any(|entry| entry["entry"] == "verified" && entry["outcome"]["kind"] == "healed")
}

/// Who and what is followed.
pub struct Follow<'a> {
    /// The agent.
    pub agent: &'a mut Agent,
    /// For telling why no alert came.
    pub prometheus: &'a Prometheus,
    /// Where it is told.
    pub story: Story,
    /// What is expected.
    pub scenario: Scenario,
    /// The guilty cgroup.
    pub culprit: &'a str,
    /// When the fault began, Unix seconds.
    pub fault: f64,
}

impl Follow<'_> {
    /// Follows to the end; the incident as it stood then, and what was wrong with it, if anything.
    pub fn run(&mut self) -> anyhow::Result<(Report, Vec<String>)> {
        let id = self.accepted()?;
        let mut told = 0;
        let mut wait = Wait::Diagnosis;
        let mut since = Instant::now();
        loop {
            let incident = self.alive(|agent| agent.incident(&id))?;
            let entries = incident["entries"].as_array().cloned().unwrap_or_default();
            for entry in entries.iter().skip(told) {
                let at = self.since_fault(&entry["at"]);
                tell::entry(self.story, at, entry, &entries);
            }
            told = told.max(entries.len());
            let next = Wait::next(&entries);
            if next != wait {
                (wait, since) = (next, Instant::now());
            }
            let late = since.elapsed() > wait.within();
            if wait == Wait::Nothing || late {
                let report = self.report(&id, &incident, &entries);
                let mut problems = self.problems(&report, &entries);
                if late && wait != Wait::Nothing {
                    let (what, s) = (wait.what(), wait.within().as_secs());
                    problems.insert(0, format!("{what} did not come within {s} s"));
                }
                return Ok((report, problems));
            }
            thread::sleep(POLL);
        }
    }

    /// Waits for the alert to be accepted; the incident's id.
    fn accepted(&mut self) -> anyhow::Result<String> {
        const WITHIN: Duration = Duration::from_mins(1);
        let begun = Instant::now();
        let alert = self.scenario.alert();
        while begun.elapsed() < WITHIN {
            let incidents = self.alive(Agent::incidents)?;
            for summary in &incidents {
                let opened = summary["opened_at"].as_str().and_then(unix::seconds);
                if summary["alert"] == alert && opened.is_some_and(|at| at >= self.fault) {
                    let id = summary["id"].as_str().context("a summary without an id")?;
                    return Ok(id.to_owned());
                }
            }
            thread::sleep(POLL);
        }
        let cpus = thread::available_parallelism()?.get();
        let seen = match self.prometheus.query(&self.scenario.expression(cpus)) {
            Ok(result) if result.is_empty() => {
                "Prometheus does not see the condition: the fault was too weak or not there"
                    .to_owned()
            }
            Ok(_) => {
                "Prometheus sees the condition: the webhook was not sent or not accepted".to_owned()
            }
            Err(error) => format!("Prometheus does not answer: {error:#}"),
        };
        bail!(
            "no incident for {alert} within {} s of the fault. {seen}",
            WITHIN.as_secs()
        )
    }

    /// One look; when it fails the agent must still be running.
    fn alive<T>(&mut self, look: impl Fn(&Agent) -> anyhow::Result<T>) -> anyhow::Result<T> {
        let mut last = None;
        for _ in 0..20 {
            match look(self.agent) {
                Ok(found) => return Ok(found),
                Err(error) => last = Some(error),
            }
            if let Some(status) = self.agent.process()?.ended() {
                bail!("the agent ended with {status}");
            }
            thread::sleep(POLL);
        }
        Err(last.unwrap_or_else(|| anyhow::anyhow!("no look was taken")))
            .context("the agent runs but its API does not answer")
    }

    fn since_fault(&self, at: &Value) -> Option<f64> {
        Some(at.as_str().and_then(unix::seconds)? - self.fault)
    }

    fn report(&self, id: &str, incident: &Value, entries: &[Value]) -> Report {
        let find = |name: &str| entries.iter().find(|entry| entry["entry"] == name);
        let at = |name: &str| find(name).and_then(|entry| self.since_fault(&entry["at"]));
        let round = |value: f64| (value * 1000.0).round() / 1000.0;
        let diagnosed = find("diagnosed");
        let top = diagnosed
            .and_then(|entry| entry["diagnosis"]["top"].as_array())
            .into_iter()
            .flatten()
            .map(|cause| Ranked {
                hypothesis: cause["id"].as_str().unwrap_or_default().to_owned(),
                posterior: round(cause["posterior"].as_f64().unwrap_or_default()),
                culprit: cause["culprit"]["path"].as_str().map(str::to_owned),
            })
            .collect();
        let action = find("intended").map(|entry| &entry["intent"]["action"]);
        let text = |field: &str| Some(action?[field].as_str()?.to_owned());
        let verified = healed(entries);
        Report {
            scenario: self.scenario.name().to_owned(),
            kernel: crate::test::release(),
            alert_s: round(
                self.since_fault(&incident["episode"]["alert"]["starts_at"])
                    .unwrap_or_default(),
            ),
            accepted_s: round(at("opened").unwrap_or_default()),
            diagnosis_ms: diagnosed
                .and_then(|entry| entry["since_open_ms"].as_u64())
                .unwrap_or_default(),
            top,
            action: text("kind"),
            target: text("path"),
            verified,
            mttr_s: at("verified").filter(|_| verified).map(round),
            resolved_s: at("resolved").map(round),
            incident: id.to_owned(),
            neighbour: None,
            record: String::new(),
        }
    }

    /// What is not as it should be.
    fn problems(&self, report: &Report, entries: &[Value]) -> Vec<String> {
        let mut problems = Vec::new();
        let mut want = |what: &str, wanted: &str, found: Option<&str>| {
            if found != Some(wanted) {
                let found = found.unwrap_or("none");
                problems.push(format!("{what} is {found}, expected was {wanted}"));
            }
        };
        let top = report.top.first().map(|top| top.hypothesis.as_str());
        want("the top hypothesis", self.scenario.name(), top);
        want(
            "the action",
            self.scenario.action(),
            report.action.as_deref(),
        );
        want("its target", self.culprit, report.target.as_deref());
        if !report.verified {
            problems.push("recovery was not verified".to_owned());
        }
        for entry in entries {
            if let Some(error) = entry["error"].as_str() {
                problems.push(format!("the agent says: {error}"));
            }
        }
        problems
    }

    /// The alert's own line comes before that of its acceptance.
    pub fn tell_fault(&self, what: &str) {
        self.story.event(Some(0.0), Beat::Fault, what);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::Wait;

    #[test]
    fn what_comes_next_follows_from_what_is_there() {
        let entries = |names: &[&str]| {
            let entry = |name: &&str| match *name {
                "healed" => json!({"entry": "verified", "outcome": {"kind": "healed"}}),
                "no_effect" => json!({"entry": "verified", "outcome": {"kind": "no_effect"}}),
                name => json!({ "entry": name }),
            };
            names.iter().map(entry).collect::<Vec<_>>()
        };
        for (names, wait) in [
            (&["opened"][..], Wait::Diagnosis),
            (&["opened", "diagnosed"], Wait::Decision),
            (&["opened", "diagnosed", "refused"], Wait::Nothing),
            (&["diagnosed", "intended"], Wait::Effect),
            (&["diagnosed", "intended", "applied"], Wait::Verification),
            (
                &["diagnosed", "intended", "applied", "resolved"],
                Wait::Verification,
            ),
            (
                &["diagnosed", "intended", "applied", "no_effect"],
                Wait::Nothing,
            ),
            (
                &["diagnosed", "intended", "applied", "healed"],
                Wait::Resolution,
            ),
            (
                &["diagnosed", "intended", "applied", "healed", "resolved"],
                Wait::Nothing,
            ),
        ] {
            assert_eq!(Wait::next(&entries(names)), wait, "{names:?}");
        }
    }
}
