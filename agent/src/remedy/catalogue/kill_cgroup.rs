//! `kill-cgroup`: ends every process of the target for good. Not reversible, so it needs its name in
//! `remedy.allow`, a rule at level `act` and the node at level `act`.

use std::{
    thread,
    time::{Duration, Instant},
};

use crate::{
    incident::{Holder, KnobChange},
    remedy::cgroup::{Cgroup, CgroupError},
};

/// The file that is written; nothing can be read back from it.
pub const FILE: &str = "cgroup.kill";
/// How long the dead may take to go. They cannot refuse, but one may be stuck in the kernel.
const GONE_WITHIN: Duration = Duration::from_secs(2);
const POLL: Duration = Duration::from_millis(2);

/// The write. No prior value: there is nothing to go back to.
pub fn change() -> KnobChange {
    KnobChange {
        of: Holder::Cgroup,
        file: FILE.to_owned(),
        prior: String::new(),
        value: "1".to_owned(),
    }
}

/// Kills, and waits until nobody is left. False when somebody still is after two seconds.
pub fn kill(target: &Cgroup) -> Result<bool, CgroupError> {
    target.kill()?;
    wait_empty(target, GONE_WITHIN)
}

/// Waits until a cgroup has no live process; a removed one has none.
pub fn wait_empty(target: &Cgroup, within: Duration) -> Result<bool, CgroupError> {
    let deadline = Instant::now() + within;
    loop {
        match target.populated() {
            Ok(false) | Err(CgroupError::Gone { .. }) => return Ok(true),
            Ok(true) if Instant::now() >= deadline => return Ok(false),
            Ok(true) => thread::sleep(POLL),
            Err(error) => return Err(error),
        }
    }
}
