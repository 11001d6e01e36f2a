//! What the agent gives up before it starts: every capability that nothing enabled has a use for, and
//! the ways to new ones.
//!
//! Capabilities belong to threads. What the only thread has given up, none that it starts has, and no
//! process either: this is done once, first of all, and never undone. There is nothing that only a
//! start needs; the systemd unit starts with less.

use std::{fs, io};

use rustix::{
    io::Errno,
    thread::{
        CapabilitySet, CapabilitySets, capabilities, capability_is_in_bounding_set,
        remove_capability_from_bounding_set, set_capabilities, set_no_new_privs,
    },
};
use serde::Serialize;
use url::Url;

use crate::{
    config::Config,
    incident::{ActionKind, Level},
};

/// Ports below it are for the privileged (`ip_unprivileged_port_start` may say otherwise).
const PORTS_UNPRIVILEGED: u16 = 1024;

/// A capability that some part has a use for.
struct Use {
    capability: CapabilitySet,
    name: &'static str,
    why: &'static str,
    wanted: fn(&Config) -> bool,
}

/// All of them; `docs/security.md` says what is lost without each.
const USES: [Use; 12] = [
    Use {
        capability: CapabilitySet::BPF,
        name: "CAP_BPF",
        why: "loading the probes",
        wanted: |config| config.probes.enabled,
    },
    Use {
        capability: CapabilitySet::PERFMON,
        name: "CAP_PERFMON",
        why: "attaching them to tracepoints",
        wanted: |config| config.probes.enabled,
    },
    Use {
        capability: CapabilitySet::SYS_ADMIN,
        name: "CAP_SYS_ADMIN",
        why: "the kernel's account of what the probes cost",
        wanted: |config| config.probes.enabled && config.probes.measure_cost,
    },
    Use {
        capability: CapabilitySet::DAC_OVERRIDE,
        name: "CAP_DAC_OVERRIDE",
        why: "reading other users' processes, writing limits in their cgroups",
        wanted: |_| true,
    },
    Use {
        capability: CapabilitySet::SYS_PTRACE,
        name: "CAP_SYS_PTRACE",
        why: "telling whose process is whose",
        wanted: |_| true,
    },
    Use {
        capability: CapabilitySet::SYS_RESOURCE,
        name: "CAP_SYS_RESOURCE",
        why: "PSI triggers before Linux 6.5",
        wanted: |_| true,
    },
    Use {
        capability: CapabilitySet::SYS_NICE,
        name: "CAP_SYS_NICE",
        why: "the journal's writers on a busy node",
        wanted: |_| true,
    },
    Use {
        capability: CapabilitySet::SYSLOG,
        name: "CAP_SYSLOG",
        why: "errors in the kernel's log",
        wanted: |_| true,
    },
    Use {
        capability: CapabilitySet::KILL,
        name: "CAP_KILL",
        why: "ending other users' processes and the sandbox's commands",
        wanted: |config| config.remedy.level >= Level::Approve || collects(config),
    },
    Use {
        capability: CapabilitySet::SETUID,
        name: "CAP_SETUID",
        why: "the sandbox's commands run as nobody",
        wanted: collects,
    },
    Use {
        capability: CapabilitySet::SETGID,
        name: "CAP_SETGID",
        why: "the sandbox's commands run as nobody",
        wanted: collects,
    },
    Use {
        capability: CapabilitySet::NET_BIND_SERVICE,
        name: "CAP_NET_BIND_SERVICE",
        why: "listening on a port below 1024",
        wanted: listens_low,
    },
];

/// Whether diagnostic commands may be run.
fn collects(config: &Config) -> bool {
    config.remedy.allow.contains(&ActionKind::Collect)
}

fn listens_low(config: &Config) -> bool {
    // What cannot be parsed is refused later, with a better message.
    let url = Url::parse(&format!("tcp://{}", config.intake.listen));
    url.is_ok_and(|url| url.port().is_some_and(|port| port < PORTS_UNPRIVILEGED))
}

/// Why nothing, or not everything, was given up.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReduceError {
    /// The other threads would keep what this one gives up.
    #[error("{0} threads are running already")]
    Threads(usize),
    /// The threads cannot be counted.
    #[error("cannot read /proc/self/task")]
    Count(#[source] io::Error),
    /// The kernel refuses.
    #[error("cannot {what}")]
    Kernel {
        /// To do what.
        what: &'static str,
        /// Why.
        #[source]
        source: Errno,
    },
}

/// A capability that the process has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Kept {
    /// `CAP_…`.
    pub(crate) capability: String,
    /// What for.
    pub(crate) why: &'static str,
}

/// What was done.
#[derive(Debug)]
pub(crate) struct Reduced {
    /// Still there.
    pub(crate) kept: Vec<Kept>,
    /// How many are gone.
    pub(crate) given_up: u32,
}

/// Gives up what this configuration has no use for, in this process and all that it starts. To be
/// called before there is a second thread.
///
/// # Errors
/// There is a second thread, or the kernel refuses a step; what was done before stays done.
pub(crate) fn reduce(config: &Config) -> Result<Reduced, ReduceError> {
    let threads = fs::read_dir("/proc/self/task").map_err(ReduceError::Count)?;
    match threads.count() {
        1 => {}
        more => return Err(ReduceError::Threads(more)),
    }
    let of = |what| move |source| ReduceError::Kernel { what, source };
    let wanted = wanted(config);
    // From here on no program that is executed gets more than this process has.
    set_no_new_privs(true).map_err(of("set no_new_privs"))?;
    let had = capabilities(None).map_err(of("read the capabilities"))?;
    if had.effective.contains(CapabilitySet::SETPCAP) {
        bound(wanted).map_err(of("reduce the bounding set"))?;
    }
    // Ambient capabilities that are no longer permitted go with them.
    let kept = CapabilitySets {
        effective: had.effective & wanted,
        permitted: had.permitted & wanted,
        inheritable: had.inheritable & wanted,
    };
    set_capabilities(None, kept).map_err(of("give up capabilities"))?;
    Ok(Reduced {
        kept: named(kept.permitted),
        given_up: (had.permitted & !wanted).bits().count_ones(),
    })
}

/// What the calling thread has now, which is what all of the agent's have.
pub(crate) fn kept() -> Vec<Kept> {
    capabilities(None).map_or_else(|_| Vec::new(), |sets| named(sets.effective))
}

fn wanted(config: &Config) -> CapabilitySet {
    let wanted = USES.iter().filter(|one| (one.wanted)(config));
    wanted.fold(CapabilitySet::empty(), |sum, one| sum | one.capability)
}

/// Takes all but these out of the bounding set, from which a program of root's would get them anew.
fn bound(wanted: CapabilitySet) -> Result<(), Errno> {
    for bit in 0..u64::BITS {
        let one = CapabilitySet::from_bits_retain(1 << bit);
        match capability_is_in_bounding_set(one) {
            Ok(true) if !wanted.contains(one) => remove_capability_from_bounding_set(one)?,
            Ok(_) => {}
            // Beyond the last that this kernel knows.
            Err(Errno::INVAL) => break,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn named(set: CapabilitySet) -> Vec<Kept> {
    (0..u64::BITS)
        .filter(|bit| set.bits() >> bit & 1 == 1)
        .map(|bit| {
            let known = USES.iter().find(|one| one.capability.bits() == 1 << bit);
            known.map_or_else(
                || Kept {
                    capability: format!("capability {bit}"),
                    why: "nothing here: it could not be given up",
                },
                |one| Kept {
                    capability: one.name.to_owned(),
                    why: one.why,
                },
            )
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn names(config: &Config) -> BTreeSet<String> {
        let kept = named(wanted(config)).into_iter();
        kept.map(|kept| kept.capability).collect()
    }

    #[test]
    fn what_is_not_enabled_needs_nothing() {
        let mut config = Config::default();
        let all = names(&config);
        assert!(!all.contains("CAP_NET_BIND_SERVICE"), "{all:?}");
        config.probes.enabled = false;
        config.remedy.level = Level::Observe;
        config.remedy.allow.clear();
        config.intake.listen = "[::]:443".to_owned();
        let fewest = names(&config);
        assert_eq!(
            all.difference(&fewest).collect::<Vec<_>>(),
            [
                "CAP_BPF",
                "CAP_KILL",
                "CAP_PERFMON",
                "CAP_SETGID",
                "CAP_SETUID",
                "CAP_SYS_ADMIN"
            ]
        );
        assert!(fewest.contains("CAP_NET_BIND_SERVICE"), "{fewest:?}");
        config.remedy.level = Level::Approve;
        assert!(names(&config).contains("CAP_KILL"));
        config.probes.enabled = true;
        config.probes.measure_cost = false;
        let unmeasured = names(&config);
        assert!(unmeasured.contains("CAP_BPF") && !unmeasured.contains("CAP_SYS_ADMIN"));
    }

    /// The document names each, in its table (what the unit has) or in the list below it.
    #[test]
    fn the_document_names_what_is_kept() {
        let text = include_str!("../../../../docs/security.md");
        let documented: BTreeSet<&str> = text
            .lines()
            .filter_map(|line| {
                let rest = line
                    .strip_prefix("| `CAP_")
                    .or_else(|| line.strip_prefix("- `CAP_"))?;
                rest.split('`').next()
            })
            .collect();
        let ours: BTreeSet<&str> = USES
            .iter()
            .map(|one| one.name.trim_start_matches("CAP_"))
            .collect();
        assert_eq!(documented, ours);
    }

    #[test]
    fn where_other_threads_run_nothing_is_given_up() {
        let (go_on, wait) = std::sync::mpsc::channel::<()>();
        let other = std::thread::spawn(move || wait.recv().is_err());
        let before = capabilities(None).unwrap();
        let refused = reduce(&Config::default());
        drop(go_on);
        assert!(other.join().unwrap());
        assert!(
            matches!(refused, Err(ReduceError::Threads(2..))),
            "{refused:?}"
        );
        assert_eq!(capabilities(None).unwrap(), before);
    }
}
