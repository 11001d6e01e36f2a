//! Why a probe is not attached, in words that name the way out.

use std::{error::Error, fmt::Write as _, fs, io};

use aya::{EbpfError, programs::ProgramError};

/// The verifier's last lines that are kept.
const VERIFIER_LINES: usize = 6;

/// `(bit, name)` of the capabilities that loading needs, from `linux/capability.h`.
const NEEDED: [(u32, &str); 2] = [(39, "CAP_BPF"), (38, "CAP_PERFMON")];
const CAP_SYS_ADMIN: u32 = 21;

/// Why nothing of the object could be loaded.
pub fn of_object(error: &EbpfError) -> String {
    refused(error).unwrap_or_else(|| chain("the object was refused", error))
}

/// Why one program could not be loaded or attached.
pub fn of_program(step: &str, error: &ProgramError) -> String {
    if let ProgramError::LoadError {
        io_error,
        verifier_log,
    } = error
        && io_error.kind() != io::ErrorKind::PermissionDenied
    {
        let said = last_lines(&verifier_log.to_string());
        return format!("the verifier refused it ({io_error}): {said}");
    }
    // A verifier's complaint about a right is EACCES and has a log; a missing right is EPERM.
    if let ProgramError::LoadError { verifier_log, .. } = error {
        let said = last_lines(&verifier_log.to_string());
        if !said.is_empty() {
            return format!("the verifier refused it: {said}");
        }
    }
    refused(error).unwrap_or_else(|| chain(&format!("cannot {step}"), error))
}

/// Explains a missing right, if that is what it is.
fn refused(error: &(dyn Error + 'static)) -> Option<String> {
    let denied = io_errors(error).any(|io| io.kind() == io::ErrorKind::PermissionDenied);
    denied.then(|| {
        let status = fs::read_to_string("/proc/thread-self/status").unwrap_or_default();
        explain(&missing_capabilities(&status))
    })
}

fn explain(missing: &[&str]) -> String {
    if missing.is_empty() {
        return "the kernel refuses bpf(2) although the capabilities are there: lockdown, seccomp, \
                a security module or (before Linux 5.11) RLIMIT_MEMLOCK forbids it"
            .to_owned();
    }
    format!(
        "missing {}: run as root, or grant {} (or CAP_SYS_ADMIN)",
        missing.join(" and "),
        if missing.len() == 1 { "it" } else { "them" }
    )
}

/// Which needed capabilities are not effective, from the text of a `/proc/…/status`.
fn missing_capabilities(status: &str) -> Vec<&'static str> {
    let effective = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
        .unwrap_or(0);
    let has = |bit: u32| effective >> bit & 1 == 1;
    NEEDED
        .iter()
        .filter(|(bit, _)| !has(*bit) && !has(CAP_SYS_ADMIN))
        .map(|(_, name)| *name)
        .collect()
}

fn io_errors<'a>(
    error: &'a (dyn Error + 'static),
) -> impl Iterator<Item = &'a io::Error> + use<'a> {
    std::iter::successors(Some(error), |error: &&'a (dyn Error + 'static)| {
        (*error).source()
    })
    .filter_map(|error| error.downcast_ref::<io::Error>())
}

/// An error with all its causes; a cause that the text has already is not repeated.
fn chain(what: &str, error: &(dyn Error + 'static)) -> String {
    let mut text = format!("{what}: {error}");
    let mut cause = error.source();
    while let Some(error) = cause {
        let said = error.to_string();
        if !text.contains(&said) {
            // Writing to a String cannot fail.
            write!(text, ": {said}").unwrap_or_default();
        }
        cause = error.source();
    }
    text
}

/// The end of the verifier's log, where the reason stands, without its statistics.
fn last_lines(log: &str) -> String {
    let lines: Vec<&str> = log
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .filter(|line| !line.starts_with("processed ") && !line.starts_with("verification time"))
        .filter(|line| !line.starts_with("stack depth"))
        .collect();
    lines[lines.len().saturating_sub(VERIFIER_LINES)..].join(" | ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_capability_is_named() {
        let none = "Name:\tx\nCapEff:\t0000000000000000\n";
        assert_eq!(missing_capabilities(none), ["CAP_BPF", "CAP_PERFMON"]);
        let bpf_only = format!("CapEff:\t{:016x}\n", 1_u64 << 39);
        assert_eq!(missing_capabilities(&bpf_only), ["CAP_PERFMON"]);
        let admin = format!("CapEff:\t{:016x}\n", 1_u64 << 21);
        assert!(missing_capabilities(&admin).is_empty());
        assert_eq!(
            explain(&["CAP_PERFMON"]),
            "missing CAP_PERFMON: run as root, or grant it (or CAP_SYS_ADMIN)"
        );
    }

    #[test]
    fn a_refusal_deep_in_the_chain_is_found() {
        let denied = io::Error::from_raw_os_error(libc::EPERM);
        let error = EbpfError::MapError(aya::maps::MapError::CreateError {
            name: "EVENTS".into(),
            io_error: denied,
        });
        // Run as root this names lockdown, otherwise the capabilities: never a bare number.
        let why = of_object(&error);
        assert!(why.contains("CAP_BPF") || why.contains("lockdown"), "{why}");
    }

    #[test]
    fn the_verifiers_last_words_are_kept_without_its_statistics() {
        let log = "0: R1=ctx\n1: (b7) r0 = 0\nunreachable insn 2\nverification time 3 usec\n\
                   stack depth 0\nprocessed 2 insns (limit 1000000)\n";
        assert_eq!(
            last_lines(log),
            "0: R1=ctx | 1: (b7) r0 = 0 | unreachable insn 2"
        );
    }
}
