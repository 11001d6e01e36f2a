//! Stage: evidence. The kernel's own account of the last minutes, from probes and readers.

pub mod kernel;
pub mod probes;

pub use kernel::{KernelCounts, KernelProbes, NoKernel, ProbeState, ProbeStatus};
