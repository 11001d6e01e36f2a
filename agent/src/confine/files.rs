//! Files that may be touched, by Landlock (Linux 5.13 or later; what a kernel does not know is left out, and
//! where it has no Landlock, nothing is confined).

use std::{
    os::fd::{BorrowedFd, OwnedFd},
    path::Path,
};

use landlock::{
    ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, PathBeneath, Ruleset, RulesetAttr,
    RulesetCreatedAttr, RulesetError, RulesetStatus, Scope, path_beneath_rules,
};

/// The newest rights that are asked for: those on files up to Linux 6.10, on sockets and signals up to 6.12.
const FILES: ABI = ABI::V5;
const NETWORK: ABI = ABI::V4;
const SCOPES: ABI = ABI::V6;

/// Where a command's program, its libraries and what it reads are.
const COMMANDS_READ: [&str; 10] = [
    "/usr",
    "/bin",
    "/sbin",
    "/lib",
    "/lib64",
    "/etc",
    "/proc",
    "/sys",
    "/dev/zero",
    "/dev/urandom",
];

/// How far the kernel goes along.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Confined {
    /// All that was asked for.
    Whole,
    /// What this kernel knows of it.
    Partly,
    /// No Landlock here.
    Not,
}

impl Confined {
    /// A word for the log.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Whole => "whole",
            Self::Partly => "partly",
            Self::Not => "not",
        }
    }
}

/// From here on the calling thread, and all that it starts, changes files only at and below these places,
/// and runs no program. It reads what it could before; what is open stays open. Places that are not there
/// are left out. Sets `no_new_privs`.
///
/// # Errors
/// The kernel refuses.
pub fn write_only_below(places: &[&Path]) -> Result<Confined, RulesetError> {
    let status = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_write(FILES) | AccessFs::Execute)?
        .create()?
        .add_rules(path_beneath_rules(places, AccessFs::from_write(FILES)))?
        .restrict_self()?;
    Ok(match status.ruleset {
        RulesetStatus::FullyEnforced => Confined::Whole,
        RulesetStatus::PartiallyEnforced => Confined::Partly,
        RulesetStatus::NotEnforced => Confined::Not,
    })
}

/// For a child to enter by `landlock_restrict_self(2)`: it reads and runs what diagnostic commands need and
/// `program`, writes nothing, opens no TCP connection and signals nobody outside. `None` without Landlock.
///
/// # Errors
/// The kernel refuses.
pub(crate) fn of_command(program: BorrowedFd<'_>) -> Result<Option<OwnedFd>, RulesetError> {
    let read = AccessFs::from_read(FILES);
    let of_file = AccessFs::from_file(FILES);
    let null = path_beneath_rules(["/dev/null"], of_file & !AccessFs::Execute);
    let created = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(FILES))?
        .handle_access(AccessNet::from_all(NETWORK))?
        .scope(Scope::from_all(SCOPES))?
        .create()?
        .add_rules(path_beneath_rules(COMMANDS_READ, read))?
        .add_rules(null)?
        .add_rule(PathBeneath::new(program, read & of_file))?;
    Ok(created.into())
}
