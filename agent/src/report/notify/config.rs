//! Who is told of incidents, with limits, defaults and reasons.

use std::{path::PathBuf, time::Duration};

use serde::{Deserialize, Serialize};
use url::Url;

use super::template;
use crate::ledger::State;

/// More would be a mistake; their names are labels of a metric.
const SINKS_MAX: usize = 8;

/// How a sink wants to be spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SinkKind {
    /// A JSON object with everything.
    Webhook,
    /// `{"text": …}`, as Slack, Mattermost and their like take it.
    Slack,
}

/// One receiver of notifications.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SinkConfig {
    /// Its name in logs and metrics: 1 to 63 characters of `a-z`, `0-9`, `-` and `_`.
    pub name: String,
    /// Webhook or Slack-compatible.
    pub kind: SinkKind,
    /// Where to; for one that is a secret, `url_file`.
    #[serde(default)]
    pub url: Option<String>,
    /// A file that holds the URL.
    #[serde(default)]
    pub url_file: Option<PathBuf>,
    /// Authorities to trust in place of the system's, PEM.
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
    /// At which states of an incident; `holding`, `rolled_back`, `reported` and `failed` by default:
    /// once an incident, when it is known how it went.
    #[serde(default = "states")]
    pub states: Vec<State>,
    /// Text with `{{field}}`s; see docs/notifications.md.
    #[serde(default = "shipped_template")]
    pub template: String,
    /// Notifications a minute at most; what comes faster waits, and what does not find room is
    /// counted and told of in the next one. 1 to 600, 20 by default.
    #[serde(default = "per_minute")]
    pub per_minute: u32,
    /// For one attempt, milliseconds; 100 to 30,000, 5,000 by default.
    #[serde(default = "timeout_ms")]
    pub timeout_ms: u64,
    /// How long a notification is tried before it is given up, seconds; 1 to 3,600, 300 by default.
    #[serde(default = "give_up_s")]
    pub give_up_s: u64,
}

fn states() -> Vec<State> {
    vec![
        State::Proposed,
        State::Holding,
        State::RolledBack,
        State::Reported,
        State::Failed,
    ]
}

fn shipped_template() -> String {
    template::SHIPPED.to_owned()
}

fn per_minute() -> u32 {
    20
}

fn timeout_ms() -> u64 {
    5_000
}

fn give_up_s() -> u64 {
    300
}

impl SinkConfig {
    pub(super) fn timeout(&self) -> Duration {
        Duration::from_millis(self.timeout_ms)
    }

    pub(super) fn give_up(&self) -> Duration {
        Duration::from_secs(self.give_up_s)
    }

    fn problems(&self, problems: &mut Vec<String>) {
        let name = &self.name;
        let mut say = |field: &str, why: String| {
            problems.push(format!("notify.sinks[{name}].{field}: {why}"));
        };
        let plain = |b: u8| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_');
        if !(1..=63).contains(&name.len()) || !name.bytes().all(plain) {
            say(
                "name",
                "not 1 to 63 characters of a-z, 0-9, '-' and '_'".to_owned(),
            );
        }
        match (&self.url, &self.url_file) {
            (Some(url), None) => {
                if let Err(why) = checked(url) {
                    say("url", why);
                }
            }
            (None, Some(_)) => {}
            _ => say("url", "give either url or url_file".to_owned()),
        }
        if self.states.is_empty() {
            say("states", "empty: name at least one".to_owned());
        }
        if let Err(why) = template::check(&self.template) {
            say("template", why);
        }
        let mut bound = |field: &str, value: u64, min: u64, max: u64| {
            if !(min..=max).contains(&value) {
                say(field, format!("{value} is not within {min} to {max}"));
            }
        };
        bound("per_minute", u64::from(self.per_minute), 1, 600);
        bound("timeout_ms", self.timeout_ms, 100, 30_000);
        bound("give_up_s", self.give_up_s, 1, 3_600);
    }
}

/// An address that can be posted to.
pub(super) fn checked(url: &str) -> Result<Url, String> {
    // The text itself may be a secret: it is not repeated.
    let url: Url = url
        .trim()
        .parse()
        .map_err(|error| format!("not a URL: {error}"))?;
    if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
        return Err("not an http or https URL".to_owned());
    }
    Ok(url)
}

/// Configuration of notifications. None without sinks.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NotifyConfig {
    /// Where people reach the page, for links: `https://node.example:9911`; without it there are none.
    pub page_url: Option<String>,
    /// Name of this node in notifications; the host's name by default.
    pub node: Option<String>,
    /// Seconds in which the same alert, state and cause are told of once; 0 to 86,400, 300 by default.
    /// An alert that flaps is a new incident each time.
    pub repeat_s: u64,
    /// At most eight.
    pub sinks: Vec<SinkConfig>,
}

impl Default for NotifyConfig {
    fn default() -> Self {
        Self {
            page_url: None,
            node: None,
            repeat_s: 300,
            sinks: Vec::new(),
        }
    }
}

impl NotifyConfig {
    /// Every field out of bounds, one sentence each; empty when all is well.
    pub fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if let Some(Err(why)) = self.page_url.as_deref().map(checked) {
            problems.push(format!("notify.page_url: {why}"));
        }
        if self.repeat_s > 86_400 {
            let repeat_s = self.repeat_s;
            problems.push(format!(
                "notify.repeat_s: {repeat_s} is not within 0 to 86400"
            ));
        }
        if self.sinks.len() > SINKS_MAX {
            let sinks = self.sinks.len();
            problems.push(format!("notify.sinks: {sinks}, at most {SINKS_MAX}"));
        }
        for (nth, sink) in self.sinks.iter().enumerate() {
            sink.problems(&mut problems);
            if self.sinks[..nth]
                .iter()
                .any(|other| other.name == sink.name)
            {
                let name = &sink.name;
                problems.push(format!("notify.sinks[{name}].name: given twice"));
            }
        }
        problems
    }

    /// Name of this node.
    pub(super) fn node_name(&self) -> String {
        let own = || {
            let name = std::fs::read_to_string("/proc/sys/kernel/hostname");
            name.map_or_else(|_| "this node".to_owned(), |name| name.trim().to_owned())
        };
        self.node.clone().unwrap_or_else(own)
    }
}

/// The URL's file as an error's object.
pub(super) const URL_FILE: &str = "notify.sinks.url_file";
