//! Who answers: the agent's configuration for each strategy, and the script.

use std::path::PathBuf;

use paramedic_parts::Agent;

use super::{
    relay::{Behind, Relay},
    scenario::{Catalogue, Strategy},
    slice::Slice,
};

/// Segments are written before they are used; a trial fills few of them.
const JOURNAL: &str = "journal: {fast_segment_bytes: 4194304, safe_segment_bytes: 16777216}\n";
/// The node's own triggers at their quickest. The kernel's shortest window is half a second; a node
/// that is short of CPU stalls nearly all of it. The evidence must not be older than the trouble.
const LOCAL: &str = "pressure:\n  window_ms: 500\n  hold_s: 0\n  \
                     cpu: {stalled_ms: 450}\n  memory: {stalled_ms: 100}\n  \
                     io: {stalled_ms: 400, full: true}\n\
                     evidence: {window_s: 1, period_ms: 250}\n";

/// `cpu.weight` of whoever answers, agent and script alike: what is to heal a starved node must not
/// starve with it (as `CPUWeight=` of its unit).
pub const RESPONDER_WEIGHT: &str = "1000";

/// What answers in one trial.
pub struct Answering {
    /// The agent, if it is one.
    pub agent: Option<Agent>,
    /// What the script killed, if it is one.
    pub victims: Option<PathBuf>,
    _folder: Option<tempfile::TempDir>,
}

impl Strategy {
    /// The agent's configuration file; the same in every scenario.
    pub fn config(self, prometheus: &str) -> Option<String> {
        let own = match self {
            Self::None | Self::Script => return None,
            Self::ParamedicAlert => "pressure: {enabled: false}\n",
            Self::ParamedicLocal => LOCAL,
            Self::ParamedicNokernel => "pressure: {enabled: false}\nprobes: {enabled: false}\n",
        };
        Some(format!(
            "state_dir: $STATE\nintake: {{listen: \"$LISTEN\"}}\n\
             sampling: {{prometheus_url: \"{prometheus}\"}}\nremedy: {{level: act}}\n{JOURNAL}{own}"
        ))
    }

    /// Starts it; no alert reaches it yet.
    pub fn start(self, slice: &Slice, prometheus: &str) -> anyhow::Result<Answering> {
        let agent = match self.config(prometheus) {
            Some(config) => {
                Some(slice.within("paramedic", RESPONDER_WEIGHT, || Agent::start(&config))?)
            }
            None => None,
        };
        let folder = match self {
            Self::Script => Some(paramedic_parts::tools::temporary_folder()?),
            _ => None,
        };
        let victims = folder.as_ref().map(|folder| folder.path().join("victims"));
        Ok(Answering {
            agent,
            victims,
            _folder: folder,
        })
    }

    /// From now on alerts go to it. Not before the node is at rest: what is left of the trial before
    /// must not be answered.
    pub fn arm(self, relay: &Relay, answering: &Answering) -> anyhow::Result<()> {
        relay.set(match (self, &answering.agent, &answering.victims) {
            (Self::ParamedicAlert | Self::ParamedicNokernel, Some(agent), _) => {
                Behind::Agent(agent.address())
            }
            (_, _, Some(victims)) => {
                let cgroup = Slice::child("responder")?;
                cgroup.set("cpu.weight", RESPONDER_WEIGHT)?;
                Behind::Script {
                    file: Catalogue::shipped().join("responder.sh"),
                    victims: victims.clone(),
                    cgroup,
                }
            }
            _ => Behind::Nobody,
        });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use paramedic::config::Config;

    use super::Strategy;

    #[test]
    fn the_agent_takes_every_configuration_and_each_is_what_its_name_says() {
        for strategy in Strategy::ALL {
            let Some(text) = strategy.config("http://127.0.0.1:9090") else {
                assert!(!strategy.is_agent());
                continue;
            };
            let text = text
                .replace("$STATE", "/tmp/x")
                .replace("$LISTEN", "127.0.0.1:1");
            let config = Config::parse(&text, Path::new("paramedic.yaml")).unwrap();
            assert_eq!(
                config.pressure.enabled,
                strategy == Strategy::ParamedicLocal
            );
            assert_eq!(
                config.probes.enabled,
                strategy != Strategy::ParamedicNokernel
            );
        }
    }
}
