//! What a process of ours can never do again, whatever becomes of it: system calls that it has no use for
//! ([`calls`]), files that it has no business with ([`files`]). Both hold for everything that it starts, and
//! cannot be taken back.
//!
//! The agent itself is not confined to files. Landlock hides every process outside of its domain from whatever
//! asks for `ptrace(2)`'s permission, as reading `/proc/PID/fd` and `/proc/PID/io` does, and looking at others
//! is what the agent is for. The guardian and the sandbox's commands are.

pub mod calls;
pub mod files;

use tracing::warn;

/// Who is confined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// `paramedic run`.
    Agent,
    /// `paramedic guardian`: writes a few files.
    Guardian,
    /// A diagnostic command in the sandbox: reads a few files.
    Command,
}

/// Refuses the calling thread, and all that it starts, the system calls that its role has no use for. A process
/// with more than it needs is better than none: what goes wrong is said, not more.
pub(crate) fn refuse_calls(role: Role) {
    if let Err(error) = calls::Calls::of(role).and_then(|calls| calls.enter()) {
        let error = &error as &dyn std::error::Error;
        warn!(
            error,
            "this process may make system calls that it has no use for"
        );
    }
}
