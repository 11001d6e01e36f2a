//! Stage: evidence. The kernel's own account of the last minutes, from probes and readers.
//!
//! - [`kernel`]: what the probes count, behind a trait;
//! - `files`: those of `/proc` that are kept open; `host`, `filesystems`, `pressure`, `cgroup`, `process`: readers, each parsing apart from reading;
//! - `sample`: all cumulative counters at one moment; `window`: the difference of two of them;
//! - `account`: windows summed up into one [`crate::incident::Evidence`];
//! - [`recorder`]: the thread that keeps the last minutes of windows in fixed memory.

#[macro_use]
mod counters;
mod account;
mod cgroup;
mod config;
mod coverage;
mod errnos;
mod files;
mod filesystems;
mod happenings;
mod highest;
mod host;
pub mod kernel;
mod mounts;
mod node;
mod pressure;
pub mod probes;
mod process;
pub mod recorder;
pub mod recording;
mod sample;
mod scan;
mod sched;
mod syscalls;
mod window;

#[cfg(test)]
mod tests;

pub use config::EvidenceConfig;
pub(crate) use errnos::names as errno_names;
pub use kernel::{
    BlockedIn, KernelCounts, KernelProbes, NoKernel, OTHERS, ProbeCost, ProbeState, ProbeStatus,
    SchedCounts, SyscallMode, SyscallPlan,
};
pub use recorder::{Recorder, RecorderStats};

/// Why this host cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum EvidenceError {
    /// A setting is out of bounds.
    #[error("evidence settings are out of bounds: {}", .0.join("; "))]
    Config(Vec<String>),
    /// Without this file nothing can be said about the node.
    #[error("cannot read {path}: is /proc mounted?")]
    Proc {
        /// The file.
        path: &'static str,
        /// Why.
        #[source]
        source: procfs::ProcError,
    },
    /// The recorder's thread could not be started.
    #[error("cannot start the recorder's thread")]
    Thread(#[source] std::io::Error),
}
