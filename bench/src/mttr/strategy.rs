//! Who answers: the agent's configuration for each strategy, and the script.

use std::path::PathBuf;

use paramedic_tests::Agent;

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

    /// Puts it in place: from now on alerts go to it.
    pub fn start(
        self,
        slice: &Slice,
        relay: &Relay,
        prometheus: &str,
    ) -> anyhow::Result<Answering> {
        relay.set(Behind::Nobody);
        if let Some(config) = self.config(prometheus) {
            let agent = slice.within("paramedic", || Agent::start(&config))?;
            if self != Self::ParamedicLocal {
                relay.set(Behind::Agent(agent.address()));
            }
            return Ok(Answering {
                agent: Some(agent),
                victims: None,
                _folder: None,
            });
        }
        let mut answering = Answering {
            agent: None,
            victims: None,
            _folder: None,
        };
        if self == Self::Script {
            let folder = paramedic_tests::tools::temporary_folder()?;
            let victims = folder.path().join("victims");
            relay.set(Behind::Script {
                file: Catalogue::shipped().join("responder.sh"),
                victims: victims.clone(),
                cgroup: Slice::child("responder")?,
            });
            answering.victims = Some(victims);
            answering._folder = Some(folder);
        }
        Ok(answering)
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
