//! What a process of ours can never do again, whatever becomes of it: system calls that it has no use for
//! ([`calls`]), files that it has no business with ([`files`]). Both hold for everything that it starts, and
//! cannot be taken back.
//!
//! The agent itself is not confined to files. Landlock hides every process outside of its domain from whatever
//! asks for `ptrace(2)`'s permission, as reading `/proc/PID/fd` and `/proc/PID/io` does, and looking at others
//! is what the agent is for. The guardian and the sandbox's commands are.

pub mod calls;
pub mod files;

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
