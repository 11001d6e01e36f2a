//! Which privileges are missing, and what does not work without them: said once at start.

mod reduce;

pub(crate) use reduce::{Kept, kept, reduce};

/// Numbers of `linux/capability.h`.
const NAMES: [(u32, &str); 5] = [
    (1, "CAP_DAC_OVERRIDE"),
    (19, "CAP_SYS_PTRACE"),
    (23, "CAP_SYS_NICE"),
    (38, "CAP_PERFMON"),
    (39, "CAP_BPF"),
];
const CAP_SYS_ADMIN: u32 = 21;

/// What each need costs when it is not met.
const NEEDS: [(&[u32], &str); 4] = [
    (
        &[39, 38],
        "no kernel probes; procfs, PSI and cgroup files stand in for them",
    ),
    (
        &[1],
        "no action on cgroups that are not delegated to this user; diagnoses are only reported",
    ),
    (
        &[19],
        "other users' processes can't be identified, so cgroups that hold any count as protected",
    ),
    (
        &[23],
        "the journal's writers run at ordinary priority and are slower on a busy node",
    ),
];

/// One sentence a missing privilege, from the text of `/proc/self/status`; empty when all are there.
pub(super) fn missing(status: &str) -> Vec<String> {
    let effective = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|digits| u64::from_str_radix(digits.trim(), 16).ok())
        .unwrap_or(0);
    let has = |capability: u32| effective >> capability & 1 == 1;
    NEEDS
        .iter()
        .filter_map(|(needed, without)| {
            let lacking: Vec<&str> = needed
                .iter()
                // Before Linux 5.8 CAP_SYS_ADMIN stood for both, and it still does.
                .filter(|&&number| !(has(number) || number >= 38 && has(CAP_SYS_ADMIN)))
                .filter_map(|number| NAMES.iter().find(|(known, _)| known == number))
                .map(|(_, name)| *name)
                .collect();
            (!lacking.is_empty()).then(|| {
                format!(
                    "{} missing (run as root, or grant it in the unit's AmbientCapabilities): {without}",
                    lacking.join(" and ")
                )
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::missing;

    fn status(effective: u64) -> String {
        format!("Name:\tparamedic\nCapPrm:\t0\nCapEff:\t{effective:016x}\n")
    }

    #[test]
    fn root_misses_nothing() {
        assert!(missing(&status(0x0000_01ff_ffff_ffff)).is_empty());
    }

    #[test]
    fn an_ordinary_user_reads_which_capability_and_what_it_costs() {
        let found = missing(&status(0));
        assert_eq!(found.len(), 4);
        assert!(
            found[0].starts_with("CAP_BPF and CAP_PERFMON missing"),
            "{}",
            found[0]
        );
        assert!(found[0].contains("procfs"), "{}", found[0]);
    }

    #[test]
    fn cap_sys_admin_stands_for_the_probes_capabilities() {
        let found = missing(&status(1 << 21));
        assert!(
            found.iter().all(|line| !line.contains("CAP_BPF")),
            "{found:?}"
        );
    }
}
