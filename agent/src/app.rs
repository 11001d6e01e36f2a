//! The only wiring: configuration -> build -> run -> drain.
//!
//! The order of a start matters. The listener is bound first, so that a taken port is known before
//! anything else is touched. What an earlier life left unfinished is settled before intake opens, so
//! that no alert meets a half-known past. A stop goes the other way round: intake closes, episodes
//! that are being handled get their grace time, leases stay in the journal, the journal closes last.

mod gate;
mod privileges;

use std::{
    sync::{Arc, RwLock},
    time::Duration,
};

use tokio::{
    net::TcpListener,
    signal::unix::{Signal, SignalKind, signal},
};
use tracing::{error, info, warn};

pub use gate::Gate;

use crate::{
    clock::SystemClock,
    config::{Config, RulesConfig},
    diagnosis::{Finding, RuleSet},
    evidence::{
        EvidenceError, KernelProbes, ProbeState, Recorder,
        probes::Probes,
    },
    intake::{self, ServerError},
    journal::JournalError,
    ledger::{Found, Ledger, LedgerError, SharedLedger},
    pipeline::{self, Keeper, Stages, SyscallWatch},
    remedy::{Remedies, RemedyError},
    report::{self, Metrics, ReportState},
    routing::Router,
    sampling::{Sampler, SamplingError},
};

/// Why the agent could not start, or did not end well.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// The address is taken or not ours.
    #[error(transparent)]
    Server(#[from] ServerError),
    /// The state directory cannot be used.
    #[error("cannot open the journal in {dir}: is another agent running there, or is state_dir not writable?")]
    Journal {
        /// The journal's directory.
        dir: String,
        /// Why.
        #[source]
        source: JournalError,
    },
    /// Rule files with findings.
    #[error("the rules were refused:\n{}", findings.iter().map(Finding::to_string).collect::<Vec<_>>().join("\n"))]
    Rules {
        /// All of them.
        findings: Vec<Finding>,
    },
    /// The readers could not start.
    #[error("cannot start reading this host")]
    Evidence(#[from] EvidenceError),
    /// Prometheus' address is not one.
    #[error("cannot set up the sampling of Prometheus")]
    Sampling(#[from] SamplingError),
    /// No cgroup v2 to act on, and the like.
    #[error("cannot set up the remedies")]
    Remedy(#[from] RemedyError),
    /// What an earlier life left could not be settled.
    #[error("cannot settle what an earlier run left unfinished")]
    Resume(#[source] LedgerError),
    /// Signals.
    #[error("cannot listen for signals")]
    Signals(#[source] std::io::Error),
}

/// The rules that the configuration names, or the shipped ones.
///
/// # Errors
/// Every finding of the rule files.
pub fn load_rules(config: &RulesConfig) -> Result<RuleSet, Vec<Finding>> {
    if config.dirs.is_empty() {
        RuleSet::shipped()
    } else {
        RuleSet::load(&config.dirs)
    }
}
